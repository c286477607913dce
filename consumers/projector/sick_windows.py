"""The SQL of sick_1m: one row per minute, GPU and thing that was wrong with it.

Each reason is a SELECT of its own with the columns of ``_COLUMNS``; what a reason does not know (place, tenant, job,
in service) is joined to what they found. ``look`` finds first which nodes were silent or have odd counters: mostly
none, and the statement stays small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from consumers.projector import job_windows
from consumers.projector.members import HELD, expected_nodes_sql, job_nodes_sql
from consumers.projector.recompute import MAX_NODES
from consumers.projector.spells import Spells, faults_values_sql, minutes_sql, seconds_sql, values_sql
from consumers.projector.store import Store, rows
from consumers.projector.windows import HOUR_S, MINUTE_S, Range, instant, instant64, one_of, scope

COUNTERS_WITHIN_S = 120
"""The slow lane's word on a minute is the newest that began this long before it and before it: what a node sends at
the end of a minute is there when the next one is computed."""
HOT_ABOVE_C = 93
"""Azure's healthagent warns above 93 C."""
CLOCK_OFF_S = 0.5
SILENCE_LOOKBACK_S = 2 * HOUR_S
"""How far back the last minute of a silent GPU is looked for to the minute; before that to the hour,"""
SILENCE_HOURS = 7 * 24
"""for so many hours."""
_COLUMNS = "site, ts, node_id, gpu_index, reason, action, scope, origin, since, exact, detail"
_ALIKE = "site, node_id, gpu_index, reason"


@dataclass(frozen=True, slots=True)
class Look:
    """Where to look for reasons; None = at every node."""

    silent: tuple[str, ...] | None = None
    """Nodes with a GPU that is silent in some minute."""
    odd: tuple[str, ...] | None = None
    """Nodes whose slow lane says something that is not as it should be."""


def look(store: Store, window: Range, nodes: Sequence[str] | None = None, *, settled: bool = False) -> Look:
    """Find the nodes that two of the reasons are about; all of them when they are too many to name."""
    only = one_of("node_id", nodes)
    return Look(_named(store, _silent_nodes_sql(window, only, settled)), _named(store, _odd_nodes_sql(window, only)))


def _named(store: Store, sql: str) -> tuple[str, ...] | None:
    found = tuple(sorted(str(row[0]) for row in rows(store, sql)))
    return found if len(found) <= MAX_NODES else None


def sick_1m_sql(
    window: Range,
    spells: Spells,
    where: Look,
    nodes: Sequence[str] | None = None,
    jobs: Sequence[str] | None = None,
    *,
    settled: bool = False,
) -> str:
    """sick_1m of whole minutes: for ``nodes`` all reasons, for ``jobs`` the stragglers; None = all.

    ``since``: faults and silence say it themselves; the rest began with the first of the minutes in a row that have
    it, as far as the rows of the minute before the range know.
    """
    only = one_of("node_id", nodes)
    reasons = [_from_gpu_1m(window, only), _clocks(window, only), _stragglers(window, jobs)]
    if spells.faults:
        reasons.append(_faults(window, spells))
    if where.silent != ():
        reasons.append(_silent(window, spells, one_of("node_id", where.silent or nodes), settled))
    if where.odd != ():
        reasons.append(_from_counters(window, one_of("node_id", where.odd or nodes)))
    found = "\n        UNION ALL\n".join(
        f"        SELECT {_COLUMNS} FROM\n        (\n        {reason}\n        )" for reason in reasons
    )
    in_service = "true"
    if spells.absent:
        in_service = f"""(s.site, s.node_id, s.gpu_index, s.ts) NOT IN
    (
        SELECT site, node_id, gpu_index, ts FROM {values_sql([(0, spells.absent)])}
        ARRAY JOIN {minutes_sql(window)} AS ts
        WHERE end >= (toInt64(toUnixTimestamp(ts)) + {MINUTE_S}) * 1000000
    )"""
    return f"""SELECT
    s.site AS site, s.ts AS ts, s.node_id AS node_id, s.gpu_index AS gpu_index, s.reason AS reason,
    s.held.1 AS tenant, p.rack AS rack, p.feed AS feed, p.pdu AS pdu, p.cdu AS cdu, p.nvlink_domain AS nvlink_domain,
    p.gpu_model AS gpu_model, {_uuid("p.uuids[indexOf(p.gpus, s.gpu_index)]")} AS gpu_uuid,
    arrayFirst(j -> bitTest(j.1, s.gpu_index), b.jobs).2 AS job_id,
    s.action AS action, s.scope AS scope, if(s.origin = '', s.node_id, s.origin) AS origin_node, s.since AS since,
    {in_service} AS in_service,
    s.detail AS detail
FROM
(
    SELECT
        site, ts, node_id, gpu_index, reason, action, scope, origin, detail, {HELD} AS held,
        if(exact, own_since, min(own_since) OVER (PARTITION BY {_ALIKE}, streak)) AS since
    FROM
    (
        SELECT *, toUnixTimestamp(ts) - {MINUTE_S} * row_number() OVER (PARTITION BY {_ALIKE} ORDER BY ts) AS streak
        FROM
        (
            SELECT
                site, ts, node_id, gpu_index, toString(f.reason) AS reason, min(f.since) AS own_since,
                argMin(f.action, f.since) AS action, argMin(f.scope, f.since) AS scope,
                argMin(f.origin, f.since) AS origin, argMin(f.detail, f.since) AS detail, max(f.exact) AS exact
            FROM
            (
{found}
            ) AS f
            GROUP BY site, ts, node_id, gpu_index, reason
            UNION ALL
            SELECT site, ts, toString(node_id) AS node_id, gpu_index, toString(reason) AS reason, since AS own_since,
                '' AS action, '' AS scope, '' AS origin, '' AS detail, 0 AS exact
            FROM gpufleet.sick_1m FINAL
            WHERE {scope(Range(window.start - MINUTE_S, window.start))}
        )
    )
    QUALIFY ts >= {instant(window.start)}
) AS s
LEFT JOIN
(
        {expected_nodes_sql(window, "", settled=settled)}
) AS p ON p.site = s.site AND p.ts = s.ts AND p.node_id = s.node_id
LEFT JOIN
(
    SELECT site, ts, node_id, groupArray(tuple(mask, toString(job_id))) AS jobs
    FROM
    (
        {job_nodes_sql(window)}
    )
    GROUP BY site, ts, node_id
) AS b ON b.site = s.site AND b.ts = s.ts AND b.node_id = s.node_id"""


