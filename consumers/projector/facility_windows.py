"""The SQL of facility_1m: readings of power and cooling assets, per minute."""

from __future__ import annotations

from consumers.projector.windows import Range, instant, instant64

METER_LOOKBACK_S = 600
"""How far back the last reading of a meter before a minute is looked for."""
WORST_LAST = "['', 'ok', 'maintenance', 'degraded', 'leak', 'tripped']"


def _mean(column: str) -> str:
    """Mean over the time that readings stand for; NULL without any."""
    here = f"isNotNull({column}) AND isFinite({column})"
    return f"sumIf(assumeNotNull(e.{column}) * e.interval_ms, {here}) / nullIf(sumIf(e.interval_ms, {here}), 0)"


def facility_1m_sql(window: Range) -> str:
    """facility_1m of whole minutes. Energy is the meter's last reading of the minute less the last one before it."""
    rank = f"indexOf({WORST_LAST}, toString(e.state))"
    return f"""SELECT
    site, ts, asset_id, m.1 AS asset_kind, m.2 AS parent_id, m.3 AS rack, m.4 AS state, m.5 AS readings,
    m.6 AS power_w_avg, m.7 AS power_w_max, m.8 AS power_cap_w, m.9 AS supply_temp_c_max, m.10 AS return_temp_c_max,
    m.11 AS flow_lpm_min, m.12 AS flow_lpm_avg, m.13 AS pressure_kpa_min, m.14 AS leak,
    multiIf(
        isNull(last_j), NULL,
        isNull(before_j), greatest(last_j - first_j, 0),
        last_j >= before_j, last_j - before_j,
        last_j) AS energy_j
FROM
(
    SELECT
        site, ts, asset_id, m, first_j, last_j,
        anyLast(last_j) OVER (
            PARTITION BY site, asset_id ORDER BY toUnixTimestamp(ts)
            RANGE BETWEEN {METER_LOOKBACK_S} PRECEDING AND 1 PRECEDING) AS before_j
    FROM
    (
        SELECT
            site, toStartOfMinute(toDateTime(e.ts, 'UTC')) AS ts, asset_id,
            argMinIf(e.energy_j, e.ts, isNotNull(e.energy_j)) AS first_j,
            argMaxIf(e.energy_j, e.ts, isNotNull(e.energy_j)) AS last_j,
            tuple(
                argMax(toString(e.asset_kind), e.ts),
                argMax(toString(e.parent_id), e.ts),
                argMax(toString(e.rack), e.ts),
                -- A state that is not known here counts as worse than ok and better than maintenance.
                argMax(toString(e.state), if({rank} = 0, 2.5, toFloat64({rank}))),
                count(),
                {_mean("power_w")},
                max(e.power_w),
                argMaxIf(e.power_cap_w, e.ts, isNotNull(e.power_cap_w)),
                max(e.supply_temp_c),
                max(e.return_temp_c),
                min(e.flow_lpm),
                {_mean("flow_lpm")},
                min(e.pressure_kpa),
                max(e.leak)) AS m
        FROM gpufleet.facility_telemetry AS e FINAL
        WHERE e.ts >= {instant64(window.start - METER_LOOKBACK_S)} AND e.ts < {instant64(window.end)} AND flaws = 0
        GROUP BY site, ts, asset_id
    )
)
WHERE ts >= {instant(window.start)}"""
