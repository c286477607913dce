"""One pass over the open work: windows per GPU first, then racks and fleet, health and jobs, hours and usage.

With much to catch up (a back-fill, an outage) the live edge goes first, and a pass ends when its time is up: what is
left stays on the list, and the next pass finds a live edge that has moved on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from consumers.projector import ledger
from consumers.projector.condition_passes import ConditionPasses
from consumers.projector.recompute import Nodes, Recomputer, narrowed, runs
from consumers.projector.store import Store
from consumers.projector.windows import MINUTE_S, Range
from consumers.projector.worklist import Open, WorkList, finish

MANY_MINUTES = 10
"""More closed minutes than this at once are a backlog."""


class Passes:
    """Works off what is due. A window leaves the work list when all its statements have run."""

    def __init__(self, store: Store, recomputer: Recomputer, work: WorkList, owner: str, seconds: float) -> None:
        self._store, self._recomputer, self._work, self._owner = store, recomputer, work, owner
        self._end = work.monotonic() + seconds
        self.cut = False
        """Whether time was up before all was done that was due."""

    def run(self, now: float, oldest_raw: float) -> None:
        """Recompute what is due at ``now`` (the store's clock, seconds since 1970)."""
        work = self._work
        minutes, slots = dict(work.due_minutes(now)), dict(work.due_slots(now))
        if len(minutes) > MANY_MINUTES:
            self._racks({minute: slots.pop(minute) for minute in work.live(slots, now)})
        self._late(minutes, slots)
        self._whole(minutes, slots)
        self._racks({minute: slots[minute] for minute in work.live(slots, now)} if self.cut else slots)
        self._conditions(now, oldest_raw)
        for hour, item in sorted(work.due_hours(now).items()):
            self._recomputer.hour(hour, item.nodes)
            finish(work.hours, [hour])
            ledger.save_hour(self._store, hour, is_open=False, owner=self._owner)
        usage = work.due_usage()
        for window, _ in runs(dict.fromkeys(usage)):
            self._recomputer.usage(window)
        finish(work.usage, usage)

    def _late(self, minutes: dict[int, Open], slots: dict[int, Open]) -> None:
        """Minutes of which only some nodes are due: their GPUs, and the racks they stand in."""
        scoped = {m: o.nodes for m, o in minutes.items() if o.nodes is not None}
        for window, nodes in self._parts(scoped):
            if nodes is None:
                continue
            before = self._recomputer.racks_of(window, nodes)
            later = self._recomputer.gpu_minutes(window, nodes)
            racks = sorted({*before, *self._recomputer.racks_of(window, nodes)})
            in_racks = narrowed(self._recomputer.nodes_of(window, racks) | nodes)
            if in_racks is None:
                self._recomputer.slots(window)
                self._recomputer.rack_minutes(window)
            else:
                self._recomputer.slots(window, in_racks, racks)
                self._recomputer.rack_minutes(window, in_racks, racks)
            self._finish_minutes(window, nodes, minutes)
            for minute in range(window.start, window.end, MINUTE_S):
                if minute in slots and slots[minute].nodes is not None:
                    finish(self._work.slots, [minute])
                    slots.pop(minute)
            self._energy(later)

    def _whole(self, minutes: dict[int, Open], slots: dict[int, Open]) -> None:
        """Minutes that are due for the whole fleet."""
        closed: dict[int, Nodes] = {m: None for m, o in minutes.items() if o.nodes is None}
        for part, _ in self._parts(closed):
            later = self._recomputer.gpu_minutes(part, None)
            dirty = {m: slots.pop(m) for m in range(part.start, part.end, MINUTE_S) if m in slots}
            self._slots(dirty)
            self._recomputer.rack_minutes(part)
            finish(self._work.slots, dirty)
            self._finish_minutes(part, None, minutes)
            self._energy(later)

    def _parts(self, minutes: Mapping[int, Nodes]) -> Iterator[tuple[Range, Nodes]]:
        """Ranges that one statement may take, oldest first, until time is up; one in any case, or what is late could
        keep the others waiting for ever."""
        parts = ((part, nodes) for window, nodes in runs(minutes) for part in self._recomputer.batches(window, nodes))
        for at, one in enumerate(parts):
            self.cut = self.cut or self._work.monotonic() >= self._end
            if self.cut and at:
                return
            yield one

    def _racks(self, slots: Mapping[int, Open]) -> None:
        """Racks and fleet of minutes that are not due for their GPUs."""
        self._slots(slots)
        for window, _ in runs(dict.fromkeys(slots)):
            self._recomputer.rack_minutes(window)
        finish(self._work.slots, slots)

    def _conditions(self, now: float, oldest_raw: float) -> None:
        conditions = self._work.conditions
        if conditions is None:
            return
        passes = ConditionPasses(self._store, self._recomputer, self._work, conditions)
        passes.run(now, oldest_raw)
        for minute, nodes, at in passes.touched_hours:
            self._touch_hour(minute, nodes, at)

    def _slots(self, dirty: Mapping[int, Open]) -> None:
        starts = {minute: item.start for minute, item in dirty.items()}
        for window, _ in runs(dict.fromkeys(dirty)):
            # Only what was touched of the first minute: the live edge is recomputed every few seconds.
            self._recomputer.slots(Range(max(window.start, starts[window.start]), window.end))

    def _energy(self, later: Mapping[int, set[str]]) -> None:
        for minute, nodes in sorted(later.items()):
            touched = self._work.minutes.get(minute)
            covered: Nodes = frozenset() if touched is None else touched.nodes
            if covered is None or nodes <= covered:
                continue  # not computed since it was touched: it will find the new base itself
            scope = narrowed(nodes - covered)
            self._recomputer.energy_again(minute, scope)
            self._recomputer.rack_minutes(Range(minute, minute + MINUTE_S))
            self._touch_hour(minute, scope, self._work.newest)
            if self._work.conditions is not None:
                self._work.conditions.touch(minute, scope, self._work.newest)

    def _finish_minutes(self, window: Range, nodes: Nodes, minutes: dict[int, Open]) -> None:
        done = [m for m in range(window.start, window.end, MINUTE_S) if m in minutes]
        for minute in done:
            self._touch_hour(minute, nodes, minutes[minute].at)
        finish(self._work.minutes, done)

    def _touch_hour(self, minute: int, nodes: Nodes, at: float) -> None:
        if self._work.touch_hour(minute, nodes, at):
            ledger.save_hour(self._store, minute // 3600 * 3600, is_open=True, owner=self._owner)
