"""Time as the agent sees it: ticks on the wall clock, waiting on the monotonic one."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Injected wherever time matters, so that tests own it."""

    def wall_us(self) -> int:
        """Microseconds since 1970, UTC. May step."""

    def mono_s(self) -> float:
        """Seconds on a clock that never steps."""

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait until ``event`` is set or time is up; whether it was set."""


class SystemClock:
    """The machine's clocks."""

    def wall_us(self) -> int:
        return time.time_ns() // 1000

    def mono_s(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        return event.wait(max(timeout_s, 0.0))


class ClockSteppedError(RuntimeError):
    """The wall clock went so far back that waiting for it to catch up would lose too much."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the clock stepped back by {seconds:.1f} s")
        self.seconds = seconds


class Ticker:
    """Hands out the ticks of a lane: multiples of the interval since 1970, each later than the one before.

    A clock that steps forward or a stalled process leaves ticks out: what was not sampled is not made up. One that
    steps back a little is waited for. Beyond ``patience_s`` ClockSteppedError asks for a new run.
    """

    def __init__(self, interval_us: int, patience_s: float = 60.0) -> None:
        self._interval = interval_us
        self._patience_us = int(patience_s * 1e6)
        self.last = 0
        """Tick taken last, microseconds since 1970; 0 before the first."""

    def next(self, wall_us: int) -> int:
        """The tick to take next, seen at ``wall_us``; its time may have come already."""
        late = wall_us // self._interval * self._interval
        if self.last == 0:
            self.last = late  # the tick under way when the agent starts is not sampled any more
        tick = max(self.last + self._interval, late)
        if tick - wall_us > self._interval + self._patience_us:
            raise ClockSteppedError((self.last - wall_us) / 1e6)
        return tick

    def take(self, tick: int) -> int:
        """Mark a tick as taken; the number of ticks left out before it."""
        missed = (tick - self.last) // self._interval - 1 if self.last else 0
        self.last = tick
        return missed
