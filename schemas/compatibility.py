"""What a new schema version may change: BACKWARD_TRANSITIVE, and rules of our own on top.

The newest schema must read what every published version of its kind wrote (Avro specification 1.12, "Schema
Resolution"): fields are added with a default, types change only by promotion. Beyond Avro, since tables and
dashboards stand on it: no field is ever removed, and its unit, kind, shape, blank value and logical type never change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

Definition = Mapping[str, Any]

_PROMOTIONS = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}
_FROZEN = ("unit", "kind", "shape", "blank", "broadcast")
_KINDS = ("gauge", "counter", "state", "id")
_SHAPES = (None, "gpu", "gpu_tick", "tick", "nic", "nic_tick")
HEADER: Mapping[str, str] = {"site": "string", "producer_id": "string", "run_id": "long", "seq": "long", "ts": "long"}
"""The first fields of every event, and their Avro types."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing a schema may not do."""

    field: str
    """Name of the field; empty for the record itself."""
    expected: str
    found: str

    def __str__(self) -> str:
        where = f"field {self.field!r}" if self.field else "the record"
        return f"{where}: expected {self.expected}, found {self.found}"


def check(new: Definition, published: Iterable[Definition]) -> list[Problem]:
    """Everything wrong with ``new``: by itself, and as the reader of each published version (oldest first)."""
    problems = list(_alone(new))
    for old in published:
        problems += [problem for problem in _as_reader(new, old) if problem not in problems]
    return problems


def _alone(schema: Definition) -> Iterator[Problem]:
    try:
        fastavro.parse_schema(dict(schema))
    except (SchemaParseException, UnknownType, ValueError, KeyError, TypeError) as error:
        misfits = list(_misfits(schema))  # fastavro refuses some of them too, but does not name the field
        yield from misfits or [Problem("", "a valid Avro record", f"{type(error).__name__}: {error}")]
        return
    if schema.get("type") != "record":
        yield Problem("", "a record", repr(schema.get("type")))
        return
    fields = list(schema["fields"])
    for (name, kind), field in zip(HEADER.items(), [*fields, *[{}] * len(HEADER)], strict=False):
        found = (field.get("name"), _plain(field.get("type")))
        if found != (name, kind):
            yield Problem(name, f"the header's {kind} {name!r} at its place", f"{found[1]} {found[0]!r}")
    for field in fields:
        name = field["name"]
        if not field.get("doc"):
            yield Problem(name, "a doc that says what it means", "none")
        if "unit" not in field:
            yield Problem(name, 'a unit ("" for none)', "none")
        if field.get("kind") not in _KINDS:
            yield Problem(name, f"kind to be one of {', '.join(_KINDS)}", repr(field.get("kind")))
        if field.get("shape") not in _SHAPES:
            yield Problem(name, "shape to be gpu, gpu_tick, tick, nic or nic_tick", repr(field["shape"]))
        if _contains_record(field["type"]):
            yield Problem(name, "no records inside records (their columns cannot grow)", "a record")
    yield from _misfits(schema)


def _misfits(schema: Definition) -> Iterator[Problem]:
    """Fields whose default is not of their type."""
    for field in schema.get("fields", ()):
        try:
            fits = "default" not in field or _fits(field["default"], field["type"])
        except (SchemaParseException, UnknownType, ValueError, KeyError, TypeError):
            continue  # the type itself is wrong: said elsewhere
        if not fits:
            yield Problem(field["name"], f"a default of its type {type_text(field['type'])}", repr(field["default"]))


