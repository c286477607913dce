"""Rack: its nodes, its NVLink domain and switch trays, its power and coolant."""

from __future__ import annotations

from typing import Final

from infra.grafana import colours, links, marks, thresholds, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards import common
from infra.grafana.boards.ids import Fleet, Power, Rack
from infra.grafana.panels import HIDDEN, Column, Panel, stat, table, timeline, timeseries
from infra.grafana.query import (
    FACILITY,
    GPU,
    RACK,
    SICK,
    chosen,
    gpu_state,
    held_by,
    known,
    newest_sick,
    only,
    recent,
    share,
    weighted,
)
from infra.grafana.target import OPERATOR

SCOPE: Final = f"{only('site')} AND rack = {chosen('rack')}"
_NODES: Final = f"{only('site')} AND node_id IN (SELECT node_id FROM gpufleet.node_place FINAL WHERE {SCOPE})"
_NOW: Final = recent("health_1m", where=SCOPE)
_SITE: Final = links.variable("site")
_BY_NODE: Final = "GROUP BY time, series"


def board() -> Board:
    return Board(
        uid=Rack.UID,
        title="Rack",
        description="One rack: its nodes minute by minute, its NVLink domain, its power and its coolant.",
        datasource=OPERATOR,
        variables=(variables.SITE, variables.RACK),
        annotations=(marks.xids(SCOPE), marks.maintenance(SCOPE)),
        links=(links.board("Fleet", Fleet.UID, {"site": _SITE}),),
        time_from="now-1h",
        rows=(
            Row("", _now()),
            Row("Nodes", (_node_health(), _nodes(), _power_by_node(), _temperature(), _utilisation(), _sick())),
            Row("NVLink domain", (_domain(), _nvlink())),
            Row("Power and coolant", (_pdu(), _cdu())),
            Row("What happened", (_events(),)),
        ),
    )


def _now() -> tuple[Panel, ...]:
    health = f"FROM gpufleet.health_1m FINAL\nWHERE {_NOW} AND {SCOPE}\nHAVING count() > 0"
    rack = f"FROM gpufleet.rack_1m FINAL\nWHERE {recent('rack_1m', where=SCOPE)} AND {SCOPE}\nHAVING count() > 0"
    return (
        stat(
            Rack.REPORTING,
            "Reporting",
            f'SELECT {share("sum(gpus_reporting)", "sum(gpus_in_service)")} AS "Reporting"\n{health}',
            unit=units.RATIO,
            steps=thresholds.HEALTHY_SHARE,
            width=3,
            means="GPUs that sent something in the newest minute, of those in service.",
            do="0 %: the rack's power or switch. Some nodes: see the timeline below for which and since when.",
        ),
        stat(
            Rack.HEALTHY,
            "Healthy",
            f'SELECT {share("sum(gpus_healthy)", "sum(gpus_in_service)")} AS "Healthy"\n{health}',
            unit=units.RATIO,
            steps=thresholds.HEALTHY_SHARE,
            width=3,
            means="GPUs of the rack that are healthy, of those in service, newest minute.",
            do="A fault of one node of an NVLink domain can take the whole rack: look at the column scope below.",
        ),
        stat(
            Rack.SICK,
            "Sick GPUs",
            f"""SELECT {known("uniqExact(node_id, gpu_index)")} AS "Sick"
FROM gpufleet.sick_1m FINAL
WHERE {newest_sick(SCOPE)} AND in_service AND reason NOT IN ('silent', 'opted_out')""",
            unit=units.WHOLE,
            steps=thresholds.ANY_IS_NOTICE,
            width=3,
            means="GPUs of the rack in service with something wrong, silence left aside, newest minute.",
            do="The table Sick GPUs names them and the action.",
        ),
        stat(
            Rack.POWER_NOW,
            "GPU power",
            f'SELECT sum(power_w_sum) / 60 AS "Power"\n{rack}',
            unit=units.WATT,
            decimals=1,
            width=4,
            means="Sum of the power of the rack's GPUs, mean of the newest minute.",
            do="Compare with the PDU below, which also feeds hosts, switches and fans.",
        ),
        stat(
            Rack.HOTTEST,
            "Hottest GPU",
            f'SELECT max(temp_gpu_c_max) AS "Hottest"\n{rack}',
            unit=units.of("node-telemetry", "temp_gpu_c"),
            steps=thresholds.GPU_TEMPERATURE,
            width=4,
            means="Highest core temperature of any GPU of the rack in the newest minute.",
            do="From 93 C: check flow and supply temperature of its CDU before the driver slows the rack down.",
        ),
        stat(
            Rack.COOLANT,
            "Coolant supply",
            f"""SELECT max(supply_temp_c_max) AS "Supply"
FROM gpufleet.facility_1m FINAL
WHERE {recent("facility_1m", where=_asset("cdu"))} AND {_asset("cdu")}
HAVING count() > 0""",
            unit=units.of("facility-telemetry", "supply_temp_c"),
            decimals=1,
            steps=thresholds.SUPPLY_TEMPERATURE,
            width=3,
            means="Warmest supply of the coolant distribution unit that serves the rack, newest minute.",
            do="Rising: Power and cooling shows which other racks hang on the same unit.",
        ),
        common.completeness(Rack.COMPLETENESS, SCOPE, width=4, windows=common.HEALTH_BY_RACK),
    )


