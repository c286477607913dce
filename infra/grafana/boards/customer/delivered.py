"""Delivered capacity: what did I lease, and what did I get?"""

from __future__ import annotations

from typing import Final

from infra.grafana import colours, links, marks, thresholds, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards import common
from infra.grafana.boards.ids import Delivered, Incidents
from infra.grafana.panels import Column, Panel, bargauge, stat, table, timeseries
from infra.grafana.query import FLEET, HEALTH, only, recent, share, weighted
from infra.grafana.target import CUSTOMER

SCOPE: Final = f"tenant != '' AND {only('site')} AND {only('gpu_model')}"
_HERE: Final = f"FROM gpufleet.health_1m FINAL\nWHERE {recent('health_1m', where=SCOPE)} AND {SCOPE}"
_CLASSES: Final = "healthy_s, unhealthy_s, unknown_s, opted_out_s, not_in_service_s"
_LEASED_S: Final = "(healthy_s + unhealthy_s + unknown_s + opted_out_s + not_in_service_s)"
_DUE_S: Final = "(healthy_s + unhealthy_s + unknown_s + not_in_service_s)"


def board() -> Board:
    return Board(
        uid=Delivered.UID,
        title="Delivered capacity",
        description="GPUs leased, delivered, healthy, unknown and used, per model and lease. Times are UTC, as billed.",
        datasource=CUSTOMER,
        variables=(variables.SITE, variables.MODEL),
        annotations=(marks.HAND_OVERS, marks.maintenance(f"tenant != '' AND {only('site')}")),
        time_from="now-24h",
        timezone="utc",
        rows=(
            Row("", _now()),
            Row("Capacity over time", (_capacity(), _by_class(), _share(), _utilisation())),
            Row("By model and lease", (_by_model(), _lost(), _leases(), _by_day())),
        ),
    )


def _now() -> tuple[Panel, ...]:
    return (
        stat(
            Delivered.LEASED,
            "Leased GPUs",
            f'SELECT sum(gpus) AS "Leased"\n{_HERE}\nHAVING count() > 0',
            unit=units.WHOLE,
            means="GPUs that you lease in the newest minute.",
            do="Not what you expect: see Leases below; a hand-over is marked on the time axis.",
        ),
        stat(
            Delivered.HEALTHY,
            "Healthy now",
            f'SELECT {share("sum(gpus_healthy)", "sum(gpus)")} AS "Healthy"\n{_HERE}\nHAVING count() > 0',
            unit=units.RATIO,
            decimals=2,
            steps=thresholds.HEALTHY_SHARE,
            links=(links.board("Incidents", Incidents.UID, {}),),
            means="Of your GPUs, those healthy in the newest minute: reporting, no open fault, no hardware slowdown.",
            do="Incidents says what happened to the others, with evidence.",
        ),
        stat(
            Delivered.DELIVERED_SHARE,
            "Delivered of leased",
            f"""SELECT {share("sum(healthy_s)", f"sum({_DUE_S})")} AS "Delivered"
FROM {HEALTH.rows(_CLASSES, SCOPE)}""",
            unit=units.RATIO,
            decimals=3,
            steps=thresholds.DELIVERED_SHARE,
            means="Delivered = leased and healthy, in GPU-seconds over the range. What you opted out of is left aside; "
            "unknown counts as not delivered.",
            do="Compare with what each lease promises, below. Below the promise: you are owed a credit.",
        ),
        stat(
            Delivered.UNKNOWN,
            "Unknown now",
            f'SELECT sum(gpus_unknown) AS "Unknown"\n{_HERE}\nHAVING count() > 0',
            unit=units.WHOLE,
            steps=thresholds.ANY_IS_NOTICE,
            means="Your GPUs of which nothing came in the newest minute: neither healthy nor sick, and not delivered.",
            do="If your jobs run on them, only the data is missing: it is filled in when the link is back.",
        ),
        stat(
            Delivered.USED_SHARE,
            "Used of delivered",
            f"""SELECT {share("sum(used_s)", "sum(healthy_s)")} AS "Used"
FROM {HEALTH.rows("used_s, healthy_s", SCOPE)}""",
            unit=units.RATIO,
            decimals=1,
            means="Delivered GPU-seconds in which the engine was busy (at least 5 %), over the range.",
            do="Low: your own scheduler leaves paid GPUs idle.",
        ),
        common.completeness(Delivered.COMPLETENESS, SCOPE, do=common.CUSTOMERS_COMPLETENESS),
    )


