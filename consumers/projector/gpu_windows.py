"""The SQL of the windows per GPU: gpu_1m from the events, gpu_1h from gpu_1m."""

from __future__ import annotations

from collections.abc import Sequence

from consumers.projector.measures import ARRAYS, NAMES, aggregates, rolled_up
from consumers.projector.windows import MINUTE_S, Range, instant, instant64, one_of, scope

# --- grain: site, node, GPU, minute, tenant -------------------------------------------------------------------------


def gpu_1m_sql(window: Range, base_from: int, nodes: Sequence[str] | None = None, *, final: bool = True) -> str:
    """gpu_1m from node_telemetry; the energy counter's base from gpu_1m rows in [base_from, window.start).

    Energy of a minute, per driver epoch: last counter of the minute minus the last one before it in the same epoch,
    else minus the first of the minute. A counter grows within an epoch, so first and last are min and max. Without
    ``final`` the window must hold no doubles.
    """
    only = one_of("node_id", nodes)
    fresh = _per_gpu(window, only, " FINAL" if final else "")
    one_minute = window.end - window.start <= MINUTE_S
    with_base = _joined(fresh, window, base_from, only) if one_minute else _followed(fresh, window, base_from, only)
    return f"""SELECT
    site, ts, node_id, gpu_index, tenant, rack, gpu_model, gpu_uuid,
    {", ".join(NAMES)},
    before_ts > toDateTime(0, 'UTC') AS has_before,
    arraySum(arrayMap(
        (e, first, last) -> last - if(has_before AND e = before_epoch, least(before_j, last), first),
        epochs, firsts, lasts)) AS energy_j,
    if(notEmpty(epochs), epochs[-1], 0) AS driver_epoch,
    if(notEmpty(epochs), lasts[-1], -1) AS energy_last_j,
    if(notEmpty(epochs) AND epochs[1] = before_epoch, before_ts, toDateTime(0, 'UTC')) AS energy_base
FROM
(
    {with_base}
)
WHERE ts >= {instant(window.start)}"""


def _joined(fresh: str, window: Range, base_from: int, only: str) -> str:
    """Rows of one minute with the last counter before it: a join is cheaper than sorting the fleet."""
    return f"""SELECT fresh.*, earlier.before_epoch AS before_epoch, earlier.before_j AS before_j,
        earlier.before_ts AS before_ts
    FROM
    (
        {fresh}
    ) AS fresh
    LEFT ANY JOIN
    (
        SELECT site, node_id, gpu_index,
            argMax(driver_epoch, ts) AS before_epoch, argMax(energy_last_j, ts) AS before_j, max(ts) AS before_ts
        FROM gpufleet.gpu_1m FINAL
        WHERE {scope(Range(base_from, window.start), only)} AND energy_last_j >= 0
        GROUP BY site, node_id, gpu_index
    ) AS earlier USING (site, node_id, gpu_index)"""


def _followed(fresh: str, window: Range, base_from: int, only: str) -> str:
    """Rows of several minutes, each with the last counter of an earlier one or of before the first."""
    return f"""SELECT
        *,
        anyLastIf(epochs[-1], notEmpty(epochs)) OVER earlier AS before_epoch,
        anyLastIf(lasts[-1], notEmpty(epochs)) OVER earlier AS before_j,
        anyLastIf(ts, notEmpty(epochs)) OVER earlier AS before_ts
    FROM
    (
        {fresh}
        UNION ALL
        {_before(window, base_from, only)}
    )
    WINDOW earlier AS
        (PARTITION BY site, node_id, gpu_index ORDER BY ts ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"""


