"""Where a column's data ends in FORMAT Native: the serialisation of each ClickHouse type, as far as lengths go.

A column is written as its prefix (versions of LowCardinality and Variant, depth first) and then its data.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import Final, Protocol

_FIXED: Final = {
    "Nothing": 1, "Bool": 1, "Int8": 1, "UInt8": 1, "Enum8": 1, "Int16": 2, "UInt16": 2, "Enum16": 2, "Date": 2,
    "BFloat16": 2, "Int32": 4, "UInt32": 4, "Float32": 4, "Date32": 4, "DateTime": 4, "Time": 4, "IPv4": 4,
    "Decimal32": 4, "Int64": 8, "UInt64": 8, "Float64": 8, "DateTime64": 8, "Time64": 8, "Decimal64": 8, "Int128": 16,
    "UInt128": 16, "UUID": 16, "IPv6": 16, "Decimal128": 16, "Int256": 32, "UInt256": 32, "Decimal256": 32,
}  # fmt: skip
"""Bytes a value, by the name before any parenthesis."""
_GEO: Final = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Tuple(Float64, Float64))",
    "LineString": "Array(Tuple(Float64, Float64))",
    "MultiLineString": "Array(Array(Tuple(Float64, Float64)))",
    "Polygon": "Array(Array(Tuple(Float64, Float64)))",
    "MultiPolygon": "Array(Array(Array(Tuple(Float64, Float64))))",
}
_NAME: Final = re.compile(r"\s*(\w+)\s*(\(.*\))?\s*", re.DOTALL)
_ELEMENT_NAME: Final = re.compile(r"\s*(?:`(?:[^`\\]|\\.|``)*`|\w+)\s+(?=\w)")
_INDEX_BYTES: Final = (1, 2, 4, 8)


class Unsupported(ValueError):  # noqa: N818 - names the state
    """The type's length cannot be told from its data."""


class Layout(Protocol):
    """Finds the end of a column."""

    def prefix(self, data: bytes, at: int) -> int:
        """Where the prefix that begins at `at` ends."""
        ...

    def data(self, data: bytes, at: int, rows: int) -> int:
        """Where the data of `rows` values that begins at `at` ends. IndexError if `data` ends before."""
        ...


def varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number and where it ends. IndexError if `data` ends before."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("a number of more than 64 bits")


class _Fixed:
    def __init__(self, width: int) -> None:
        self._width = width

    def prefix(self, data: bytes, at: int) -> int:
        return at

    def data(self, data: bytes, at: int, rows: int) -> int:
        return at + self._width * rows


class _String:
    def prefix(self, data: bytes, at: int) -> int:
        return at

    def data(self, data: bytes, at: int, rows: int) -> int:
        for _ in range(rows):
            size = data[at]
            at += 1
            if size >= 0x80:
                size, at = varint(data, at - 1)
            at += size
        return at


class _Nullable:
    def __init__(self, inner: Layout) -> None:
        self._inner = inner

    def prefix(self, data: bytes, at: int) -> int:
        return self._inner.prefix(data, at)

    def data(self, data: bytes, at: int, rows: int) -> int:
        return self._inner.data(data, at + rows, rows)


class _Array:
    def __init__(self, inner: Layout) -> None:
        self._inner = inner

    def prefix(self, data: bytes, at: int) -> int:
        return self._inner.prefix(data, at)

    def data(self, data: bytes, at: int, rows: int) -> int:
        if not rows:
            return at
        at += 8 * rows
        if at > len(data):
            raise IndexError
        total = _u64(data, at - 8)
        return self._inner.data(data, at, total) if total else at


class _Tuple:
    def __init__(self, inner: tuple[Layout, ...]) -> None:
        self._inner = inner

    def prefix(self, data: bytes, at: int) -> int:
        for element in self._inner:
            at = element.prefix(data, at)
        return at

    def data(self, data: bytes, at: int, rows: int) -> int:
        if not self._inner:
            return at + rows
        for element in self._inner:
            at = element.data(data, at, rows)
        return at


