"""Fleet: is it all right now, and if not, where to look."""

from __future__ import annotations

from typing import Final

from infra.grafana import colours, links, marks, thresholds, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards import common
from infra.grafana.boards.ids import Capacity, Fleet, Health, Pipeline, Power
from infra.grafana.panels import HIDDEN, Column, Panel, bargauge, heatmap, stat, table, timeseries
from infra.grafana.query import (
    FACILITY,
    FLEET,
    RANGE_S,
    Windows,
    known,
    newest_sick,
    only,
    recent,
    share,
    weighted,
)
from infra.grafana.target import OPERATOR

SCOPE: Final = f"{only('site')} AND {only('gpu_model')} AND {only('tenant')}"
_HERE: Final = {name: links.variable(name) for name in ("site",)}
_METER: Final = f"asset_kind = 'site' AND {only('site')}"
_NOW: Final = recent("health_1m", where=SCOPE)


def board() -> Board:
    return Board(
        uid=Fleet.UID,
        title="Fleet",
        description="All GPUs: are they there, healthy, in use, within power; and which racks to look at first.",
        datasource=OPERATOR,
        variables=(variables.SITE, variables.MODEL, variables.TENANT),
        annotations=(marks.HAND_OVERS, marks.MAINTENANCE),
        rows=(
            Row("", _now()),
            Row("Health", (_by_health(), _by_cause(), _worst_racks(), _lifecycle())),
            Row("Power and use", (_power(), _utilisation(), _heatmap(), _throttled())),
            Row("Who has what", (_by_model_and_tenant(), _completeness())),
        ),
    )


def _now() -> tuple[Panel, ...]:
    return (
        _figure(
            Fleet.IN_SERVICE,
            "GPUs in service",
            "sum(gpus_in_service)",
            means="GPUs that count as capacity (accepted, leased or draining) in the newest closed minute.",
            do="A drop is maintenance, RMA or a lease's end: see GPUs by lifecycle below and the annotations.",
        ),
        _figure(
            Fleet.HEALTHY,
            "Healthy of in service",
            share("sum(gpus_healthy)", "sum(gpus_in_service)"),
            unit=units.RATIO,
            decimals=2,
            steps=thresholds.HEALTHY_SHARE,
            means="Share of the GPUs in service that report, have no open fault and are not slowed down by hardware.",
            do="Below 99 %: look at Sick GPUs by cause; one dominating cause is one incident, not many.",
        ),
        stat(
            Fleet.SICK,
            "Sick GPUs",
            f"""SELECT {known("uniqExact(site, node_id, gpu_index)")} AS "Sick GPUs"
FROM gpufleet.sick_1m FINAL
WHERE {newest_sick(SCOPE)} AND in_service AND reason NOT IN ('silent', 'opted_out')""",
            unit=units.WHOLE,
            width=3,
            steps=thresholds.ANY_IS_NOTICE,
            links=(links.board("Health", Health.UID, _HERE),),
            means="GPUs in service with something wrong in the newest minute, blast radius included; silent ones "
            "count beside. One that fell sick late in the minute is here at once, and leaves Healthy a minute later.",
            do="Open Health: it names each, why, since when and what to do.",
        ),
        _figure(
            Fleet.SILENT,
            "Silent GPUs",
            "sum(gpus_unknown)",
            steps=thresholds.ANY_IS_NOTICE,
            width=3,
            to=(links.board("Silent nodes", Health.UID, _HERE, Health.SILENT),),
            means="GPUs in service of which nothing came and nobody knows why. Unknown is neither healthy nor sick.",
            do="A whole rack: power or network. One node: agent or host. All: the pipeline (see Pipeline).",
        ),
        stat(
            Fleet.POWER_NOW,
            "Power of cap",
            f"""SELECT {share("sum(power_w_avg)", "sum(power_cap_w)")} AS "Power of cap"
FROM gpufleet.facility_1m FINAL
WHERE {recent("facility_1m", where=_METER)} AND {_METER}""",
            unit=units.RATIO,
            decimals=1,
            width=3,
            steps=thresholds.POWER_SHARE,
            links=(links.board("Power and cooling", Power.UID, _HERE),),
            means="Power at the site's meter over the power it may draw, newest minute.",
            do="Above 97 %: hold job starts and lower power limits before the breaker decides.",
        ),
        common.completeness(Fleet.COMPLETENESS, SCOPE, width=4),
        common.freshness(Fleet.FRESHNESS, {"fleet_10s": 10, "health_1m": 60}, SCOPE, width=3),
    )


