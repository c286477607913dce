"""One pass over the open work of ``conditions``: places first, then health, jobs, sick GPUs and facility."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from consumers.projector import facility_windows, health_windows, job_windows, places, sick_windows, spells
from consumers.projector.conditions import Conditions
from consumers.projector.facts import changes
from consumers.projector.members import job_nodes_sql
from consumers.projector.recompute import Nodes, Recomputer, narrowed, runs
from consumers.projector.store import Store, rows, scalar
from consumers.projector.windows import (
    FACILITY_1M,
    HEALTH_1M,
    JOB_1M,
    MINUTE_S,
    SICK_1M,
    Range,
    instant,
    one_of,
    scope,
)
from consumers.projector.worklist import Open, WorkList, finish

FIRST_LOOK_S = 2 * 86_400
"""How far back minutes in which nothing came are computed by a projector that has never computed any."""
NODE_MINUTES = 60_000
"""Nodes times minutes of one statement."""
MAX_MINUTES = 720
SILENT_STATEMENTS = 4
"""Ranges of minutes without work of their own that one step computes at most: the live edge does not wait long."""


class ConditionPasses:
    """Works off what is due. ``touched_hours`` are (minute, nodes) whose hourly sums must follow."""

    def __init__(self, store: Store, recomputer: Recomputer, work: WorkList, conditions: Conditions) -> None:
        self._store, self._recomputer, self._work, self._conditions = store, recomputer, work, conditions
        self._spells = spells.Spells()
        self.touched_hours: list[tuple[int, Nodes, float]] = []

    def run(self, now: float, oldest_raw: float) -> None:
        """Compute all that is due at ``now`` (the store's clock, seconds since 1970)."""
        conditions = self._conditions
        self._place(now)
        self._facts()
        if conditions.frontier is None:
            conditions.frontier = self._first(now, oldest_raw)
        waiting = self._work.minutes
        full = self._whole_at_first(conditions.due(conditions.full, now, waiting))
        silent_to = conditions.frontier
        if conditions.frontier is not None:
            silent_to = self._silent(conditions.target(now, waiting), full)
        partial = dict(full)
        for minute, nodes in conditions.due(conditions.partial, now, waiting).items():
            partial[minute] = _both(partial[minute], nodes) if minute in partial else nodes
        if partial:
            self._spells = spells.load(self._store, Range(min(partial), max(partial) + MINUTE_S))
        for window, nodes in runs(partial):
            self._jobs_and_sick(window, nodes)
        # Last: the newest minute of health_1m is the newest that is complete.
        for window, nodes in runs(full):
            self._health(window, nodes)
        for minute, nodes in full.items():
            held = conditions.full.get(minute)
            self.touched_hours.append((minute, nodes, held.at if held else self._work.newest))
        self._hours_of_no_gpu(conditions.partial, [minute for minute in partial if minute not in full])
        finish(conditions.full, full)
        finish(conditions.partial, partial)
        conditions.frontier = silent_to
        self._facility(now)

    def _hours_of_no_gpu(self, work: dict[int, Open], minutes: Iterable[int]) -> None:
        """The minutes' hours must follow; gpu_1h, which comes from gpu_1m alone, stays as it is."""
        none: Nodes = frozenset()
        self.touched_hours += [(m, none, work[m].at if m in work else self._work.newest) for m in minutes]

    def _place(self, now: float) -> None:
        minute = int(now // MINUTE_S)
        changed = self._conditions.places_changed
        if not changed and minute != self._conditions.placed_in:
            changed = bool(int(scalar(self._store, places.moved_sql())))
        if changed:
            places.refresh(self._store)
        self._conditions.places_changed, self._conditions.placed_in = False, minute

    def _facts(self) -> None:
        conditions = self._conditions
        for topic, minutes, at in conditions.facts:
            for change in changes(self._store, topic, minutes):
                conditions.since(change.start, narrowed(change.nodes), at, health=change.health)
        conditions.facts.clear()

    def _first(self, now: float, oldest_raw: float) -> int | None:
        """Where the first projector of this store begins: with the first node or sample, two days back at most."""
        begin = max(int(oldest_raw), int(now) - FIRST_LOOK_S)
        found = rows(
            self._store,
            f"""SELECT min(first) FROM
(
    SELECT toUnixTimestamp(min(since)) AS first FROM gpufleet.node_place FINAL HAVING count() > 0
    UNION ALL
    SELECT toUnixTimestamp(min(ts)) FROM gpufleet.gpu_1m WHERE ts >= {instant(begin)} HAVING count() > 0
)
HAVING count() > 0""",
        )
        return max(int(found[0][0]), begin) // MINUTE_S * MINUTE_S if found else None

    def _silent(self, target: int, full: dict[int, Nodes]) -> int:
        """Adds the minutes from the frontier on to what is computed, and returns where the frontier stands then."""
        frontier = self._conditions.frontier
        assert frontier is not None
        if target <= frontier:
            return frontier
        if not self._nodes():
            return target
        step = self._step()
        until = min(target, frontier + SILENT_STATEMENTS * step * MINUTE_S)
        if self._conditions.begin is None:
            self._conditions.begin = frontier
        full.update(dict.fromkeys(range(frontier, until, MINUTE_S)))
        return until

    def _whole_at_first(self, full: dict[int, Nodes]) -> dict[int, Nodes]:
        """Minutes before the frontier that were never computed are computed as a whole, whoever sent in them: they lie
        before the first projector's first look, and a node that is silent in them is named by no batch of theirs."""
        frontier = self._conditions.frontier
        narrow = [m for m, nodes in full.items() if nodes is not None and frontier is not None and m < frontier]
        if not narrow:
            return full
        window = Range(min(narrow), max(narrow) + MINUTE_S)
        sql = f"SELECT DISTINCT toUnixTimestamp(ts) FROM gpufleet.{HEALTH_1M.name} WHERE {scope(window)}"
        known = {int(row[0]) for row in rows(self._store, sql)}
        first = set(narrow) - known
        return {m: None if m in first else nodes for m, nodes in full.items()}

    def _nodes(self) -> int:
        return int(scalar(self._store, "SELECT countIf(notEmpty(gpu_index)) FROM gpufleet.node_place FINAL"))

    def _step(self, nodes: Nodes = None) -> int:
        count = self._nodes() if nodes is None else len(nodes)
        return max(1, min(MAX_MINUTES, NODE_MINUTES // max(1, count)))

    def _parts(self, window: Range, nodes: Nodes) -> Iterator[Range]:
        step = self._step(nodes) * MINUTE_S if window.end - window.start > MINUTE_S else MINUTE_S
        for start in range(window.start, window.end, step):
            yield Range(start, min(window.end, start + step))

    def _settled(self, window: Range) -> bool:
        """Whether no node changed its place after the range began."""
        changed = f"SELECT countIf(since > {instant(window.start)}) FROM gpufleet.node_place FINAL"
        return not int(scalar(self._store, changed))

    def _health(self, window: Range, nodes: Nodes) -> None:
        for part in self._parts(window, nodes):
            racks = None if nodes is None else self._racks(part, nodes)
            mates = None if nodes is None or racks is None else narrowed(self._nodes_in(part, racks) | nodes)
            racks = None if mates is None else racks
            holding = self._spells.within(part, mates)
            sql = health_windows.health_1m_sql(part, holding, _list(mates), settled=self._settled(part))
            self._recomputer.write(HEALTH_1M, part, sql, one_of("rack", racks))

    def _racks(self, window: Range, nodes: frozenset[str]) -> list[str]:
        """Racks in which the nodes stand, stood, or are said to."""
        only = one_of("node_id", sorted(nodes))
        sql = f"""SELECT DISTINCT toString(rack) FROM gpufleet.gpu_1m FINAL WHERE {scope(window, only)}
UNION DISTINCT SELECT DISTINCT toString(rack) FROM gpufleet.inventory WHERE flaws = 0{only}"""
        return sorted(str(row[0]) for row in rows(self._store, sql))

    def _nodes_in(self, window: Range, racks: list[str]) -> set[str]:
        only = one_of("rack", racks)
        sql = f"""SELECT DISTINCT toString(node_id) FROM gpufleet.gpu_1m FINAL WHERE {scope(window, only)}
UNION DISTINCT SELECT DISTINCT node_id FROM gpufleet.inventory WHERE flaws = 0{only}"""
        return {str(row[0]) for row in rows(self._store, sql)}

    def _jobs_and_sick(self, window: Range, nodes: Nodes) -> None:
        for part in self._parts(window, nodes):
            jobs = None if nodes is None else self._jobs(part, nodes)
            if jobs != []:
                final = self._recomputer.doubled(part, None)
                self._recomputer.write(
                    JOB_1M, part, job_windows.job_1m_sql(part, jobs, final=final), one_of("job_id", jobs)
                )
            settled, named = self._settled(part), _list(nodes)
            holding = self._spells.within(part, nodes)
            where = sick_windows.look(self._store, part, named, settled=settled)
            sql = sick_windows.sick_1m_sql(part, holding, where, named, jobs, settled=settled)
            self._recomputer.write(SICK_1M, part, sql, sick_windows.narrowing(_list(nodes), jobs))

    def _jobs(self, window: Range, nodes: frozenset[str]) -> list[str]:
        """Jobs that run on the nodes, or ran there as far as job_1m knows."""
        some = one_of("node_id", sorted(nodes))
        sql = f"""SELECT DISTINCT job_id FROM ({job_nodes_sql(window)}) WHERE 1{some}
UNION DISTINCT
SELECT DISTINCT job_id FROM gpufleet.allocations ARRAY JOIN nodes AS node_id
WHERE job_id IN (SELECT job_id FROM gpufleet.job_1m FINAL WHERE {scope(window)}){some}"""
        return sorted(str(row[0]) for row in rows(self._store, sql))

    def _facility(self, now: float) -> None:
        conditions = self._conditions
        due = conditions.due(conditions.facility, now)
        for window, _ in runs(due):
            for start in range(window.start, window.end, MAX_MINUTES * MINUTE_S):
                part = Range(start, min(window.end, start + MAX_MINUTES * MINUTE_S))
                self._recomputer.write(FACILITY_1M, part, facility_windows.facility_1m_sql(part))
        self._hours_of_no_gpu(conditions.facility, due)
        conditions.facility_done = max([conditions.facility_done, *due])
        finish(conditions.facility, due)


def _both(one: Nodes, other: Nodes) -> Nodes:
    return None if one is None or other is None else narrowed(one | other)


def _list(nodes: Nodes) -> list[str] | None:
    return None if nodes is None else sorted(nodes)
