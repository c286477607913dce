"""The SQL of job_1m: what the GPUs of a job did together, its slowest one, and whether it hangs.

Peers of a synchronous job spin while they wait, so activity hides stragglers and hangs. Clocks show the one, tensor
pipes, power and network the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumers.projector.members import HELD, job_nodes_sql
from consumers.projector.windows import MINUTE_S, Range, instant64, one_of, scope

SLOW_BELOW = 0.92
"""SM clock over the job's median below which a GPU is slow. A software power cap, normal under load, costs 6 to 7 %."""
STRAGGLER_MINUTES = 3
"""Slow for so many minutes in a row: a straggler."""
HUNG_MINUTES = 5
"""Quiet for so many minutes in a row: hung."""
LOOKBACK_S = (HUNG_MINUTES - 1) * MINUTE_S
"""How much earlier a minute may lie that job_1m and sick_1m of a minute depend on."""
BUSY_FROM, TENSOR_BELOW, POWER_BELOW, TRAFFIC_BELOW = 0.5, 0.005, 0.45, 1e6
"""A quiet minute: activity at least, tensor activity, power over its limit, and bytes/s a GPU below these."""


def job_1m_sql(window: Range, jobs: Sequence[str] | None = None, *, final: bool = True) -> str:
    """job_1m of whole minutes; earlier rows of job_1m say what was quiet and slow before the range.

    Without ``final`` the window must hold no doubled events.
    """
    only = one_of("job_id", jobs)
    before = Range(window.start - LOOKBACK_S, window.start)
    quiet = f"""job_kind != 'serving' AND ifNull(gr_engine_active >= {BUSY_FROM}, 0)
            AND ifNull(tensor_active < {TENSOR_BELOW}, 0) AND ifNull(power_w < {POWER_BELOW} * power_limit_w, 1)
            AND nvlink_tx_bytes < {TRAFFIC_BELOW} * gpu_seconds AND nic_tx_bytes < {TRAFFIC_BELOW} * gpu_seconds"""
    measures = ", ".join(name for name, _ in _MEASURES)
    blank = ", ".join(f"{value} AS {name}" for name, value in _MEASURES)
    return f"""SELECT
    site, ts, job_id, {measures}, is_quiet AS quiet,
    sum(is_quiet) OVER (
        PARTITION BY site, job_id ORDER BY at RANGE BETWEEN {LOOKBACK_S} PRECEDING AND CURRENT ROW
    ) = {HUNG_MINUTES} AS hung,
    slow.1 AS slow_nodes, slow.2 AS slow_gpus, slow.3 AS slow_ratios,
    groupArray(arrayZip(slow.1, slow.2)) OVER {_RECENT} AS recent,
    {_stragglers("recent", "notEmpty")} AS straggler
FROM
(
    SELECT
        site, ts, toUnixTimestamp(ts) AS at, job_id, {quiet} AS is_quiet, {measures},
        arrayFilter(c -> ifNull(c.1 < {SLOW_BELOW} * clock_sm_mhz_median, 0) AND c.4 = 0, clocks) AS behind,
        tuple(
            arrayMap(c -> toString(c.2), behind),
            arrayMap(c -> toInt32(c.3), behind),
            arrayMap(c -> toFloat32(c.1 / assumeNotNull(clock_sm_mhz_median)), behind)) AS slow
    FROM
    (
        {_per_job(window, only, final)}
    )
    UNION ALL
    SELECT site, ts, toUnixTimestamp(ts) AS at, toString(job_id) AS job_id, quiet AS is_quiet, {blank},
        [] AS behind, tuple(slow_nodes, slow_gpus, slow_ratios) AS slow
    FROM gpufleet.job_1m FINAL
    WHERE {scope(before, only)}
)
QUALIFY at >= {window.start}"""