def _figure(
    id_: int,
    title: str,
    expression: str,
    *,
    means: str,
    do: str,
    unit: str = units.WHOLE,
    decimals: int | None = None,
    steps: thresholds.Steps = thresholds.PLAIN,
    to: tuple[links.Link, ...] = (),
    width: int = 4,
) -> Panel:
    sql = (
        f'SELECT {expression} AS "{title}"\nFROM gpufleet.health_1m FINAL\nWHERE {_NOW} AND {SCOPE}\nHAVING count() > 0'
    )
    return stat(id_, title, sql, means=means, do=do, unit=unit, width=width, decimals=decimals, steps=steps, links=to)


def _by_health() -> Panel:
    return common.gpus_by_class(Fleet.BY_HEALTH, SCOPE, width=12, height=9)


def _by_cause() -> Panel:
    sql = f"""SELECT reason, uniqExact(site, node_id, gpu_index) AS "GPUs"
FROM gpufleet.sick_1m FINAL
WHERE {newest_sick(SCOPE)} AND in_service AND reason != 'opted_out'
GROUP BY reason
ORDER BY "GPUs" DESC LIMIT 12"""
    return bargauge(
        Fleet.SICK_BY_CAUSE,
        "Sick GPUs by cause",
        sql,
        unit=units.WHOLE,
        steps=thresholds.ANY_IS_NOTICE,
        width=12,
        height=9,
        links=(links.board("Sick GPUs", Health.UID, _HERE, Health.SICK_GPUS),),
        none="no sick GPU known",
        means="GPUs in service per thing that is wrong with them in the newest minute; one GPU may count under "
        "several.",
        do="Start with the longest bar. Silence of many at once is a feed, a switch or the pipeline, not many GPUs.",
    )


def _lifecycle() -> Panel:
    sql = f"""SELECT
    arrayJoin([('in service, leased', sumIf(gpus_in_service, tenant != '')),
        ('in service, free', sumIf(gpus_in_service, tenant = '')),
        ('not in service', sum(gpus_not_in_service))]) AS life,
    life.1 AS state,
    life.2 AS "GPUs"
FROM gpufleet.health_1m FINAL
WHERE {_NOW} AND {SCOPE}
HAVING count() > 0"""
    return bargauge(
        Fleet.LIFECYCLE,
        "GPUs by lifecycle",
        f'SELECT state, "GPUs" FROM\n(\n{sql}\n)',
        unit=units.WHOLE,
        width=8,
        height=8,
        links=(links.board("Nodes not in service", Capacity.UID, _HERE, Capacity.NOT_IN_SERVICE),),
        means="Where the GPUs are in their life: in service and leased, in service and free, or not in service "
        "(racked, burn-in, maintenance, RMA).",
        do="Free ones can be leased today. Not in service: Capacity and leases names the nodes and their state.",
    )


def _power() -> Panel:
    facility = f"""SELECT {FACILITY.time},
    sum(power_w_avg) / uniqExact(ts) AS "site",
    sum(power_cap_w) / uniqExact(ts) AS "cap"
FROM {FACILITY.rows("power_w_avg, power_cap_w", _METER)}
GROUP BY time
{FACILITY.gaps}"""
    gpus = f"""SELECT {FLEET.time},
    if(count() = 0, NULL, sum(power_w_sum) / {FLEET.covered_s}) AS "GPUs"
FROM {FLEET.rows("power_w_sum", SCOPE)}
GROUP BY time
{FLEET.gaps}"""
    return timeseries(
        Fleet.POWER,
        "Power against cap",
        (facility, gpus),
        unit=units.WATT,
        height=9,
        colours={"site": colours.NEUTRAL, "cap": colours.BAD, "GPUs": colours.GOOD},
        dashed=("cap",),
        means="What the site's meter shows, the cap it must stay under, and the sum of the boards' own power (of the "
        "chosen model and customer). Between the two lie hosts, switches, fans, pumps and losses.",
        do="Site near the cap: Power and cooling shows which feed. GPUs down and site not: look for missing data "
        "first.",
    )


