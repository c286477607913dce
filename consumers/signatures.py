"""Who may have written a message: its signature is checked before anything of it is stored.

What is checked, besides the MAC: the key's scope may write the topic; a node's or tenant's key writes that node or
tenant only; and the datum names the site, the producer and the node (tenant, asset ...) that key and header name, for
the table takes them from the datum. The datum's run, seq and time are compared with the header by the intake.

When a key ends is judged by the broker's append time, so that reading the log again judges alike.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client import Counter

from consumers.batch import Message
from consumers.datum import HeadError, read_string, read_varint
from consumers.errors import FatalError, Reason
from schemas import framing, identity, signing
from schemas.container import avro_bytes
from schemas.framing import PREFIX_BYTES
from schemas.identity import FIXED_BYTES, Identity, IdentityError, producer_part
from schemas.signer import Sign
from schemas.signing import MAC_BYTES, Claim, Scope, SignatureError
from schemas.signing_keys import SiteKey, SiteKeys, Watched

ENTRIES_MAX = 65_536
"""Producers' keys held ready, some 800 bytes each; the full fleet of one topic is 30,040."""
NOTHING_GOOD = 1_000
"""The consumer stops when so many messages in a row, from its first on, have no good signature."""
APPEND_TIME = 2
"""Kafka's timestamp type that no producer can set."""
_NUMBERS = struct.Struct(">qqq")
"""run_id, seq and ts in the identity header, after two bytes."""


class Refused(NamedTuple):
    """A message that is not stored."""

    position: int
    """In the sequence that was verified."""
    reason: Reason
    detail: str


Verify = Callable[[Sequence[Message]], list[Refused]]


@dataclass(frozen=True, slots=True)
class Policy:
    """What is asked of messages; ``modes`` by site, ``mode`` for all others: accept or require.

    accept: a message without a signature is stored, one with a wrong signature is not. require: neither.
    """

    mode: str = "require"
    modes: dict[str, str] = field(default_factory=dict)
    required_from_us: int = 0
    """What the broker appended earlier may be unsigned: microseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Signing:
    """What a consumer takes to verify messages and to sign its dead letters."""

    keys: Watched[SiteKeys]
    policy: Policy
    sign: Sign

    def verifier(self, now_us: Callable[[], int], unsigned: Counter) -> Verifier:
        """A verifier that counts what it accepted unsigned, by topic."""
        return Verifier(self.keys, self.policy, now_us, lambda topic: unsigned.labels(topic).inc())


class _Entry(NamedTuple):
    """What all messages of one producer under one Kafka key have in common."""

    secret: bytes
    bound: bytes
    head: bytes
    """The datum's first bytes: site and producer."""
    run_at: int
    """Where run, seq and time follow in the value."""
    key: bytes
    """The datum's key field, which comes next."""
    topics: frozenset[str]
    until_us: int | None