_MEASURES = (
    ("tenant", "''"),
    ("job_kind", "''"),
    ("name", "''"),
    ("gpus", "0"),
    ("gpus_reporting", "0"),
    ("nodes", "0"),
    ("gr_engine_active", "NULL"),
    ("tensor_active", "NULL"),
    ("power_w", "NULL"),
    ("power_w_sum", "0."),
    ("nvlink_tx_bytes", "0."),
    ("nic_tx_bytes", "0."),
    ("clock_sm_mhz_median", "NULL"),
    ("slowest_node", "''"),
    ("slowest_gpu", "NULL"),
    ("slowest_ratio", "NULL"),
)
"""Columns of a minute's own, with what stands for them in the earlier rows that are read beside."""
_RECENT = (
    "(PARTITION BY site, job_id ORDER BY at"
    f" RANGE BETWEEN {(STRAGGLER_MINUTES - 1) * MINUTE_S} PRECEDING AND CURRENT ROW)"
)


def _stragglers(recent: str, wrap: str = "") -> str:
    """The (node, GPU) pairs that are in each of the last minutes' arrays, none if a minute is missing."""
    common = ", ".join(f"{recent}[{i}]" for i in range(1, STRAGGLER_MINUTES + 1))
    return f"{wrap}(if(length({recent}) = {STRAGGLER_MINUTES}, arrayIntersect({common}), []))"


