"""Which partitions are paused: because the buffer is full, their table is behind, or the registry is away.

Paused partitions are still polled, so the group keeps its member.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from confluent_kafka import Consumer, TopicPartition

from consumers import batch
from consumers.assignment import Partition
from consumers.clock import Clock
from consumers.metrics import Metrics

GAUGES_EVERY_S = 1.0


class Pauses:
    """Pauses and resumes; shows the partitions in the gauges once a second."""

    def __init__(
        self,
        kafka: Consumer,
        partitions: Mapping[batch.TopicPartition, Partition],
        held: Collection[str],
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._kafka, self._partitions, self._held = kafka, partitions, held
        self._metrics, self._clock = metrics, clock
        self._shown_at = 0.0
        self.memory = False
        """Whether the buffer is full."""

    def regulate(self) -> None:
        """Bring every partition into the state it should have."""
        now = self._clock.monotonic()
        change: dict[bool, list[TopicPartition]] = {True: [], False: []}
        for partition in self._partitions.values():
            wanted = self.memory or partition.topic in self._held or partition.blocked_until > now
            if wanted != partition.paused:
                partition.paused = wanted
                change[wanted].append(TopicPartition(partition.topic, partition.number))
        if change[True]:
            self._kafka.pause(change[True])
        if change[False]:
            self._kafka.resume(change[False])
        if now - self._shown_at >= GAUGES_EVERY_S:
            self._shown_at = now
            self._show(now)

    def _show(self, now: float) -> None:
        partitions = self._partitions.values()
        self._metrics.paused.labels("memory").set(len(partitions) if self.memory else 0)
        self._metrics.paused.labels("table").set(sum(p.topic in self._held for p in partitions))
        self._metrics.paused.labels("registry").set(sum(p.blocked_until > now for p in partitions))
        for partition in partitions:
            labels = (partition.topic, str(partition.number))
            self._metrics.read_offset.labels(*labels).set(partition.intake.next_offset)
            self._metrics.stored_offset.labels(*labels).set(partition.horizon.stored_next)
            self._metrics.committed_offset.labels(*labels).set(partition.horizon.committed or 0)