class _Wrong(Exception):  # noqa: N818  # a verdict, never leaves this module
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Verifier:
    """Verifies messages with a site's keys (or several sites'). One thread.

    ``now_us`` stands in for append times where the topic's timestamps are the producer's own.
    """

    def __init__(
        self,
        keys: Watched[SiteKeys],
        policy: Policy,
        now_us: Callable[[], int],
        on_unsigned: Callable[[str], None] = lambda _topic: None,
    ) -> None:
        self._keys, self._policy, self._now_us, self._on_unsigned = keys, policy, now_us, on_unsigned
        self._entries: dict[tuple[bytes, bytes, bytes | None], _Entry] = {}
        self._none_good, self._refused = True, 0
        self._known = keys.value

    def on(self, topic: str) -> Verify:
        """The function that verifies messages of a topic."""
        bound = signing.bind_topic(topic)
        return lambda messages: self._verify(topic, bound, messages)

    def _verify(self, topic: str, bound: bytes, messages: Sequence[Message]) -> list[Refused]:
        """The messages that must not be stored, by position. FatalError when no message was ever good."""
        self._follow()
        refused: list[Refused] = []
        entries, digest, equal = self._entries, hmac.digest, hmac.compare_digest
        for position, message in enumerate(messages):
            # The straight way only ever says yes; whatever is not as expected is looked at with care below.
            try:
                (name, header), (mark, signature) = message.headers()  # type: ignore[misc]  # None raises TypeError
                entry = entries[header[FIXED_BYTES:], signature[:-MAC_BYTES], message.key()]
                value: bytes = message.value()  # type: ignore[assignment]  # None raises TypeError
                # Run, seq and time lie between the datum's head and its key, each as long as its value makes it: one
                # that were longer than it need be would have no end where it is looked for. The intake compares them.
                run_id, seq, ts = _NUMBERS.unpack_from(header, 2)
                seq_at = entry.run_at + (run_id.bit_length() + 7) // 7
                ts_at = seq_at + (seq.bit_length() + 7) // 7
                key_at = ts_at + (ts.bit_length() + 7) // 7
                if (
                    equal(
                        digest(entry.secret, b"".join((bound, entry.bound, header, value)), "sha256")[:MAC_BYTES],
                        signature[-MAC_BYTES:],
                    )
                    and value.startswith(entry.head, PREFIX_BYTES)
                    and value.startswith(entry.key, key_at)
                    and (value[seq_at - 1] | value[ts_at - 1] | value[key_at - 1]) < 0x80
                    and ts >= 0
                    and topic in entry.topics
                    and (entry.until_us is None or self._append_us(message) <= entry.until_us)
                    and name == identity.HEADER
                    and mark == signing.HEADER
                ):
                    continue
            except (TypeError, ValueError, KeyError, IndexError, struct.error):
                pass
            try:
                self._examine(topic, bound, message)
            except _Wrong as wrong:
                refused.append(Refused(position, wrong.reason, wrong.detail))
        if self._none_good:
            self._count(len(messages), len(refused))
        return refused

    def _examine(self, topic: str, bound: bytes, message: Message) -> None:
        """_Wrong unless the message may be stored as far as its signature goes; the next may go the straight way."""
        headers = message.headers() or []
        try:
            who = identity.of_message(headers)  # type: ignore[arg-type]  # list is invariant
        except IdentityError as error:
            raise _Wrong(Reason.IDENTITY, str(error)) from None
        header = next(v for k, v in headers if k == identity.HEADER and isinstance(v, bytes))
        signature = next((v for k, v in headers if k == signing.HEADER and isinstance(v, bytes)), None)
        key, value = message.key() or b"", message.value() or b""
        if signature is None:
            self._judge_unsigned(topic, value, who, message)
            return
        try:
            claim = signing.unpack_claim(signature, who.producer_id)
        except SignatureError as error:
            raise _Wrong(Reason.SIGNATURE, f"{error}: {signature[:64].hex()}") from None
        site_key = self._site_key(claim, signature)
        secret = signing.derive(site_key.secret, site_key.site, *claim[:3], who.producer_id)
        bound_key = signing.bind_key(key, len(header))
        if not hmac.compare_digest(signing.mac(secret, bound, bound_key, header, value), signature[-MAC_BYTES:]):
            raise _Wrong(
                Reason.SIGNATURE,
                f"the message is not what {_signer(claim)} of {site_key.site} signed, or the key is another's: "
                f"{signing.HEADER} {signature.hex()}",
            )
        self._check_times(claim, site_key, who, message)
        _check_scope(topic, claim, who, key)
        _check_datum(value, site_key.site, who, key)
        if claim.serial < self._keys.value.serial(site_key.site, *claim[:2], who.producer_id):
            return  # good until it was revoked: the next may not be
        if len(self._entries) >= ENTRIES_MAX:
            del self._entries[next(iter(self._entries))]
        producer = producer_part(header)
        head = avro_bytes(site_key.site.encode()) + avro_bytes(producer)
        self._entries[producer, signature[:-MAC_BYTES], message.key()] = _Entry(
            secret,
            bound_key,
            head,
            PREFIX_BYTES + len(head),
            avro_bytes(key),
            signing.TOPICS[claim.scope],
            site_key.until_us,
        )

    def _judge_unsigned(self, topic: str, value: bytes, who: Identity, message: Message) -> None:
        try:
            site, _ = read_string(value, PREFIX_BYTES)
        except HeadError:
            site = ""
        mode = self._policy.modes.get(site, self._policy.mode)
        if mode == "require" and self._append_us(message) >= self._policy.required_from_us:
            raise _Wrong(
                Reason.UNSIGNED,
                f"site {site!r} wants signed events, found none from {who.producer_id!r}: "
                "`gpufleet keys derive` makes its key",
            )
        self._on_unsigned(topic)

    def _site_key(self, claim: Claim, signature: bytes) -> SiteKey:
        for at_once in (True, False):
            for key in self._keys.value.keys:
                if key.id == claim.key_id:
                    return key
            if at_once:
                self._follow(at_once=True)
        raise _Wrong(
            Reason.SIGNATURE,
            f"signed with a key from site key {claim.key_id.hex()}, which this consumer has not: {signature.hex()}",
        )

    def _follow(self, *, at_once: bool = False) -> None:
        """Forget the producers' keys when the site's changed, whoever of those that share them saw it first."""
        self._keys.refresh(at_once=at_once)
        if self._keys.value is not self._known:
            self._known = self._keys.value
            self._entries = {}

    def _check_times(self, claim: Claim, site_key: SiteKey, who: Identity, message: Message) -> None:
        append_us = self._append_us(message)
        lowest = self._keys.value.serial(site_key.site, claim.scope, claim.subject, who.producer_id, append_us)
        if claim.serial < lowest:
            raise _Wrong(
                Reason.SIGNATURE,
                f"signed with key {claim.serial} of {_signer(claim)}, which was revoked: {lowest} is the first good",
            )
        if site_key.until_us is not None and append_us > site_key.until_us:
            raise _Wrong(
                Reason.SIGNATURE,
                f"signed with a key from site key {claim.key_id.hex()}, which ended before the broker had the message",
            )

    def _append_us(self, message: Message) -> int:
        kind, milliseconds = message.timestamp()
        return milliseconds * 1000 if kind == APPEND_TIME else self._now_us()

    def _count(self, messages: int, refused: int) -> None:
        """Whether anything was ever good; a consumer with the wrong keys must not fill the dead letters."""
        self._refused += refused
        if refused < messages:
            self._none_good = False
        elif self._refused >= NOTHING_GOOD:
            raise FatalError(
                f"none of the first {self._refused} messages has a good signature: are these the right site keys, and "
                "do the producers sign? Else set signing.mode to accept; what was refused is in dead-letters, whole"
            )


