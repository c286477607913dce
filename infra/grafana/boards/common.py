"""Panels that several boards show, with other rows in scope: so that a figure means the same on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from infra.grafana import colours, links, thresholds, units
from infra.grafana.links import Link
from infra.grafana.panels import HIDDEN, Column, Panel, stat, table, timeseries
from infra.grafana.query import HEALTH, SICK, Windows, anything_wrong, newest_sick, share

HEALTH_BY_RACK: Final = Windows("health_1m", 60, "rack_1h", 7 * 24)
"""Health of one rack: its hours are kept apart from those of the fleet."""
ANY: Final = "any of them"
"""Line of all GPUs with something wrong beside the bars per reason: at zero where nothing is, gone without data."""

_COMPLETENESS = (
    "GPU-seconds that came in, of those that were due (GPUs in service, not opted out). Whatever else the board shows "
    "is of this share of the fleet only: missing data is never drawn as zero."
)
_COMPLETENESS_DO = "Below 99.9 %: find the silent nodes (Health); if none is silent, the pipeline is behind (Pipeline)."
_CLASSES_DO = "Red: Health says what. Purple: find out whether the node or only its data is gone."
_THROTTLING_DO = (
    "Thermal: coolant and fans (Power and cooling). Power brake: the power supply asks for less. Hardware slowdown: "
    "the GPU or its supply; open the node."
)
CUSTOMERS_COMPLETENESS: Final = (
    "Below 99.9 %: Incidents names the nodes that were silent. If none was, data is late: the figures still rise."
)
CUSTOMERS_THROTTLING: Final = (
    "Thermal, brake or hardware: you get less than the GPUs could give. Incidents names the nodes; the operator mends "
    "them."
)


def completeness(
    id_: int,
    scope: str,
    *,
    width: int = 4,
    windows: Windows = HEALTH,
    to: Sequence[Link] = (),
    do: str = _COMPLETENESS_DO,
) -> Panel:
    """Expected against received over the whole range."""
    sql = f"""SELECT {share("sum(reported_s)", "sum(expected_s)")} AS "Completeness"
FROM {windows.rows("reported_s, expected_s", scope)}"""
    return stat(
        id_,
        "Completeness",
        sql,
        means=f"{_COMPLETENESS} Over the whole range.",
        do=do,
        unit=units.RATIO,
        decimals=2,
        width=width,
        steps=thresholds.COMPLETENESS,
        links=to,
    )


def completeness_over_time(id_: int, scope: str, *, width: int = 12, height: int = 8, to: Sequence[Link] = ()) -> Panel:
    """Expected against received, point by point."""
    sql = f"""SELECT {HEALTH.time},
    {share("sum(reported_s)", "sum(expected_s)")} AS "received of expected"
FROM {HEALTH.rows("reported_s, expected_s", scope)}
GROUP BY time
{HEALTH.gaps}"""
    return timeseries(
        id_,
        "Completeness",
        sql,
        means=_COMPLETENESS,
        do=_COMPLETENESS_DO,
        unit=units.RATIO,
        decimals=1,
        width=width,
        height=height,
        top=1,
        colours={"received of expected": colours.MISSING},
        links=to,
    )


def freshness(id_: int, windows: Mapping[str, int], scope: str, *, width: int = 4) -> Panel:
    """Age of the newest closed windows at the end of the range: of the table that lags most. ``windows``: tables, with
    the length of a window [s]."""
    newest = "\n    UNION ALL\n".join(
        f"""    SELECT max(ts) + {window_s} AS until FROM gpufleet.{table}
    WHERE ts > $__toTime - 86400 AND ts <= $__toTime - {window_s} AND is_deleted = 0 AND {scope}
    HAVING count() > 0"""
        for table, window_s in windows.items()
    )
    sql = f"""SELECT if(count() < {len(windows)}, NULL, dateDiff('second', min(until), $__toTime)) AS "Age of data"
FROM
(
{newest}
)"""
    return stat(
        id_,
        "Age of the data",
        sql,
        means="Time from the end of the newest closed window to the end of the range, of the table that lags most; no "
        "data = one had nothing within a day.",
        do="Minutes old: the projector or the consumer is behind, see Pipeline. Everything else on the board is that "
        "old, too.",
        unit=units.SECONDS,
        width=width,
        decimals=0,
        steps=thresholds.DATA_AGE,
    )


def gpus_by_class(
    id_: int,
    scope: str,
    *,
    width: int = 12,
    height: int = 8,
    title: str = "GPUs by health",
    do: str = _CLASSES_DO,
) -> Panel:
    """GPUs per class of health over time: means over each point, so that the classes add up to all GPUs."""
    columns = ("healthy_s", "unhealthy_s", "unknown_s", "opted_out_s", "not_in_service_s")
    means = ",\n    ".join(
        f'if(count() = 0, NULL, sum({column}) / {HEALTH.covered_s}) AS "{name}"'
        for column, name in zip(columns, colours.HEALTH, strict=True)
    )
    sql = f"""SELECT {HEALTH.time},
    {means}
FROM {HEALTH.rows(", ".join(columns), scope)}
GROUP BY time
{HEALTH.gaps}"""
    return timeseries(
        id_,
        title,
        sql,
        means="GPUs in each class, mean over each point. Healthy: reports, no open fault, no hardware slowdown. "
        "Unhealthy: under a fault (its own, its node's, its NVLink domain's) or slowed down. Unknown: silent. Not in "
        "service: maintenance, burn-in, RMA. A gap is a time without any data.",
        do=do,
        unit=units.COUNT,
        width=width,
        height=height,
        stack=True,
        colours=colours.HEALTH,
    )


def throttling(
    id_: int, windows: Windows, scope: str, *, width: int = 12, height: int = 8, do: str = _THROTTLING_DO
) -> Panel:
    """Share of GPU time in which clocks were held down, by reason."""
    reasons = ("power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "power_brake")
    columns = [f"throttle_{reason}_s" for reason in reasons]
    shares = ",\n    ".join(
        f'{share(f"sum({column})", "sum(throttle_known_s)")} AS "{name}"'
        for column, name in zip(columns, colours.THROTTLING, strict=True)
    )
    sql = f"""SELECT {windows.time},
    {shares}
