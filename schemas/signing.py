"""Signatures of events: who may have written a message, and that nobody changed it.

Header ``gpufleet-sig`` (big-endian): version u8 = 1, scope u8, serial u16, key id (4 bytes), subject in UTF-8 (empty
when it is the producer's own name), then the first 16 bytes of

    HMAC-SHA256(producer's key, "gpufleet event 1" 0x00, u16 size and topic, u32 size and Kafka key,
                u16 size and identity header, value)

The value holds the schema id and the datum. Sixteen bytes (RFC 2104 asks for half of the hash, ten at least): a forger
has one guess in 2^128 per message and each wrong guess is a dead letter that people see, while the header stays as
small as the identity's.

A producer's key is HMAC-SHA256(site key, "gpufleet producer key 1" 0x00, site, scope, serial, subject, producer id), so
that a site keeps one secret and a producer never sees it. What a key may write follows from its scope, see ``Scope``.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

HEADER = "gpufleet-sig"
VERSION = 1
MAC_BYTES = 16
SECRET_BYTES = 32
KEY_ID_BYTES = 4
SUBJECT_BYTES_MAX = 255
SERIAL_MAX = (1 << 16) - 1
_CLAIM = struct.Struct(">BBH4s")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_EVENT = b"gpufleet event 1\0"
_PRODUCER = b"gpufleet producer key 1\0"
_ID = b"gpufleet key id 1\0"


class SignatureError(ValueError):
    """A signature header that ``pack`` did not write, or a claim that cannot be made."""


class Scope(IntEnum):
    """What a producer's key is for. The numbers are on the wire and in every derived key: they never change."""

    NODE = 1
    """The subject is the node: Kafka key, node of the datum and producer id are its name."""
    TENANT = 2
    """The subject is the tenant: Kafka key and tenant of the datum are its name."""
    FACILITY = 3
    """Power and cooling assets, and the inventory of what has no agent."""
    SCHEDULER = 4
    """Jobs."""
    OPERATOR = 5
    """Leases, limits, maintenance."""
    PIPELINE = 6
    """Dead letters: the consumers' own."""

    @property
    def word(self) -> str:
        """As people write it."""
        return self.name.lower()


TOPICS: Mapping[Scope, frozenset[str]] = {
    Scope.NODE: frozenset({"node-telemetry", "node-counters", "node-events", "inventory"}),
    Scope.TENANT: frozenset({"tenant-usage"}),
    Scope.FACILITY: frozenset({"facility-telemetry", "inventory"}),
    Scope.SCHEDULER: frozenset({"allocations"}),
    Scope.OPERATOR: frozenset({"leases", "tenant-limits", "node-events", "inventory"}),
    Scope.PIPELINE: frozenset({"dead-letters"}),
}
"""What each scope may write."""
BOUND = frozenset({Scope.NODE, Scope.TENANT})
"""Scopes whose subject must be the Kafka key."""


class Claim(NamedTuple):
    """Which key a message says it is signed with."""

    scope: Scope
    subject: str
    """Node or tenant; for other scopes the producer."""
    serial: int
    """Raised when a producer's key is revoked: its next key has the next one."""
    key_id: bytes
    """Of the site key that the producer's comes from."""


def pack_claim(claim: Claim, producer_id: str) -> bytes:
    """The header's bytes ahead of the MAC. SignatureError when a part is out of range."""
    subject = b"" if claim.subject == producer_id else claim.subject.encode()
    if len(subject) > SUBJECT_BYTES_MAX or not 0 <= claim.serial <= SERIAL_MAX or len(claim.key_id) != KEY_ID_BYTES:
        raise SignatureError(f"a part of the claim is out of range: {claim}")
    return _CLAIM.pack(VERSION, claim.scope, claim.serial, claim.key_id) + subject


def unpack_claim(header: bytes, producer_id: str) -> Claim:
    """The claim in a signature header's bytes. SignatureError for anything that was not packed here."""
    size = len(header) - MAC_BYTES
    if not _CLAIM.size <= size <= _CLAIM.size + SUBJECT_BYTES_MAX:
        raise SignatureError(f"expected {_CLAIM.size + MAC_BYTES} bytes of signature or some more, found {len(header)}")
    version, scope, serial, key_id = _CLAIM.unpack_from(header)
    if version != VERSION:
        raise SignatureError(f"expected signature version {VERSION}, found {version}")
    try:
        return Claim(Scope(scope), header[_CLAIM.size : size].decode() or producer_id, serial, key_id)
    except UnicodeDecodeError:
        raise SignatureError("the signature's subject is not UTF-8") from None
    except ValueError:
        raise SignatureError(f"expected a scope of 1 to {len(Scope)}, found {scope}") from None


def key_id(site_secret: bytes, site: str) -> bytes:
    """Names a site key without telling anything about it."""
    return hmac.digest(site_secret, _ID + _sized(site), "sha256")[:KEY_ID_BYTES]


def derive(site_secret: bytes, site: str, scope: Scope, subject: str, serial: int, producer_id: str) -> bytes:
    """A producer's key, 32 bytes."""
    text = b"".join((_PRODUCER, _sized(site), bytes((scope,)), _U16.pack(serial), _sized(subject), _sized(producer_id)))
    return hmac.digest(site_secret, text, "sha256")


def bind_topic(topic: str) -> bytes:
    """First part of what is signed."""
    return _EVENT + _sized(topic)


def bind_key(key: bytes, header_size: int) -> bytes:
    """Second part; identity header and value follow."""
    return _U32.pack(len(key)) + key + _U16.pack(header_size)


def mac(secret: bytes, topic: bytes, key: bytes, header: bytes, value: bytes) -> bytes:
    """MAC of a message; ``topic`` and ``key`` as ``bind_topic`` and ``bind_key`` give them."""
    return hmac.digest(secret, b"".join((topic, key, header, value)), "sha256")[:MAC_BYTES]


def _sized(text: str) -> bytes:
    encoded = text.encode()
    return _U16.pack(len(encoded)) + encoded
