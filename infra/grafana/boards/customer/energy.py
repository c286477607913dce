"""Energy: what energy did my GPUs take, and for what?"""

from __future__ import annotations

from typing import Final

from infra.grafana import colours, marks, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards import common
from infra.grafana.boards.ids import Energy
from infra.grafana.panels import Column, Panel, bargauge, stat, table, timeseries
from infra.grafana.query import FLEET, HEALTH, USAGE_BESIDE_HEALTH, only, recent, share, weighted
from infra.grafana.target import CUSTOMER

SCOPE: Final = f"tenant != '' AND {only('site')} AND {only('gpu_model')}"
_COUNTERS: Final = (
    "Energy by the GPUs' own counters, which miss nothing between two samples; hosts and cooling not included."
)


def board() -> Board:
    return Board(
        uid=Energy.UID,
        title="Energy",
        description="Energy of your GPUs, per model, lease, GPU-hour and token. Times are UTC, as billed.",
        datasource=CUSTOMER,
        variables=(variables.SITE, variables.MODEL),
        annotations=(marks.HAND_OVERS,),
        time_from="now-24h",
        timezone="utc",
        rows=(
            Row("", _now()),
            Row("Over time", (_power(), _energy(), _per_gpu(), _held_back())),
            Row("By model, lease and day", (_by_model(), _by_lease(), _by_day())),
        ),
    )


def _now() -> tuple[Panel, ...]:
    energy = HEALTH.rows("energy_j, healthy_s, used_s", SCOPE)
    return (
        stat(
            Energy.ENERGY,
            "Energy",
            f'SELECT sum(energy_j) / 3600 AS "Energy"\nFROM {energy}\nHAVING count() > 0',
            unit=units.WATT_HOUR,
            decimals=1,
            width=5,
            means=f"Over the range. {_COUNTERS}",
            do="Compare with the bill; day by day below.",
        ),
        stat(
            Energy.POWER_NOW,
            "Power now",
            f"""SELECT sum(energy_j) / 60 AS "Power"
FROM gpufleet.health_1m FINAL
WHERE {recent("health_1m", where=SCOPE)} AND {SCOPE}
HAVING count() > 0""",
            unit=units.WATT,
            decimals=1,
            width=4,
            means="Mean power of your GPUs in the newest minute, by their energy counters.",
            do="Near your power cap: GPUs are held back soon; see Clocks held down.",
        ),
        stat(
            Energy.PER_GPU_HOUR,
            "Per used GPU-hour",
            f'SELECT {share("sum(energy_j) / 3600", "(sum(used_s) / 3600)")} AS "Per GPU-hour"\nFROM {energy}',
            unit=units.WATT_HOUR,
            decimals=0,
            width=5,
            means="Energy of the range over the GPU-hours that were delivered and used; idle GPUs' energy is in it.",
            do="Rising at equal work: more idle time between, or slower GPUs.",
        ),
        stat(
            Energy.PER_TOKEN,
            "Per output token",
            f"""SELECT {share("sum(joules)", "sum(tokens)")} AS "Per token"
FROM
(
    SELECT sum(energy_j) AS joules, 0 AS tokens FROM {HEALTH.rows("energy_j", SCOPE)}
    UNION ALL
    SELECT 0, sum(output_tokens) FROM {USAGE_BESIDE_HEALTH.rows("output_tokens", f"tenant != '' AND {only('site')}")}
)""",
            unit=units.JOULE,
            decimals=2,
            width=5,
            means="Energy of all your GPUs over the tokens your gateway says it generated: training counts as "
            "overhead.",
            do="No data: your gateway sends no usage. Choose all models: tokens are not told apart by GPU model.",
        ),
        common.completeness(Energy.COMPLETENESS, SCOPE, width=5, do=common.CUSTOMERS_COMPLETENESS),
    )


def _power() -> Panel:
    sql = HEALTH.by_series(f"""SELECT {HEALTH.time}, gpu_model AS series, sum(energy_j) / {HEALTH.covered_s} AS "Value"
FROM {HEALTH.rows("gpu_model, energy_j", SCOPE)}
GROUP BY time, series""")
    return timeseries(
        Energy.POWER,
        "Power by model",
        sql,
        unit=units.WATT,
        stack=True,
        colours=colours.MODELS,
        means=f"Mean power over each point. {_COUNTERS}",
        do="A step without a hand-over: jobs began or ended, or GPUs are missing (Completeness).",
    )