def _check_scope(topic: str, claim: Claim, who: Identity, key: bytes) -> None:
    if topic not in signing.TOPICS[claim.scope]:
        raise _Wrong(Reason.FOREIGN, f"signed by {_signer(claim)}, which may not write {topic}")
    if claim.scope not in signing.BOUND:
        return
    if key != claim.subject.encode():
        raise _Wrong(Reason.FOREIGN, f"signed by {_signer(claim)} and keyed {key.decode(errors='replace')!r}")
    if claim.scope is Scope.NODE and who.producer_id != claim.subject:
        raise _Wrong(Reason.FOREIGN, f"signed by {_signer(claim)} as producer {who.producer_id!r}")


def _check_datum(value: bytes, site: str, who: Identity, key: bytes) -> None:
    """The datum, from which the table takes them, names the site, producer and key that were signed for."""
    try:
        framing.schema_id(value)
        of_site, at = read_string(value, PREFIX_BYTES)
        producer, at = read_string(value, at)
        for _ in range(3):
            _, at = read_varint(value, at)
        of_key, _ = read_string(value, at)
    except framing.FramingError as error:
        raise _Wrong(Reason.FRAMING, str(error)) from None
    except HeadError as error:
        raise _Wrong(Reason.IDENTITY, str(error)) from None
    expected = (site, who.producer_id, key.decode(errors="replace"))
    if (of_site, producer, of_key) != expected:
        raise _Wrong(
            Reason.FOREIGN,
            f"signed for (site, producer, key) {expected}, the datum is about {(of_site, producer, of_key)}",
        )


def _signer(claim: Claim) -> str:
    return f"{claim.scope.word} {claim.subject!r}"