def _utilisation() -> Panel:
    sql = f"""SELECT {FLEET.time},
    {weighted("gr_engine_active")} AS "engine busy",
    {weighted("sm_active")} AS "SMs busy",
    {weighted("tensor_active")} AS "tensor pipes busy",
    {weighted("dram_active")} AS "memory busy"
FROM {FLEET.rows(_sums("gr_engine_active", "sm_active", "tensor_active", "dram_active"), SCOPE)}
GROUP BY time
{FLEET.gaps}"""
    return timeseries(
        Fleet.UTILISATION,
        "What the GPUs do",
        sql,
        unit=units.of("node-telemetry", "tensor_active"),
        height=9,
        top=1,
        means="Means over all GPUs that report: share of time the engine was busy, a warp resident, a tensor pipe or "
        "the memory in use. A busy engine with idle tensor pipes is waiting, not work.",
        do="Engine busy and tensor pipes falling: look for hung or slow jobs on Health.",
    )


def _heatmap() -> Panel:
    # Compared as it is: under a NULL stands 0 / 0, which the store refuses to make an integer of, and least() would
    # pass the NULL over.
    tenths = [f"busy >= {n / 10} AND busy < {(n + 1) / 10}" for n in range(9)] + ["busy >= 0.9"]
    buckets = ",\n    ".join(f'countIf({bound}) AS "{n * 10}-{n * 10 + 10} %"' for n, bound in enumerate(tenths))
    # A long range is a sample of hours: the first of each point.
    sampled = f"({RANGE_S} <= 86400 OR toUnixTimestamp(ts) % {_RACKS.step} < 3600)"
    sql = f"""SELECT
    time,
    countIf(isNull(busy)) AS "no data",
    {buckets}
FROM
(
    SELECT site, rack, {_RACKS.time}, {share("sum(busy_sum)", "sum(busy_s)")} AS busy
    FROM
    (
        SELECT ts, site, rack, busy_sum, busy_s
        FROM {_RACKS.rows(_BUSY, f"{sampled} AND {SCOPE}")}
        UNION ALL
        SELECT ts, site, rack, 0. AS busy_sum, 0. AS busy_s
        FROM {_EXPECTED.rows("site, rack", f"{sampled} AND {SCOPE}")}
    )
    GROUP BY site, rack, time
)
GROUP BY time
ORDER BY time"""
    return heatmap(
        Fleet.RACK_HEATMAP,
        "Racks by how busy they are",
        sql,
        height=9,
        means="How many racks were how busy (mean share of time their GPUs' engines worked), over time: a fleet of "
        "any size in one picture. No data: racks of the inventory that sent nothing. Beyond three hours by the hour, "
        "beyond a day one hour a column.",
        do="A band that splits off below is a group of racks that lost its work or its power: Racks to look at first "
        "names them.",
    )


_RACKS: Final = Windows("rack_1m", 60, "rack_1h", 3)
_EXPECTED: Final = Windows("health_1m", 60, "rack_1h", 3)
"""Racks of the inventory, silent ones included: hours of rack_1h have them anyway."""
_BUSY: Final = "site, rack, gr_engine_active_sum AS busy_sum, gr_engine_active_s AS busy_s"


def _throttled() -> Panel:
    return common.throttling(Fleet.THROTTLED, FLEET, SCOPE, width=12, height=9)


