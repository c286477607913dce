"""Minutes computed once more from their events and compared, column by column, with what is stored."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from consumers.audit.differences import differences
from consumers.audit.report import Finding, Kind
from consumers.audit.scope import Scope
from consumers.projector import (
    facility_windows,
    gpu_windows,
    health_windows,
    job_windows,
    ledger,
    sick_windows,
    spells,
    usage_windows,
)
from consumers.projector.measures import NAMES
from consumers.projector.rack_windows import fleet_10s_sql, rack_1m_sql, rack_10s_sql
from consumers.projector.recompute import Limits, Recomputer, runs
from consumers.projector.store import Store, rows
from consumers.projector.windows import (
    FACILITY_1M,
    FLEET_10S,
    GPU_1M,
    HEALTH_1M,
    HEALTH_COUNTS,
    HEALTH_SUMS,
    JOB_1M,
    MINUTE_S,
    RACK_1M,
    RACK_10S,
    SICK_1M,
    USAGE_1M,
    USAGE_SUMS,
    Range,
    instant64,
)
from consumers.projector.windows import scope as rows_of

How = Literal["none", "sample", "all"]
SAMPLED_MINUTES = 3
"""Of a large fleet (``MANY_NODES``) only the newest."""
MANY_NODES = 2000
ENERGY_LOOKBACK_S = 86_400
BEHIND_S = 600
"""A projector that has left ledger rows alone for this long is not following."""
_OF_JOBS = (
    "gpus",
    "gpus_reporting",
    "nodes",
    "gr_engine_active",
    "tensor_active",
    "power_w",
    "nvlink_tx_bytes",
    "nic_tx_bytes",
    "clock_sm_mhz_median",
    "slowest_ratio",
    "quiet",
    "hung",
    "straggler",
)
_OF_FACILITY = ("readings", "power_w_avg", "power_w_max", "flow_lpm_avg", "supply_temp_c_max", "leak", "energy_j")
_SETTLE_S = 90
"""Minutes that ended less than this ago may not have been computed yet."""


def check(
    store: Store, scope: Scope, how: How, pick: random.Random, on_minute: Callable[[int], None] = lambda minute: None
) -> Iterator[Finding]:
    """Findings for windows that differ. ``on_minute`` is called for every minute compared."""
    if how == "none":
        return
    position, _ = ledger.load(store)
    yield from _behind(store, scope, position)
    minutes = _minutes(store, scope, position)
    if how == "sample" and minutes:
        few = SAMPLED_MINUTES if _nodes(store, Range(minutes[-1], minutes[-1] + MINUTE_S)) <= MANY_NODES else 1
        minutes = sorted({minutes[-1], *pick.sample(minutes, min(few, len(minutes)) - 1)})
    for part in _parts(store, minutes):
        for minute in range(part.start, part.end, MINUTE_S):
            on_minute(minute)
        yield from compare(store, part, scope.node)


def compare(store: Store, window: Range, node: str | None = None) -> Iterator[Finding]:
    """Findings for the windows of some minutes."""
    nodes = [node] if node is not None else None
    fresh = gpu_windows.gpu_1m_sql(window, _base_from(store, window), nodes)
    only = "" if node is None else f" AND node_id = '{node}'"
    yield from differences(store, GPU_1M, window, fresh, (*NAMES, "energy_j", "energy_last_j"), only)
    if node is None:
        for table, select in (
            (RACK_10S, rack_10s_sql(window)),
            (FLEET_10S, fleet_10s_sql(window)),
            (RACK_1M, rack_1m_sql(window)),
        ):
            extra = ("energy_j", "energy_gpus") if table is RACK_1M else ()
            yield from differences(store, table, window, select, ("nodes", "gpus", *NAMES, *extra))
        usage = usage_windows.usage_sql(USAGE_1M, window)
        yield from differences(store, USAGE_1M, window, usage, ("windows", *USAGE_SUMS))
        yield from _conditions(store, window)


def _conditions(store: Store, window: Range) -> Iterator[Finding]:
    """Health, sick GPUs, jobs and facility of minutes that the projector has closed.

    Since when something holds is left out: it is as far as was known when the minute was computed.
    """
    frontier = ledger.load_frontier(store)
    if frontier is None or window.end > frontier:
        return
    holding = spells.load(store, window)
    health = health_windows.health_1m_sql(window, holding)
    yield from differences(store, HEALTH_1M, window, health, (*HEALTH_COUNTS, *HEALTH_SUMS))
    sick = sick_windows.sick_1m_sql(window, holding, sick_windows.look(store, window))
    yield from differences(store, SICK_1M, window, sick, ("in_service",))
    yield from differences(store, JOB_1M, window, job_windows.job_1m_sql(window), _OF_JOBS)
    facility = facility_windows.facility_1m_sql(window)
    yield from differences(store, FACILITY_1M, window, facility, _OF_FACILITY)


def _parts(store: Store, minutes: Sequence[int]) -> Iterator[Range]:
    """Neighbouring minutes in ranges that one statement may take."""
    limits = Limits(node_minutes=20_000, max_minutes=60)
    for window, _ in runs(dict.fromkeys(minutes)):
        yield from Recomputer(store, limits).batches(window, None)


def _nodes(store: Store, window: Range) -> int:
    return int(rows(store, f"SELECT uniq(node_id) FROM gpufleet.gpu_1m WHERE {rows_of(window)}")[0][0])


def _base_from(store: Store, window: Range) -> int:
    """From when on energy counters may be the base of the window's: for a large fleet as far as the stored ones go."""
    if _nodes(store, window) <= MANY_NODES:
        return window.start - ENERGY_LOOKBACK_S
    oldest = rows(
        store,
        "SELECT toUnixTimestamp(minIf(energy_base, energy_base > 0))"
        f" FROM gpufleet.gpu_1m FINAL WHERE {rows_of(window)}",
    )[0][0]
    return min(int(oldest) or window.start, window.start - MINUTE_S)


