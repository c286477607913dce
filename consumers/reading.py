"""From Kafka into the intakes: the group that is joined, the polls, and what brokers say in between."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumers import batch
from consumers.assignment import TIMEOUT_S, Partition, explain_out_of_range, out_of_range
from consumers.backoff import Backoff
from consumers.clock import Clock
from consumers.commit import CommitHorizon
from consumers.errors import (
    ConsumerError,
    FatalError,
    KafkaUnavailableError,
    OffsetsOutOfRangeError,
    RegistryUnavailableError,
)
from consumers.health import Health
from consumers.membership import Membership
from consumers.metrics import Metrics
from consumers.pauses import Pauses
from consumers.settings import ConsumeSettings

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
    "fetch.queue.backoff.ms": 100,  # a full queue is emptied at once: a second until it is filled again is a pause
    "topic.metadata.refresh.interval.ms": 30_000,
}
SOFT_WAIT_S = 1.0
"""How long a full buffer waits for room before the partitions are paused, which throws away what was fetched."""
REST_S = 1.0
"""Longest time without a turn while what comes is left with the broker."""
GATHER_S = 2.0
"""Longest time for gathering what came meanwhile."""
_HARMLESS = {KafkaError._PARTITION_EOF, KafkaError._MAX_POLL_EXCEEDED}
_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}


class Reading:
    """Kafka's client of one consumer, and what it brings. One thread."""

    def __init__(
        self,
        settings: ConsumeSettings,
        partitions: Mapping[batch.TopicPartition, Partition],
        membership: Membership,
        held: Collection[str],
        on_commit: Callable[..., None],
        *,
        health: Health,
        metrics: Metrics,
        clock: Clock,
        jitter: Callable[[], float],
    ) -> None:
        self._settings, self._partitions, self._membership = settings, partitions, membership
        self._health, self._metrics, self._clock = health, metrics, clock
        self._backoff = Backoff(settings.backoff_first_s, settings.backoff_max_s, jitter)
        self._subscribed = False
        self._last_poll = clock.monotonic()
        self._emptied_at: float | None = None
        """When the log was last read to its end; None while it is not."""
        self._gathering_s = 0.0
        """How long it took lately to read what had come in a rest."""
        self.kafka = Consumer(
            {
                "queued.max.messages.kbytes": max(1, settings.fetch_queue_bytes >> 10),
                "fetch.max.bytes": min(settings.fetch_queue_bytes, 16 << 20),
                **KAFKA_DEFAULTS,
                **settings.kafka,
                "group.id": settings.group,
                "on_commit": on_commit,
                "error_cb": self._told,
            },
            logger=logging.getLogger("gpufleet.librdkafka"),
        )
        self.pauses = Pauses(self.kafka, partitions, held, metrics, clock)

    def poll(self, held_bytes: Callable[[], int], *, busy: bool, wait: Callable[[float], object]) -> None:
        """Take what is there, or wait for it a little. A full buffer takes nothing: it waits for room first, then
        pauses the partitions.

        While the store is ``busy`` the next insert is due when its messages are ``flush_age_s`` old. They are left
        with the broker and gathered in one go, just before that: what is taken at once wakes the process once, and is
        sent before its memory goes cold (docs/benchmarks.md). Only of a log that was read to its end: a backlog is read
        without a rest.

        FatalError when the client cannot go on, OffsetsOutOfRangeError when the log lacks what comes next.
        """
        now, settings = self._clock.monotonic(), self._settings
        held = held_bytes()
        full = held >= settings.memory_bytes
        self._health.buffer(held / settings.memory_bytes)
        if full and not self.pauses.memory and now - self._last_poll < SOFT_WAIT_S:
            wait(settings.poll_timeout_s)
            return
        if full != self.pauses.memory:
            self.pauses.memory = full
            self.pauses.regulate()
        if not self._subscribed:
            if self._backoff.waiting(now):
                self._clock.sleep(settings.poll_timeout_s)
                return
            self._subscribe()
        since = self._emptied_at if busy else None
        if since is None or full:
            self._consume(now)
        elif now < (begin := since + settings.flush_age_s - self._gathering_s):
            wait(min(REST_S, begin - now))
            return
        else:
            self._gather(since, held_bytes)
        self._emptied_at = self._last_poll if busy and self._at_end() else None

    def _gather(self, since: float, held_bytes: Callable[[], int]) -> None:
        """Take what came ``since`` the log was empty, to its end, and what else comes before the insert is due."""
        began, due = self._clock.monotonic(), since + self._settings.flush_age_s
        self._emptied_at, emptied = None, False
        while self._consume(since) and held_bytes() < self._settings.memory_bytes:
            took = self._last_poll - began
            if not emptied and (emptied := self._at_end()):
                self._gathering_s = min(took, self._settings.flush_age_s / 2)
            if self._last_poll >= due and (emptied or took > GATHER_S):
                return

    def _consume(self, since: float) -> bool:
        """Take one poll's messages, none of which waits for longer than ``since``; False when there is more to see to
        than messages."""
        try:
            messages = self.kafka.consume(self._settings.poll_messages, self._settings.poll_timeout_s)
        except KafkaException as error:
            raise FatalError(f"Kafka's client cannot go on: {error}") from error
        self._last_poll = self._health.last_poll = self._clock.monotonic()
        if self._membership.error is not None:
            self._misassigned(self._membership.error)
            return False
        together: dict[tuple[str | None, int | None], list[Message]] = {}
        for message in messages:
            together.setdefault((message.topic(), message.partition()), []).append(message)
        for (topic, number), some in together.items():
            self._take(topic or "", number or 0, some, since)
        return True

    def _at_end(self) -> bool:
        """Whether everything was taken that the last fetches saw in the logs, as far as partitions are read at all.
        Never so behind a transaction's marker: such a topic is read without a rest."""
        if self.pauses.memory or not self._partitions:
            return False
        for partition in self._partitions.values():
            if partition.paused:
                continue
            try:
                where = TopicPartition(partition.topic, partition.number)
                _, end = self.kafka.get_watermark_offsets(where, cached=True)
            except KafkaException:
                return False
            if partition.intake.next_offset < end:
                return False
        return True

    def joined(self) -> None:
        """Partitions were assigned."""
        self._backoff.succeeded()
        self._health.kafka_error = ""

    def close(self) -> None:
        """Leave the group."""
        self.kafka.close()

    def _take(self, topic: str, number: int, messages: list[Message], since: float) -> None:
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
        self._health.kafka_error = ""
        intake = partition.intake
        self._metrics.messages.labels(topic).inc(len(sound))
        before = intake.waiting_bytes
        try:
            intake.take(sound, since)  # type: ignore[arg-type]  # confluent-kafka's Message fits the protocol
        except RegistryUnavailableError as error:
            log.warning("%s[%d] waits at offset %d: %s", topic, number, intake.next_offset, error)
            partition.blocked_until = self._clock.monotonic() + self._settings.schema_recheck_s
            self.pauses.regulate()
            self.kafka.seek(TopicPartition(topic, number, intake.next_offset))
        self._metrics.message_bytes.labels(topic).inc(intake.waiting_bytes - before)

    def _told(self, error: KafkaError) -> None:
        """What librdkafka says about brokers and topics; it goes on trying by itself."""
        if error.code() not in _HARMLESS:
            self._metrics.kafka_errors.labels(error.name()).inc()
            if error.str() != self._health.kafka_error:
                log.warning("Kafka: %s", error.str())
            if not self._health.kafka_error:
                self._health.kafka_error_since = self._clock.monotonic()
            self._health.kafka_error = error.str()

    def _out_of_range(self, topic: str, number: int) -> None:
        """The log no longer holds the offset that comes next."""
        partition = self._partitions.get((topic, number))
        if partition is None:
            return
        wanted = partition.intake.next_offset
        try:
            low, high = self.kafka.get_watermark_offsets(TopicPartition(topic, number), timeout=TIMEOUT_S)
        except KafkaException as error:
            raise OffsetsOutOfRangeError(f"{topic}[{number}]: offset {wanted} is not in the log: {error}") from error
        if not self._settings.accept_lost:
            raise OffsetsOutOfRangeError(explain_out_of_range([out_of_range(topic, number, wanted, low, high)]))
        log.error("going on at %d: %s", low, out_of_range(topic, number, wanted, low, high))
        partition.intake.rewind(low)
        partition.horizon = CommitHorizon(self._settings.horizon_s, low, None)
        self.kafka.seek(TopicPartition(topic, number, low))

    def _subscribe(self) -> None:
        members = self._membership
        self.kafka.subscribe(
            list(self._settings.topics), on_assign=members.assigned, on_revoke=members.revoked, on_lost=members.lost
        )
        self._subscribed = True

    def _misassigned(self, error: ConsumerError) -> None:
        """An assignment failed: leave and join again later, unless a person must decide."""
        self._membership.error = None
        if not isinstance(error, KafkaUnavailableError):
            raise error
        delay = self._backoff.failed(self._clock.monotonic())
        log.warning("joining the group again in %.1f s: %s", delay, error)
        self.kafka.unsubscribe()
        self._membership.forget_all()
        self._subscribed = False
