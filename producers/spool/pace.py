"""When a backlog may be sent: is the broker there, and how much does it take?

A fleet comes back from an outage at once. Each node waits a random moment, begins slowly, and doubles its rate every
second while the broker acknowledges quickly; when acknowledgements take long, it halves it. So many nodes settle at
what the broker can take, and live events, which are not paced, find it responsive.
"""

from __future__ import annotations

SMALLEST_BURST, LARGEST_BURST = 4 << 10, 32 << 10
"""Sent together, in bytes: half a second's worth, since a larger batch compresses better."""
QUICK_S, SLOW_S = 0.5, 2.0
"""Acknowledged faster than the first: speed up; slower than the second: slow down."""
BEGINS_AT = 1 / 16
"""Share of the full rate with which a backlog begins."""
SLOWEST = 1_000.0
"""Bytes per second below which a rate is never lowered."""


class Pacer:
    """A token bucket whose rate follows the broker's acknowledgements. Times in seconds on one monotonic clock."""

    def __init__(self, most_bytes_per_s: float) -> None:
        self._most = most_bytes_per_s
        self.rate = most_bytes_per_s
        self._tokens = 0.0
        self._gathering = False
        self._at = 0.0
        self._changed_at = 0.0

    @property
    def burst(self) -> float:
        return min(LARGEST_BURST, max(SMALLEST_BURST, self.rate / 2))

    def begin(self, now: float) -> None:
        """A backlog begins to be sent."""
        self.rate = max(min(SLOWEST, self._most), self._most * BEGINS_AT)
        self._tokens, self._gathering, self._at, self._changed_at = self.burst, False, now, now

    def wait_s(self, now: float) -> float:
        """Time until the next event may go; 0 = now."""
        if not self._most:
            return 0.0
        self._tokens = min(2 * self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._gathering and self._tokens < self.burst:
            return (self.burst - self._tokens) / self.rate
        self._gathering = False
        return 0.0

    def spend(self, size: int) -> None:
        """So many bytes were sent. A burst ends when the tokens are gone; then they gather for the next."""
        self._tokens -= size
        if self._tokens <= 0:
            self._gathering = True

    def acknowledged(self, took_s: float, now: float) -> None:
        """One event of the backlog was acknowledged that long after it was sent."""
        if took_s > SLOW_S and now - self._changed_at >= SLOW_S:
            self.rate, self._changed_at = max(min(SLOWEST, self._most), self.rate / 2), now
        elif took_s < QUICK_S and now - self._changed_at >= 1.0:
            self.rate, self._changed_at = min(self._most, self.rate * 2), now


class Link:
    """Whether the broker answers, judged by its acknowledgements alone."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.up = True
        """Before anything was sent: yes, so that something is."""
        self._waiting_since = 0.0

    def sent(self, now: float, flying: int) -> None:
        """An event was handed out; ``flying`` are on their way with it."""
        if flying == 1:
            self._waiting_since = now

    def acknowledged(self, now: float) -> None:
        """The broker answered."""
        self.up = True
        self._waiting_since = now

    def check(self, now: float, flying: int) -> bool:
        """Judge; whether the link is up."""
        if flying and now - self._waiting_since > self._timeout_s and self.up:
            self.up = False
        return self.up
