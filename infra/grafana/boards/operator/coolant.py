"""Coolant over time. Panels of Power and cooling."""

from __future__ import annotations

from infra.grafana import colours, units
from infra.grafana.boards.ids import Power
from infra.grafana.panels import Panel, timeseries
from infra.grafana.query import FACILITY


def temperatures(units_: str) -> Panel:
    """``units_`` picks the coolant distribution units."""
    sql = f"""SELECT {FACILITY.time},
    max(supply_temp_c_max) AS "warmest supply", avg(supply_temp_c_max) AS "mean supply",
    max(return_temp_c_max) AS "warmest return", avg(return_temp_c_max) AS "mean return"
FROM {FACILITY.rows("supply_temp_c_max, return_temp_c_max", units_)}
GROUP BY time
{FACILITY.gaps}"""
    return timeseries(
        Power.COOLANT_TEMPERATURE,
        "Coolant temperatures",
        sql,
        unit=units.CELSIUS,
        bottom=None,
        colours={
            "warmest supply": colours.BAD,
            "mean supply": colours.NEUTRAL,
            "warmest return": colours.WARN,
            "mean return": colours.GOOD,
        },
        means="Supply and return over all coolant distribution units: the warmest and the mean.",
        do="Warmest far from mean: one unit, see the table. Mean rising: the plant or the weather.",
    )


def flow(units_: str) -> Panel:
    """``units_`` picks the coolant distribution units."""
    sql = f"""SELECT {FACILITY.time}, avg(flow_lpm_avg) AS "mean flow", min(flow_lpm_min) AS "lowest flow"
FROM {FACILITY.rows("flow_lpm_avg, flow_lpm_min", units_)}
GROUP BY time
{FACILITY.gaps}"""
    return timeseries(
        Power.COOLANT_FLOW,
        "Coolant flow",
        sql,
        unit=units.of("facility-telemetry", "flow_lpm"),
        colours={"mean flow": colours.NEUTRAL, "lowest flow": colours.BAD},
        means="Flow over all coolant distribution units: the mean and the lowest.",
        do="Lowest falling alone: one pump or valve; its racks follow in heat within minutes.",
    )