def _behind(store: Store, scope: Scope, position: float | None) -> Iterator[Finding]:
    after = 0 if position is None else round(position * 1e6)
    found = rows(
        store,
        f"""SELECT count(), toUnixTimestamp(min(at))
FROM gpufleet.ingest_ledger
WHERE topic IN ('node-telemetry', 'tenant-usage', 'leases') AND at > fromUnixTimestamp64Micro({after}, 'UTC')
    AND at < fromUnixTimestamp64Micro({int((scope.now - BEHIND_S) * 1e6)}, 'UTC')""",
    )
    if found[0][0]:
        late = int(scope.now - int(found[0][1]))
        yield Finding(
            Kind.PROJECTOR_BEHIND,
            "ingest_ledger",
            f"{found[0][0]} inserts, the oldest {late} s ago, have not been projected; run `gpufleet project`",
            count=int(found[0][0]),
        )


def _minutes(store: Store, scope: Scope, position: float | None) -> list[int]:
    """Minutes with events or windows that have closed and that no open work of the projector touches."""
    start = int(max(scope.oldest_raw, scope.since or 0)) // MINUTE_S * MINUTE_S
    end = int(scope.now - _SETTLE_S) // MINUTE_S * MINUTE_S
    if position is None or start >= end:
        return []
    span = f"ts >= {instant64(start)} AND ts < {instant64(end)}"
    found = rows(
        store,
        f"""SELECT minute FROM
(
    SELECT DISTINCT toUnixTimestamp(toStartOfMinute(ts)) AS minute FROM gpufleet.node_telemetry WHERE {span}
    UNION DISTINCT
    SELECT DISTINCT toUnixTimestamp(ts) FROM gpufleet.rack_1m FINAL WHERE {rows_of(Range(start, end))}
    UNION DISTINCT
    SELECT DISTINCT toUnixTimestamp(ts) FROM gpufleet.health_1m WHERE {rows_of(Range(start, end))}
    UNION DISTINCT
    SELECT DISTINCT toUnixTimestamp(toStartOfMinute(ts)) FROM gpufleet.tenant_usage WHERE {span}
)
WHERE minute NOT IN
(
    SELECT toUnixTimestamp(arrayJoin(minutes))
    FROM gpufleet.ingest_ledger
    WHERE at > fromUnixTimestamp64Micro({round(position * 1e6)}, 'UTC')
)
ORDER BY minute""",
    )
    return [int(row[0]) for row in found]
