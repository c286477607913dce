"""The SQL of the hours of fleet, racks, sick GPUs and facility: sums of their minutes, for ranges of up to years."""

from __future__ import annotations

from consumers.projector.facility_windows import WORST_LAST
from consumers.projector.measures import NAMES, neutral, rolled_up
from consumers.projector.windows import HEALTH_SECONDS, Range, scope

_MEASURES = ", ".join(NAMES)
"""By name and in this order: the parts of a UNION are matched by place."""

# --- grain: site, model, tenant and hour; from fleet_10s, energy from rack_1m ----------------------------------------


def fleet_1h_sql(window: Range) -> str:
    """fleet_1h from fleet_10s and rack_1m."""
    return f"""SELECT
    site, hour AS ts, gpu_model, tenant, max(nodes) AS nodes, max(gpus) AS gpus,
    {rolled_up("    ")},
    sum(energy_j) AS energy_j
FROM
(
    SELECT
        site, gpu_model, tenant, nodes, gpus,
        {_MEASURES},
        toStartOfHour(ts) AS hour, 0 AS energy_j
    FROM gpufleet.fleet_10s FINAL
    WHERE {scope(window)}
    UNION ALL
    SELECT
        site, gpu_model, tenant, 0 AS nodes, 0 AS gpus,
        {neutral("        ")},
        toStartOfHour(ts) AS hour, sum(energy_j) AS energy_j
    FROM gpufleet.rack_1m FINAL
    WHERE {scope(window)}
    GROUP BY site, hour, gpu_model, tenant
)
GROUP BY site, hour, gpu_model, tenant
HAVING samples > 0 OR nodes > 0"""


# --- grain: site, rack, model, tenant and hour; from rack_1m, seconds by health from health_1m ------------------------


def rack_1h_sql(window: Range) -> str:
    """rack_1h from rack_1m and health_1m. A rack that is silent all hour has a row: seconds that were due."""
    sums = ", ".join(f"sum({name}) AS {name}" for name in HEALTH_SECONDS)
    none = ", ".join(f"0. AS {name}" for name in HEALTH_SECONDS)
    return f"""SELECT
    site, hour AS ts, rack, gpu_model, tenant, max(nodes) AS nodes, max(gpus) AS gpus,
    {rolled_up("    ")},
    sum(energy_j) AS energy_j,
    {sums}
FROM
(
    SELECT
        site, rack, gpu_model, tenant, nodes, gpus,
        {_MEASURES},
        energy_j, toStartOfHour(ts) AS hour, {none}
    FROM gpufleet.rack_1m FINAL
    WHERE {scope(window)}
    UNION ALL
    SELECT
        site, rack, gpu_model, tenant, 0 AS nodes, 0 AS gpus,
        {neutral("        ")},
        0 AS energy_j, toStartOfHour(ts) AS hour, {sums}
    FROM gpufleet.health_1m FINAL
    WHERE {scope(window)}
    GROUP BY site, hour, rack, gpu_model, tenant
)
GROUP BY site, hour, rack, gpu_model, tenant"""


# --- grain: site, GPU, reason, its begin, tenant, in service or not, and hour; from sick_1m ---------------------------


def sick_1h_sql(window: Range) -> str:
    """sick_1h from sick_1m: the minutes of each spell."""
    newest = ("rack", "feed", "cdu", "nvlink_domain", "gpu_model", "action", "scope", "origin_node", "detail")
    return f"""SELECT
    site, toStartOfHour(s.ts) AS ts, node_id, gpu_index, reason, since, tenant, in_service,
    {", ".join(f"argMax(s.{name}, s.ts) AS {name}" for name in newest)},
    count() AS minutes, min(s.ts) AS first_minute, max(s.ts) AS last_minute
FROM gpufleet.sick_1m AS s FINAL
WHERE {scope(window).replace("ts ", "s.ts ")}
GROUP BY site, ts, node_id, gpu_index, reason, since, tenant, in_service"""


# --- grain: site, asset and hour; from facility_1m --------------------------------------------------------------------


def facility_1h_sql(window: Range) -> str:
    """facility_1h from facility_1m: means of the minutes, extremes, the worst state, the sum of the meters."""
    rank = f"indexOf({WORST_LAST}, toString(f.state))"
    last = ("asset_kind", "parent_id", "rack")
    return f"""SELECT
    site, toStartOfHour(f.ts) AS ts, asset_id,
    {", ".join(f"argMax(f.{name}, f.ts) AS {name}" for name in last)},
    argMax(f.state, if({rank} = 0, 2.5, toFloat64({rank}))) AS state,
    sum(f.readings) AS readings, count() AS minutes,
    avg(f.power_w_avg) AS power_w_avg, max(f.power_w_max) AS power_w_max,
    argMaxIf(f.power_cap_w, f.ts, isNotNull(f.power_cap_w)) AS power_cap_w,
    max(f.supply_temp_c_max) AS supply_temp_c_max, max(f.return_temp_c_max) AS return_temp_c_max,
    min(f.flow_lpm_min) AS flow_lpm_min, avg(f.flow_lpm_avg) AS flow_lpm_avg,
    min(f.pressure_kpa_min) AS pressure_kpa_min, max(f.leak) AS leak, sum(f.energy_j) AS energy_j
FROM gpufleet.facility_1m AS f FINAL
WHERE {scope(window).replace("ts ", "f.ts ")}
GROUP BY site, ts, asset_id"""
