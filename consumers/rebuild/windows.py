"""A projection, computed once more from the events into tables beside the live ones, and compared with it.

The projector's own statements do the work. Every window table they read from is computed beside, too, so nothing rests
on what may be wrong: a rack's minute comes from the events, not from the stored minutes of its GPUs. Only what lies
before the range (the last energy counter of each GPU, a job's last minutes) is taken from the live tables.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from consumers.projector import (
    ledger,
)
from consumers.projector.recompute import Limits, Recomputer
from consumers.projector.requests import ask
from consumers.projector.store import Store, rows
from consumers.projector.windows import (
    DAY_S,
    HEALTH_1H,
    HEALTH_1M,
    HOUR_S,
    JOB_1M,
    MINUTE_S,
    RACK_1H,
    SICK_1M,
    Range,
    Table,
    instant64,
)
from consumers.projector.windows import scope as scope_of
from consumers.rebuild import compare, compute, state, tables
from consumers.rebuild.events import Say, owner, refuse_second, spoken
from consumers.rebuild.report import Plan, Reading, Report, together
from consumers.rebuild.state import Job
from consumers.rebuild.swap import copy, replace
from consumers.rebuild.tables import BESIDE, SWAP, Ddl, RebuildError, now_us
from consumers.rebuild.throttle import Throttle

SETTLE_S = 90
"""Minutes that ended less than this ago may not have been computed yet."""
AFTER_S = 5 * MINUTE_S
"""How much later than a late sample the windows may lie that change with it."""
CHUNK_S, SMALL_CHUNK_S = 6 * HOUR_S, HOUR_S
"""Range that is computed before the position is saved: a large one costs fewer statements, ..."""
CHUNK_ROWS = 1_000_000
"""... with more events than this in it the small one, so that a kill costs little."""


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """How a projection is rebuilt."""

    raw_days: int = 9
    limits: Limits | None = None


class WindowRebuild:
    """The rebuild of one projection. Each step finds what an earlier process left, and goes on there."""

    def __init__(
        self, table: Table, store: Store, settings: WindowSettings, throttle: Throttle, ddl: Ddl, say: Say
    ) -> None:
        self.table, self.store, self.say, self.ddl = table, store, say, ddl
        self._settings, self._throttle = settings, throttle
        self.layout = tables.layout(store, table.name)
        self.names = compute.beside_of(table)
        self.source = compute.SOURCE.get(table.name, "node_telemetry")
        self.beside = compute.Beside(store, self.names)
        self.report = Report(table.name)

    def plan(self, start: int | None, end: int | None) -> Plan:
        """What building would read. Writes nothing."""
        job = self._job_to_resume()
        position = state.load_windows(self.store, self.table.name) if job else None
        window = Range(position["next"], position["end"]) if position else self._range(start, end)
        span = f"ts >= {instant64(window.start)} AND ts < {instant64(window.end)}"
        [(count,)] = rows(self.store, f"SELECT count() FROM gpufleet.{self.source} WHERE {span}")
        [(live,)] = rows(self.store, f"SELECT count() FROM gpufleet.{self.table.name} FINAL WHERE {scope_of(window)}")
        plan = Plan(self.table.name, [Reading(self.source, window.start, window.end, int(count))], int(live))
        oldest = self._oldest()
        hours = rows(
            self.store,
            f"SELECT DISTINCT {tables.hour_of()} AS hour FROM gpufleet.{self.table.name}"
            f" WHERE ts < {instant64(oldest)} AND hour >= {start or 0} ORDER BY hour",
        )
        plan.hours_left_alone = [int(hour) for (hour,) in hours]
        return plan

    def build(self, start: int | None, end: int | None) -> Job:
        """Compute the windows of the range that have closed."""
        name = self.table.name
        job = self._job_to_resume()
        if job is not None:
            if (start, end) != (None, None) and (start, end) != (job.start, job.end):
                raise RebuildError(
                    f"a rebuild of {name} for {spoken(job.start, job.end)} is under way; leave --from and --to out to"
                    " go on with it, or drop it with --discard"
                )
            refuse_second(job)
            self.say(f"going on with the rebuild of {name} for {spoken(job.start, job.end)}")
            job.owner = owner()
            state.save_job(self.store, job)
        else:
            job = self._begin(start, end)
        began = time.monotonic()
        self._compute(state.load_windows(self.store, name) or {})
        self.report.seconds += time.monotonic() - began
        return job

    def compare(self, job: Job) -> Report:
        """Judge the live table by the one beside it; windows that are still being computed are left out."""
        position = state.load_windows(self.store, self.table.name) or {}
        window = Range(position["start"], position["end"])
        unsettled = self._unsettled(position["since_us"], window)
        self.report.unsettled = len(unsettled)
        self.report.hours = compare.windows(
            self.store, self.layout, self.table, compare.Range(window.start, window.end), unsettled
        )
        first = self._oldest()
        older = f"ts < {instant64(first)}" + (f" AND ts >= {instant64(job.start)}" if job.start else "")
        [(gone,)] = rows(self.store, f"SELECT count() FROM gpufleet.{self.table.name} FINAL WHERE {older}")
        if gone:
            self.report.notes.append(
                f"{gone} windows before {spoken(first, None).split(' to ')[0]} are left alone: their events in"
                f" {self.source} are gone by age"
            )
        return self.report

    def swap(self) -> None:
        """Exchange every partition with an hour that differs, and have the projector look again at what it was
        computing meanwhile: the exchange drops what it wrote since the partition was put together."""
        name, store = self.table.name, self.store
        wrong = [hour.start for hour in self.report.differing]
        position, _ = ledger.load(store)
        frontier = ledger.load_frontier(store)
        asked_from = tables.now_us(store)
        for partition in sorted({self.layout.partition(hour) for hour in wrong}):
            self.say(f"exchanging partition {partition} of {name}")
            here = [hour for hour in wrong if self.layout.partition(hour) == partition]
            tables.make(store, name, SWAP, self.ddl)
            columns = ", ".join(self.layout.stored)
            store.command(
                f"INSERT INTO gpufleet.{name}{SWAP} ({columns}) SELECT {columns} FROM gpufleet.{name}{BESIDE} FINAL"
                f" WHERE {tables.hour_of()} IN {tables.numbers(here)}",
                settings={"async_insert": 0, "insert_deduplicate": 0, "max_execution_time": 3600},
            )
            copy(store, self.layout, partition, f"{tables.hour_of()} NOT IN {tables.numbers(here)}", " FINAL")
            replace(store, self.layout, partition, self.ddl)
            self.report.swapped.append(partition)
        tables.drop(store, name, SWAP, self.ddl)
        if wrong:
            self._ask_again(position, frontier, asked_from)

    def discard(self) -> bool:
        """Drop what was built, and forget where it stood. False when there is nothing."""
        job = state.load_job(self.store, self.table.name)
        if job is not None:
            refuse_second(job)
        there = any(tables.uuid(self.store, n + BESIDE) for n in self.names)
        for name in self.names:
            tables.drop(self.store, name, BESIDE, self.ddl)
        tables.drop(self.store, self.table.name, SWAP, self.ddl)
        state.forget(self.store, self.table.name)
        return there or job is not None

    # --- range and sources --------------------------------------------------------------------------------------

    def _begin(self, start: int | None, end: int | None) -> Job:
        name = self.table.name
        for other in self.names:
            held = state.load_job(self.store, other)
            if other != name and held is not None:
                raise RebuildError(f"{name} is computed from {other}, which is being rebuilt: finish or discard that")
        since_us = self._position_us()
        window = self._range(start, end)
        beside = ""
        for other in self.names:
            made = tables.make(self.store, other, BESIDE, self.ddl)
            beside = made if other == name else beside
        state.forget(self.store, name)
        job = Job(name, beside, start, end, owner(), began_us=now_us(self.store))
        state.save_job(self.store, job)
        compute.seed(self.store, self.names, window)
        state.save_windows(
            self.store,
            name,
            {"start": window.start, "next": window.start, "end": window.end, "since_us": since_us},
        )
        return job

    def _job_to_resume(self) -> Job | None:
        job = state.load_job(self.store, self.table.name)
        if job is None or job.beside != tables.uuid(self.store, self.table.name + BESIDE):
            return None
        return job if state.load_windows(self.store, self.table.name) else None

    def _oldest(self) -> int:
        """First whole window whose events are kept."""
        if self.source == "tenant_usage":
            return 0
        oldest = now_us(self.store) // 1_000_000 - self._settings.raw_days * DAY_S
        step = max(self.table.window_s, MINUTE_S)
        return -(-oldest // step) * step

    def _range(self, start: int | None, end: int | None) -> Range:
        """Whole windows that have closed and whose events are there."""
        step = max(self.table.window_s, MINUTE_S)
        now = now_us(self.store) // 1_000_000
        found = rows(
            self.store,
            f"""SELECT min(first) FROM
