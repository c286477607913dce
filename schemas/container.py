"""Raw Avro datums as one Avro Object Container block, which ClickHouse reads as is.

One block for the whole batch: a truncated or over-long datum then fails the insert instead of slipping through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from schemas.catalogue import Schema


def zigzag_varint(value: int) -> bytes:
    """Avro's encoding of a long."""
    encoded = (value << 1) ^ (value >> 63)
    out = bytearray()
    while encoded > 0x7F:
        out.append((encoded & 0x7F) | 0x80)
        encoded >>= 7
    out.append(encoded)
    return bytes(out)


def avro_bytes(value: bytes) -> bytes:
    """Avro's encoding of bytes, and of a string's UTF-8."""
    return zigzag_varint(len(value)) + value


class ContainerWriter:
    """Frames batches of one schema. The header is made once."""

    def __init__(self, schema: Schema) -> None:
        text = schema.text.encode()
        self._sync = hashlib.md5(text, usedforsecurity=False).digest()
        meta = (
            zigzag_varint(2)
            + avro_bytes(b"avro.schema")
            + avro_bytes(text)
            + avro_bytes(b"avro.codec")
            + avro_bytes(b"null")
            + b"\x00"
        )
        self._header = b"Obj\x01" + meta + self._sync

    def frame(self, datums: Sequence[bytes | memoryview]) -> bytes:
        """One container file holding exactly one block with these datums, in order."""
        size = sum(len(datum) for datum in datums)
        return b"".join((self._header, zigzag_varint(len(datums)), zigzag_varint(size), *datums, self._sync))
