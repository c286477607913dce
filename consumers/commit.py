"""Which offset of a partition may be committed: everything below it was stored at least a horizon ago.

The trailing horizon is what a restarted store may have forgotten although it had acknowledged it: those messages are
then still uncommitted, are read again, and the identity filter puts back just what is missing. It counts from the
ledger's row, which comes after the events and can be forgotten just as well: counted from the events, a ledger that
could not be written for a horizon would be written and committed upon in one breath.
"""

from __future__ import annotations

from collections import deque


class CommitHorizon:
    """Stored offsets of one partition on their way to being committed."""

    def __init__(self, horizon_s: float, start: int, committed: int | None) -> None:
        self._horizon_s = horizon_s
        self._waiting: deque[tuple[float, int]] = deque()
        self.start = start
        """Where reading began: the offset to go back to when nothing was ever committed."""
        self._ripe = start
        """Nothing below it is wanted any more. The start itself is committed, too: a topic that was made anew, or that
        retention emptied, may send nothing for long, and is not to be asked about again at the next start."""
        self.committed = committed
        """Offset that Kafka holds for the group; None when it holds none."""
        self.stored_next = start
        """Every message below is stored."""
        self._recorded = start
        """Every message below is in the ledger, too."""

    def delivered(self, next_offset: int) -> None:
        """Everything below ``next_offset`` is stored; the ledger does not say so yet."""
        self.stored_next = max(self.stored_next, next_offset)

    def recorded(self, next_offset: int, now: float) -> None:
        """The ledger accounts for everything below ``next_offset``, known at ``now`` (monotonic seconds)."""
        known = min(next_offset, self.stored_next)
        if known > self._recorded:
            self._recorded = known
            self._waiting.append((now, known))

    def stored(self, next_offset: int, now: float) -> None:
        """``delivered`` and ``recorded`` in one, for who keeps no ledger."""
        self.delivered(next_offset)
        self.recorded(next_offset, now)

    def committable(self, now: float) -> int | None:
        """The highest offset old enough to commit, when Kafka does not hold it yet."""
        while self._waiting and self._waiting[0][0] + self._horizon_s <= now:
            self._ripe = self._waiting.popleft()[1]
        return self._ripe if self.committed is None or self._ripe > self.committed else None

    def was_committed(self, offset: int) -> None:
        """Kafka accepted the commit."""
        if self.committed is None or offset > self.committed:
            self.committed = offset

    @property
    def resume(self) -> int:
        """Where the group would read from now: the committed offset, or the start."""
        return self.start if self.committed is None else max(self.committed, self.start)

    def rewind(self) -> int:
        """Forget what is not committed; the offset to read from again."""
        self._waiting.clear()
        self._ripe = self.stored_next = self._recorded = self.resume
        return self.stored_next
