"""The first bytes of a datum, compared with the identity header without decoding the rest.

Every schema begins with site, producer_id, run_id, seq, ts and then the kind's key. The table takes these from the
datum, while watermark and filter go by the header; were they to differ, a resend could not be recognised and the
audit would look for the wrong numbers. So the two are compared byte by byte: what differs is a dead letter.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from schemas.catalogue import Schema
from schemas.container import zigzag_varint
from schemas.framing import PREFIX_BYTES
from schemas.identity import Identity

_long = lru_cache(maxsize=1 << 15)(zigzag_varint)
"""Nodes tick together and count alike: few different times and numbers are seen within a minute."""

SITE_BYTES_MAX = 255
"""A longer one is no site: the first bytes of a run's datums are kept for as long as the run is known."""
HEADER_FIELDS = ("site", "producer_id", "run_id", "seq", "ts")


VARINT_BYTES_MAX = 10
"""Of an Avro long."""


class Place(NamedTuple):
    """Where the table sorts an event: the columns ahead of its time."""

    site: str
    key: str
    """Value of the kind's key column."""


class HeadError(ValueError):
    """The datum does not begin with the identity its header names."""


def begins_with_header(schema: Schema) -> bool:
    """Whether the schema's first fields are the header and the kind's key, as ``datum`` functions expect."""
    names = tuple(field["name"] for field in schema.fields[:6])
    return names == (*HEADER_FIELDS, schema.kind.key)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """An Avro long at ``at``: (value, position after it). HeadError when it runs over ten bytes or the end."""
    encoded = shift = 0
    for position in range(at, min(at + VARINT_BYTES_MAX, len(data))):
        byte = data[position]
        encoded |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (encoded >> 1) ^ -(encoded & 1), position + 1
        shift += 7
    raise HeadError(f"expected an Avro long at byte {at} of the message, found none")


def read_string(data: bytes, at: int, errors: str = "strict") -> tuple[str, int]:
    """An Avro string at ``at``: (value, position after it). HeadError when it runs over the end or is not UTF-8."""
    length, start = read_varint(data, at)
    if not 0 <= length <= len(data) - start:
        raise HeadError(f"expected a string at byte {at} of the message, found a length of {length}")
    try:
        return data[start : start + length].decode(errors=errors), start + length
    except UnicodeDecodeError:
        raise HeadError(f"expected UTF-8 at byte {start} of the message") from None


def read_head(value: bytes, identity: Identity) -> bytes:
    """The datum's bytes up to and with run_id, which all messages of the run share.

    HeadError when producer or run differ from the header's.
    """
    _, at = read_string(value, PREFIX_BYTES)
    if at > PREFIX_BYTES + 2 + SITE_BYTES_MAX:
        raise HeadError(f"expected a site of at most {SITE_BYTES_MAX} bytes, found {at - PREFIX_BYTES - 2}")
    producer, at = read_string(value, at)
    run_id, at = read_varint(value, at)
    if producer != identity.producer_id or run_id != identity.run_id:
        raise HeadError(
            f"the header names producer {identity.producer_id!r} run {identity.run_id}, "
            f"the datum {producer!r} run {run_id}"
        )
    return value[PREFIX_BYTES:at]


def check_sequel(value: bytes, head: bytes, identity: Identity) -> None:
    """HeadError unless seq and ts, which follow the head, are the header's."""
    at = PREFIX_BYTES + len(head)
    seq, at = read_varint(value, at)
    ts, at = read_varint(value, at)
    if seq != identity.seq or ts != identity.ts:
        raise HeadError(f"the header names seq {identity.seq} at {identity.ts}, the datum seq {seq} at {ts}")


def sequel(seq: int, ts: int) -> bytes:
    """Avro bytes of (seq, ts)."""
    return _long(seq) + _long(ts)


def place(value: bytes) -> Place:
    """Site and key of a datum whose head was checked. HeadError when the key runs over the end.

    A key that is not UTF-8 is stored as it is, so it is kept as it is: with surrogate escapes.
    """
    site, at = read_string(value, PREFIX_BYTES)
    _, at = read_string(value, at)
    for _ in range(3):
        _, at = read_varint(value, at)
    key, _ = read_string(value, at, errors="surrogateescape")
    return Place(site, key)