def _per_gpu(window: Range, only: str, final: str) -> str:
    sliced = ",\n            ".join(f"arraySlice(e.{a}, (g - 1) * ticks + 1, ticks) AS {a}" for a in ARRAYS)
    return f"""SELECT
            site, minute AS ts, node_id, gpu_index, tenant,
            argMax(last_rack, t) AS rack,
            argMax(last_model, t) AS gpu_model,
            argMax(uuid, t) AS gpu_uuid,
            {aggregates("            ")},
            minMap(epoch, first) AS spread,
            spread.1 AS epochs,
            spread.2 AS firsts,
            maxMap(epoch, last).2 AS lasts
        FROM
        (
            SELECT
            site, tenant, node_id,
            rack AS last_rack,
            gpu_model AS last_model,
            ts AS t,
            toStartOfMinute(toDateTime(ts, 'UTC')) AS minute,
            e.gpu_index[g] AS gpu_index,
            if(empty(e.gpu_uuid), '', e.gpu_uuid[g]) AS uuid,
            interval_ms / 1000 AS w,
            ticks AS started,
            ticks AS covered,
            arrayFilter(x -> x >= 0, arraySlice(e.energy_j, (g - 1) * ticks + 1, ticks)) AS energy,
            if(empty(energy), [], [if(length(driver_epoch) = 1, driver_epoch[1], driver_epoch[g])]) AS epoch,
            if(empty(energy), [], [arrayMin(energy)]) AS first,
            if(empty(energy), [], [arrayMax(energy)]) AS last,
            {sliced}
            FROM
            (
                SELECT site, rack, gpu_model, tenant, node_id, ts, interval_ms, ticks, gpu_index, gpu_uuid,
                    driver_epoch, energy_j, {", ".join(ARRAYS)}
                FROM gpufleet.node_telemetry{final}
                PREWHERE ts >= {instant64(window.start)} AND ts < {instant64(window.end)} AND flaws = 0{only}
            ) AS e
            ARRAY JOIN arrayEnumerate(e.gpu_index) AS g
        )
        GROUP BY site, minute, node_id, gpu_index, tenant"""


def _before(window: Range, base_from: int, only: str) -> str:
    blanks = ", ".join(f"NULL AS {n}" if n.endswith(("_min", "_max")) else f"0 AS {n}" for n in NAMES)
    return f"""SELECT
            site, max(ts) AS last_ts, node_id, gpu_index, '' AS tenant,
            '' AS rack, '' AS gpu_model, '' AS gpu_uuid,
            {blanks},
            ([], []) AS spread,
            [argMax(driver_epoch, ts)] AS epochs,
            [toInt64(0)] AS firsts,
            [argMax(energy_last_j, ts)] AS lasts
        FROM gpufleet.gpu_1m FINAL
        WHERE {scope(Range(base_from, window.start), only)} AND energy_last_j >= 0
        GROUP BY site, node_id, gpu_index"""


def without_base_sql(window: Range, nodes: Sequence[str] | None) -> str:
    """Nodes with a GPU whose energy was counted from the first counter of its minute."""
    return f"""SELECT DISTINCT node_id
FROM gpufleet.gpu_1m FINAL
WHERE {scope(window, one_of("node_id", nodes))} AND energy_last_j >= 0 AND energy_base = 0"""


def stale_energy_sql(window: Range, until: int, nodes: Sequence[str] | None) -> str:
    """Later (minute, node) whose energy was counted from a counter in or before the recomputed minutes."""
    later = scope(Range(window.end, until), one_of("node_id", nodes))
    return f"""SELECT toUnixTimestamp(ts), node_id
FROM gpufleet.gpu_1m FINAL
WHERE {later} AND energy_last_j >= 0 AND energy_base < {instant(window.end)}
GROUP BY ts, node_id"""


# --- grain: site, node, GPU, hour, tenant ---------------------------------------------------------------------------


def gpu_1h_sql(window: Range, nodes: Sequence[str] | None = None) -> str:
    """gpu_1h from gpu_1m."""
    return f"""SELECT
    site,
    hour AS ts,
    node_id,
    gpu_index,
    tenant,
    argMax(last_rack, minute) AS rack,
    argMax(last_model, minute) AS gpu_model,
    argMax(last_uuid, minute) AS gpu_uuid,
    uniqExact(minute) AS minutes,
    {rolled_up("    ")},
    sum(energy_j) AS energy_j
FROM
(
    SELECT * EXCEPT (ts, rack, gpu_model, gpu_uuid), toStartOfHour(ts) AS hour, ts AS minute,
        rack AS last_rack, gpu_model AS last_model, gpu_uuid AS last_uuid
    FROM gpufleet.gpu_1m FINAL
    WHERE {scope(window, one_of("node_id", nodes))}
)
GROUP BY site, hour, node_id, gpu_index, tenant"""