def _per_job(window: Range, only: str, final: bool) -> str:
    members = f"""SELECT
                    site, ts, job_id, toString(j.node_id) AS node_id, mask, job_kind, name,
                    {HELD}.1 AS held
                FROM
                (
                {job_nodes_sql(window, only)}
                ) AS j"""
    some = "" if not only else f" AND node_id IN (SELECT node_id FROM ({job_nodes_sql(window, only)}))"
    return f"""SELECT
            n.site AS site, n.ts AS ts, n.job_id AS job_id,
            any(n.job_kind) AS job_kind, any(n.name) AS name,
            if(uniqExact(n.held) = 1, any(n.held), '') AS tenant,
            sum(bitCount(n.mask)) AS gpus,
            uniqExact(n.node_id) AS nodes,
            sum(g.gpus) AS gpus_reporting,
            sum(g.seconds) AS gpu_seconds,
            if(sum(g.gr.2) > 0, sum(g.gr.1) / sum(g.gr.2), NULL) AS gr_engine_active,
            if(sum(g.tensor.2) > 0, sum(g.tensor.1) / sum(g.tensor.2), NULL) AS tensor_active,
            if(sum(g.power.2) > 0, sum(g.power.1) / sum(g.power.2), NULL) AS power_w,
            sum(g.power.1) AS power_w_sum,
            if(sum(g.power.2) > 0, sumIf(g.power_limit, g.power_limit > 0)
                / nullIf(countIf(g.power_limit > 0), 0), NULL) AS power_limit_w,
            sum(g.nvlink) AS nvlink_tx_bytes,
            sum(x.bytes) AS nic_tx_bytes,
            arraySort(groupArrayArray(g.clocks)) AS clocks,
            length(clocks) AS busy,
            if(busy = 0, NULL, (clocks[intDiv(busy + 1, 2)].1 + clocks[intDiv(busy, 2) + 1].1) / 2)
                AS clock_sm_mhz_median,
            clocks[1].2 AS slowest_node,
            if(busy = 0, NULL, clocks[1].3) AS slowest_gpu,
            clocks[1].1 / clock_sm_mhz_median AS slowest_ratio
        FROM
        (
                {members}
        ) AS n
        LEFT JOIN
        (
            SELECT
                site, ts, job_id, node_id,
                count() AS gpus,
                sum(s.seconds) AS seconds,
                tuple(sum(gr_mean), countIf(isNotNull(gr_mean))) AS gr,
                tuple(sum(tensor_mean), countIf(isNotNull(tensor_mean))) AS tensor,
                tuple(sum(power_mean), countIf(isNotNull(power_mean))) AS power,
                max(s.power_limit) AS power_limit,
                sum(s.nvlink) AS nvlink,
                groupArrayIf(tuple(clock, node_id, gpu_index, held_back), is_busy AND clock > 0) AS clocks
            FROM
            (
                SELECT
                    m.site AS site, m.ts AS ts, m.job_id AS job_id, m.node_id AS node_id, k.gpu_index AS gpu_index,
                    k.seconds AS seconds,
                    if(k.gr_engine_active_s > 0, k.gr_engine_active_sum / k.gr_engine_active_s, NULL) AS gr_mean,
                    if(k.tensor_active_s > 0, k.tensor_active_sum / k.tensor_active_s, NULL) AS tensor_mean,
                    if(k.power_w_s > 0, k.power_w_sum / k.power_w_s, NULL) AS power_mean,
                    k.nvlink_tx_bytes AS nvlink,
                    if(k.clock_sm_mhz_s > 0, k.clock_sm_mhz_sum / k.clock_sm_mhz_s, 0.) AS clock,
                    k.throttle_slowdown_s > 0 AS held_back,
                    k.active_s >= k.seconds / 2 AS is_busy,
                    p.power_limit AS power_limit
                FROM
                (
                    SELECT site, ts, toString(node_id) AS node_id, gpu_index, seconds, gr_engine_active_sum,
                        gr_engine_active_s, tensor_active_sum, tensor_active_s, power_w_sum, power_w_s,
                        nvlink_tx_bytes, clock_sm_mhz_sum, clock_sm_mhz_s, throttle_slowdown_s, active_s
                    FROM gpufleet.gpu_1m FINAL
                    WHERE {scope(window)}{some}
                ) AS k
                INNER JOIN
                (
                {members}
                ) AS m ON m.site = k.site AND m.ts = k.ts AND m.node_id = k.node_id
                LEFT JOIN
                (
                    SELECT site, node_id, toFloat64(arrayAvg(gpu_power_limit_w)) AS power_limit
                    FROM gpufleet.node_place FINAL WHERE notEmpty(gpu_power_limit_w)
                ) AS p ON p.site = k.site AND p.node_id = k.node_id
                WHERE bitTest(m.mask, k.gpu_index)
            ) AS s
            GROUP BY site, ts, job_id, node_id
        ) AS g ON g.site = n.site AND g.ts = n.ts AND g.job_id = n.job_id AND g.node_id = n.node_id
        LEFT JOIN
        (
            SELECT site, toStartOfMinute(toDateTime(e.ts, 'UTC')) AS ts, toString(e.node_id) AS node_id,
                sum(interval_ms / 1000 * arraySum(arrayFilter(v -> isFinite(v), nic_tx_bytes_per_s))) AS bytes
            FROM gpufleet.node_telemetry AS e{" FINAL" if final else ""}
            PREWHERE e.ts >= {instant64(window.start)} AND e.ts < {instant64(window.end)} AND flaws = 0{some}
            GROUP BY site, ts, node_id
        ) AS x ON x.site = n.site AND x.ts = n.ts AND x.node_id = n.node_id
        GROUP BY site, ts, job_id"""


def stragglers_sql(window: Range, jobs: Sequence[str] | None = None) -> str:
    """One row per minute and straggler of job_1m: (site, ts, node_id, gpu_index, detail)."""
    before = Range(window.start - (STRAGGLER_MINUTES - 1) * MINUTE_S, window.end)
    return f"""SELECT site, ts, found.1 AS node_id, found.2 AS gpu_index,
            concat('SM clock ', toString(round(ratios[indexOf(pairs, found)], 2)), ' of the median of job ',
                toString(job_id)) AS detail
        FROM
        (
            SELECT site, ts, job_id, arrayZip(slow_nodes, slow_gpus) AS pairs, slow_ratios AS ratios,
                toUnixTimestamp(ts) AS at,
                groupArray(pairs) OVER {_RECENT} AS recent,
                {_stragglers("recent")} AS now_slow
            FROM gpufleet.job_1m FINAL
            WHERE {scope(before, one_of("job_id", jobs))}
        )
        ARRAY JOIN now_slow AS found
        WHERE at >= {window.start}"""
