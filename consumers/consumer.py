"""The consumer's main loop: poll, sort, deliver, keep the books, commit. One thread owns all of its state."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as KafkaMessage
from confluent_kafka import TopicPartition as KafkaPartition

from consumers.assignment import TIMEOUT_S, Partition, Start, explain_out_of_range, out_of_range
from consumers.backoff import Backoff
from consumers.batch import Chunk, TopicPartition
from consumers.bookkeeping import Bookkeeper
from consumers.clock import Clock, SystemClock
from consumers.commit import CommitHorizon
from consumers.dead_letters import DeadLetterWriter
from consumers.deliveries import Deliveries, Failed
from consumers.delivery import Delivered, Delivery
from consumers.errors import (
    ConsumerError,
    FatalError,
    KafkaUnavailableError,
    OffsetsOutOfRangeError,
    RegistryUnavailableError,
    StoreMemoryError,
    TableBehindError,
)
from consumers.flush import FlushPolicy
from consumers.health import Health
from consumers.intake import PartitionIntake
from consumers.ledger import Lateness, Ledger
from consumers.membership import Membership
from consumers.metrics import Metrics
from consumers.pauses import Pauses
from consumers.progress import Progress
from consumers.quarantine import Ward, decodes
from consumers.schema_book import AskRegistry, SchemaBook
from consumers.settings import ConsumeSettings
from consumers.signatures import Signing
from consumers.stall import StallGuard
from consumers.store import EventStore
from consumers.store_state import INSERTS, StoreState
from schemas import catalogue
from schemas.catalogue import KINDS, Schema

log = logging.getLogger("gpufleet.consume")

KAFKA_DEFAULTS: Mapping[str, Any] = {
    "auto.offset.reset": "error",  # retention overtaking the group must be an error, not a jump
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": False,
    "isolation.level": "read_committed",
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 45_000,
    "fetch.wait.max.ms": 100,
    "topic.metadata.refresh.interval.ms": 30_000,
}
MUCH_BYTES = 8 << 20
"""After an insert of so much the ledger is written at once, however busy the store is."""
SOFT_WAIT_S = 1.0
"""How long a full buffer waits for room before the partitions are paused, which throws away what was fetched."""
BUSY_POLLS = 4
"""How many times as long a poll waits while inserts take more than their budget."""
_HARMLESS = {KafkaError._PARTITION_EOF, KafkaError._MAX_POLL_EXCEEDED}
_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}


class Consumer:
    """Reads the topics of a group's share into the event tables until ``stop``.

    Memory: at most ``memory_bytes`` of messages are held (plus one poll of ``poll_messages``), librdkafka
    queues at most ``fetch_queue_bytes`` (plus one fetch), and each insert thread frames its batch piece by piece, never
    as a whole. Watermarks take about 500 bytes for each of at most 100,000 runs a partition.
    """

    def __init__(
        self,
        settings: ConsumeSettings,
        store: EventStore,
        *,
        ask_registry: AskRegistry | None = None,
        dead_letter_id: Callable[[Schema], int] | None = None,
        signing: Signing | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._clock = clock = clock or SystemClock()
        self.metrics = Metrics()
        self.health = Health(
            clock, settings.poll_stale_limit_s, settings.store_down_limit_s, settings.kafka_down_limit_s
        )
        kafka = {**KAFKA_DEFAULTS, **settings.kafka}
        self._guard = StallGuard(int(kafka["session.timeout.ms"]) / 2_000, clock)
        self._book = SchemaBook(catalogue.by_id(), ask_registry, clock, settings.unknown_schema_recheck_s)
        self._ward = Ward(
            settings.quarantine_share_limit, settings.quarantine_producers_min, settings.quarantine_window_s, clock
        )
        self._verifier = signing.verifier(clock.now_us, self.metrics.unsigned) if signing else None
        sign = signing.sign if signing else None
        letters = DeadLetterWriter(settings.writing, settings.site, dead_letter_id, sign=sign)
        lateness = Lateness(int(settings.late_after_s * 1e6), settings.late_producers_max)
        delivery = Delivery(store, letters, self._guard, clock, self.metrics, lateness)
        self._deliveries = Deliveries(delivery, settings.insert_threads)
        self._store = StoreState(settings, clock, jitter, self.health, self.metrics)
        self._kafka_backoff = Backoff(settings.backoff_first_s, settings.backoff_max_s, jitter)
        self._flush = FlushPolicy(settings, clock.monotonic())
        self._partitions: dict[TopicPartition, Partition] = {}
        self._subscribed = False
        self._last_poll = clock.monotonic()
        self._stop = threading.Event()
        self._progress = Progress(
            self._partitions,
            Bookkeeper(store, Ledger(store, settings.consumer_id, clock)),
            self._guard,
            self.metrics,
            clock,
            settings.bookkeeping_s,
            self._store,
        )
        self._membership = Membership(
            self._partitions, self._make_partition, self._drain, settings, self._guard, self.metrics
        )
        self._kafka = self._progress.kafka = KafkaConsumer(
            {
                "queued.max.messages.kbytes": max(1, settings.fetch_queue_bytes >> 10),
                "fetch.max.bytes": min(settings.fetch_queue_bytes, 16 << 20),
                **kafka,
                "group.id": settings.group,
                "on_commit": self._progress.on_commit,
                "error_cb": self._told,
            },
            logger=logging.getLogger("gpufleet.librdkafka"),
        )
        self._pauses = Pauses(self._kafka, self._partitions, self._store.held, self.metrics, clock)

    def stop(self) -> None:
        """Ask ``run`` to drain and return. From any thread or signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Consume until ``stop``, then store, record and commit what was read, and leave the group.

        Raises FatalError when a person must decide, StoreCredentialsError when the store refuses the credentials
        before it ever accepted them.
        """
        try:
            while not self._stop.is_set():
                self._turn()
            self._store_the_rest()
        except ConsumerError as error:
            self.health.fatal = str(error)
            raise
        finally:
            self._leave()

    # --- the loop -----------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        if self._guard.beat():
            log.warning("the process stood still: reading again from the committed offsets")
            self._progress.rewind("stall")
        self._poll()
        self._collect()
        self._start_deliveries()
        if self._deliveries.idle:
            self._store.excuse(INSERTS)  # what failed was stored, or is somebody else's now
        self.health.insert_since = self._deliveries.since
        self._progress.turn(store_waiting=self._store.waiting, store_busy=self._flush.overdrawn)
        self._membership.check_topics()
        self._pauses.regulate()
        self._ward.discharge()
        self.metrics.in_flight.set(self._deliveries.running)
        self.metrics.held_bytes.set(self._held_bytes())
        self.metrics.quarantined.set(len(self._ward.sick))
        self._ward.check(sum(len(p.intake.watermarks) for p in self._partitions.values()))

    def _poll(self) -> None:
        now = self._clock.monotonic()
        held = self._held_bytes()
        full = held >= self._settings.memory_bytes
        self.health.buffer(held / self._settings.memory_bytes)
        if full and not self._pauses.memory and now - self._last_poll < SOFT_WAIT_S:
            self._deliveries.wait(self._settings.poll_timeout_s)
            return
        if full != self._pauses.memory:
            self._pauses.memory = full
            self._pauses.regulate()
        if not self._subscribed:
            if self._kafka_backoff.waiting(now):
                self._clock.sleep(self._settings.poll_timeout_s)
                return
            self._subscribe()
        try:
            messages = self._kafka.consume(self._settings.poll_messages, self._patience_s())
        except KafkaException as error:
            raise FatalError(f"Kafka's client cannot go on: {error}") from error
        self._last_poll = self.health.last_poll = self._clock.monotonic()
        if self._membership.error is not None:
            self._misassigned(self._membership.error)
            return
        together: dict[tuple[str | None, int | None], list[KafkaMessage]] = {}
        for message in messages:
            together.setdefault((message.topic(), message.partition()), []).append(message)
        for (topic, number), some in together.items():
            self._take(topic or "", number or 0, some)

    def _patience_s(self) -> float:
        """How long to wait for messages. Every turn costs the same, so there are fewer while inserts take long."""
        return self._settings.poll_timeout_s * (BUSY_POLLS if self._flush.overdrawn else 1)

    def _take(self, topic: str, number: int, messages: list[KafkaMessage]) -> None:
        sound = []
        for message in messages:
            error = message.error()
            if error is None:
                sound.append(message)
            elif error.code() in _OUT_OF_RANGE:
                self._out_of_range(topic, number)
            else:
                self._told(error)
        partition = self._partitions.get((topic, number))
        if partition is None or not sound:
            return
        self.health.kafka_error = ""
        intake = partition.intake
        self.metrics.messages.labels(topic).inc(len(sound))
        before = intake.waiting_bytes
        try:
            intake.take(sound)  # type: ignore[arg-type]  # confluent-kafka's Message fits the protocol
        except RegistryUnavailableError as error:
            log.warning("%s[%d] waits at offset %d: %s", topic, number, intake.next_offset, error)
            partition.blocked_until = self._clock.monotonic() + self._settings.schema_recheck_s
            self._pauses.regulate()
            self._kafka.seek(KafkaPartition(topic, number, intake.next_offset))
        self.metrics.message_bytes.labels(topic).inc(intake.waiting_bytes - before)

    def _collect(self) -> None:
        for outcome in self._deliveries.collect():
            if isinstance(outcome, Failed):
                self._failed(outcome)
            else:
                self._delivered(outcome)

    def _delivered(self, done: Delivered) -> None:
        self._store.answered(INSERTS)
        topic = done.batch.kind.topic
        self._store.release(topic)
        self._flush.took(sum(insert.seconds for insert in done.batch.inserts))
        self._progress.bookkeeper.record(done.entries)
        if done.batch.size >= MUCH_BYTES:
            self._progress.hasten()
        for chunk in done.batch.chunks:
            partition = self._partitions.get(chunk.topic_partition)
            if partition is not None and self._counts(chunk):
                partition.horizon.delivered(chunk.next_offset)
                partition.intake.watermarks.learn((key, done.learned[key]) for key in chunk.unknown)
        self.metrics.rows.labels(topic).inc(sum(entry.rows for entry in done.entries))
        self.metrics.duplicates.labels(topic).inc(sum(entry.duplicates for entry in done.entries))
        self._ward.admit(done.bad)
        for bad in done.bad:
            self.metrics.dead_letters.labels(topic, bad.reason.value).inc()
        if done.bad:
            first = done.bad[0]
            log.warning(
                "%s: %d messages to dead-letters, e.g. %s: %s", topic, len(done.bad), first.reason, first.detail
            )

    def _failed(self, failed: Failed) -> None:
        now, batch, error = self._clock.monotonic(), failed.batch, failed.error
        topic = batch.kind.topic
        self.metrics.insert_failures.labels(topic, type(error).__name__).inc()
        if isinstance(error, FatalError):
            raise error
        batch.check_all = True
        batch.attempts += 1
        if isinstance(error, TableBehindError):
            self._deliveries.later(batch, self._store.hold(topic, error))
            return
        if isinstance(error, StoreMemoryError):
            batch.pieces = min(batch.pieces * 2, max(1, batch.count))
        delay = self._store.failed(error, INSERTS)
        log.warning("%s: %d messages not stored, again in %.1f s: %s", topic, batch.count, delay, error)
        self._deliveries.later(batch, now + delay)

    def _start_deliveries(self, *, everything: bool = False) -> None:
        now = self._clock.monotonic()
        if not self._progress.bookkeeper.known or self._guard.fenced or self._store.waiting:
            return
        while self._deliveries.free:
            batch = self._deliveries.due(now, self._counts)
            if batch is None:
                ready = [p.intake for p in self._partitions.values() if p.topic not in self._store.held]
                batch = self._flush.choose(ready, self._deliveries.busy(), now, everything=everything)
            if batch is None:
                return
            self._deliveries.start(batch, now)

    # --- what is held, and trouble with Kafka --------------------------------------------------------------------

    def _held_bytes(self) -> int:
        return self._deliveries.held_bytes + sum(p.intake.held_bytes for p in self._partitions.values())

    def _counts(self, chunk: Chunk) -> bool:
        partition = self._partitions.get(chunk.topic_partition)
        return partition is not None and partition.intake.reading is chunk.reading

    def _told(self, error: KafkaError) -> None:
        """What librdkafka says about brokers and topics; it goes on trying by itself."""
        if error.code() not in _HARMLESS:
            self.metrics.kafka_errors.labels(error.name()).inc()
            if error.str() != self.health.kafka_error:
                log.warning("Kafka: %s", error.str())
            if not self.health.kafka_error:
                self.health.kafka_error_since = self._clock.monotonic()
            self.health.kafka_error = error.str()

    def _out_of_range(self, topic: str, number: int) -> None:
        """The log no longer holds the offset that comes next."""
        partition = self._partitions.get((topic, number))
        if partition is None:
            return
        wanted = partition.intake.next_offset
        try:
            low, high = self._kafka.get_watermark_offsets(KafkaPartition(topic, number), timeout=TIMEOUT_S)
        except KafkaException as error:
            raise OffsetsOutOfRangeError(f"{topic}[{number}]: offset {wanted} is not in the log: {error}") from error
        if not self._settings.accept_lost:
            raise OffsetsOutOfRangeError(explain_out_of_range([out_of_range(topic, number, wanted, low, high)]))
        log.error("going on at %d: %s", low, out_of_range(topic, number, wanted, low, high))
        partition.intake.rewind(low)
        partition.horizon = CommitHorizon(self._settings.horizon_s, low, None)
        self._kafka.seek(KafkaPartition(topic, number, low))

    # --- the group ----------------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        members = self._membership
        self._kafka.subscribe(
            list(self._settings.topics), on_assign=members.assigned, on_revoke=members.revoked, on_lost=members.lost
        )
        self._subscribed = True

    def _misassigned(self, error: ConsumerError) -> None:
        """An assignment failed: leave and join again later, unless a person must decide."""
        self._membership.error = None
        if not isinstance(error, KafkaUnavailableError):
            raise error
        delay = self._kafka_backoff.failed(self._clock.monotonic())
        log.warning("joining the group again in %.1f s: %s", delay, error)
        self._kafka.unsubscribe()
        self._membership.forget_all()
        self._subscribed = False

    def _make_partition(self, start: Start, topic_id: str) -> Partition:
        self._kafka_backoff.succeeded()
        self.health.kafka_error = ""
        intake = PartitionIntake(
            KINDS[start.topic],
            start.partition,
            topic_id,
            start.offset,
            start.end,
            settings=self._settings,
            book=self._book,
            clock=self._clock,
            sick=self._ward.sick,
            decodes=decodes,
            verify=self._verifier.on(start.topic) if self._verifier else None,
        )
        horizon = CommitHorizon(self._settings.horizon_s, start.offset, start.committed)
        return Partition(start.topic, start.partition, intake, horizon)

    def _drain(self, keys: set[TopicPartition]) -> None:
        deadline = self._clock.monotonic() + self._settings.drain_s
        while self._deliveries.running_on(keys) and self._clock.monotonic() < deadline:
            self._deliveries.wait(0.1)
            self._collect()
            self._guard.beat()
        self._progress.finish(max(1.0, deadline - self._clock.monotonic()))

    def _store_the_rest(self) -> None:
        """What was read is stored, if the store is there, before the group is left."""
        deadline = self._clock.monotonic() + self._settings.stop_s
        while self._clock.monotonic() < deadline:
            self._guard.beat()
            self._collect()
            self._start_deliveries(everything=True)
            waiting = any(p.intake.waiting_bytes for p in self._partitions.values() if p.topic not in self._store.held)
            if self._deliveries.running:
                self._deliveries.wait(0.1)
            elif self._store.away or not self._progress.bookkeeper.known:
                break  # the store is away: what was read is read again next time
            elif not waiting and self._deliveries.idle:
                break
        self._progress.finish(self._settings.drain_s)

    def _leave(self) -> None:
        self._deliveries.close()
        self._kafka.close()
        self._progress.bookkeeper.close()