class _LowCardinality:
    """UInt64 version; then per block: UInt64 index type and flags, keys, UInt64 rows, indexes."""

    def __init__(self, keys: Layout) -> None:
        self._keys = keys

    def prefix(self, data: bytes, at: int) -> int:
        return at + 8

    def data(self, data: bytes, at: int, rows: int) -> int:
        if not rows:
            return at
        kind = _u64(data, at)
        at += 8
        if kind & 0x100:  # keys shared between blocks
            raise Unsupported("LowCardinality with a global dictionary")
        if kind & 0x200:
            count = _u64(data, at)
            at = self._keys.data(data, at + 8, count)
        count = _u64(data, at)
        return at + 8 + count * _INDEX_BYTES[kind & 0xFF]


class _Variant:
    """UInt64 mode (0: one discriminator byte a row), then the values of each alternative."""

    def __init__(self, inner: tuple[Layout, ...]) -> None:
        self._inner = inner

    def prefix(self, data: bytes, at: int) -> int:
        if _u64(data, at):
            raise Unsupported("Variant in compact mode")
        at += 8
        for element in self._inner:
            at = element.prefix(data, at)
        return at

    def data(self, data: bytes, at: int, rows: int) -> int:
        which = data[at : at + rows]
        at += rows
        for number, element in enumerate(self._inner):
            count = which.count(number)
            at = element.data(data, at, count) if count else at
        return at


def _u64(data: bytes, at: int) -> int:
    try:
        value: int = struct.unpack_from("<Q", data, at)[0]
    except struct.error:
        raise IndexError from None
    return value


@lru_cache(maxsize=1024)
def layout(name: str) -> Layout:
    """The layout of the type with this name. Unsupported for those whose length cannot be told."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise Unsupported(f"type {name}")
    kind = found[1]
    inside = found[2][1:-1] if found[2] else ""
    if kind in _FIXED:
        return _Fixed(_FIXED[kind])
    if kind.startswith("Interval"):
        return _Fixed(8)
    if kind in _GEO:
        return layout(_GEO[kind])
    match kind:
        case "String":
            return _String()
        case "FixedString":
            return _Fixed(int(inside))
        case "Decimal":
            return _Fixed(_decimal_width(int(arguments(inside)[0])))
        case "Nullable":
            return _Nullable(layout(inside))
        case "Array":
            return _Array(layout(inside))
        case "Map":
            return _Array(_Tuple(tuple(map(layout, arguments(inside)))))
        case "Tuple":
            return _Tuple(_elements(inside))
        case "Nested":
            return _Array(_Tuple(_elements(inside)))
        case "LowCardinality":
            keys = arguments(inside)[0]
            return _LowCardinality(
                layout(keys.removeprefix("Nullable(")[:-1] if keys.startswith("Nullable(") else keys)
            )
        case "SimpleAggregateFunction":
            return layout(arguments(inside)[-1])
        case "Variant":
            return _Variant(tuple(map(layout, sorted(arguments(inside)))))
    raise Unsupported(f"type {kind}")


def _decimal_width(precision: int) -> int:
    return next(width for most, width in ((9, 4), (18, 8), (38, 16), (76, 32)) if precision <= most)


def _elements(inside: str) -> tuple[Layout, ...]:
    return tuple(layout(_ELEMENT_NAME.sub("", part, count=1)) for part in arguments(inside))


def arguments(inside: str) -> list[str]:
    """The arguments of a type, split at the commas that are not inside parentheses or quotes."""
    parts, depth, begin, quote, at = [], 0, 0, "", 0
    while at < len(inside):
        character = inside[at]
        if quote:
            if character == "\\":
                at += 1
            elif character == quote:
                quote = ""
        elif character in "'`\"":
            quote = character
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(inside[begin:at].strip())
            begin = at + 1
        at += 1
    last = inside[begin:].strip()
    return [*parts, last] if last else parts