FROM {windows.rows(", ".join([*columns, "throttle_known_s"]), scope)}
GROUP BY time
{windows.gaps}"""
    return timeseries(
        id_,
        "Clocks held down, by reason",
        sql,
        means="Share of GPU time in which the driver held clocks down, per reason. A software power cap is normal "
        "under load; the other four are faults (mask 0xE8).",
        do=do,
        unit=units.RATIO,
        width=width,
        height=height,
        colours=colours.THROTTLING,
    )


def sick_over_time(
    id_: int,
    title: str,
    where: str,
    scope: str,
    *,
    means: str,
    do: str,
    width: int = 12,
    count: str = "uniqExact(site, node_id, gpu_index)",
) -> Panel:
    """GPUs with something wrong (``where``, of sick_1m) by reason as bars, and all of them as a line."""
    sql = f"""SELECT {SICK.time}, toString(reason) AS series, {count} AS "Value"
FROM {SICK.rows("site, node_id, gpu_index, reason", f"({where}) AND {scope}")}
GROUP BY time, series
ORDER BY time, series"""
    return timeseries(
        id_,
        title,
        (sql, anything_wrong(ANY, where, scope)),
        unit=units.COUNT,
        width=width,
        bars=True,
        stack=True,
        beside=(ANY,),
        colours={ANY: colours.NEUTRAL},
        means=f"{means} The line is all of them: at zero nothing was wrong, where it is broken nothing was heard.",
        do=do,
    )


def sick_gpus(id_: int, scope: str, *, width: int = 24, height: int = 9, limit: int = 200) -> Panel:
    """What is wrong in the newest minute, GPU by GPU."""
    sql = f"""SELECT site, node_id, gpu_index AS gpu, rack, toString(reason) AS reason, action, scope, since, tenant,
    if(in_service, '', 'not in service') AS service, origin_node, detail
FROM gpufleet.sick_1m FINAL
WHERE {newest_sick(scope)}
ORDER BY in_service DESC, since DESC, node_id, gpu LIMIT {limit}"""
    return table(
        id_,
        "Sick GPUs",
        sql,
        {
            "site": HIDDEN,
            "node_id": Column("Node", links=(links.to_node(),)),
            "gpu": Column("GPU", width=60, links=(links.to_gpu(),)),
            "rack": Column("Rack", links=(links.to_rack(),)),
            "reason": Column("What"),
            "action": Column("Action"),
            "scope": Column("Reaches", width=100),
            "since": Column("Since", units.TIME, width=170),
            "tenant": Column("Customer"),
            "service": Column("Service", width=110),
            "origin_node": Column("Began on", links=(links.to_node(links.field("origin_node")),)),
            "detail": Column("More"),
        },
        width=width,
        height=height,
        none="no sick GPU known",
        means="Everything wrong in the newest closed minute, newest first; what is not in service comes last and wakes "
        f"nobody. At most {limit} rows.",
        do="Do what Action says, at the node named under Began on: the rest of its blast radius recovers with it.",
    )


def events(id_: int, scope: str, *, width: int = 24, height: int = 9, limit: int = 300) -> Panel:
    """Discrete facts of one rack or node, the newest first."""
    sql = f"""SELECT ts, site, node_id, gpu_index AS gpu, event, code, value, source, occurrences, message, raw
FROM gpufleet.node_events FINAL
WHERE ts >= $__fromTime AND ts <= $__toTime AND flaws = 0 AND {scope}
ORDER BY ts DESC LIMIT {limit}"""
    return table(
        id_,
        "Events",
        sql,
        {
            "ts": Column("Time", units.TIME, width=180),
            "site": HIDDEN,
            "node_id": Column("Node", links=(links.to_node(),)),
            "gpu": Column("GPU", width=60, links=(links.to_gpu(),)),
            "event": Column("Event"),
            "code": Column("Code", width=60),
            "value": Column("Value"),
            "source": Column("Seen by", width=80),
            "occurrences": Column("Times", width=60),
            "message": Column("What happened"),
            "raw": Column("The line itself"),
        },
        width=width,
        height=height,
        none="no event in the range",
        means=f"Facts that agents, kernel logs and operators reported in the range, the newest first; at most {limit}.",
        do="Read upwards from the first event of the incident; what follows within seconds is usually its consequence.",
    )


def delivery_columns() -> dict[str, Column]:
    """Columns of a table of leased GPU-hours and what became of them."""
    hours = (
        ("leased", "Leased"),
        ("delivered", "Delivered"),
        ("used", "Used"),
        ("unhealthy", "Unhealthy"),
        ("unknown", "Unknown"),
        ("away", "Not in service"),
        ("opted", "Opted out"),
    )
    return {
        "lease_id": Column("Lease"),
        "tenant": Column("Customer"),
        "gpu_model": Column("Model", width=80),
        **{name: Column(title, units.EXACT, 1) for name, title in hours},
        "delivered_share": Column("Delivered share", units.RATIO, 3, steps=thresholds.DELIVERED_SHARE),
        "promised": Column("Promised", units.RATIO, 2, 90),
        "distance": Column("Above or below", units.RATIO, 3, steps=thresholds.DISTANCE),
    }
