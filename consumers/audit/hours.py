"""Hours and days computed once more from what they are sums of, and compared with what is stored.

Hours of GPUs, racks, fleet, health, sick GPUs and facility follow from minutes, which ``windows`` holds against the
events; hours and days of usage follow from the events themselves.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from consumers.audit.differences import differences
from consumers.audit.report import Finding
from consumers.audit.scope import Scope, quoted
from consumers.audit.windows import MANY_NODES, How
from consumers.projector import gpu_windows, health_windows, hours, ledger, requests, usage_windows
from consumers.projector.measures import NAMES
from consumers.projector.store import Store, rows
from consumers.projector.windows import (
    DAY_S,
    FACILITY_1H,
    FACILITY_READINGS,
    FLEET_1H,
    GPU_1H,
    HEALTH_1H,
    HEALTH_COUNTS,
    HEALTH_SECONDS,
    HEALTH_SUMS,
    HOUR_S,
    RACK_1H,
    SICK_1H,
    USAGE_1D,
    USAGE_1H,
    USAGE_SUMS,
    Range,
    Table,
)
from consumers.projector.windows import scope as rows_of

SAMPLED_HOURS = 2
"""The newest and another one. Of a large fleet (``MANY_NODES``) only the newest."""
_SUMMED = ("rack_1m", "health_1m", "facility_1m", "usage_1m")
"""What tells that there is something to sum; ``gpu_1m`` has no minute that ``rack_1m`` has not."""
_MINUTES = "minutes"
_HOURLY = (GPU_1H, FLEET_1H, RACK_1H, HEALTH_1H, SICK_1H, FACILITY_1H, USAGE_1H)


def check(
    store: Store,
    scope: Scope,
    how: How,
    pick: random.Random,
    on_hour: Callable[[int], None] = lambda hour: None,
    known: Iterable[Finding] = (),
) -> Iterator[Finding]:
    """Findings for hours that differ, and for days of usage. ``on_hour`` is called for every hour compared.

    Hours and days of minutes that are ``known`` to be wrong are left out: their sums are none of their own fault.
    """
    if how == "none":
        return
    wrong = {finding.first // HOUR_S * HOUR_S for finding in known}
    there = [hour for hour in settled(store, scope) if hour not in wrong]
    if how == "sample" and there:
        newest = Range(there[-1], there[-1] + HOUR_S)
        few = SAMPLED_HOURS if _nodes(store, newest) <= MANY_NODES else 1
        there = [*sorted(pick.sample(there[:-1], min(few, len(there)) - 1)), there[-1]]
    for hour in there:
        on_hour(hour)
        found = list(compare(store, hour, scope.node))
        if found and hour in settled(store, scope):
            yield from _again(found, compare(store, hour, scope.node))
    if scope.node is not None:
        return
    for day in sorted({hour // DAY_S * DAY_S for hour in there} - {hour // DAY_S * DAY_S for hour in wrong}):
        window = Range(day, day + DAY_S)
        if window.end <= _closed_before(store, scope):
            found = list(_of_usage(store, USAGE_1D, window))
            if found and window.end <= _closed_before(store, scope):
                yield from _again(found, _of_usage(store, USAGE_1D, window))


def settled(store: Store, scope: Scope) -> list[int]:
    """Hours with minutes or sums that the projector has done with, seconds since 1970, oldest first."""
    start = max(-(-int(scope.oldest_raw) // HOUR_S), int(scope.since or 0) // HOUR_S) * HOUR_S
    end = _closed_before(store, scope) // HOUR_S * HOUR_S
    if start >= end:
        return []
    _, still_open = ledger.load(store)
    span = rows_of(Range(start, end))
    parts = [
        f"SELECT toUnixTimestamp(toStartOfHour(ts)) AS hour FROM gpufleet.{name} WHERE {span} GROUP BY hour"
        for name in (*_SUMMED, *(table.name for table in _HOURLY))
    ]
    found = rows(store, f"SELECT DISTINCT hour FROM ({' UNION ALL '.join(parts)}) ORDER BY hour")
    return [int(row[0]) for row in found if int(row[0]) not in still_open]


def compare(store: Store, hour: int, node: str | None = None) -> Iterator[Finding]:
    """Findings for the windows of one hour."""
    window = Range(hour, hour + HOUR_S)
    only = "" if node is None else f" AND node_id = {quoted(node)}"
    of_gpus = gpu_windows.gpu_1h_sql(window, None if node is None else [node])
    yield from differences(store, GPU_1H, window, of_gpus, ("minutes", *NAMES, "energy_j"), only, _MINUTES)
    if node is not None:
        return
    sums = ("nodes", "gpus", *NAMES, "energy_j")
    yield from differences(store, FLEET_1H, window, hours.fleet_1h_sql(window), sums, origin=_MINUTES)
    yield from differences(store, RACK_1H, window, hours.rack_1h_sql(window), (*sums, *HEALTH_SECONDS), origin=_MINUTES)
    of_health = health_windows.health_1h_sql(window)
    yield from differences(store, HEALTH_1H, window, of_health, (*HEALTH_COUNTS, *HEALTH_SUMS), origin=_MINUTES)
    spells = ("minutes", "first_minute", "last_minute")
    yield from differences(store, SICK_1H, window, hours.sick_1h_sql(window), spells, origin=_MINUTES)
    of_facility = hours.facility_1h_sql(window)
    yield from differences(
        store, FACILITY_1H, window, of_facility, ("readings", "minutes", *FACILITY_READINGS), origin=_MINUTES
    )
    yield from _of_usage(store, USAGE_1H, window)


def _of_usage(store: Store, table: Table, window: Range) -> Iterator[Finding]:
    return differences(store, table, window, usage_windows.usage_sql(table, window), ("windows", *USAGE_SUMS))


def _again(first: Iterable[Finding], second: Iterable[Finding]) -> Iterator[Finding]:
    """What differs twice: between one look and the other the projector may have replaced minutes."""
    known = {str(finding) for finding in first}
    return (finding for finding in second if str(finding) in known)


def _closed_before(store: Store, scope: Scope) -> int:
    """Time before which the projector has nothing to do any more, seconds since 1970; 0 when that is not known.

    What is about a minute may change those after it (energy, jobs, health), and a lease any before it.
    """
    position, _ = ledger.load(store)
    frontier = ledger.load_frontier(store)
    if position is None:
        return 0
    topics = ", ".join(f"'{topic}'" for topic in ledger.TOPICS)
    waiting = rows(
        store,
        f"""SELECT countIf(topic = 'leases'), minOrNull(toUnixTimestamp(least(toDateTime(event_ts_min), minute)))
FROM
(
    SELECT topic, event_ts_min, arrayJoin(if(empty(minutes), [toDateTime(event_ts_min, 'UTC')], minutes)) AS minute
    FROM gpufleet.ingest_ledger
    WHERE topic IN ({topics}) AND at > fromUnixTimestamp64Micro({round(position * 1e6)}, 'UTC')
)""",
    )
    leases, oldest = waiting[0]
    if leases:
        return 0
    asked = [request.start for request in requests.unanswered(store)]
    known = [int(oldest)] if oldest is not None else []
    return int(min([scope.now, *known, *asked, *([frontier] if frontier is not None else [])]))


def _nodes(store: Store, window: Range) -> int:
    return int(rows(store, f"SELECT uniq(node_id) FROM gpufleet.gpu_1h WHERE {rows_of(window)}")[0][0])