(
    SELECT toUnixTimestamp(min(ts)) AS first FROM gpufleet.{self.source} HAVING count() > 0
    UNION ALL
    SELECT toUnixTimestamp(min(ts)) FROM gpufleet.{self.table.name} HAVING count() > 0
)
HAVING count() > 0""",
        )
        first = int(found[0][0]) if found else now
        low = max(first, start or 0, self._oldest()) // step * step
        high = min(now - SETTLE_S, end if end is not None else now)
        if self.table in (HEALTH_1M, HEALTH_1H, RACK_1H, SICK_1M, JOB_1M):
            high = min(high, ledger.load_frontier(self.store) or 0)
            # Silence from before the projector's first look was never computed.
            [(looked,)] = rows(self.store, "SELECT toUnixTimestamp(min(ts)) FROM gpufleet.health_1m")
            low = max(low, -(-int(looked) // step) * step)
        high = high // step * step
        return Range(low, max(low, high))

    # --- computing ----------------------------------------------------------------------------------------------

    def _compute(self, position: dict[str, int]) -> None:
        recomputer = Recomputer(self.beside, self._settings.limits)
        began = said = time.monotonic()
        first = position["next"]
        while position["next"] < position["end"]:
            self._throttle.rest()
            at = position["next"]
            part, count = self._next_part(at, position["end"])
            self._throttle.took(count)
            compute.windows(recomputer, self.beside, self.table, self.names, part)
            position["next"] = part.end
            state.save_windows(self.store, self.table.name, position)
            self.report.read += (part.end - part.start) // self.table.window_s
            if time.monotonic() - said > 2:
                said = time.monotonic()
                share = (part.end - first) / max(1, position["end"] - first)
                left = (said - began) / share * (1 - share)
                self.say(f"{self.table.name}: {share:.0%} of the range computed, {left:,.0f} s left")
        self.report.rows = int(
            rows(
                self.beside,
                f"SELECT count() FROM gpufleet.{self.table.name} FINAL"
                f" WHERE {scope_of(Range(position['start'], position['end']))}",
            )[0][0]
        )

    def _next_part(self, at: int, end: int) -> tuple[Range, int]:
        """The range to compute next, and the rows of the source in it."""
        for size in (CHUNK_S, SMALL_CHUNK_S):
            step = max(size, self.table.window_s)
            part = Range(at, min(end, at // step * step + step))
            span = f"ts >= {instant64(part.start)} AND ts < {instant64(part.end)}"
            count = int(rows(self.store, f"SELECT count() FROM gpufleet.{self.source} WHERE {span}")[0][0])
            if count <= CHUNK_ROWS:
                break
        return part, count

    # --- what the projector does meanwhile ----------------------------------------------------------------------

    def _position_us(self) -> int:
        position, _ = ledger.load(self.store)
        return round((position or 0.0) * 1e6)

    def _unsettled(self, since_us: int, window: Range) -> set[int]:
        """Starts of windows that inserts since then have touched, or that the projector was asked to compute."""
        minutes = {
            int(minute)
            for (minute,) in rows(
                self.store,
                f"""SELECT DISTINCT toUnixTimestamp(arrayJoin(minutes)) AS minute FROM gpufleet.ingest_ledger
