"""Sends dead letters again: each stored once in the end, however often this is done.

A letter goes back to its topic under the identity it had, so the consumer's own rules decide (docs/identity.md): what
is stored already is found by the look-up that every resend takes. What the consumer would refuse again is not sent.
Should it refuse one all the same (it runs with other settings than this command), the header ``gpufleet-origin`` makes
of it the letter that is there already, not a second one. A letter is marked as replayed when its event is seen in the
store, and at no other time: killed in between, the next replay finds the event there and marks it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from consumers.datum import HeadError, place, read_string, read_varint
from consumers.errors import KafkaUnavailableError, Reason
from consumers.letters.judge import Again, Judge, Verdict, again
from consumers.letters.letter import Key, Letter
from consumers.store import Wanted
from schemas import framing, identity
from schemas.catalogue import KINDS, EventKind
from schemas.framing import PREFIX_BYTES
from schemas.identity import HEADER, Identity, IdentityError

PRODUCER: Mapping[str, Any] = {
    "enable.idempotence": True,
    "compression.type": "lz4",
    "linger.ms": 5,
    "message.max.bytes": 4_000_000,
    "partitioner": "murmur2_random",  # the producers' own: a letter must not race its producer on another partition
    "delivery.timeout.ms": 30_000,
}
POLL_S = 0.2

Who = tuple[str, int, int]
"""(producer_id, run_id, seq)"""
Event = tuple[str, Who]
"""With its topic: identities of different topics may be equal."""


class EventLookup(Protocol):
    """What is asked of the event tables."""

    def stored(self, kind: EventKind, wanted: list[Wanted]) -> set[Who]: ...


class Marks(Protocol):
    """Where it is noted that a letter was dealt with."""

    def mark(self, keys: Sequence[Key], mark: str, who: str, why: str) -> None: ...


class Send(Protocol):
    """Sends messages and returns once the broker has all of them. KafkaUnavailableError else."""

    def __call__(self, messages: Sequence[Again]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What may be put right on the way; the datum itself is never touched."""

    schema_id: int | None = None
    """The id that the framing should have named."""
    identity: bool = False
    """Make the identity header from the datum where there is none that can be read."""


@dataclass(slots=True)
class Outcome:
    """What became of the letters."""

    letters: int = 0
    sent: int = 0
    """Events sent again (or, in a dry run, to be sent)."""
    stored: int = 0
    """Letters whose event is stored now and was not before."""
    already: int = 0
    """Letters whose event was stored before: by a resend of its producer, or an earlier replay."""
    refused: dict[str, int] = field(default_factory=dict)
    """Letters that the consumer would refuse again, by reason: they stay as they are."""
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Per reason a letter and what is wrong with it."""
    waiting: list[str] = field(default_factory=list)
    """Letters that were sent and whose event is not in the store yet."""

    def refuse(self, letter: Letter, reason: str, detail: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        self.examples.setdefault(reason, (str(letter.ref), detail))


@dataclass(frozen=True, slots=True)
class _Ready:
    """An event that would be stored, and the letters that hold it."""

    message: Again
    kind: EventKind
    wanted: Wanted
    keys: list[Key]
    refs: list[str]

    @property
    def event(self) -> Event:
        return self.kind.topic, (self.wanted.producer_id, self.wanted.run_id, self.wanted.seq)


def replay(
    pages: Iterable[Sequence[Letter]],
    judge: Judge,
    store: EventLookup,
    marks: Marks,
    send: Send,
    *,
    repair: Repair | None = None,
    who: str,
    why: str,
    wait_s: float = 60.0,
    dry_run: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Send letters again, page by page, and wait up to ``wait_s`` a page until their events are stored.

    Raises the store's errors, KafkaUnavailableError and RegistryUnavailableError; done again, nothing is stored twice.
    """
    outcome = Outcome()
    for page in pages:
        outcome.letters += len(page)
        ready = list(_ready(page, judge, repair or Repair(), outcome))
        before = _stored(store, ready)
        there = [one for one in ready if one.event in before]
        missing = [one for one in ready if one.event not in before]
        outcome.already += sum(len(one.keys) for one in there)
        outcome.sent += len(missing)
        if dry_run:
            continue
        _mark(marks, there, who, f"{why} (was stored already)")
        if missing:
            send([one.message for one in missing])
        arrived, late = _await(store, missing, wait_s, sleep)
        outcome.stored += sum(len(one.keys) for one in arrived)
        _mark(marks, arrived, who, why)
        outcome.waiting += [ref for one in late for ref in one.refs]
    return outcome


