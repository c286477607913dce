"""The consumer's main loop: poll, sort, deliver, keep the books, commit. One thread owns all of its state."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from consumers.assignment import Partition, Start
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
    StoreMemoryError,
    TableBehindError,
)
from consumers.flush import FlushPolicy
from consumers.health import Health
from consumers.intake import PartitionIntake
from consumers.ledger import Lateness, Ledger
from consumers.membership import Membership
from consumers.metrics import Metrics
from consumers.progress import Progress
from consumers.quarantine import Ward, decodes
from consumers.reading import KAFKA_DEFAULTS, Reading
from consumers.schema_book import AskRegistry, SchemaBook
from consumers.settings import ConsumeSettings
from consumers.signatures import Signing
from consumers.stall import StallGuard
from consumers.store import EventStore
from consumers.store_state import INSERTS, StoreState
from schemas import catalogue
from schemas.catalogue import KINDS, Schema

log = logging.getLogger("gpufleet.consume")

MUCH_BYTES = 8 << 20
"""After an insert of so much the ledger is written at once, however busy the store is."""


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
        self._flush = FlushPolicy(settings, clock.monotonic())
        self._partitions: dict[TopicPartition, Partition] = {}
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
        self._reading = Reading(
            settings,
            self._partitions,
            self._membership,
            self._store.held,
            self._progress.on_commit,
            health=self.health,
            metrics=self.metrics,
            clock=clock,
            jitter=jitter,
        )
        self._progress.kafka = self._reading.kafka

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
        self._reading.poll(self._held_bytes, busy=self._flush.overdrawn, wait=self._wait)
        self._collect()
        self._start_deliveries()
        if self._deliveries.idle:
            self._store.excuse(INSERTS)  # what failed was stored, or is somebody else's now
        self.health.insert_since = self._deliveries.since
        self._progress.turn(store_waiting=self._store.waiting, store_busy=self._flush.overdrawn)
        self._membership.check_topics()
        self._reading.pauses.regulate()
        self._ward.discharge()
        self.metrics.in_flight.set(self._deliveries.running)
        self.metrics.held_bytes.set(self._held_bytes())
        self.metrics.quarantined.set(len(self._ward.sick))
        self._ward.check(sum(len(p.intake.watermarks) for p in self._partitions.values()))

    def _wait(self, seconds: float) -> None:
        """Until a delivery ends, this consumer shall stop, or the time is up."""
        if self._deliveries.running:
            self._deliveries.wait(seconds)
        else:
            self._stop.wait(seconds)

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

    # --- partitions, and what is held --------------------------------------------------------------------

    def _held_bytes(self) -> int:
        return self._deliveries.held_bytes + sum(p.intake.held_bytes for p in self._partitions.values())

    def _counts(self, chunk: Chunk) -> bool:
        partition = self._partitions.get(chunk.topic_partition)
        return partition is not None and partition.intake.reading is chunk.reading

    def _make_partition(self, start: Start, topic_id: str) -> Partition:
        self._reading.joined()
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
        self._reading.close()
        self._progress.bookkeeper.close()
