"""The identity of an event as a Kafka header, readable without touching the Avro datum.

Layout of header ``gpufleet`` (big-endian): version u8 = 1, ticks u8, run_id i64, seq i64, ts i64 (microseconds
since 1970, UTC), then producer_id in UTF-8 to the end.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = "gpufleet"
_FIXED = struct.Struct(">BBqqq")
FIXED_BYTES = _FIXED.size
"""producer_id follows after so many."""
unpack_fixed = _FIXED.unpack_from
"""(version, ticks, run_id, seq, ts) of a header of at least so many bytes, nothing checked."""
VERSION = 1
MAX_PRODUCER_ID_BYTES = 255


class IdentityError(ValueError):
    """The identity header is missing or cannot be read."""


class Identity(NamedTuple):
    """Who made an event, and which one it is: (producer_id, run_id, seq) names it for ever."""

    producer_id: str
    run_id: int
    seq: int
    ts: int
    """Event time, microseconds since 1970, UTC."""
    ticks: int
    """K for events with ticks, else 1."""


def pack(identity: Identity) -> bytes:
    """The header's bytes. IdentityError when a part is out of range."""
    producer = identity.producer_id.encode()
    if not 0 < len(producer) <= MAX_PRODUCER_ID_BYTES:
        raise IdentityError(f"producer_id must be 1 to {MAX_PRODUCER_ID_BYTES} bytes, found {len(producer)}")
    try:
        return _FIXED.pack(VERSION, identity.ticks, identity.run_id, identity.seq, identity.ts) + producer
    except struct.error as error:
        raise IdentityError(f"identity out of range: {identity}: {error}") from None


def unpack(header: bytes) -> Identity:
    """The identity in a header's bytes. IdentityError for anything that ``pack`` did not write."""
    if len(header) <= _FIXED.size:
        raise IdentityError(f"expected more than {_FIXED.size} bytes of identity, found {len(header)}")
    version, ticks, run_id, seq, ts = _FIXED.unpack_from(header)
    if version != VERSION:
        raise IdentityError(f"expected identity version {VERSION}, found {version}")
    if seq < 0 or run_id < 0:
        raise IdentityError(f"run_id and seq cannot be negative, found {run_id} and {seq}")
    try:
        producer = header[_FIXED.size :].decode()
    except UnicodeDecodeError:
        raise IdentityError("producer_id is not UTF-8") from None
    if len(header) - _FIXED.size > MAX_PRODUCER_ID_BYTES:
        raise IdentityError(f"producer_id is longer than {MAX_PRODUCER_ID_BYTES} bytes")
    return Identity(producer, run_id, seq, ts, ticks)


def producer_part(header: bytes) -> bytes:
    """producer_id in UTF-8, of a header that ``pack`` wrote or ``unpack`` took."""
    return header[FIXED_BYTES:]


def of_message(headers: list[tuple[str, bytes | str | None]] | None) -> Identity:
    """The identity among a message's Kafka headers. IdentityError when there is none."""
    for name, value in headers or ():
        if name == HEADER and isinstance(value, bytes):
            return unpack(value)
    raise IdentityError(f"expected the Kafka header {HEADER!r}, found none")