def prepare(letter: Letter, repair: Repair) -> Again:
    """The letter's message with what is to be put right. ValueError, in words, when that cannot be."""
    if letter.cut:
        raise ValueError("the letter holds only a part of the message, which was too large: only its producer has it")
    message = again(letter)
    if repair.schema_id is not None:
        if len(message.message_value) < PREFIX_BYTES:
            raise ValueError("the message has no framing whose schema id could be put right")
        value = framing.prefix(repair.schema_id) + message.message_value[PREFIX_BYTES:]
        message = replace(message, message_value=value)
    if repair.identity:
        headers = message.message_headers
        try:
            identity.of_message(headers)  # type: ignore[arg-type]  # list is invariant
        except IdentityError:
            header = identity.pack(_identity(message.message_value))
            others = [one for one in headers if one[0] != HEADER]
            message = replace(message, message_headers=[(HEADER, header), *others])
    return message


def _identity(value: bytes) -> Identity:
    """The identity that the datum itself begins with."""
    try:
        _, at = read_string(value, PREFIX_BYTES)
        producer, at = read_string(value, at)
        run_id, at = read_varint(value, at)
        seq, at = read_varint(value, at)
        ts, at = read_varint(value, at)
        who = Identity(producer, run_id, seq, ts, 1)
        identity.unpack(identity.pack(who))
    except (HeadError, IdentityError) as error:
        raise ValueError(f"the datum does not begin with an identity either: {error}") from None
    return who


def _ready(page: Sequence[Letter], judge: Judge, repair: Repair, outcome: Outcome) -> Iterator[_Ready]:
    """The events of a page that would be stored, each once; the others are noted."""
    found: dict[Event, _Ready] = {}
    for letter in page:
        try:
            message = prepare(letter, repair)
        except ValueError as error:
            outcome.refuse(letter, letter.reason, str(error))
            continue
        verdict: Verdict = judge.verdict(message, strictly=letter.reason == Reason.DECODE)
        if verdict.reason is not None:
            outcome.refuse(letter, verdict.reason.value, verdict.detail)
            continue
        kind = KINDS[message.topic()]
        event = identity.of_message(message.message_headers)  # type: ignore[arg-type]  # list is invariant
        where = place(message.message_value)
        wanted = Wanted(where.site, where.key, event.ts, event.producer_id, event.run_id, event.seq)
        one = _Ready(message, kind, wanted, [], [])
        one = found.setdefault(one.event, one)
        one.keys.append(letter.key)
        one.refs.append(str(letter.ref))
    yield from found.values()


def _stored(store: EventLookup, ready: Sequence[_Ready]) -> set[Event]:
    """Which of the events are in their tables."""
    seen: set[Event] = set()
    for topic, kind in {one.kind.topic: one.kind for one in ready}.items():
        wanted = [one.wanted for one in ready if one.kind.topic == topic]
        seen |= {(topic, who) for who in store.stored(kind, wanted)}
    return seen


def _await(
    store: EventLookup, sent: list[_Ready], wait_s: float, sleep: Callable[[float], None]
) -> tuple[list[_Ready], list[_Ready]]:
    """(stored, not yet) after at most so many seconds."""
    arrived: list[_Ready] = []
    deadline = time.monotonic() + wait_s
    while sent:
        seen = _stored(store, sent)
        arrived += [one for one in sent if one.event in seen]
        sent = [one for one in sent if one.event not in seen]
        if not sent or time.monotonic() > deadline:
            break
        sleep(POLL_S)
    return arrived, sent


def _mark(marks: Marks, ready: Sequence[_Ready], who: str, why: str) -> None:
    keys = [key for one in ready for key in one.keys]
    if keys:
        marks.mark(keys, "replayed", who, why)


class Sender:
    """``Send`` to Kafka. Connects on first use."""

    def __init__(self, kafka: Mapping[str, Any], timeout_s: float = 35.0) -> None:
        self._kafka, self._timeout_s = kafka, timeout_s
        self._producer: Producer | None = None

    def __call__(self, messages: Sequence[Again]) -> None:
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                failed.append(error)

        try:
            if self._producer is None:
                self._producer = Producer({**PRODUCER, **self._kafka}, logger=logging.getLogger("gpufleet.librdkafka"))
            for one in messages:
                # Without a key the partition would be drawn by lot.
                self._producer.produce(
                    one.topic(),
                    one.message_value,
                    one.message_key or None,
                    -1 if one.message_key else one.partition_number,
                    headers=list(one.message_headers),
                    on_delivery=delivered,
                )
                self._producer.poll(0)
            left = self._producer.flush(self._timeout_s)
        except (KafkaException, BufferError) as error:
            raise KafkaUnavailableError(f"letters cannot be sent: {error}") from error
        if failed or left:
            why = failed[0].str() if failed else f"{left} not acknowledged in {self._timeout_s:.0f} s"
            raise KafkaUnavailableError(f"letters cannot be sent: {why}")
