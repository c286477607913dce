"""The SQL of health_1m and health_1h: gpu_health, gpu_delivered and gpu_used for a range of minutes, summed.

Each of a GPU's 60 seconds belongs to one class: not in service; unhealthy (under a fault, or reporting with a hardware
or thermal slowdown); healthy (reporting, and none of that); opted out; unknown. The view gpu_health defines them, and
a test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumers.projector import members
from consumers.projector.spells import Spells, minutes_sql, seconds_sql, values_sql
from consumers.projector.windows import HEALTH_COUNTS, HEALTH_SUMS, Range, one_of, scope

_CLASSES = ("healthy", "unhealthy", "unknown", "opted_out", "not_in_service")
_PARTS = ("reported", "slowdown", "active", "energy", "fault", "absent", "opted")


def _part(**given: str) -> str:
    """Seconds (and joules) that one row adds to a GPU's minute; those not given are 0."""
    return ", ".join(f"{given.get(p, '0' if p == 'energy' else '0.')} AS {p}" for p in _PARTS)


def gpu_minutes_sql(window: Range, spells: Spells, nodes: Sequence[str] | None = None, *, settled: bool = False) -> str:
    """One row per GPU and minute: its seconds by class. Numbers only: a fleet of them is grouped here."""
    only = one_of("node_id", nodes)
    stretches = values_sql([(1, spells.faulty()), (2, spells.absent), (3, spells.opted)])
    holding = ""
    if spells.faults or spells.absent or spells.opted:
        holding = f"""UNION ALL
        SELECT site, ts, node_id, gpu_index, 0 AS expected,
            {_part(fault="if(kind = 1, s, 0.)", absent="if(kind = 2, s, 0.)", opted="if(kind = 3, s, 0.)")}
        FROM
        (
            SELECT site, node_id, gpu_index, kind, ts, {seconds_sql()} AS s
            FROM {stretches}
            ARRAY JOIN {minutes_sql(window)} AS ts
        )"""
    return f"""SELECT
        site, ts, node_id, gpu_index, reported_s, slowdown_s, active_s, energy,
        60. - absent_s AS in_service,
        least(fault_s, in_service) AS faulty,
        least(reported_s, in_service - faulty) AS clear,
        least(slowdown_s, clear) AS slow,
        clear - slow AS healthy,
        faulty + slow AS unhealthy,
        in_service - faulty - clear AS silent,
        least(opted_s, silent) AS opted_out,
        silent - opted_out AS unknown,
        absent_s AS not_in_service,
        indexOf(
            [healthy, unhealthy, unknown, opted_out, not_in_service],
            arrayMax([healthy, unhealthy, unknown, opted_out, not_in_service])) AS class
    FROM
    (
        SELECT
            site, ts, node_id, gpu_index,
            least(sum(p.reported), 60.) AS reported_s,
            least(sum(p.slowdown), 60.) AS slowdown_s,
            least(sum(p.active), 60.) AS active_s,
            sum(p.energy) AS energy,
            least(sum(p.fault), 60.) AS fault_s,
            least(sum(p.absent), 60.) AS absent_s,
            least(sum(p.opted), 60.) AS opted_s
        FROM
        (
        SELECT site, ts, toString(node_id) AS node_id, arrayJoin(gpus) AS gpu_index, 1 AS expected, {_part()}
        FROM
        (
        {members.expected_nodes_sql(window, only, settled=settled)}
        )
        UNION ALL
        SELECT site, ts, toString(node_id) AS node_id, gpu_index, 1 AS expected,
            {_part(reported="seconds", slowdown="throttle_slowdown_s", active="active_s", energy="energy_j")}
        FROM gpufleet.gpu_1m FINAL
        WHERE {scope(window, only)}
        {holding}
        ) AS p
        GROUP BY site, ts, node_id, gpu_index
        HAVING max(expected)
    )"""


def health_1m_sql(window: Range, spells: Spells, nodes: Sequence[str] | None = None, *, settled: bool = False) -> str:
    """health_1m of whole minutes. ``nodes`` holds all nodes of the racks that are recomputed; None = the fleet.

    A node stands in the rack that it reports; a silent one where the inventory puts it.
    """
    only = one_of("node_id", nodes)
    of_class = ", ".join(f"countIf(class = {i}) AS gpus_{c}" for i, c in enumerate(_CLASSES, 1))
    measures = (*HEALTH_COUNTS, *HEALTH_SUMS)
    return f"""SELECT
    n.site AS site, n.ts AS ts, p.stands.1 AS rack, p.stands.2 AS gpu_model, p.held.1 AS tenant, p.held.2 AS lease_id,
    max(p.supply.1) AS feed, max(p.supply.2) AS pdu, max(p.supply.3) AS cdu,
    {", ".join(f"sum(n.{m}) AS {m}" for m in measures)}
FROM
(
    SELECT
        site, ts, node_id,
        count() AS gpus,
        countIf(class != {len(_CLASSES)}) AS gpus_in_service,
        countIf(g.reported_s > 0) AS gpus_reporting,
        {of_class},
        sum(g.healthy) AS healthy_s,
        sum(g.unhealthy) AS unhealthy_s,
        sum(g.unknown) AS unknown_s,
        sum(g.opted_out) AS opted_out_s,
        sum(g.not_in_service) AS not_in_service_s,
        sum(g.slowdown_s) AS slowdown_s,
        sum(g.faulty) AS fault_s,
        sum(least(g.reported_s, g.in_service)) AS reported_s,
        sum(g.in_service - g.opted_out) AS expected_s,
        sum(least(g.healthy, g.active_s)) AS used_s,
        sum(g.energy) AS energy_j
    FROM
    (
    {gpu_minutes_sql(window, spells, nodes, settled=settled)}
    ) AS g
    GROUP BY site, ts, node_id
) AS n
INNER JOIN
(
    SELECT
        site, ts, node_id,
        argMax(tuple(rack, gpu_model), rank) AS stands,
        argMin(tuple(feed, pdu, cdu), rank) AS supply,
        {members.HELD} AS held
    FROM
    (
        SELECT site, ts, toString(node_id) AS node_id, rack, gpu_model, feed, pdu, cdu, 1 AS rank
        FROM
        (
        {members.expected_nodes_sql(window, only, settled=settled)}
        )
        UNION ALL
        SELECT site, ts, toString(node_id) AS node_id, toString(any(rack)), toString(any(gpu_model)), '', '', '', 2
        FROM gpufleet.gpu_1m FINAL
        WHERE {scope(window, only)}
        GROUP BY site, ts, node_id
    )
    GROUP BY site, ts, node_id
) AS p ON p.site = n.site AND p.ts = n.ts AND p.node_id = n.node_id
GROUP BY site, ts, rack, gpu_model, tenant, lease_id"""


def health_1h_sql(window: Range) -> str:
    """health_1h from health_1m."""
    counts = ", ".join(f"max({c}) AS {c}" for c in HEALTH_COUNTS)
    counted = ", ".join(f"sum({c}) AS {c}" for c in HEALTH_COUNTS)
    sums = ", ".join(f"sum({c}) AS {c}" for c in HEALTH_SUMS)
    return f"""SELECT site, hour AS ts, gpu_model, tenant, lease_id, {counts}, {sums}
FROM
(
    SELECT site, toStartOfHour(ts) AS hour, ts AS minute, gpu_model, tenant, lease_id, {counted}, {sums}
    FROM gpufleet.health_1m FINAL
    WHERE {scope(window)}
    GROUP BY site, ts, gpu_model, tenant, lease_id
)
GROUP BY site, hour, gpu_model, tenant, lease_id"""
