"""One event on disk: framed so that a torn tail and a flipped bit are seen, and what follows them is found again.

Layout (little-endian): magic (4 bytes), CRC-32 of all that follows (u32), length of the body (u32), body. Body: flags
(u8: bit 0 offered, the others how many events were merged into it), ordinal (u32), lengths of topic (u8), key (u16)
and identity header (u16), then topic, key, header, value.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from producers.encode import Message
from schemas import identity

MAGIC = b"\xe5\x9a\x01\x0d"
_FRAME = struct.Struct("<4sII")
_LENGTH = struct.Struct("<I")
_BODY = struct.Struct("<BIBHH")
_OFFERED = 1
MOST_MERGED = 127
OVERHEAD_BYTES = _FRAME.size + _BODY.size
LARGEST_BODY = 1 << 26
"""A longer one is a flipped bit."""


class Record(NamedTuple):
    """An event as a spool's file holds it."""

    ordinal: int
    """Names it within its file, for ever: rewriting a file keeps the ordinals of what stays."""
    offered: bool
    """Whether it was handed to the broker's client as it was written, so that somebody may have seen it."""
    message: Message
    """Its ``row`` is -1."""
    merged: int = 0
    """How many events became part of this one when it was thinned: those numbered right after it."""


class Damage(NamedTuple):
    """Bytes [start, end) that hold no whole record."""

    start: int
    end: int


def pack(ordinal: int, message: Message, *, offered: bool, merged: int = 0) -> bytes:
    """The record's bytes. ValueError when a part is longer than the layout can say."""
    topic = message.topic.encode()
    try:
        sizes = _BODY.pack(offered | merged << 1, ordinal, len(topic), len(message.key), len(message.header))
    except struct.error as error:
        raise ValueError(f"an event for {message.topic} does not fit the spool: {error}") from None
    body = b"".join((sizes, topic, message.key, message.header, message.value))
    if len(body) > LARGEST_BODY:
        raise ValueError(f"an event for {message.topic} does not fit the spool: {len(body)} bytes")
    length = _LENGTH.pack(len(body))
    return b"".join((MAGIC, _LENGTH.pack(zlib.crc32(body, zlib.crc32(length))), length, body))


def scan(data: bytes) -> Iterator[Record | Damage]:
    """Every whole record, and the spans between them, in the order of the bytes."""
    at = damaged = 0
    while at < len(data):
        end = _end(data, at)
        record = None if end is None else _unpack(data, at + _FRAME.size, end)
        if end is None or record is None:
            at = data.find(MAGIC, at + 1)
            if at < 0:
                break
            continue
        if damaged < at:
            yield Damage(damaged, at)
        yield record
        at = damaged = end
    if damaged < len(data):
        yield Damage(damaged, len(data))


def _end(data: bytes, at: int) -> int | None:
    """Where the record at ``at`` ends; None when there is no whole one."""
    if len(data) - at < OVERHEAD_BYTES:
        return None
    magic, checksum, length = _FRAME.unpack_from(data, at)
    end = at + _FRAME.size + length
    if magic != MAGIC or length < _BODY.size or end > len(data):
        return None
    return end if zlib.crc32(memoryview(data)[at + 8 : end]) == checksum else None


def _unpack(data: bytes, at: int, end: int) -> Record | None:
    """The record of a body whose checksum is right; None when it is not one that ``pack`` wrote all the same."""
    flags, ordinal, topic_size, key_size, header_size = _BODY.unpack_from(data, at)
    at += _BODY.size
    if at + topic_size + key_size + header_size > end:
        return None
    topic = data[at : at + topic_size]
    at += topic_size
    key = data[at : at + key_size]
    at += key_size
    header = data[at : at + header_size]
    try:
        identity.unpack(header)
        name = topic.decode()
    except (identity.IdentityError, UnicodeDecodeError):
        return None
    message = Message(name, key, data[at + header_size : end], header, -1)
    return Record(ordinal, bool(flags & _OFFERED), message, flags >> 1)