def _asset(kind: str) -> str:
    """Readings of the PDU or CDU that serves the rack."""
    return f"asset_id IN (SELECT {kind} FROM gpufleet.node_place FINAL WHERE {SCOPE})"


def _node_health() -> Panel:
    sql = f"""SELECT {SICK.time}, node_id AS series, max(state) AS "Value"
FROM {gpu_state(_NODES)}
{_BY_NODE}
ORDER BY time, series"""
    return timeline(
        Rack.NODE_HEALTH,
        "Nodes, minute by minute",
        sql,
        height=12,
        links=(links.to_node(links.series(), _SITE),),
        means="Each node's worst GPU in each minute. Silent: nothing came. A blank is a minute for which nothing is "
        "projected, neither good nor bad. Beyond a day the worst minute of each hour.",
        do="All nodes at once: the rack's feed, coolant or switch. One node: open it.",
    )


def _nodes() -> Panel:
    sql = f"""SELECT
    p.site AS site, p.slot AS slot, p.node_id AS node_id, {held_by("p.site", "p.node_id")} AS tenant,
    p.gpu_model AS gpu_model, length(p.gpu_index) AS gpus,
    m.reporting AS reporting,
    s.sick AS sick,
    m.power AS power,
    m.hottest AS hottest,
    m.busy AS busy,
    m.energy AS energy
FROM gpufleet.node_place AS p FINAL
LEFT JOIN
(
    SELECT site, node_id, count() AS reporting, sum(power_w_sum) / 60 AS power, max(temp_gpu_c_max) AS hottest,
        {share("sum(gr_engine_active_sum)", "sum(gr_engine_active_s)")} AS busy, sum(energy_j) / 3600 AS energy
    FROM gpufleet.gpu_1m FINAL
    WHERE {recent("gpu_1m", where=_NODES)} AND {_NODES}
    GROUP BY site, node_id
) AS m ON m.site = p.site AND m.node_id = p.node_id
LEFT JOIN
(
    SELECT site, node_id, arrayStringConcat(arraySort(groupUniqArray(toString(reason))), ', ') AS sick
    FROM gpufleet.sick_1m FINAL
    WHERE {newest_sick(SCOPE)}
    GROUP BY site, node_id
) AS s ON s.site = p.site AND s.node_id = p.node_id
WHERE {only("site", "p.site")} AND p.rack = {chosen("rack")} AND notEmpty(p.gpu_index)
ORDER BY slot, node_id LIMIT 200"""
    return table(
        Rack.NODES,
        "Nodes",
        sql,
        {
            "site": HIDDEN,
            "slot": Column("Slot", width=70),
            "node_id": Column("Node", links=(links.to_node(),)),
            "tenant": Column("Customer"),
            "gpu_model": Column("Model", width=80),
            "gpus": Column("GPUs", width=60),
            "reporting": Column("Reporting", width=90),
            "sick": Column("What is wrong"),
            "power": Column("Power", units.WATT, 1, 90),
            "hottest": Column("Hottest", units.CELSIUS, 0, 90, steps=thresholds.GPU_TEMPERATURE),
            "busy": Column("Busy", units.RATIO, 0, 80),
            "energy": Column("Energy of the minute", units.WATT_HOUR, 0, 150),
        },
        height=11,
        means="Every node that the inventory has in this rack, reporting or not, with its newest minute. Silent nodes "
        "have a row: 0 reporting.",
        do="Open a node by its name.",
    )


def _power_by_node() -> Panel:
    sql = GPU.by_series(f"""SELECT {GPU.time}, node_id AS series, sum(power_w_sum) / {GPU.covered_s} AS "Value"
FROM {GPU.rows("node_id, power_w_sum", _NODES)}
{_BY_NODE}""")
    return timeseries(
        Rack.POWER_BY_NODE,
        "GPU power by node",
        sql,
        unit=units.WATT,
        stack=True,
        links=(links.to_node(links.series(), _SITE),),
        means="Power of each node's GPUs, stacked to the rack's.",
        do="A node that falls out alone has lost its job or itself; all together: the job, the feed or the cap.",
    )


def _temperature() -> Panel:
    sql = GPU.by_series(f"""SELECT {GPU.time}, node_id AS series, max(temp_gpu_c_max) AS "Value"
FROM {GPU.rows("node_id, temp_gpu_c_max", _NODES)}
{_BY_NODE}""")
    return timeseries(
        Rack.TEMPERATURE_BY_NODE,
        "Hottest GPU by node",
        sql,
        unit=units.CELSIUS,
        bottom=None,
        steps=thresholds.GPU_TEMPERATURE,
        links=(links.to_node(links.series(), _SITE),),
        means="Highest core temperature of each node's GPUs.",
        do="All nodes rising together: coolant (below). One node: its fans, cold plates or a blocked path.",
    )


