"""The data dictionary: every kind of event and every field, as Markdown, from the schemas alone."""

from __future__ import annotations

from collections.abc import Iterator

from schemas import catalogue
from schemas.catalogue import KINDS, AvroField, EventKind, Retention, TenantFrom
from schemas.compatibility import HEADER, type_text

_SHAPES = {
    "gpu": "n",
    "gpu_tick": "n*K",
    "tick": "K",
    "nic": "m",
    "nic_tick": "m*K",
}
_TENANT = {
    TenantFrom.LEASE: "resolved by the store from the leases, by node and time",
    TenantFrom.FIELD: "the event names it",
    TenantFrom.NOBODY: "none: the operator's alone",
}
_RETENTION = {Retention.TELEMETRY: "telemetry (days)", Retention.HISTORY: "history (for ever)"}

_HEAD = """# Data dictionary

<!-- Generated from schemas/avsc by `gpufleet schema docs`; a test keeps it fresh. -->

One topic in Kafka and one table in ClickHouse per kind of event; a table's name is its topic's with `_` for `-`, in
database `gpufleet`, and holds every field below under its own name. Times are UTC.

**Shapes.** n = GPUs of the node (length of `gpu_index`), m = its network ports (length of `nic_name`), K = `ticks`.
Arrays are in (gpu, tick) order: GPU g at tick t is element g*K+t. A length of 0 means that the node does not have it;
"or 1" that one value may stand for all. Unsupported is never zero: NaN, or the blank value named with the field.

**Kinds.** gauge: a level at that time. counter: only grows, until its epoch changes. state: holds until it changes.
id: names something.
"""


def markdown() -> str:
    """The whole dictionary; docs/data-dictionary.md is this text."""
    parts = [_HEAD, "\n| topic | key | meaning |\n|---|---|---|\n"]
    for kind in KINDS.values():
        doc = catalogue.latest(kind.topic).definition.get("doc", "")
        parts.append(f"| [{kind.topic}](#{kind.topic}) | `{kind.key}` | {_cell(doc)} |\n")
    parts.append("\n## Header of every event\n\n" + _TABLE_HEAD)
    parts += [_row(field, 1) for field in catalogue.latest("node-telemetry").fields[: len(HEADER)]]
    for kind in KINDS.values():
        parts += _section(kind)
    return "".join(parts)


_TABLE_HEAD = "| field | type | shape | unit | kind | meaning |\n|---|---|---|---|---|---|\n"


def _section(kind: EventKind) -> Iterator[str]:
    versions = catalogue.versions(kind.topic)
    newest = versions[-1]
    since = {field["name"]: schema.version for schema in reversed(versions) for field in schema.fields}
    yield f"\n## {kind.topic}\n\n{newest.definition.get('doc', '')}\n\n"
    yield f"Table `gpufleet.{kind.table}`, key `{kind.key}`, retention {_RETENTION[kind.retention]}, "
    yield f"tenant: {_TENANT[kind.tenant]}. Schema version {newest.version}, catalogue id {newest.id}.\n\n"
    yield _TABLE_HEAD
    for field in newest.fields[len(HEADER) :]:
        yield _row(field, since[field["name"]])


def _row(field: AvroField, since: int) -> str:
    shape = _SHAPES.get(field.get("shape", ""), "") + (" or 1" if field.get("broadcast") else "")
    notes = [field.get("doc", "")]
    if "blank" in field:
        notes.append(f"{field['blank']} = no reading.")
    if "bits" in field:
        notes.append(f"Kept to {field['bits']} significant bits.")
    if "dcgm" in field:
        notes.append(f"DCGM {field['dcgm']}.")
    if since > 1:
        notes.append(f"Since version {since}.")
    cells = [
        f"`{field['name']}`",
        type_text(field["type"]),
        shape,
        field.get("unit", ""),
        field.get("kind", ""),
        " ".join(filter(None, notes)),
    ]
    return "| " + " | ".join(_cell(str(cell)) for cell in cells) + " |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
