"""Reads an Avro datum field by field and says where it stops making sense, and why.

The consumer's verdict on a message is fastavro's, or the store's: yes or no. This reader is for people: it remembers
where every field stood and what was read, stops at the first byte that cannot be, and looks back for the first field
that was odd already, since a wrong length is often found only fields later.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from consumers.datum import VARINT_BYTES_MAX, HeadError, read_varint
from consumers.letters.clock import iso
from schemas.catalogue import Schema
from schemas.framing import PREFIX_BYTES

SHOWN_ITEMS = 6
"""Items of an array that are shown."""
YEAR_1_US, YEAR_10000_US = -62_135_596_800_000_000, 253_402_300_800_000_000
"""Times that a calendar knows."""
SHOWN_TEXT = 60
"""Characters of a text."""


@dataclass(frozen=True, slots=True)
class Span:
    """A field that was read: bytes [start, end) of the message."""

    path: str
    start: int
    end: int
    type: str
    value: str
    """What it says, shortened, for people."""
    items: int | None = None
    """Number of items of an array or map."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Where the message stops making sense."""

    at: int
    """Position in the message; its length when a byte is missing at the end."""
    path: str
    why: str


@dataclass(slots=True)
class Walk:
    """What was found."""

    spans: list[Span] = field(default_factory=list)
    stop: Stop | None = None
    odd: list[str] = field(default_factory=list)
    """What was odd before, field by field: the damage may have begun there."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Values of the whole numbers among the fields, which say how long arrays must be."""

    @property
    def ok(self) -> bool:
        return self.stop is None


class _Stopped(Exception):  # noqa: N818  # a verdict, never leaves this module
    def __init__(self, at: int, why: str) -> None:
        super().__init__(why)
        self.at, self.why = at, why


def walk(schema: Schema, value: bytes) -> Walk:
    """Read a framed message as a datum of that schema, whatever is in it. Never raises."""
    found = Walk()
    reader = _Reader(value)
    at = PREFIX_BYTES
    for one in schema.fields:
        name = str(one["name"])
        try:
            read = reader.read(one["type"], at, name)
        except _Stopped as stopped:
            found.stop = Stop(stopped.at, reader.path or name, stopped.why)
            break
        items = read.items
        found.spans.append(Span(name, at, read.end, _type(one["type"]), read.shown, items))
        if isinstance(read.number, int):
            found.numbers[name] = read.number
        at = read.end
    if found.stop is None and at < len(value):
        left = len(value) - at
        found.stop = Stop(
            at, "", f"{left} byte{'s' * (left != 1)} follow after the last field, {schema.fields[-1]['name']}"
        )
    found.odd = list(_odd(schema, found))
    return found


@dataclass(frozen=True, slots=True)
class _Read:
    end: int
    shown: str
    number: int | None = None
    items: int | None = None


