"""Reads a topic's log into a table, without a group: each partition from one offset to another, exactly once.

The consumer's own parts do the work (intake, filter, delivery), so that an event is judged here as it was when it
came; only the target is another table, and nobody else is told: no ledger, no dead letters, no commits. Positions go
into the store, trailing what it has acknowledged.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from consumers.assignment import TIMEOUT_S
from consumers.backoff import Backoff
from consumers.batch import Chunk
from consumers.boot import BootWatch
from consumers.clock import Clock, SystemClock
from consumers.commit import CommitHorizon
from consumers.deliveries import Deliveries, Failed
from consumers.delivery import Delivered, Delivery
from consumers.errors import FatalError, KafkaUnavailableError, RegistryUnavailableError, StoreMemoryError
from consumers.flush import FlushPolicy
from consumers.intake import PartitionIntake, identity_of
from consumers.ledger import Lateness
from consumers.metrics import Metrics
from consumers.quarantine import decodes
from consumers.rebuild.reading import Counted, NoLetters, PartitionReading
from consumers.rebuild.state import Position
from consumers.rebuild.throttle import Throttle
from consumers.schema_book import SchemaBook
from consumers.settings import ConsumeSettings
from consumers.signatures import Signing
from consumers.stall import StallGuard
from consumers.store import EventStore
from schemas.catalogue import EventKind

log = logging.getLogger("gpufleet.rebuild")

KAFKA: Mapping[str, Any] = {
    "auto.offset.reset": "error",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,  # control records have offsets and are no messages
    "isolation.level": "read_committed",
    "fetch.wait.max.ms": 100,
    "fetch.queue.backoff.ms": 100,  # as in consumers/reading.py
}
SAVE_S = 1.0
FLUSH_AGE_S = 5.0
FLUSH_BYTES = 32 << 20
"""Inserts this large are about as cheap as larger ones, and reading waits less for the last."""
HORIZON_S = 5.0
"""Saved positions trail what the store acknowledged: a restarted store may have forgotten its last words."""
QUIET_S, TAIL_S = 0.7, 3.0
"""A partition is read on beyond the end that the broker named until it says that this is the end, or nothing came for
so long, or messages kept coming for so long: the embedded broker tells its end too low."""
_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}


Save = Callable[[Mapping[int, Position]], None]
Tell = Callable[[Counted, int], None]
"""Called about once a second with what was done and how many messages are left."""


class LogReader:
    """Reads partitions of one topic into ``store``'s table. One thread; several reads one after the other."""

    def __init__(
        self,
        kind: EventKind,
        topic_id: str,
        settings: ConsumeSettings,
        store: EventStore,
        book: SchemaBook,
        *,
        span_us: tuple[int, int] | None = None,
        throttle: Throttle | None = None,
        signing: Signing | None = None,
        clock: Clock | None = None,
    ) -> None:
        # Nobody waits for a single event: inserts go by size.
        self._settings = settings = replace(
            settings,
            flush_age_s=FLUSH_AGE_S,
            flush_min_age_s=FLUSH_AGE_S,
            flush_bytes=min(settings.flush_bytes, FLUSH_BYTES),
        )
        self._kind, self._topic_id, self._store, self._book = kind, topic_id, store, book
        self._span = span_us
        self._clock = clock = clock or SystemClock()
        self._throttle = throttle or Throttle(clock)
        metrics = Metrics()
        verifier = signing.verifier(clock.now_us, metrics.unsigned) if signing else None
        self._verify = verifier.on(kind.topic) if verifier else None
        lateness = Lateness(int(settings.late_after_s * 1e6), 0)
        guard = StallGuard(float("inf"), clock)  # nobody else writes to the table: no zombie can be made of this
        self._deliveries = Deliveries(
            Delivery(store, NoLetters(), guard, clock, metrics, lateness), settings.insert_threads
        )
        self._flush = FlushPolicy(settings, clock.monotonic())
        self._backoff = Backoff(settings.backoff_first_s, settings.backoff_max_s, random.random)
        self._boot = BootWatch()
        self._readings: dict[int, PartitionReading] = {}
        self._kafka = KafkaConsumer(
            {
                "queued.max.messages.kbytes": max(1, settings.fetch_queue_bytes >> 10),
                "fetch.max.bytes": min(settings.fetch_queue_bytes, 16 << 20),
                **KAFKA,
                **settings.kafka,
                "group.id": f"{settings.group}-rebuild",  # required, never joined and never committed to
            },
            logger=logging.getLogger("gpufleet.librdkafka"),
        )
        self.counted = Counted()

    def close(self) -> None:
        """Let go of threads and connections."""
        self._deliveries.close()
        self._kafka.close()

    def bounds(self) -> dict[int, tuple[int, int]]:
        """(first offset, end) of each partition of the log as it is now."""
        topic = self._kind.topic
        try:
            known = self._kafka.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
            if known.error is not None:
                raise KafkaUnavailableError(f"{topic}: {known.error.str()}")
            return {
                number: self._kafka.get_watermark_offsets(TopicPartition(topic, number), timeout=TIMEOUT_S)
                for number in sorted(known.partitions)
            }
        except KafkaException as error:
            raise KafkaUnavailableError(f"cannot learn how far the log of {topic} reaches: {error}") from error

    def appended_from(self, us: int, bounds: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        """The first offset of each partition that was appended at or after a time; the end where there is none."""
        wanted = [TopicPartition(self._kind.topic, number, us // 1000) for number in bounds]
        try:
            found = self._kafka.offsets_for_times(wanted, timeout=TIMEOUT_S)
        except KafkaException as error:
            raise KafkaUnavailableError(f"cannot find offsets by time: {error}") from error
        return {p.partition: p.offset if p.offset >= 0 else bounds[p.partition][1] for p in found}

    def read(
        self,
        positions: Mapping[int, Position],
        until: Mapping[int, int],
        *,
        exactly: bool = False,
        check_all: bool = False,
        save: Save = lambda positions: None,
        tell: Tell = lambda counted, left: None,
    ) -> None:
        """Bring every position to ``until``, or a little beyond it unless ``exactly``.

        ``check_all``: the table may hold any of it already (it is the live one). Positions are updated in place, and
        handed to ``save`` when everything below them is safely stored.
        """
        self._begin(positions, until, exactly=exactly, check_all=check_all)
        saved = told = self._clock.monotonic()
        while not self._done():
            self._poll(exactly=exactly)
            self._collect()
            self._start()
            now = self._clock.monotonic()
            if now - saved >= SAVE_S:
                saved = now
                if self._same_store():
                    save(self._safe(now))
            if now - told >= SAVE_S:
                told = now
                tell(self.counted, sum(max(0, r.until - r.seen) for r in self._readings.values()))
        if not self._same_store():  # what was acknowledged last may be gone
            self.read(
                {n: r.position for n, r in self._readings.items()},
                until, exactly=exactly, check_all=check_all, save=save, tell=tell,
            )  # fmt: skip
            return
        for reading in self._readings.values():
            reading.position.next = max(reading.position.next, reading.seen)
        save({number: reading.position for number, reading in self._readings.items()})
        tell(self.counted, 0)
        self._kafka.unassign()

    # --- one turn -----------------------------------------------------------------------------------------------

    def _begin(
        self, positions: Mapping[int, Position], until: Mapping[int, int], *, exactly: bool, check_all: bool
    ) -> None:
        self._readings = {}
        for number, position in positions.items():
            begin = position.next
            intake = PartitionIntake(
                self._kind, number, self._topic_id, begin, 1 << 62 if check_all else begin,
                settings=self._settings, book=self._book, clock=self._clock, sick=set(), decodes=decodes,
                verify=self._verify,
            )  # fmt: skip
            horizon = CommitHorizon(HORIZON_S, begin, None)
            self._readings[number] = PartitionReading(intake, horizon, position, until[number], begin)
            self._readings[number].ended = exactly and begin >= until[number]
            self._readings[number].heard_at = self._clock.monotonic()
        self._boot.restarted(self._store.boot())
        assigned = [
            TopicPartition(self._kind.topic, n, r.position.next) for n, r in self._readings.items() if not r.ended
        ]
        if assigned:
            self._kafka.assign(assigned)

    def _done(self) -> bool:
        return all(r.ended and not r.intake.waiting_bytes for r in self._readings.values()) and self._deliveries.idle

    def _poll(self, *, exactly: bool) -> None:
        settings = self._settings
        held = self._deliveries.held_bytes + sum(r.intake.held_bytes for r in self._readings.values())
        if held >= settings.memory_bytes or all(r.ended for r in self._readings.values()):
            self._deliveries.wait(settings.poll_timeout_s)
            return
        allowed = self._throttle.allowed(settings.poll_messages)
        if not allowed:
            self._clock.sleep(0.02)
            return
        try:
            messages = self._kafka.consume(allowed, settings.poll_timeout_s)
        except KafkaException as error:
            raise FatalError(f"Kafka's client cannot go on: {error}") from error
        for number, some in groupby(messages, key=lambda m: m.partition() or 0):
            self._take(self._readings[number], list(some), exactly=exactly)
        self._ends(exactly=exactly)
        self._throttle.took(len(messages))

    def _take(self, reading: PartitionReading, messages: list[KafkaMessage], *, exactly: bool) -> None:
        wanted = [message for message in messages if message.error() is None]
        if len(wanted) != len(messages):
            self._errors(reading, messages)
        if exactly:
            wanted = [message for message in wanted if (message.offset() or 0) < reading.until]
            reading.seen = max(reading.seen, min(reading.until, (messages[-1].offset() or 0) + 1))
        last = messages[-1].error()
        reading.at_end = last is not None and last.code() == KafkaError._PARTITION_EOF
        if reading.ended or not wanted:
            return
        reading.seen = max(reading.seen, (wanted[-1].offset() or 0) + 1)
        reading.heard_at = self._clock.monotonic()
        if not reading.position.first_append_us:
            reading.position.first_append_us = max(wanted[0].timestamp()[1], 0) * 1000
        self.counted.messages += len(wanted)
        if self._span is not None:
            before = len(wanted)
            wanted = [message for message in wanted if self._inside(message)]
            self.counted.skipped += before - len(wanted)
        try:
            reading.intake.take(wanted)  # type: ignore[arg-type]  # confluent-kafka's Message fits the protocol
        except RegistryUnavailableError as error:
            log.warning("waiting at offset %d: %s", reading.intake.next_offset, error)
            self._back(reading, reading.intake.next_offset)
            self._clock.sleep(1.0)

    def _errors(self, reading: PartitionReading, messages: list[KafkaMessage]) -> None:
        for message in messages:
            error = message.error()
            if error is None:
                continue
            if error.code() in _OUT_OF_RANGE:
                self._overtaken(reading)
            elif error.code() == KafkaError._PARTITION_EOF:
                reading.seen = max(reading.seen, message.offset() or 0)
            elif error.fatal():
                raise FatalError(f"Kafka: {error.str()}")

    def _inside(self, message: KafkaMessage) -> bool:
        """Whether an event belongs to the range; what has no readable time is judged by the intake."""
        assert self._span is not None
        who = identity_of(message)  # type: ignore[arg-type]
        return who is None or self._span[0] <= who.ts < self._span[1]

    def _ends(self, *, exactly: bool) -> None:
        """Which partitions have been read: to the end that the broker named, and until nothing more comes."""
        now = self._clock.monotonic()
        ended = []
        for number, reading in self._readings.items():
            if reading.ended or reading.seen < reading.until:
                continue
            reading.tail_from = reading.tail_from or now
            quiet = reading.at_end or now - reading.heard_at > QUIET_S
            if exactly or quiet or now - reading.tail_from > TAIL_S:
                reading.ended = True
                ended.append(TopicPartition(self._kind.topic, number))
        if ended:
            self._kafka.incremental_unassign(ended)

    def _overtaken(self, reading: PartitionReading) -> None:
        """Retention took what comes next: named, never jumped over in silence."""
        where = TopicPartition(self._kind.topic, reading.intake.partition)
        low, high = self._kafka.get_watermark_offsets(where, timeout=TIMEOUT_S)
        wanted = reading.seen
        if not wanted < low <= high:
            raise FatalError(
                f"{where.topic}[{where.partition}]: {wanted} comes next, but the log is {low} to {high}: was the topic"
                " made anew? Discard this rebuild (--discard) and begin again"
            )
        reading.position.lost.append((wanted, low))
        log.error("%s[%d]: retention took offsets %d to %d", where.topic, where.partition, wanted, low - 1)
        self._back(reading, low)

    def _back(self, reading: PartitionReading, offset: int) -> None:
        reading.seen = offset
        self._kafka.seek(TopicPartition(self._kind.topic, reading.intake.partition, offset))

    # --- deliveries and positions -------------------------------------------------------------------------------

    def _start(self) -> None:
        now = self._clock.monotonic()
        if self._backoff.waiting(now):
            return
        everything = all(r.ended for r in self._readings.values())
        while self._deliveries.free:
            batch = self._deliveries.due(now, self._counts)
            if batch is None:
                intakes = [r.intake for r in self._readings.values()]
                batch = self._flush.choose(intakes, self._deliveries.busy(), now, everything=everything)
            if batch is None:
                return
            self._deliveries.start(batch, now)

    def _collect(self) -> None:
        for outcome in self._deliveries.collect():
            if isinstance(outcome, Failed):
                self._failed(outcome)
            else:
                self._delivered(outcome)

    def _delivered(self, done: Delivered) -> None:
        now = self._clock.monotonic()
        self._backoff.succeeded()
        for chunk in done.batch.chunks:
            if self._counts(chunk):
                reading = self._readings[chunk.partition]
                reading.horizon.stored(chunk.next_offset, now)
                reading.intake.watermarks.learn((key, done.learned[key]) for key in chunk.unknown)
        for entry in done.entries:
            self.counted.rows += entry.rows
            self.counted.duplicates += entry.duplicates
            self.counted.bad += entry.dead_letters
            if entry.rows:
                self.counted.minutes.update(minute * 60 for minute in entry.minutes)

    def _failed(self, failed: Failed) -> None:
        if isinstance(failed.error, FatalError):
            raise failed.error
        batch = failed.batch
        batch.check_all = True
        batch.attempts += 1
        if isinstance(failed.error, StoreMemoryError):
            batch.pieces = min(batch.pieces * 2, max(1, batch.count))
        now = self._clock.monotonic()
        delay = self._backoff.failed(now)
        log.warning("%d messages not stored, again in %.1f s: %s", batch.count, delay, failed.error)
        self._deliveries.later(batch, now + delay)

    def _counts(self, chunk: Chunk) -> bool:
        reading = self._readings.get(chunk.partition)
        return reading is not None and reading.intake.reading is chunk.reading

    def _same_store(self) -> bool:
        """Whether the store is the one that acknowledged; else everything not saved yet is read again."""
        if not self._boot.restarted(self._store.boot()):
            return True
        log.warning("the store was restarted: reading again from the saved positions")
        for number, reading in self._readings.items():
            offset = reading.horizon.rewind()
            reading.intake.rewind(offset)
            reading.position.next = reading.seen = offset
            if reading.ended and offset < reading.until:
                reading.ended, reading.tail_from = False, None
                self._kafka.incremental_assign([TopicPartition(self._kind.topic, number, offset)])
            elif not reading.ended:
                self._kafka.seek(TopicPartition(self._kind.topic, number, offset))
        return False

    def _safe(self, now: float) -> dict[int, Position]:
        moved = {}
        for number, reading in self._readings.items():
            offset = reading.horizon.committable(now)
            if offset is not None and offset > reading.position.next:
                reading.horizon.was_committed(offset)
                reading.position.next = offset
                moved[number] = reading.position
        return moved