def narrowing(nodes: Sequence[str] | None, jobs: Sequence[str] | None) -> str:
    """Condition on the stored rows that ``sick_1m_sql`` for these nodes and jobs replaces."""
    if nodes is None or jobs is None:
        return ""
    of_jobs = f" OR reason = 'straggler'{one_of('job_id', jobs)}" if jobs else ""
    return f" AND ({one_of('node_id', nodes)[5:]}{of_jobs})"


def _uuid(value: str) -> str:
    form = r"'^(.{8})(.{4})(.{4})(.{4})(.{12})$', 'GPU-\\1-\\2-\\3-\\4-\\5'"
    return f"if({value} = toFixedString('', 16), '', replaceRegexpOne(lower(hex({value})), {form}))"


def _faults(window: Range, spells: Spells) -> str:
    return f"""SELECT site, ts, node_id, gpu_index, fault AS reason, action, scope, origin,
            fromUnixTimestamp64Micro(start, 'UTC') AS since, 1 AS exact,
            if(origin = node_id, '', concat('began on ', origin)) AS detail
        FROM {faults_values_sql(spells.faults)}
        ARRAY JOIN {minutes_sql(window)} AS ts"""


def _heard_sql(window: Range, only: str, settled: bool) -> str:
    """Per minute and node its expected GPUs (e.gpus) and those with a sample (r.heard)."""
    return f"""(
            {expected_nodes_sql(window, only, settled=settled)}
            ) AS e
            LEFT JOIN
            (
                SELECT site, ts, toString(node_id) AS node_id, groupArray(gpu_index) AS heard
                FROM gpufleet.gpu_1m FINAL
                WHERE {scope(window, only)}
                GROUP BY site, ts, node_id
            ) AS r ON r.site = e.site AND r.ts = e.ts AND r.node_id = e.node_id"""


def _silent_nodes_sql(window: Range, only: str, settled: bool) -> str:
    return f"""SELECT DISTINCT toString(e.node_id) AS node
            FROM {_heard_sql(window, only, settled)}
            WHERE length(r.heard) < length(e.gpus) LIMIT {MAX_NODES + 1}"""