def _utilisation() -> Panel:
    sql = GPU.by_series(f"""SELECT {GPU.time}, node_id AS series, {weighted("tensor_active")} AS "Value"
FROM {GPU.rows("node_id, tensor_active_sum, tensor_active_s", _NODES)}
{_BY_NODE}""")
    return timeseries(
        Rack.UTILISATION_BY_NODE,
        "Tensor pipes busy, by node",
        sql,
        unit=units.RATIO,
        links=(links.to_node(links.series(), _SITE),),
        means="Mean share of cycles in which tensor pipes worked, per node: work, not waiting.",
        do="One node below its peers in one job: a straggler; all at zero with busy engines: a hung job (Health).",
    )


def _sick() -> Panel:
    return common.sick_gpus(Rack.SICK_GPUS, SCOPE, width=12)


def _domain() -> Panel:
    sql = f"""SELECT
    nvlink_domain, asset_kind, slot, node_id,
    argMax(lifecycle, valid_from) AS life,
    max(valid_from) AS since
FROM gpufleet.node_history
WHERE {SCOPE} AND valid_from <= $__toTime AND valid_until > $__toTime
GROUP BY nvlink_domain, asset_kind, slot, node_id
ORDER BY asset_kind DESC, slot, node_id LIMIT 200"""
    return table(
        Rack.NVLINK_DOMAIN,
        "NVLink domain and switch trays",
        sql,
        {
            "nvlink_domain": Column("Domain"),
            "asset_kind": Column("Kind", width=100),
            "slot": Column("Slot", width=80),
            "node_id": Column("Node or tray"),
            "life": Column("Lifecycle", width=110),
            "since": Column("As it is since", units.TIME, width=180),
        },
        width=12,
        means="What the inventory has in this rack at the end of the range: compute trays and, for NVL72, the nine "
        "NVLink switch trays, which have no agent of their own. A node without a domain is its own.",
        do="A switch tray's fault shows on the GPUs of its whole domain (sxid, scope nvlink_domain): replace the tray, "
        "not the GPUs.",
    )


def _nvlink() -> Panel:
    sql = f"""SELECT {RACK.time},
    if(count() = 0, NULL, sum(nvlink_tx_bytes) / {RACK.covered_s}) AS "sent",
    if(count() = 0, NULL, sum(nvlink_rx_bytes) / {RACK.covered_s}) AS "received"
FROM {RACK.rows("nvlink_tx_bytes, nvlink_rx_bytes", SCOPE)}
GROUP BY time
{RACK.gaps}"""
    return timeseries(
        Rack.NVLINK_TRAFFIC,
        "NVLink traffic",
        sql,
        unit=units.BYTES_PER_SECOND,
        means="Bytes over all NVLinks of the rack's GPUs.",
        do="Falling to zero while engines stay busy: a job waits for a peer, or the domain lost its fabric.",
    )


def _pdu() -> Panel:
    sql = f"""SELECT {FACILITY.time},
    avg(power_w_avg) AS "PDU", max(power_w_max) AS "PDU, highest", avg(power_cap_w) AS "PDU may carry"
FROM {FACILITY.rows("power_w_avg, power_w_max, power_cap_w", _asset("pdu"))}
GROUP BY time
{FACILITY.gaps}"""
    return timeseries(
        Rack.PDU,
        "Rack PDU",
        sql,
        unit=units.of("facility-telemetry", "power_w"),
        dashed=("PDU may carry",),
        colours={"PDU": colours.NEUTRAL, "PDU, highest": colours.WARN, "PDU may carry": colours.BAD},
        links=(links.board("Power and cooling", Power.UID, {"site": _SITE}),),
        means="Power through the PDU of the rack against what it may carry.",
        do="No PDU power and no nodes: the feed tripped. PDU power and no nodes: network or management.",
    )


def _cdu() -> Panel:
    sql = f"""SELECT {FACILITY.time},
    max(supply_temp_c_max) AS "supply", max(return_temp_c_max) AS "return"
FROM {FACILITY.rows("supply_temp_c_max, return_temp_c_max", _asset("cdu"))}
GROUP BY time
{FACILITY.gaps}"""
    return timeseries(
        Rack.CDU,
        "Coolant of the rack",
        sql,
        unit=units.of("facility-telemetry", "supply_temp_c"),
        bottom=None,
        colours={"supply": colours.NEUTRAL, "return": colours.WARN},
        means="Supply and return of the coolant distribution unit that serves the rack.",
        do="Both rising: the plant. Only the return rising: more heat or less flow; see flow on Power and cooling.",
    )


def _events() -> Panel:
    return common.events(Rack.EVENTS, SCOPE)
