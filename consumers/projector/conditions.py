"""Which minutes of health, jobs, sick GPUs and facility to compute, and when.

Silence is data: every minute is computed once when it has closed, whether anything arrived or not (``frontier``). A
minute that has been computed is computed again when something arrives that changes it:

- telemetry, in that minute; jobs and stragglers of the four minutes after it look back at it;
- a node event or an inventory event: from its own minute on, for its node and the node's NVLink domain;
- the slow lane: the two minutes after the reading's own;
- an allocation: from the job's start, or from its end on;
- a change of leases: as far as it reaches.

What arrives in time changes nothing that has been computed and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field

from consumers.projector.job_windows import LOOKBACK_S
from consumers.projector.recompute import Nodes, narrowed
from consumers.projector.windows import MINUTE_S
from consumers.projector.worklist import LATE_AFTER_S, Entry, Open, Pace, add

FACTS = ("node-events", "inventory", "allocations")
"""Kinds that hold from their own time on."""
AHEAD_S = 600
"""Minutes so much newer than the newest sample are taken for silent only when nothing arrives any more: while a
back-fill or a backlog comes in, they are merely not here yet."""
SLOW_LANE_MINUTES = 2


@dataclass
class Conditions:
    """Open work. Times in seconds since 1970; ``monotonic`` is only used for the pace."""

    pace: Pace
    monotonic: Callable[[], float]
    frontier: int | None = None
    """Every minute before it has been computed, or is in the lists below. None: nothing is known to compute."""
    begin: int | None = None
    """Oldest minute that has been computed or is in the lists below; None: none has."""
    full: dict[int, Open] = field(default_factory=dict)
    """Minutes to compute as a whole."""
    partial: dict[int, Open] = field(default_factory=dict)
    """Minutes of which jobs and sick GPUs are to be computed, health being as it is."""
    facility: dict[int, Open] = field(default_factory=dict)
    facts: list[tuple[str, tuple[int, ...], float]] = field(default_factory=list)
    """(topic, minutes, ledger time) of facts that came after their minute had been computed."""
    places_changed: bool = True
    """Inventory or leases may say something else than node_place."""
    placed_in: int = 0
    """Minute (number) in which node_place was last compared with the leases."""
    newest: int = 0
    """Newest minute that a sample arrived for."""
    heard_at: float = -1e9
    """When the last sample came in, or anything of a backlog or back-fill, by ``monotonic``."""
    read_at: float = 0.0
    """When the ledger was read last: what came in while a long step ran is not known yet."""
    facility_done: int = 0
    """Newest minute of facility_1m that was computed."""

    def add(self, entry: Entry, oldest_raw: float) -> None:
        """Note what an entry touched; node-telemetry comes through ``touch`` as well."""
        late = narrowed(entry.late) if entry.late else None
        minutes = [m for m in entry.minutes if m >= oldest_raw]
        if entry.topic == "node-telemetry":
            self.newest = max([self.newest, *minutes])
        if entry.topic in ("node-telemetry", "inventory") or any(m + AHEAD_S < entry.at for m in minutes):
            self.heard_at = self.monotonic()
        if entry.topic == "node-counters":
            for minute in minutes:
                told_late = minute + MINUTE_S <= entry.append_ts_max - LATE_AFTER_S
                for after in range(1, SLOW_LANE_MINUTES + 1):
                    self.again(minute + after * MINUTE_S, late if told_late else None, entry.at)
        elif entry.topic == "facility-telemetry":
            for minute in minutes:
                self.touch_facility(minute, entry.at)
        elif entry.topic in FACTS:
            if entry.topic == "inventory":
                self.places_changed = True
            before = tuple(m for m in minutes if self.frontier is not None and m < self.frontier)
            if before:
                self.facts.append((entry.topic, before, entry.at))

    def touch(self, minute: int, nodes: Nodes, at: float) -> None:
        """Samples of a minute came in or changed hands."""
        self.begin = minute if self.begin is None else min(self.begin, minute)
        self._put(self.full, minute, nodes, at)
        for later in range(minute + MINUTE_S, minute + LOOKBACK_S + 1, MINUTE_S):
            self.again(later, nodes, at)

    def again(self, minute: int, nodes: Nodes, at: float) -> None:
        """Jobs and sick GPUs of a minute changed, if it has been computed."""
        if self.frontier is not None and minute < self.frontier:
            self._put(self.partial, minute, nodes, at)

    def since(self, start: int, nodes: Nodes, at: float, *, health: bool, end: int | None = None) -> None:
        """Something holds for these nodes from ``start`` on (and until ``end``): what was computed is stale.

        Minutes that never were stay as they are: a job may claim to have begun in 1970.
        """
        if self.frontier is None:
            return
        first = max(start, self.frontier if self.begin is None else self.begin) // MINUTE_S * MINUTE_S
        for minute in range(first, self.frontier if end is None else min(end, self.frontier), MINUTE_S):
            self._put(self.full if health else self.partial, minute, nodes, at)

    def touch_facility(self, minute: int, at: float) -> None:
        """Readings of a minute came in; meters of the minutes after it count from them."""
        self._put(self.facility, minute, None, at)
        for later in range(minute + MINUTE_S, min(minute + 10 * MINUTE_S, self.facility_done) + 1, MINUTE_S):
            self._put(self.facility, later, None, at)

    def _put(self, work: dict[int, Open], minute: int, nodes: Nodes, at: float) -> None:
        now = self.monotonic()
        add(work, minute, Open(at, now, now, nodes, minute))

    def closed(self, now: float) -> int:
        """End of the newest minute that counts as closed."""
        return int((now - self.pace.grace_s) // MINUTE_S * MINUTE_S)

    def target(self, now: float, waiting: Iterable[int]) -> int:
        """How far the frontier may go at ``now``; ``waiting`` are minutes whose samples are not summed up yet."""
        end = self.closed(now)
        if end > self.newest + AHEAD_S and self.read_at - self.heard_at < self.pace.patience_s:
            end = self.newest + MINUTE_S
        return min([end, *(m for m in waiting if self.frontier is not None and m >= self.frontier)])

    def due(self, work: dict[int, Open], now: float, waiting: Container[int] = ()) -> dict[int, Nodes]:
        """Closed minutes of a list whose samples are summed up and that nothing more came for."""
        end, clock = self.closed(now), self.monotonic()

        def settled(item: Open) -> bool:
            return clock - item.last_seen >= self.pace.quiet_s or clock - item.first_seen >= self.pace.patience_s

        return {m: o.nodes for m, o in work.items() if m < end and m not in waiting and settled(o)}

    def open_at(self) -> Iterator[float]:
        """Ledger times that the position may not pass."""
        for work in (self.full, self.partial, self.facility):
            yield from (item.at for item in work.values())
        yield from (at for _, _, at in self.facts)

    def waiting(self, now: float) -> bool:
        """Whether closed minutes are still to be computed."""
        end = self.closed(now)
        behind = self.frontier is not None and self.frontier < end
        return behind or bool(self.facts) or any(m < end for w in (self.full, self.partial, self.facility) for m in w)

    def count(self) -> int:
        """Open windows."""
        return len(self.full) + len(self.partial) + len(self.facility)

    def holds(self, hour: int, length: int) -> bool:
        """Whether minutes of an hour are still to be computed."""
        end = hour + length
        behind = self.frontier is not None and self.frontier < end
        work = (self.full, self.partial, self.facility)
        return behind or any(hour <= m < end for minutes in work for m in minutes)
