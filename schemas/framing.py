"""Confluent framing: one zero byte, the schema id as four bytes big-endian, the Avro datum."""

from __future__ import annotations

import struct

_PREFIX = struct.Struct(">BI")
PREFIX_BYTES = _PREFIX.size


class FramingError(ValueError):
    """The value does not begin like a Confluent-framed message."""


def prefix(schema_id: int) -> bytes:
    """The five bytes ahead of a datum of that schema."""
    return _PREFIX.pack(0, schema_id)


def schema_id(value: bytes | None) -> int:
    """Schema id of a framed value; the datum starts at ``PREFIX_BYTES``.

    Raises FramingError when the value is absent, too short or does not start with the zero byte.
    """
    if value is None:
        raise FramingError("expected a framed Avro message, found no value")
    if len(value) < PREFIX_BYTES:
        raise FramingError(f"expected at least {PREFIX_BYTES} bytes of framing, found {len(value)}")
    magic, identifier = _PREFIX.unpack_from(value)
    if magic != 0:
        raise FramingError(f"expected the magic byte 0x00, found {magic:#04x}")
    return int(identifier)