def _capacity() -> Panel:
    sql = f"""SELECT {HEALTH.time},
    if(count() = 0, NULL, sum({_LEASED_S}) / {HEALTH.covered_s}) AS "leased",
    if(count() = 0, NULL, sum(healthy_s) / {HEALTH.covered_s}) AS "delivered",
    if(count() = 0, NULL, sum(used_s) / {HEALTH.covered_s}) AS "used"
FROM {HEALTH.rows(f"used_s, {_CLASSES}", SCOPE)}
GROUP BY time
{HEALTH.gaps}"""
    return timeseries(
        Delivered.CAPACITY,
        "Leased, delivered, used",
        sql,
        unit=units.COUNT,
        height=9,
        colours={name: colours.DELIVERY[name] for name in ("leased", "delivered", "used")},
        means="Your GPUs, mean over each point: leased; of them healthy (delivered); of those busy (used).",
        do="Delivered under leased: the next panel says why. Used under delivered: your own idle time.",
    )


def _by_class() -> Panel:
    return common.gpus_by_class(
        Delivered.BY_CLASS,
        SCOPE,
        height=9,
        title="What became of the leased GPUs",
        do="Red and purple were not delivered: Incidents says what happened, where, and since when.",
    )


def _share() -> Panel:
    sql = f"""SELECT {HEALTH.time}, {share("sum(healthy_s)", f"sum({_DUE_S})")} AS "delivered"
FROM {HEALTH.rows(_CLASSES, SCOPE)}
GROUP BY time
{HEALTH.gaps}"""
    return timeseries(
        Delivered.SHARE_OVER_TIME,
        "Delivered share",
        sql,
        unit=units.RATIO,
        decimals=2,
        bottom=None,
        top=1,
        colours={"delivered": colours.GOOD},
        means="Delivered GPU-seconds of those leased, point by point.",
        do="A dip with a step: one incident, see Incidents. A slope: creeping wear; ask for replacements.",
    )


def _utilisation() -> Panel:
    sums = ", ".join(f"{m}_sum, {m}_s" for m in ("gr_engine_active", "sm_active", "tensor_active"))
    sql = f"""SELECT {FLEET.time},
    {weighted("gr_engine_active")} AS "engine busy", {weighted("sm_active")} AS "SMs busy",
    {weighted("tensor_active")} AS "tensor pipes busy"
FROM {FLEET.rows(sums, SCOPE)}
GROUP BY time
{FLEET.gaps}"""
    return timeseries(
        Delivered.UTILISATION,
        "What your GPUs do",
        sql,
        unit=units.RATIO,
        top=1,
        means="Means over your GPUs that report: engine busy, a warp resident, tensor pipes working.",
        do="Engines busy with idle tensor pipes: jobs that wait, not work. See the jobs on Incidents.",
    )


def _by_model() -> Panel:
    sql = f"""SELECT gpu_model, sum(gpus) AS leased, sum(gpus_healthy) AS healthy, sum(gpus_unhealthy) AS unhealthy,
    sum(gpus_unknown) AS unknown, sum(gpus_not_in_service) AS away, {share("sum(used_s)", "sum(healthy_s)")} AS used,
    {share("sum(reported_s)", "sum(expected_s)")} AS complete
{_HERE}
GROUP BY gpu_model
ORDER BY gpu_model"""
    return table(
        Delivered.BY_MODEL,
        "Your GPUs now, by model",
        sql,
        {
            "gpu_model": Column("Model"),
            "leased": Column("Leased"),
            "healthy": Column("Healthy"),
            "unhealthy": Column("Unhealthy", steps=thresholds.ANY_IS_NOTICE),
            "unknown": Column("Unknown", steps=thresholds.ANY_IS_NOTICE),
            "away": Column("Not in service"),
            "used": Column("Used", units.RATIO, 0),
            "complete": Column("Complete", units.RATIO, 1, steps=thresholds.COMPLETENESS),
        },
        width=14,
        height=6,
        means="The newest minute per GPU model.",
        do="Unhealthy ones should turn into not in service (repair) and come back: Incidents follows them.",
    )


