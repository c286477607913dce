"""When waiting messages become a batch.

A batch is due when its topic has enough bytes or messages waiting, or the oldest has waited long enough. It goes
early, after a short minimum age, while the budget of inserts allows: at a low rate events are stored within a
fraction of a second, at a high rate inserts grow instead of becoming many. An insert that takes long spends more of
the budget, so that a busy store is asked less often; then small batches of anything but the fast lane wait for longer,
since an insert of a few rows costs the store almost as much as one of thousands: what happened three times as long,
what is read every so many seconds six times.
"""

from __future__ import annotations

from collections.abc import Iterable

from consumers.batch import Batch, Limits, TopicPartition, pack
from consumers.intake import PartitionIntake
from consumers.settings import ConsumeSettings
from schemas.catalogue import EventKind, Retention

BURST = 2.0
"""Inserts that a quiet time saves up."""
CHEAP_S = 0.06
"""An insert that takes no longer counts as one; one of n times that counts as n."""
DEEPEST = 20.0
"""Inserts that long ones may spend ahead."""
FAST_LANE = "node-telemetry"
SMALL_BYTES = 48 << 20
"""A batch of another topic below this waits, while the budget is overdrawn, ..."""
PATIENCE = {Retention.HISTORY: 3.0, Retention.TELEMETRY: 6.0}
"""... for so many times ``flush_age_s``."""


class FlushPolicy:
    """Chooses batches. One thread."""

    def __init__(self, settings: ConsumeSettings, now: float) -> None:
        self._settings = settings
        self._limits = Limits(settings.flush_bytes, settings.flush_messages, settings.days_per_insert)
        self._tokens, self._refilled = BURST, now

    def choose(
        self, intakes: Iterable[PartitionIntake], busy: set[TopicPartition], now: float, *, everything: bool = False
    ) -> Batch | None:
        """The most urgent batch that is due now, its chunks taken from their intakes; None when none is.

        ``busy`` partitions have a batch in flight and are passed over. ``everything``: due at any age (stopping).
        """
        self._tokens = min(BURST, self._tokens + (now - self._refilled) * self._settings.inserts_per_second)
        self._refilled = now
        by_topic: dict[str, list[PartitionIntake]] = {}
        for intake in intakes:
            topic = intake.kind.topic
            if intake.waiting and intake.waiting[0].count and (topic, intake.partition) not in busy:
                by_topic.setdefault(topic, []).append(intake)
        urgent = [
            (min(intake.waiting[0].opened_at for intake in ready), ready[0].kind, ready)
            for ready in by_topic.values()
            if everything or self._due(ready, now)
        ]
        if not urgent:
            return None
        _, kind, ready = min(urgent, key=lambda one: one[0])
        self._tokens -= 1
        return self._take(kind, ready)

    @property
    def overdrawn(self) -> bool:
        """Whether inserts take more than their budget: the store is busy, and is better asked less often."""
        return self._tokens < 0

    def took(self, seconds: float) -> None:
        """Charge an insert for its time, beyond the one it was charged as when it was chosen."""
        self._tokens = max(-DEEPEST, self._tokens - max(0.0, seconds / CHEAP_S - 1))

    def _due(self, ready: list[PartitionIntake], now: float) -> bool:
        settings = self._settings
        age = now - min(intake.waiting[0].opened_at for intake in ready)
        size = sum(intake.waiting_bytes for intake in ready)
        kind = ready[0].kind
        patient = self.overdrawn and size < SMALL_BYTES and kind.topic != FAST_LANE
        return (
            age >= settings.flush_age_s * (PATIENCE[kind.retention] if patient else 1)
            or (age >= settings.flush_min_age_s and self._tokens >= 1)
            or size >= settings.flush_bytes
            or sum(intake.waiting[0].count for intake in ready) >= settings.flush_messages
        )

    def _take(self, kind: EventKind, ready: list[PartitionIntake]) -> Batch:
        ready.sort(key=lambda intake: intake.waiting[0].opened_at)
        batch = pack(kind, [intake.waiting[0] for intake in ready], self._limits)
        chosen = {id(chunk) for chunk in batch.chunks}
        for intake in ready:
            if id(intake.waiting[0]) in chosen:
                intake.take_chunk()
        return batch
