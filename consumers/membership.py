"""Partitions come and go: what a rebalance of the group does to the consumer's state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from confluent_kafka import Consumer, TopicPartition

from consumers import batch
from consumers.assignment import Partition, Start, starts, topic_ids
from consumers.clock import SystemClock
from consumers.errors import ConsumerError
from consumers.failpoints import failpoint
from consumers.metrics import Metrics
from consumers.settings import ConsumeSettings
from consumers.stall import StallGuard
from consumers.topic_watch import TopicWatch

log = logging.getLogger("gpufleet.consume")

Drain = Callable[[set[batch.TopicPartition]], None]
"""Waits, within a bound, until nothing of these partitions is in flight, and commits."""


class Membership:
    """The rebalance callbacks of the cooperative protocol. They run inside the main loop's poll.

    confluent-kafka loses track of exceptions raised in callbacks of ``consume``, so what goes wrong is kept in
    ``error`` for the main loop.
    """

    def __init__(
        self,
        partitions: dict[batch.TopicPartition, Partition],
        make: Callable[[Start, str], Partition],
        drain: Drain,
        settings: ConsumeSettings,
        guard: StallGuard,
        metrics: Metrics,
    ) -> None:
        self._partitions, self._make, self._drain = partitions, make, drain
        self._settings, self._guard, self._metrics = settings, guard, metrics
        self._topic_ids: dict[str, str] = {}
        self._watch = TopicWatch(partial(topic_ids, settings.writing), settings.topics_check_s, SystemClock())
        self.error: ConsumerError | None = None

    def assigned(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        """Start reading each at its committed offset, or at the beginning."""
        self._metrics.rebalances.labels("assigned").inc()
        try:
            self._topic_ids |= topic_ids(self._settings.writing, sorted({p.topic for p in partitions}))
            found = starts(consumer, partitions, accept_lost=self._settings.accept_lost, ids=self._topic_ids)
        except ConsumerError as error:
            self.error = error
            consumer.incremental_assign([])
            return
        for start in found:
            if start.lost:
                log.error("%s[%d]: offsets %d to %d were lost to retention", start.topic, start.partition, *start.lost)
            partition = self._make(start, self._topic_ids[start.topic])
            self._partitions[partition.key] = partition
        consumer.incremental_assign([TopicPartition(s.topic, s.partition, s.offset) for s in found])
        failpoint("assigned")
        self._guard.confirm()
        self._metrics.assigned.set(len(self._partitions))
        log.info("assigned %s", _names(partitions))

    def revoked(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        """Let what is in flight end, commit, give back."""
        self._metrics.rebalances.labels("revoked").inc()
        try:
            self._drain({(p.topic, p.partition) for p in partitions})
            failpoint("revoke drained")
        except ConsumerError as error:
            self.error = error
        self._forget(partitions)
        consumer.incremental_unassign(list(partitions))
        log.info("revoked %s", _names(partitions))

    def lost(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        """Others own them already: forget everything, commit nothing."""
        self._metrics.rebalances.labels("lost").inc()
        self._forget(partitions)
        consumer.incremental_unassign(list(partitions))
        log.warning("lost %s", _names(partitions))

    def check_topics(self) -> None:
        """Called every turn. OffsetsOutOfRangeError when a topic that is read is another one by now."""
        self._watch.turn({partition.topic: partition.intake.topic_id for partition in self._partitions.values()})

    def forget_all(self) -> None:
        """After an unsubscribe."""
        self._forget([TopicPartition(topic, number) for topic, number in self._partitions])

    def _forget(self, partitions: Sequence[TopicPartition]) -> None:
        for one in partitions:
            if self._partitions.pop((one.topic, one.partition), None) is not None:
                self._metrics.forget(one.topic, one.partition)
        self._metrics.assigned.set(len(self._partitions))


def _names(partitions: Sequence[TopicPartition]) -> str:
    by_topic: dict[str, list[int]] = {}
    for one in partitions:
        by_topic.setdefault(one.topic, []).append(one.partition)
    return ", ".join(f"{topic}{sorted(numbers)}" for topic, numbers in sorted(by_topic.items())) or "nothing"
