"""Raw Avro datums as one Avro Object Container block, which ClickHouse reads as is.

One block for the whole batch: a truncated or over-long datum then fails the insert instead of slipping through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from schemas.catalogue import Schema

PIECE_BYTES = 128 << 10
"""About how long a piece of a container is. Short enough for the allocator to give out the same memory again: fresh
pages for a whole batch, tens of megabytes, cost more than all else that sending it does (docs/benchmarks.md)."""


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


class Container:
    """One container file with exactly one block, made piece by piece: a batch is never copied as a whole."""

    def __init__(self, header: bytes, values: Sequence[bytes | memoryview], skip: int, sync: bytes) -> None:
        block = sum(len(value) for value in values) - skip * len(values)
        self._header = b"".join((header, zigzag_varint(len(values)), zigzag_varint(block)))
        self._values, self._skip, self._sync = values, skip, sync
        self._at_once = max(1, PIECE_BYTES * len(values) // max(1, block))
        self.size = len(self._header) + block + len(sync)
        """Bytes of the whole file."""

    def __iter__(self) -> Iterator[bytes]:
        """The file from its beginning, in pieces."""
        yield self._header
        for at in range(0, len(self._values), self._at_once):
            yield b"".join([memoryview(value)[self._skip :] for value in self._values[at : at + self._at_once]])
        yield self._sync

    def __bytes__(self) -> bytes:
        return b"".join(self)


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

    def open(self, values: Sequence[bytes | memoryview], skip: int = 0) -> Container:
        """One container file with these datums, in order, each without the first ``skip`` bytes of its value."""
        return Container(self._header, values, skip, self._sync)

    def frame(self, datums: Sequence[bytes | memoryview]) -> bytes:
        """The same in one piece, for small batches."""
        return bytes(self.open(datums))