class _Reader:
    """Reads values of Avro types, strictly by the specification."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.path = ""
        """Where the value that is being read belongs."""

    def read(self, avro: Any, at: int, path: str) -> _Read:
        self.path = path
        if isinstance(avro, list):
            return self._union(avro, at, path)
        if isinstance(avro, dict):
            match avro["type"]:
                case "array" | "map":
                    return self._items(avro, at, path)
                case "fixed":
                    end = self._room(at, int(avro["size"]), f"{avro['size']} bytes")
                    return _Read(end, self._data[at:end].hex())
                case "enum":
                    index, end = self._varint(at)
                    if not 0 <= index < len(avro["symbols"]):
                        raise _Stopped(at, f"expected one of {len(avro['symbols'])} symbols, found number {index}")
                    return _Read(end, str(avro["symbols"][index]))
                case kind:
                    read = self.read(kind, at, path)
                    if avro.get("logicalType") == "timestamp-micros" and read.number is not None:
                        if not YEAR_1_US <= read.number < YEAR_10000_US:
                            raise _Stopped(at, f"expected a time in microseconds since 1970, found {read.number}")
                        return _Read(read.end, f"{read.number} ({iso(read.number)})", read.number)
                    return read
        return self._scalars()[avro](at)

    def _scalars(self) -> dict[str, Callable[[int], _Read]]:
        return {
            "int": lambda at: self._number(at, 31),
            "long": lambda at: self._number(at, 63),
            "float": lambda at: self._float(at, "<f", 4),
            "double": lambda at: self._float(at, "<d", 8),
            "boolean": self._boolean,
            "string": lambda at: self._text(at, "text"),
            "bytes": lambda at: self._text(at, "bytes"),
            "null": lambda at: _Read(at, "null"),
        }

    def _number(self, at: int, bits: int) -> _Read:
        number, end = self._varint(at)
        if not -(1 << bits) <= number < 1 << bits:
            raise _Stopped(at, f"expected a number of {bits + 1} bits, found {number}")
        return _Read(end, str(number), number)

    def _float(self, at: int, form: str, size: int) -> _Read:
        end = self._room(at, size, f"{size} bytes of a floating point number")
        return _Read(end, f"{struct.unpack_from(form, self._data, at)[0]:.7g}")

    def _boolean(self, at: int) -> _Read:
        end = self._room(at, 1, "true or false")
        if self._data[at] > 1:
            raise _Stopped(at, f"expected 00 or 01 for false or true, found {self._data[at]:02x}")
        return _Read(end, "true" if self._data[at] else "false")

    def _text(self, at: int, what: str) -> _Read:
        length, start = self._varint(at)
        if length < 0:
            raise _Stopped(at, f"expected the length of {what}, found {length}")
        left = len(self._data) - start
        if length > left:
            raise _Stopped(at, f"its length says {length:,} bytes, but only {left:,} are left of the message")
        raw = self._data[start : start + length]
        if what == "bytes":
            return _Read(start + length, _short(raw.hex()))
        try:
            return _Read(start + length, repr(_short(raw.decode())))
        except UnicodeDecodeError:
            return _Read(start + length, f"{_short(repr(raw))} (no UTF-8)")

    def _union(self, avro: list[Any], at: int, path: str) -> _Read:
        index, start = self._varint(at)
        if not 0 <= index < len(avro):
            kinds = " or ".join(f"{n} ({_type(kind)})" for n, kind in enumerate(avro))
            raise _Stopped(at, f"expected the branch of a union, {kinds}, found {index}")
        return self.read(avro[index], start, path)

    def _items(self, avro: dict[str, Any], at: int, path: str) -> _Read:
        shown: list[str] = []
        total = 0
        is_map = avro["type"] == "map"
        kind = avro["values"] if is_map else avro["items"]
        while True:
            self.path = path
            count, begin = self._varint(at)
            if count < 0:
                _, begin = self._varint(begin)
                count = -count
            left = len(self._data) - begin
            if count > left:
                raise _Stopped(at, f"it claims {count:,} items, but only {left:,} bytes are left of the message")
            at = begin
            if count == 0:
                break
            for _ in range(count):
                key = self._text(at, "text") if is_map else None
                item = self.read(kind, key.end if key else at, f"{path}[{key.shown if key else total}]")
                if total < SHOWN_ITEMS:
                    shown.append(f"{key.shown}: {item.shown}" if key else item.shown)
                at = item.end
                total += 1
        more = f", ... {total} in all" if total > SHOWN_ITEMS else ""
        return _Read(at, f"[{', '.join(shown)}{more}]", items=total)

    def _varint(self, at: int) -> tuple[int, int]:
        try:
            return read_varint(self._data, at)
        except HeadError:
            left = len(self._data) - at
            if left >= VARINT_BYTES_MAX:
                raise _Stopped(at, "expected a number of at most ten bytes, found one that does not end") from None
            missing = f"the message ends after {left} of its bytes" if left > 0 else "nothing follows"
            raise _Stopped(len(self._data), f"expected a number, but {missing}") from None

    def _room(self, at: int, size: int, what: str) -> int:
        if at + size > len(self._data):
            left = len(self._data) - at
            raise _Stopped(len(self._data), f"expected {what}, but {left} {'is' if left == 1 else 'are'} left")
        return at + size


def _odd(schema: Schema, found: Walk) -> Iterator[str]:
    """Arrays that are not as long as the fields before them say."""
    spans = {span.path: span for span in found.spans}
    gpus, nics = (spans[name].items if name in spans else None for name in ("gpu_index", "nic_name"))
    ticks = found.numbers.get("ticks")
    lengths = {
        "gpu": gpus,
        "nic": nics,
        "tick": ticks,
        "gpu_tick": None if gpus is None or ticks is None else gpus * ticks,
        "nic_tick": None if nics is None or ticks is None else nics * ticks,
    }
    for one in schema.fields:
        span, wanted = spans.get(one["name"]), lengths.get(one.get("shape", ""))
        if span is None or wanted is None or span.items in (0, wanted):
            continue
        if span.items == 1 and one.get("broadcast"):
            continue
        yield (
            f"{span.path} at byte {span.start} has {span.items} values where the fields before it say {wanted}:"
            " the damage may begin there"
        )


def _type(avro: Any) -> str:
    if isinstance(avro, list):
        return " or ".join(_type(kind) for kind in avro)
    if isinstance(avro, dict):
        if avro["type"] in ("array", "map"):
            return f"{avro['type']} of {_type(avro.get('items', avro.get('values')))}"
        return str(avro.get("logicalType", avro["type"]))
    return str(avro)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_TEXT else f"{text[: SHOWN_TEXT - 3]}..."


def dump(value: bytes, mark: int | None = None, around: int = 64) -> list[str]:
    """The message's bytes in hex and text, 16 a line; around the marked byte, which stands in brackets."""
    begin, end = 0, len(value)
    if mark is not None:
        begin, end = max(0, mark - around) // 16 * 16, min(len(value), mark + around)
    end = min(end, begin + 1024)
    lines = [f"  ... {begin} bytes before"] if begin else []
    for line in range(begin, max(end, begin + 1), 16):
        row = value[line : line + 16]
        cells = [f"[{byte:02x}]" if line + i == mark else f" {byte:02x} " for i, byte in enumerate(row)]
        if mark is not None and mark == len(value) and line + 16 > mark >= line:
            cells.append("[  ]")
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"  {line:06x} {''.join(cells):64} {text}")
    if mark == len(value) and mark % 16 == 0 and mark > begin:
        lines.append(f"  {mark:06x} [  ]")
    if end < len(value):
        lines.append(f"  ... {len(value) - end} bytes after")
    return lines