def _energy() -> Panel:
    sql = f"""SELECT {HEALTH.time}, if(count() = 0, NULL, sum(energy_j) / 3600) AS "energy"
FROM {HEALTH.rows("energy_j", SCOPE)}
GROUP BY time
{HEALTH.gaps}"""
    return timeseries(
        Energy.ENERGY_OVER_TIME,
        "Energy of each point",
        sql,
        unit=units.WATT_HOUR,
        bars=True,
        means=f"Energy in each point's time. {_COUNTERS}",
        do="The bars add up to the figure above.",
    )


def _per_gpu() -> Panel:
    sql = FLEET.by_series(f"""SELECT {FLEET.time}, gpu_model AS series, {weighted("power_w")} AS "Value"
FROM {FLEET.rows("gpu_model, power_w_sum, power_w_s", SCOPE)}
GROUP BY time, series""")
    return timeseries(
        Energy.POWER_PER_GPU,
        "Power of a GPU, by model",
        sql,
        unit=units.WATT,
        colours=colours.MODELS,
        means="Mean power of one GPU that reports, by its sensor.",
        do="Training runs near the limit (700 W, 1,200 W), inference decode at a third of it.",
    )


def _held_back() -> Panel:
    return common.throttling(Energy.HELD_BACK, FLEET, SCOPE, do=common.CUSTOMERS_THROTTLING)


def _by_model() -> Panel:
    sql = f"""SELECT gpu_model, sum(energy_j) / 3600 AS "Energy"
FROM {HEALTH.rows("gpu_model, energy_j", SCOPE)}
GROUP BY gpu_model
ORDER BY "Energy" DESC"""
    return bargauge(
        Energy.BY_MODEL,
        "Energy by model",
        sql,
        unit=units.WATT_HOUR,
        width=8,
        decimals=1,
        means=f"Over the range. {_COUNTERS}",
        do="Divide by the GPUs of Delivered capacity for a GPU's share.",
    )


_FIGURES: Final = f"""sum(energy_j) / 3600000 AS energy, sum(healthy_s) / 3600 AS delivered, sum(used_s) / 3600 AS used,
    {share("energy * 1000", "used")} AS per_hour, {share("sum(reported_s)", "sum(expected_s)")} AS complete"""
_MEASURES: Final = "energy_j, healthy_s, used_s, reported_s, expected_s"


def _columns() -> dict[str, Column]:
    return {
        "energy": Column("Energy, kWh", units.EXACT, 1),
        "delivered": Column("Delivered GPU-hours", units.EXACT, 1),
        "used": Column("Used GPU-hours", units.EXACT, 1),
        "per_hour": Column("A used GPU-hour", units.WATT_HOUR, 0),
        "complete": Column("Complete", units.RATIO, 2),
    }


def _by_lease() -> Panel:
    sql = f"""SELECT lease_id, gpu_model, {_FIGURES}
FROM {HEALTH.rows(f"lease_id, gpu_model, {_MEASURES}", SCOPE)}
GROUP BY lease_id, gpu_model
ORDER BY energy DESC LIMIT 100"""
    return table(
        Energy.BY_LEASE,
        "Energy by lease",
        sql,
        {"lease_id": Column("Lease"), "gpu_model": Column("Model"), **_columns()},
        width=16,
        means=f"Over the range. {_COUNTERS}",
        do="Not complete: late data still raises the figure.",
    )


def _by_day() -> Panel:
    sql = f"""SELECT toString(toDate(ts, 'UTC')) AS day, {_FIGURES}
FROM {HEALTH.rows(_MEASURES, SCOPE)}
GROUP BY day
ORDER BY day DESC LIMIT 400"""
    return table(
        Energy.BY_DAY,
        "Day by day (UTC)",
        sql,
        {"day": Column("Day, UTC"), **_columns()},
        means="The range by UTC day, as billed; the first and last day only as far as they lie in the range.",
        do="Choose whole days for a bill.",
    )