WHERE at > fromUnixTimestamp64Micro({since_us}, 'UTC') AND minute >= {window.start - AFTER_S}
    AND minute < {window.end}""",
            )
        }
        for start, end in rows(
            self.store,
            "SELECT toUnixTimestamp(from_ts), toUnixTimestamp(to_ts) FROM gpufleet.projector_requests FINAL"
            " WHERE done_at IS NULL",
        ):
            minutes.update(range(max(int(start), window.start) // MINUTE_S * MINUTE_S, min(int(end), window.end), 60))
        size = self.table.window_s
        if size < MINUTE_S:
            return {m + s for m in minutes for s in range(0, MINUTE_S, size)}
        later = range(0, AFTER_S + 1, MINUTE_S)
        return {(m + after) // size * size for m in minutes for after in later}

    def _ask_again(self, position: float | None, frontier: int | None, since_us: int) -> None:
        """Minutes that the projector may have been writing while a partition was exchanged."""
        after = round((position or 0.0) * 1e6)
        touched = [
            int(minute)
            for (minute,) in rows(
                self.store,
                "SELECT DISTINCT toUnixTimestamp(arrayJoin(minutes)) FROM gpufleet.ingest_ledger"
                f" WHERE at > fromUnixTimestamp64Micro({after}, 'UTC')",
            )
        ]
        now = now_us(self.store) // 1_000_000
        begin = min(frontier if frontier is not None else now, since_us // 1_000_000) - AFTER_S
        silent = range(max(begin, now - DAY_S) // MINUTE_S * MINUTE_S, now, MINUTE_S)
        # A request is answered when all of its minutes have closed: the last ones must not hold up the others.
        closed = (now - SETTLE_S) // MINUTE_S * MINUTE_S
        minutes = {*touched, *silent}
        old, young = [m for m in minutes if m < closed], [m for m in minutes if m >= closed]
        for start, end in (*together(old, MINUTE_S), *together(young, MINUTE_S)):
            ask(self.store, Range(start, end), None, f"gpufleet rebuild {self.table.name} --swap")
            self.report.recompute.append((start, end))