def _lost() -> Panel:
    sql = f"""SELECT lost.1 AS why, lost.2 AS "GPU-hours"
FROM
(
    SELECT arrayJoin([('unhealthy', sum(unhealthy_s) / 3600), ('unknown', sum(unknown_s) / 3600),
        ('not in service', sum(not_in_service_s) / 3600), ('opted out', sum(opted_out_s) / 3600)]) AS lost
    FROM {HEALTH.rows(_CLASSES, SCOPE)}
    HAVING count() > 0
)
ORDER BY "GPU-hours" DESC"""
    return bargauge(
        Delivered.LOST_HOURS,
        "GPU-hours not delivered",
        sql,
        unit=units.COUNT,
        width=10,
        height=6,
        decimals=1,
        links=(links.board("By cause", Incidents.UID, {}, Incidents.LOST_BY_CAUSE),),
        means="Leased GPU-hours of the range that were not delivered, by class; opted out is yours.",
        do="Incidents breaks the unhealthy hours down by cause.",
    )


def _leases() -> Panel:
    sql = f"""SELECT d.lease_id AS lease_id, d.gpu_model AS gpu_model,
    d.leased / 3600 AS leased, d.healthy / 3600 AS delivered, d.used / 3600 AS used, d.unhealthy / 3600 AS unhealthy,
    d.unknown / 3600 AS unknown, d.away / 3600 AS away, d.opted / 3600 AS opted,
    {share("d.healthy", "(d.leased - d.opted)")} AS delivered_share, l.sla_target AS promised,
    delivered_share - promised AS distance
FROM
(
    SELECT site, lease_id, gpu_model, sum({_LEASED_S}) AS leased,
        sum(healthy_s) AS healthy, sum(used_s) AS used, sum(unhealthy_s) AS unhealthy, sum(unknown_s) AS unknown,
        sum(not_in_service_s) AS away, sum(opted_out_s) AS opted
    FROM {HEALTH.rows(f"site, lease_id, gpu_model, used_s, {_CLASSES}", SCOPE)}
    GROUP BY site, lease_id, gpu_model
) AS d
LEFT JOIN gpufleet.lease_current AS l ON l.site = d.site AND l.lease_id = d.lease_id
ORDER BY distance, lease_id LIMIT 200"""
    columns = {name: column for name, column in common.delivery_columns().items() if name != "tenant"}
    return table(
        Delivered.LEASES,
        "Leases: GPU-hours of the range, and the promise",
        sql,
        columns,
        means="Per lease and model, what became of the leased GPU-hours; the furthest below its promise first.",
        do="Below the promise at the end of the billing month: claim the credit; the hours here are the evidence.",
    )


def _by_day() -> Panel:
    sql = f"""SELECT toString(toDate(ts, 'UTC')) AS day,
    sum({_LEASED_S}) / 3600 AS leased, sum(healthy_s) / 3600 AS delivered,
    sum(used_s) / 3600 AS used, {share("sum(healthy_s)", f"sum({_DUE_S})")} AS delivered_share,
    {share("sum(reported_s)", "sum(expected_s)")} AS complete
FROM {HEALTH.rows(f"used_s, reported_s, expected_s, {_CLASSES}", SCOPE)}
GROUP BY day
ORDER BY day DESC LIMIT 400"""
    return table(
        Delivered.BY_DAY,
        "Day by day (UTC)",
        sql,
        {
            "day": Column("Day, UTC"),
            "leased": Column("Leased GPU-hours", units.EXACT, 1),
            "delivered": Column("Delivered", units.EXACT, 1),
            "used": Column("Used", units.EXACT, 1),
            "delivered_share": Column("Delivered share", units.RATIO, 3, steps=thresholds.DELIVERED_SHARE),
            "complete": Column("Complete", units.RATIO, 2, steps=thresholds.COMPLETENESS),
        },
        means="The range by UTC day, as billed; the first and last day only as far as they lie in the range.",
        do="Choose whole days for a bill. A day that is not complete yet may still change when late data comes.",
    )
