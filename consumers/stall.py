"""Keeps a consumer that stood still (SIGSTOP, a frozen machine) from inserting as a zombie.

Members of a group that send no heartbeat for the session timeout lose their partitions without knowing. The main
loop beats once a turn; a pause longer than half the session timeout means "maybe lost": nothing is inserted until the
group has confirmed the membership.
"""

from __future__ import annotations

from consumers.clock import Clock
from consumers.errors import StalledError


class StallGuard:
    """Shared by the main loop, which beats, and the insert threads, which ask."""

    def __init__(self, limit_s: float, clock: Clock) -> None:
        self._limit_s, self._clock = limit_s, clock
        self._last = clock.monotonic()
        self.fenced = False
        """Whether a stall was seen and the membership is not confirmed yet."""

    def beat(self) -> bool:
        """Called every turn of the main loop; True when it stalled since the last one."""
        now = self._clock.monotonic()
        stalled = now - self._last > self._limit_s
        if stalled:
            self.fenced = True
        self._last = now
        return stalled

    def confirm(self) -> None:
        """The group accepted a commit, or gave partitions anew."""
        self.fenced = False

    def check(self) -> None:
        """StalledError when inserting now could be too late. Called right before each insert is sent."""
        if self.fenced or self._clock.monotonic() - self._last > self._limit_s:
            raise StalledError("the main loop stood still; waiting for the group to confirm the membership")