def _silent(window: Range, spells: Spells, only: str, settled: bool) -> str:
    """GPUs of the inventory without a sample in the minute; opted out if the agent was off for half of it."""
    recent = Range(window.start - SILENCE_LOOKBACK_S, window.end)
    hour = window.start // HOUR_S * HOUR_S
    earlier = Range(hour - SILENCE_HOURS * HOUR_S, hour)
    return f"""SELECT q.site AS site, q.ts AS ts, q.node_id AS node_id, q.gpu_index AS gpu_index,
            if(o.half, 'opted_out', 'silent') AS reason, if(o.half, 'none', 'check_agent') AS action,
            'gpu' AS scope, '' AS origin, 1 AS exact, '' AS detail,
            arrayLast(m -> m < q.ts, l.heard) AS minute,
            multiIf(
                o.half, fromUnixTimestamp64Micro(o.since, 'UTC'),
                minute > toDateTime(0, 'UTC'), toDateTime64(minute + {MINUTE_S}, 6, 'UTC'),
                h.hour > toDateTime(0, 'UTC'), toDateTime64(h.hour + {HOUR_S}, 6, 'UTC'),
                q.placed) AS since
        FROM
        (
            SELECT e.site AS site, e.ts AS ts, toString(e.node_id) AS node_id, e.since AS placed,
                arrayJoin(arrayFilter(g -> NOT has(r.heard, g), e.gpus)) AS gpu_index
            FROM {_heard_sql(window, only, settled)}
        ) AS q
        LEFT JOIN
        (
            SELECT site, toString(node_id) AS node_id, gpu_index, arraySort(groupArray(ts)) AS heard
            FROM gpufleet.gpu_1m FINAL WHERE {scope(recent, only)}
            GROUP BY site, node_id, gpu_index
        ) AS l ON l.site = q.site AND l.node_id = q.node_id AND l.gpu_index = q.gpu_index
        LEFT JOIN
        (
            SELECT site, toString(node_id) AS node_id, gpu_index, max(ts) AS hour
            FROM gpufleet.gpu_1h WHERE {scope(earlier, only)} AND NOT is_deleted
            GROUP BY site, node_id, gpu_index
        ) AS h ON h.site = q.site AND h.node_id = q.node_id AND h.gpu_index = q.gpu_index
        LEFT JOIN
        (
            SELECT site, node_id, gpu_index, ts, min(start) AS since, sum({seconds_sql()}) >= {MINUTE_S // 2} AS half
            FROM {values_sql([(0, spells.opted)])}
            ARRAY JOIN {minutes_sql(window)} AS ts
            GROUP BY site, node_id, gpu_index, ts
        ) AS o ON o.site = q.site AND o.node_id = q.node_id AND o.gpu_index = q.gpu_index AND o.ts = q.ts"""


def _from_gpu_1m(window: Range, only: str) -> str:
    return f"""SELECT site, ts, toString(node_id) AS node_id, gpu_index, told.1 AS reason,
            'check_cooling_and_power' AS action, 'gpu' AS scope, '' AS origin, toDateTime64(ts, 6, 'UTC') AS since,
            0 AS exact, told.2 AS detail
        FROM gpufleet.gpu_1m FINAL
        ARRAY JOIN arrayFilter(w -> w.1 != '', [
            (if(throttle_slowdown_s > 0, 'slowdown', ''),
                concat(toString(round(throttle_slowdown_s)), ' s held back by heat, hardware or power brake')),
            (if(ifNull(temp_gpu_c_max, 0) > {HOT_ABOVE_C}, 'temp_high', ''),
                concat(toString(ifNull(temp_gpu_c_max, 0)), ' C'))]) AS told
        WHERE {scope(window, only)} AND (throttle_slowdown_s > 0 OR ifNull(temp_gpu_c_max, 0) > {HOT_ABOVE_C})"""


def _counters_span(window: Range, only: str) -> str:
    return (
        f"ts >= {instant64(window.start - COUNTERS_WITHIN_S)} AND ts < {instant64(window.end - MINUTE_S)}"
        f" AND flaws = 0{only}"
    )


def _odd_nodes_sql(window: Range, only: str) -> str:
    return f"""SELECT DISTINCT toString(c.node_id) AS node
            FROM gpufleet.node_counters AS c
            LEFT JOIN (SELECT site, node_id, gpu_nvlink_count FROM gpufleet.node_place FINAL) AS i
                ON i.site = c.site AND i.node_id = c.node_id
            WHERE {_counters_span(window, only)} AND (
                has(row_remap_failure, 1) OR has(row_remap_pending, 1) OR has(ecc_sram_threshold, 1)
                OR arrayMax(recovery_action) > 0
                OR arrayExists(w -> w >= 0 AND w < arrayMax(pcie_link_width_max), pcie_link_width)
                OR arrayExists(n -> n >= 0 AND n < arrayMax(i.gpu_nvlink_count), nvlink_links_active))
            LIMIT {MAX_NODES + 1}"""


