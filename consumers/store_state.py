"""Whether the store takes data now, and which topics wait for their table."""

from __future__ import annotations

import logging
from collections.abc import Callable

from consumers.backoff import Backoff
from consumers.clock import Clock
from consumers.errors import ConsumerError, TableBehindError
from consumers.health import Health
from consumers.metrics import Metrics
from consumers.settings import ConsumeSettings

INSERTS, LEDGER = "inserts", "ledger"
log = logging.getLogger("gpufleet.consume")


class StoreState:
    """What the last answers of the store say. One thread."""

    def __init__(
        self, settings: ConsumeSettings, clock: Clock, jitter: Callable[[], float], health: Health, metrics: Metrics
    ) -> None:
        self._recheck_s, self._clock, self._health, self._metrics = settings.schema_recheck_s, clock, health, metrics
        self._backoff = Backoff(settings.backoff_first_s, settings.backoff_max_s, jitter)
        self._failing: set[str] = set()
        """What of it failed last: inserts, the ledger."""
        self.held: set[str] = set()
        """Topics whose table lacks something: not read, and tried again now and then."""

    @property
    def away(self) -> bool:
        """Whether the last attempt failed."""
        return self._backoff.failures > 0

    @property
    def waiting(self) -> bool:
        """Whether it is too early for another attempt."""
        return self._backoff.waiting(self._clock.monotonic())

    def failed(self, error: ConsumerError, what: str) -> float:
        """Note that ``what`` failed; the delay before the next attempt. Without limit: nothing is lost by waiting."""
        now = self._clock.monotonic()
        self._failing.add(what)
        self._metrics.store_up.set(0)
        if self._health.store_down_since is None:
            self._health.store_down_since = now
        self._health.store_error = str(error)
        return self._backoff.failed(now)

    def answered(self, what: str) -> None:
        """Note that ``what`` was taken. A ledger that is written does not excuse inserts that time out: the store
        counts as away until both are well."""
        self._backoff.succeeded()
        self.excuse(what)
        if not self._failing:
            self._metrics.store_up.set(1)

    def excuse(self, what: str) -> None:
        """Nothing waits for ``what`` any more: that it failed last says nothing of the store."""
        self._failing.discard(what)
        if self._health.store_down_since is not None and not self._failing:
            log.warning("the store answers again")
            self._health.store_down_since = None

    def hold(self, topic: str, error: TableBehindError) -> float:
        """The topic's table is behind; the monotonic time of the next attempt."""
        if topic not in self.held:
            log.error("paused %s", error)
        self.held.add(topic)
        self._health.held = {**self._health.held, topic: str(error)}
        return self._clock.monotonic() + self._recheck_s

    def release(self, topic: str) -> None:
        """The topic's table took an insert."""
        if topic in self.held:
            self.held.remove(topic)
            self._health.held = {name: why for name, why in self._health.held.items() if name != topic}
            log.warning("resumed %s: its table fits again", topic)
