"""How long to wait before the next attempt: doubling, with full jitter, for ever."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Delays after consecutive failures.

    The n-th delay is drawn evenly from half of to the whole of min(first_s * 2**n, max_s): a fleet of consumers does
    not return in step. ``random`` yields numbers in [0, 1).
    """

    def __init__(self, first_s: float, max_s: float, random: Callable[[], float]) -> None:
        self._first_s, self._max_s, self._random = first_s, max_s, random
        self.failures = 0
        self._until = 0.0

    def failed(self, now: float) -> float:
        """Record a failure at ``now`` (monotonic seconds); the delay before the next attempt."""
        ceiling = min(self._first_s * 2.0 ** min(self.failures, 30), self._max_s)
        delay = ceiling * (0.5 + 0.5 * self._random())
        self.failures += 1
        self._until = now + delay
        return delay

    def succeeded(self) -> None:
        """Start over."""
        self.failures = 0
        self._until = 0.0

    def waiting(self, now: float) -> bool:
        """Whether the delay after the last failure is still running."""
        return now < self._until