def _from_counters(window: Range, only: str) -> str:
    """What the newest reading of the slow lane before the minute says."""
    recovery = "['', 'reset_gpu', 'reboot_node', 'drain_p2p', 'drain_and_reset']"

    def last(array: str) -> str:
        return f"if(empty({array}), -1, {array}[place * ticks])"

    return f"""SELECT site, minute AS ts, toString(node_id) AS node_id, newest.1 AS gpu_index, newest.2 AS reason,
            newest.3 AS action, 'gpu' AS scope, '' AS origin, told AS since, 0 AS exact, newest.4 AS detail
        FROM
        (
            SELECT c.site AS site, c.node_id AS node_id, minute, max(c.ts) AS told,
                arrayJoin(argMax(states, c.ts)) AS newest
            FROM
            (
                SELECT d.site AS site, d.node_id AS node_id, d.ts AS ts,
                    arrayFilter(s -> s.2 != '', arrayFlatten(arrayMap(
                        (gpu, place) -> [
                            (gpu, if({last("row_remap_failure")} = 1, 'row_remap_failure', ''), 'replace_gpu', ''),
                            (gpu, if({last("row_remap_pending")} = 1, 'row_remap_pending', ''), 'reset_gpu', ''),
                            (gpu, if({last("ecc_sram_threshold")} = 1, 'sram_ecc_threshold', ''), 'replace_gpu', ''),
                            (gpu, if({last("recovery_action")} > 0, 'recovery_action', ''),
                                {recovery}[greatest({last("recovery_action")}, 0) + 1], ''),
                            (gpu, if({last("pcie_link_width")} >= 0
                                    AND {last("pcie_link_width")} < {last("pcie_link_width_max")},
                                'pcie_downtrained', ''), 'reseat_or_replace',
                                concat('x', toString({last("pcie_link_width")}), ' of x',
                                    toString({last("pcie_link_width_max")}))),
                            (gpu, if({last("nvlink_links_active")} >= 0
                                    AND {last("nvlink_links_active")} < counts[indexOf(gpus, gpu)],
                                'nvlink_inactive', ''), 'check_link',
                                concat(toString({last("nvlink_links_active")}), ' of ',
                                    toString(counts[indexOf(gpus, gpu)]), ' links'))],
                        gpu_index, arrayEnumerate(gpu_index)))) AS states
                FROM
                (
                    SELECT e.site AS site, e.node_id AS node_id, e.ts AS ts, e.ticks AS ticks, e.gpu_index AS gpu_index,
                        row_remap_failure, row_remap_pending, ecc_sram_threshold, recovery_action, pcie_link_width,
                        pcie_link_width_max, nvlink_links_active, i.gpus AS gpus,
                        arrayResize(i.counts, length(i.gpus), -1) AS counts
                    FROM gpufleet.node_counters AS e
                    LEFT JOIN
                    (
                        SELECT site, node_id, gpu_index AS gpus, gpu_nvlink_count AS counts
                        FROM gpufleet.node_place FINAL
                    ) AS i ON i.site = e.site AND i.node_id = e.node_id
                    WHERE {_counters_span(window, only)}
                ) AS d
            ) AS c
            ARRAY JOIN [toStartOfMinute(toDateTime(c.ts, 'UTC')) + {MINUTE_S},
                toStartOfMinute(toDateTime(c.ts, 'UTC')) + {2 * MINUTE_S}] AS minute
            WHERE {scope(window).replace("ts ", "minute ")}
            GROUP BY site, node_id, minute
        )"""


def _clocks(window: Range, only: str) -> str:
    """Nodes whose clock was off, or not held synchronised, at some time of the minute; unknown is not off."""
    return f"""SELECT site, minute AS ts, toString(node_id) AS node_id, arrayJoin(gpus) AS gpu_index,
            'clock_offset' AS reason, 'check_clock' AS action, 'node' AS scope, '' AS origin,
            toDateTime64(minute, 6, 'UTC') AS since, 0 AS exact,
            concat(toString(round(offset, 3)), ' s off', if(unsynced, ', not synchronised', '')) AS detail
        FROM
        (
            SELECT site, toStartOfMinute(toDateTime(e.ts, 'UTC')) AS minute, node_id, argMax(e.gpu_index, e.ts) AS gpus,
                argMax(e.clock_offset_s, abs(e.clock_offset_s)) AS offset, max(NOT e.clock_synced) AS unsynced
            FROM gpufleet.node_telemetry AS e
            PREWHERE e.ts >= {instant64(window.start)} AND e.ts < {instant64(window.end)} AND flaws = 0
                AND isFinite(e.clock_offset_s) AND (abs(e.clock_offset_s) > {CLOCK_OFF_S} OR NOT e.clock_synced){only}
            GROUP BY site, minute, node_id
        )"""


def _stragglers(window: Range, jobs: Sequence[str] | None) -> str:
    before = (job_windows.STRAGGLER_MINUTES - 1) * MINUTE_S
    return f"""SELECT site, ts, node_id, gpu_index, 'straggler' AS reason, 'check_straggler' AS action,
            'gpu' AS scope, '' AS origin, toDateTime64(ts, 6, 'UTC') - {before} AS since, 0 AS exact, detail
        FROM
        (
        {job_windows.stragglers_sql(window, jobs)}
        )"""
