"""Which windows to recompute: read from ingest_ledger, kept until done.

Nothing is kept on disk but a position in the ledger: the time of the oldest row whose work is not done. A restart
reads on from there and finds all open work again; recomputing a window once more does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from consumers.projector.recompute import Nodes, narrowed
from consumers.projector.windows import HOUR_S, MINUTE_S, SLOT_S

if TYPE_CHECKING:
    from consumers.projector.conditions import Conditions

LATE_AFTER_S = 120
"""Of a ledger row, every producer with an event older than append_ts_max by more than this is in late_producers."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of ingest_ledger. Times in seconds since 1970."""

    at: float
    topic: str
    minutes: tuple[int, ...]
    late: tuple[str, ...] = ()
    event_ts_min: float = 0.0
    append_ts_max: float = 0.0
    key: tuple[object, ...] = ()
    """Tells this row from the others."""


@dataclass(slots=True)
class Open:
    """A window to recompute."""

    at: float
    """Ledger time of the oldest entry that asks for it: the position may not pass it."""
    first_seen: float
    last_seen: float
    nodes: Nodes
    start: int
    """First second of the window that is touched."""

    def merge(self, other: Open) -> None:
        self.at = min(self.at, other.at)
        self.first_seen = min(self.first_seen, other.first_seen)
        self.last_seen = max(self.last_seen, other.last_seen)
        self.start = min(self.start, other.start)
        if self.nodes is None or other.nodes is None:
            self.nodes = None
        else:
            self.nodes = narrowed(self.nodes | other.nodes)


def add(work: dict[int, Open], window: int, item: Open) -> None:
    """Put a window on a list, or merge it with what is there."""
    if window in work:
        work[window].merge(item)
    else:
        work[window] = item


@dataclass(slots=True)
class Pace:
    """When open work is due."""

    grace_s: float = 15.0
    """After the end of a minute or hour, before it counts as closed."""
    live_s: float = 180.0
    """Minutes that ended less than this ago are live: their 10-second windows are recomputed at every step."""
    quiet_s: float = 2.0
    """An older window is recomputed when nothing more came for it for this long,"""
    patience_s: float = 20.0
    """or after this long."""


@dataclass
class WorkList:
    """Open work, by kind of window. ``monotonic`` is only used for the pace."""

    pace: Pace
    monotonic: Callable[[], float]
    slots: dict[int, Open] = field(default_factory=dict)
    """Minute -> its 10-second windows (rack_10s, fleet_10s, rack_1m)."""
    minutes: dict[int, Open] = field(default_factory=dict)
    """Minute -> gpu_1m, and energy of rack_1m."""
    hours: dict[int, Open] = field(default_factory=dict)
    """Hour -> gpu_1h."""
    usage: dict[int, Open] = field(default_factory=dict)
    """Minute -> usage windows."""
    leases: list[float] = field(default_factory=list)
    """Ledger times of lease changes."""
    newest: float = 0.0
    """Ledger time up to which everything was read."""
    conditions: Conditions | None = None
    """Open work of health, jobs, sick GPUs and facility, which follows from the same entries."""

    def add(self, entry: Entry, oldest_raw: float) -> None:
        """Note what an entry touched; minutes before ``oldest_raw`` have lost their events and stay as they are."""
        self.newest = max(self.newest, entry.at)
        if entry.topic == "leases":
            self.leases.append(entry.at)
        if self.conditions is not None:
            self.conditions.add(entry, oldest_raw)
        for minute in entry.minutes:
            if entry.topic == "tenant-usage":
                self.touch_usage(minute, entry.at)
            elif entry.topic == "node-telemetry" and minute >= oldest_raw:
                late = entry.late and minute + MINUTE_S <= entry.append_ts_max - LATE_AFTER_S
                start = max(minute, int(entry.event_ts_min) // SLOT_S * SLOT_S)
                self.touch(
                    minute, narrowed(entry.late) if late else None, entry.at, min(start, minute + MINUTE_S - SLOT_S)
                )

    def touch(self, minute: int, nodes: Nodes, at: float, start: int | None = None) -> None:
        """Windows of node-telemetry in a minute are to be recomputed, for these nodes, from ``start`` on."""
        now = self.monotonic()
        begin = minute if start is None else start
        add(self.slots, minute, Open(at, now, now, nodes, begin))
        add(self.minutes, minute, Open(at, now, now, nodes, minute))
        if self.conditions is not None:
            self.conditions.touch(minute, nodes, at)

    def touch_hour(self, minute: int, nodes: Nodes, at: float) -> bool:
        """gpu_1h of the minute's hour is to be recomputed. True when the hour was not open before."""
        hour = minute // HOUR_S * HOUR_S
        fresh = hour not in self.hours
        now = self.monotonic()
        add(self.hours, hour, Open(at, now, now, nodes, hour))
        return fresh

    def touch_usage(self, minute: int, at: float) -> None:
        """Usage windows that hold a minute are to be recomputed."""
        now = self.monotonic()
        add(self.usage, minute, Open(at, now, now, None, minute))

    def _settled(self, item: Open) -> bool:
        now = self.monotonic()
        return now - item.last_seen >= self.pace.quiet_s or now - item.first_seen >= self.pace.patience_s

    def due_slots(self, now: float) -> dict[int, Open]:
        """Minutes whose 10-second windows are due. ``now``: the store's clock."""
        return {m: o for m, o in self.slots.items() if self._live(m, now) or self._settled(o)}

    def live(self, minutes: Iterable[int], now: float) -> list[int]:
        """Those of the minutes that are live."""
        return [minute for minute in minutes if self._live(minute, now)]

    def _live(self, minute: int, now: float) -> bool:
        return minute + MINUTE_S + self.pace.live_s > now

    def due_minutes(self, now: float) -> dict[int, Open]:
        """Closed minutes that are due for gpu_1m."""
        closed = now - self.pace.grace_s
        return {m: o for m, o in self.minutes.items() if m + MINUTE_S <= closed and self._settled(o)}

    def due_hours(self, now: float) -> dict[int, Open]:
        """Closed hours whose minutes are all done."""
        closed = now - self.pace.grace_s
        waiting = {m // HOUR_S * HOUR_S for m in self.minutes}
        return {h: o for h, o in self.hours.items() if h + HOUR_S <= closed and h not in waiting and not self._held(h)}

    def _held(self, hour: int) -> bool:
        return self.conditions is not None and self.conditions.holds(hour, HOUR_S)

    def due_usage(self) -> dict[int, Open]:
        """Minutes of usage that are due."""
        return {m: o for m, o in self.usage.items() if self._settled(o)}

    def position(self) -> float:
        """Ledger time up to which, inclusive, all work is done; hours are remembered apart."""
        open_work = (o.at for work in (self.slots, self.minutes, self.usage) for o in work.values())
        conditions: Iterable[float] = self.conditions.open_at() if self.conditions is not None else ()
        return min([self.newest, *(at - 1e-6 for at in (*open_work, *conditions, *self.leases))])


def finish(work: dict[int, Open], done: Iterable[int]) -> None:
    """Take windows off the list."""
    for window in done:
        work.pop(window, None)


def seconds(value: object) -> float:
    """A column's time as seconds since 1970, whether the client gives it with or without a time zone."""
    if isinstance(value, datetime):
        from datetime import UTC

        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return float(value)  # type: ignore[arg-type]
