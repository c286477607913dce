"""Puts rebuilt hours in the place of live ones, a partition at a time and atomically (REPLACE PARTITION).

The partition is put together beside the live table: hours that differ from the rebuild, all others (equal ones, ones
outside the range, ones whose log is gone) from the live table as they are. What the live consumer inserts between that
and the exchange is dropped by it, so it is read from the log once more and put back, through the identity filter. Only
what the consumer's ledger accounts for is put back: the consumer itself stores the rest, and does not look first.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumers.attribution.rewrite import leased_kinds, reassign
from consumers.projector import windows
from consumers.projector.requests import ask
from consumers.projector.store import Store, rows
from consumers.projector.windows import MINUTE_S
from consumers.rebuild import state, tables, tenant
from consumers.rebuild.compare import IDENTITY, SLICE_ROWS, Hour, Range
from consumers.rebuild.events import EventRebuild
from consumers.rebuild.report import together
from consumers.rebuild.state import Job, Position
from consumers.rebuild.tables import BESIDE, HOUR_S, SWAP, Ddl, Layout, RebuildError, numbers
from consumers.store import EventStore

INSERTS = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    "optimize_on_insert": 0,
    "max_execution_time": 3600,
    "do_not_merge_across_partitions_select_final": 1,
}
PUT_BACK_WAIT_S = 60.0
STILL_S = 6.0
"""An insert is in the ledger within about a second: a consumer whose ledger stands still for this long is idle."""
ON_FROM_THEN = ("node_events", "inventory", "allocations", "leases")
"""What these say holds from their own time on, so windows after it follow, too."""


def exchange(rebuild: EventRebuild, job: Job) -> None:
    """Exchange every partition with an hour that differs; then what follows from the rows follows."""
    report, store, layout = rebuild.report, rebuild.store, rebuild.layout
    if report.doubtful:
        raise RebuildError(f"nothing is exchanged: {report.doubtful}")
    hours: dict[str, list[Hour]] = {}
    for hour in report.differing:
        hours.setdefault(layout.partition(hour.start), []).append(hour)
    touched = [hour.start for hour in report.differing]
    for partition, wrong in sorted(hours.items()):
        rebuild.means.say(f"exchanging partition {partition} of {layout.name}: {len(wrong)} hours from the log")
        positions = state.load_positions(store, layout.name)
        accounted = rebuild.ledger_next()
        # What is above these may be missing from what is put together.
        above = {n: min(p.next, accounted.get(n, p.first)) for n, p in positions.items()}
        tables.make(store, layout.name, SWAP, rebuild.means.ddl)
        for hour in wrong:
            _rebuilt_hour(store, layout, hour)
        others = f"{tables.hour_of()} NOT IN {numbers([h.start for h in wrong])}"
        copy(store, layout, partition, others)
        job.partition = partition
        job.swapping = {str(number): max(positions[number].first, offset) for number, offset in above.items()}
        state.save_job(store, job)
        replace(store, layout, partition, rebuild.means.ddl)
        finish(rebuild, job)
        report.swapped.append(partition)
    tables.drop(store, layout.name, SWAP, rebuild.means.ddl)
    if touched:
        follow(rebuild, touched)


def finish(rebuild: EventRebuild, job: Job) -> None:
    """After an exchange, or one that was cut short: put back what came in meanwhile. Doing it again does no harm."""
    store = rebuild.store
    live = EventStore(rebuild.means.connect, rebuild.means.settings.database)
    reader = rebuild.reader(live, None, None)
    try:
        rebuild.means.clock.sleep(rebuild.means.settings.bookkeeping_s + 0.5)  # until the ledger has what was in flight
        ends = {number: end for number, (_, end) in reader.bounds().items()}
        rebuild.wait_for_live(ends, PUT_BACK_WAIT_S, STILL_S)
        accounted = rebuild.ledger_next()
        positions = {
            int(n): Position(0, offset)
            for n, offset in job.swapping.items()
            if offset < accounted.get(int(n), 0) and int(n) in ends
        }
        reader.read(positions, {n: accounted[n] for n in positions}, exactly=True, check_all=True)
        rebuild.report.put_back += reader.counted.rows
        minutes = reader.counted.minutes
    finally:
        reader.close()
    if rebuild.kind in leased_kinds():
        where = Range(*rebuild.layout.span(job.partition)).sql(rebuild.layout)
        moved = tenant.align(store, rebuild.kind, rebuild.kind.table, where)
        if moved:
            rebuild.report.notes.append(f"{moved} rows got another tenant: a lease was corrected during the exchange")
    _ask(rebuild, sorted(minutes), MINUTE_S)
    job.swapping, job.partition = {}, ""
    state.save_job(store, job)


def follow(rebuild: EventRebuild, hours: Sequence[int]) -> None:
    """Have the projector compute what follows from the hours that were exchanged."""
    store, table = rebuild.store, rebuild.kind.table
    now = tables.now_us(store)
    if table == "leases":
        done = reassign(store, since=0, oldest=0, latest=now + 600_000_000)
        _ask(rebuild, sorted(done.minutes), MINUTE_S)
    if table in ON_FROM_THEN:
        _ask(rebuild, list(range(min(hours), now // 1_000_000, HOUR_S)), HOUR_S)
    elif table not in ("dead_letters", "tenant_limits"):
        _ask(rebuild, hours, HOUR_S)


def _ask(rebuild: EventRebuild, starts: Sequence[int], step: int) -> None:
    for start, end in together(starts, step):
        ask(rebuild.store, windows.Range(start, end), None, f"gpufleet rebuild {rebuild.kind.table} --swap")
        rebuild.report.recompute.append((start, end))


def _rebuilt_hour(store: Store, layout: Layout, hour: Hour) -> None:
    """The hour as the log has it. A row that was stored before keeps its time: freshness tells of then, not of now."""
    columns = [c for c in layout.stored if c != "stored_at"]
    key = ", ".join(IDENTITY)
    step = max(60, HOUR_S // max(1, -(-hour.rebuilt // SLICE_ROWS)) // 60 * 60)
    end = hour.start + HOUR_S
    for at in range(hour.start, end, step):
        where = Range(at, min(end, at + step)).sql(layout)
        store.command(
            f"""INSERT INTO gpufleet.{layout.name}{SWAP} ({", ".join(columns)}, stored_at)