def _as_reader(new: Definition, old: Definition) -> Iterator[Problem]:
    if full_name(new) != full_name(old):
        yield Problem("", f"the name {full_name(old)!r}", repr(full_name(new)))
    readers = {field["name"]: field for field in new.get("fields", ())}
    writers = {field["name"]: field for field in old["fields"]}
    for name, writer in writers.items():
        reader = readers.get(name)
        if reader is None:
            yield Problem(name, "the field to stay (fields are never removed)", "no such field")
            continue
        if not _resolves(writer["type"], reader["type"]):
            yield Problem(name, f"{type_text(writer['type'])} or a type it is promoted to", type_text(reader["type"]))
        if _logical(writer["type"]) != _logical(reader["type"]):
            yield Problem(name, f"logical type {_logical(writer['type'])!r}", repr(_logical(reader["type"])))
        for attribute in _FROZEN:
            if writer.get(attribute) != reader.get(attribute):
                expected, found = writer.get(attribute), reader.get(attribute)
                yield Problem(name, f"{attribute} to stay {expected!r}", repr(found))
        if "default" in writer and "default" not in reader:
            yield Problem(name, f"the default {writer['default']!r} to stay", "no default")
    for name, reader in readers.items():
        if name not in writers and "default" not in reader:
            yield Problem(name, "a default (older events lack the field)", "no default")


def _resolves(writer: Any, reader: Any) -> bool:
    """Whether a value of the writer's type can be read as the reader's (Avro 1.12, Schema Resolution)."""
    if isinstance(writer, list):
        return all(_resolves(branch, reader) for branch in writer)
    if isinstance(reader, list):
        return any(_resolves(writer, branch) for branch in reader)
    written, read = _plain(writer), _plain(reader)
    if written != read:
        return read in _PROMOTIONS.get(written, ())
    if written == "array":
        return _resolves(writer["items"], reader["items"])
    if written == "map":
        return _resolves(writer["values"], reader["values"])
    if written == "fixed":
        return writer["size"] == reader["size"] and _short_name(writer) == _short_name(reader)
    if written == "enum":
        known = set(writer["symbols"]) <= set(reader["symbols"]) or "default" in reader
        return known and _short_name(writer) == _short_name(reader)
    return True


def _plain(kind: Any) -> str:
    """The Avro type's own name: ``{"type": "long", "logicalType": ...}`` is a long."""
    if isinstance(kind, Mapping):
        return _plain(kind["type"])
    return "union" if isinstance(kind, list) else str(kind)


def _logical(kind: Any) -> str | None:
    """The logical type, also inside a union with null or an array."""
    if isinstance(kind, list):
        return next((found for found in map(_logical, kind) if found), None)
    if isinstance(kind, Mapping):
        logical = kind.get("logicalType")
        return str(logical) if logical else _logical(kind.get("items") or kind.get("values"))
    return None


def _contains_record(kind: Any) -> bool:
    if isinstance(kind, list):
        return any(map(_contains_record, kind))
    if isinstance(kind, Mapping):
        return kind.get("type") == "record" or _contains_record(kind.get("items") or kind.get("values"))
    return False


def _fits(value: Any, kind: Any) -> bool:
    """Whether a default fits: for a union, its first branch (Avro 1.12, Complex Types)."""
    first = kind[0] if isinstance(kind, list) else kind
    if _plain(first) in ("bytes", "fixed"):
        return isinstance(value, str)  # JSON holds their bytes as code points 0-255
    return bool(fastavro.validate(value, fastavro.parse_schema(first), raise_errors=False))


def full_name(schema: Definition) -> str:
    """Name of a record with its namespace."""
    name = str(schema.get("name", ""))
    return name if "." in name or not schema.get("namespace") else f"{schema['namespace']}.{name}"


def _short_name(kind: Mapping[str, Any]) -> str:
    return str(kind["name"]).rpartition(".")[2]


def type_text(kind: Any) -> str:
    """An Avro type for people: array<int>, fixed(16), null | long."""
    if isinstance(kind, list):
        return " | ".join(map(type_text, kind))
    plain = _plain(kind)
    if plain == "array":
        return f"array<{type_text(kind['items'])}>"
    if plain == "map":
        return f"map<{type_text(kind['values'])}>"
    if plain == "fixed":
        return f"fixed({kind['size']})"
    return _logical(kind) or plain