def _worst_racks() -> Panel:
    sql = f"""SELECT
    site, rack,
    arrayStringConcat(arraySort(groupUniqArrayIf(toString(tenant), tenant != '')), ', ') AS tenants,
    sum(gpus) AS gpus_,
    sum(gpus_unhealthy) AS sick,
    sum(gpus_unknown) AS silent,
    sum(gpus_not_in_service) AS away,
    {share("sum(reported_s)", "sum(expected_s)")} AS complete,
    any(feed) AS feed_, any(cdu) AS cdu_
FROM gpufleet.health_1m FINAL
WHERE {_NOW} AND {SCOPE}
GROUP BY site, rack
HAVING sick + silent > 0
ORDER BY sick + silent DESC, rack LIMIT 20"""
    return table(
        Fleet.WORST_RACKS,
        "Racks to look at first",
        sql,
        {
            "site": HIDDEN,
            "rack": Column("Rack", links=(links.to_rack(),)),
            "tenants": Column("Customers"),
            "gpus_": Column("GPUs", width=70),
            "sick": Column("Sick", width=70, steps=thresholds.ANY_IS_BAD),
            "silent": Column("Silent", width=70, steps=thresholds.ANY_IS_BAD),
            "away": Column("Not in service", width=110),
            "complete": Column("Complete", units.RATIO, 1, 90, steps=thresholds.COMPLETENESS),
            "feed_": Column("Feed"),
            "cdu_": Column("CDU"),
        },
        width=16,
        none="no rack with trouble known",
        means="Racks with sick or silent GPUs in the newest minute, the worst first.",
        do="Open the rack. Several racks with one feed or one CDU: open Power and cooling instead.",
    )


def _by_model_and_tenant() -> Panel:
    sql = f"""SELECT
    tenant, gpu_model, if(tenant = '', 'nobody', tenant) AS holder,
    sum(gpus) AS gpus_,
    sum(gpus_in_service) AS in_service,
    sum(gpus_reporting) AS reporting,
    sum(gpus_healthy) AS healthy,
    sum(gpus_unhealthy) AS unhealthy,
    sum(gpus_unknown) AS unknown,
    {share("sum(used_s)", "sum(healthy_s)")} AS used,
    sum(energy_j) / 60 AS power,
    {share("sum(reported_s)", "sum(expected_s)")} AS complete
FROM gpufleet.health_1m FINAL
WHERE {_NOW} AND {SCOPE}
GROUP BY gpu_model, tenant, holder
ORDER BY gpu_model, holder LIMIT 100"""
    return table(
        Fleet.BY_MODEL_AND_TENANT,
        "By model and customer",
        sql,
        {
            "tenant": HIDDEN,
            "gpu_model": Column("Model"),
            "holder": Column("Customer", links=(_TO_LEASES,)),
            "gpus_": Column("GPUs"),
            "in_service": Column("In service"),
            "reporting": Column("Reporting"),
            "healthy": Column("Healthy"),
            "unhealthy": Column("Unhealthy", steps=thresholds.ANY_IS_NOTICE),
            "unknown": Column("Silent", steps=thresholds.ANY_IS_NOTICE),
            "used": Column("Used of healthy", units.RATIO, 0),
            "power": Column("Power", units.WATT, 1),
            "complete": Column("Complete", units.RATIO, 1, steps=thresholds.COMPLETENESS),
        },
        width=14,
        means="The newest minute per GPU model and customer; nobody = not leased. Power is energy by the GPUs' "
        "counters over the minute.",
        do="Compare healthy with in service; a customer whose GPUs are unhealthy is owed a word before it asks.",
    )


_TO_LEASES: Final = links.board("Capacity and leases", Capacity.UID, {"tenant": links.field("tenant")})


def _completeness() -> Panel:
    return common.completeness_over_time(
        Fleet.COMPLETENESS_OVER_TIME, SCOPE, width=10, to=(links.board("Pipeline", Pipeline.UID, {}),)
    )


def _sums(*metrics: str) -> str:
    return ", ".join(f"{metric}_sum, {metric}_s" for metric in metrics)