SELECT {", ".join(f"r.{c}" for c in columns)}, if(b.known = 1, b.first, r.stored_at)
FROM (SELECT * FROM gpufleet.{layout.name}{BESIDE} FINAL WHERE {where}) AS r
LEFT ANY JOIN
(
    SELECT {key}, min(stored_at) AS first, 1 AS known FROM gpufleet.{layout.name} WHERE {where} GROUP BY {key}
) AS b USING ({key})""",
            settings=dict(INSERTS),
        )


def copy(store: Store, layout: Layout, partition: str, others: str, final: str = "") -> None:
    """The partition's other rows as the live table has them, some hours at a time."""
    start, end = layout.span(partition)
    columns = ", ".join(layout.stored)
    present = rows(
        store,
        f"SELECT DISTINCT {tables.hour_of()} FROM gpufleet.{layout.name}"
        f" WHERE {Range(start, end).sql(layout)} AND {others} ORDER BY 1",
    )
    for low, high in together([int(hour) for (hour,) in present], HOUR_S):
        store.command(
            f"INSERT INTO gpufleet.{layout.name}{SWAP} ({columns}) SELECT {columns} FROM gpufleet.{layout.name}{final}"
            f" WHERE {Range(low, high).sql(layout)} AND {others}",
            settings=dict(INSERTS),
        )


def replace(store: Store, layout: Layout, partition: str, ddl: Ddl) -> None:
    """Exchange a partition of the live table for what was put together: readers see the one or the other, whole."""
    store.command(
        ddl(
            f"ALTER TABLE gpufleet.{layout.name} REPLACE PARTITION ID {tables.quoted(partition)}"
            f" FROM gpufleet.{layout.name}{SWAP}"
        )
    )
