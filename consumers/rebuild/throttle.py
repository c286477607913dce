"""Holds a rebuild back, so that live ingestion keeps what it needs."""

from __future__ import annotations

from consumers.clock import Clock

BURST_S = 0.5
"""Of its rate, what a quiet time saves up."""


class Throttle:
    """At most so many rows a second; None = as many as come. One thread."""

    def __init__(self, clock: Clock, rows_per_s: float | None = None) -> None:
        self._clock, self._rate = clock, rows_per_s
        self._tokens = 0.0
        self._refilled = clock.monotonic()

    def allowed(self, wanted: int) -> int:
        """How many of the wanted rows may be taken now."""
        if self._rate is None:
            return wanted
        now = self._clock.monotonic()
        self._tokens = min(max(1.0, self._rate * BURST_S), self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
        return max(0, min(wanted, int(self._tokens)))

    def took(self, rows: int) -> None:
        """Rows were taken; more than were allowed are waited for later."""
        if self._rate is not None:
            self._tokens -= rows

    def rest(self) -> None:
        """Wait until something is allowed."""
        while self.allowed(1) < 1:
            self._clock.sleep(0.02)
