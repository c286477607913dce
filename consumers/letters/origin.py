"""Where a message that is sent again stood the first time, as a Kafka header.

A dead letter is identified by where its message stood in the log. A letter that is sent again stands somewhere else;
were it refused again, it would become a second letter. This header names the first place, so that it stays one.

Anybody who may write a topic can make one up. What that does is bounded: the place must be older than the message that
names it, so a letter that is still to come cannot be forestalled; a message without a readable identity, or refused for
its signature, has no say; and who names the place of another letter only makes its own refused message vanish, which
the audit then counts as lost.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = "gpufleet-origin"
_FIXED = struct.Struct(">Biqq")
_VERSION = 1
_ID_BYTES_MAX = 64


class Origin(NamedTuple):
    """A place in a topic's log."""

    topic_id: str
    partition: int
    offset: int
    append_us: int
    """When the broker appended it there: microseconds since 1970."""


def pack(origin: Origin) -> bytes:
    """The header's bytes."""
    return _FIXED.pack(_VERSION, origin.partition, origin.offset, origin.append_us) + origin.topic_id.encode()


def read(headers: list[tuple[str, bytes]] | None, append_us: int) -> Origin | None:
    """The origin among a message's headers, if there is one that can be: written by ``pack``, and older."""
    for name, value in headers or ():
        if name != HEADER:
            continue
        if not isinstance(value, bytes) or not _FIXED.size <= len(value) <= _FIXED.size + _ID_BYTES_MAX:
            return None
        version, partition, offset, first_us = _FIXED.unpack_from(value)
        try:
            topic_id = value[_FIXED.size :].decode()
        except UnicodeDecodeError:
            return None
        sound = version == _VERSION and partition >= 0 and offset >= 0 and 0 <= first_us < append_us
        return Origin(topic_id, partition, offset, first_us) if sound else None
    return None
