"""Node: one node and its GPUs."""

from __future__ import annotations

from typing import Final

from infra.grafana import colours, links, marks, thresholds, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards import common
from infra.grafana.boards.ids import Fleet, Node
from infra.grafana.panels import HIDDEN, Column, Panel, stat, table, timeline, timeseries
from infra.grafana.query import (
    GPU,
    IN_MINUTES,
    SICK,
    chosen,
    gpu_state,
    known,
    known_since,
    minutes_known_s,
    newest_sick,
    only,
    raw,
    recent,
    samples,
    share,
    weighted,
)
from infra.grafana.target import OPERATOR

SCOPE: Final = f"{only('site')} AND node_id = {chosen('node')}"
_SITE: Final = links.variable("site")
_BY_GPU: Final = "GROUP BY time, series"
_SERIES: Final = "concat('GPU ', toString(gpu_index)) AS series"


def board() -> Board:
    return Board(
        uid=Node.UID,
        title="Node",
        description="One node: its GPUs side by side, its host and network, its jobs, what happened to it.",
        datasource=OPERATOR,
        variables=(variables.SITE, variables.RACK_FILTER, variables.NODE),
        annotations=(marks.xids(SCOPE), marks.maintenance(SCOPE)),
        links=(links.board("Fleet", Fleet.UID, {"site": _SITE}), links.to_rack(links.variable("rack"), _SITE)),
        time_from="now-1h",
        rows=(
            Row("", _now()),
            Row("GPUs", (_health(), _gpus(), _power(), _temperature(), _utilisation(), _clock(), _throttling())),
            Row("Host and network (last 15 minutes)", (_host(), _network())),
            Row("Place, jobs, events", (_place(), _jobs(), _events())),
        ),
    )


def _now() -> tuple[Panel, ...]:
    minute = f"FROM gpufleet.gpu_1m FINAL\nWHERE {recent('gpu_1m', where=SCOPE)} AND {SCOPE}\nHAVING count() > 0"
    sick = f"FROM gpufleet.sick_1m FINAL\nWHERE {newest_sick(SCOPE)} AND in_service"
    return (
        stat(
            Node.REPORTING,
            "Reporting of its GPUs",
            f"""SELECT {share("seen", "gpus")} AS "Reporting"
FROM (SELECT uniqExact(gpu_index) AS seen FROM gpufleet.gpu_1m FINAL WHERE {_minute()}) AS m,
    (SELECT sum(length(gpu_index)) AS gpus FROM gpufleet.node_place FINAL WHERE {SCOPE}) AS n
WHERE {known_since(SCOPE)} <= $__toTime""",
            unit=units.RATIO,
            steps=thresholds.HEALTHY_SHARE,
            width=4,
            means="GPUs that sent something in the newest closed minute, of those the inventory has on the node.",
            do="0 %: agent, host or power. Less than all: a GPU fell off the bus (gpu_lost, XID 79).",
        ),
        stat(
            Node.HEALTHY,
            "Healthy GPUs",
            f"""SELECT {known("gpus - sick")} AS "Healthy"
FROM (SELECT sum(length(gpu_index)) AS gpus FROM gpufleet.node_place FINAL WHERE {SCOPE}) AS n,
    (SELECT uniqExact(gpu_index) AS sick FROM gpufleet.sick_1m FINAL WHERE {newest_sick(SCOPE)}) AS s
WHERE gpus > 0""",
            unit=units.WHOLE,
            width=3,
            means="GPUs of the node with nothing wrong in the newest minute, silence included.",
            do="The timeline below says which and since when.",
        ),
        stat(
            Node.SICK,
            "Reasons",
            f'SELECT {known("uniqExact(reason)")} AS "Reasons"\n{sick}',
            unit=units.WHOLE,
            steps=thresholds.ANY_IS_NOTICE,
            width=3,
            means="Different things wrong with the node's GPUs in the newest minute.",
            do="Several reasons on one GPU usually have one cause: the oldest. See Events.",
        ),
        stat(
            Node.POWER_NOW,
            "GPU power",
            f'SELECT sum(power_w_sum) / 60 AS "Power"\n{minute}',
            unit=units.WATT,
            decimals=1,
            width=4,
            means="Sum of the power of the node's GPUs, mean of the newest minute.",
            do="Near zero with a job on it: hung or cut off.",
        ),
        stat(
            Node.HOTTEST,
            "Hottest GPU",
            f'SELECT max(temp_gpu_c_max) AS "Hottest"\n{minute}',
            unit=units.CELSIUS,
            steps=thresholds.GPU_TEMPERATURE,
            width=3,
            means="Highest core temperature in the newest minute.",
            do="From 93 C: compare with the rack; alone it is this node's fans or cold plate.",
        ),
        stat(
            Node.CLOCK_OFFSET,
            "Clock off by",
            f"""SELECT argMax(abs(clock_offset_s), event_ts) AS "Offset"
FROM gpufleet.host_samples
WHERE {raw()} AND {SCOPE}
HAVING count() > 0""",
            unit=units.of("node-telemetry", "clock_offset_s"),
            decimals=3,
            steps=thresholds.CLOCK_OFFSET,
            width=3,
            means="Host clock against its reference, at the newest event of the last 15 minutes of the range.",
            do="Above 0.5 s the node's events land in the wrong minutes: restart chrony, check its servers.",
        ),
        stat(
            Node.COMPLETENESS,
            "Completeness",
            f"""SELECT {share("seconds", f"(gpus * {minutes_known_s(SCOPE)})")} AS "Completeness"
FROM (SELECT least(sum(seconds), 1e15) AS seconds FROM {GPU.rows("seconds", f"{SCOPE} AND {IN_MINUTES}")}) AS r,
    (SELECT sum(length(gpu_index)) AS gpus FROM gpufleet.node_place FINAL WHERE {SCOPE}) AS n""",
            unit=units.RATIO,
            decimals=1,
            steps=thresholds.COMPLETENESS,
            width=4,
            means="GPU-seconds that came in over the range, of those that the node's GPUs could have sent since the "
            "inventory knows the node. Maintenance and opted-out time count as missing here.",
            do="Compare with the timeline: a gap of all GPUs is the node or its agent, of one GPU the GPU.",
        ),
    )


def _minute() -> str:
    return f"{recent('gpu_1m', where=SCOPE)} AND {SCOPE}"


def _health() -> Panel:
    sql = f"""SELECT {SICK.time}, {_SERIES}, max(state) AS "Value"
FROM {gpu_state(SCOPE)}
{_BY_GPU}
ORDER BY time, series"""
    return timeline(
        Node.GPU_HEALTH,
        "GPUs, minute by minute",
        sql,
        height=8,
        means="State of each GPU in each minute. A blank is a minute for which nothing is "
        "projected. Beyond a day the worst minute of each hour.",
        do="All GPUs at once: the node. One: open it from the table below.",
    )


def _gpus() -> Panel:
    sql = f"""SELECT
    p.site AS site, p.node_id AS node_id, p.gpu AS gpu, p.uuid AS uuid,
    s.reasons AS reasons, s.action AS action,
    m.power AS power, m.hottest AS hottest, m.memory AS memory, m.busy AS busy, m.tensor AS tensor, m.clock AS clock
FROM
(
    SELECT site, node_id, gpu_index AS gpu, gpu_uuid AS uuid
    FROM gpufleet.gpu_inventory WHERE {SCOPE}
) AS p
LEFT JOIN
(
    SELECT site, node_id, gpu_index, {share("power_w_sum", "power_w_s")} AS power, temp_gpu_c_max AS hottest,
        {share("fb_used_bytes_sum", "fb_used_bytes_s")} AS memory,
        {share("gr_engine_active_sum", "gr_engine_active_s")} AS busy,
        {share("tensor_active_sum", "tensor_active_s")} AS tensor,
        {share("clock_sm_mhz_sum", "clock_sm_mhz_s")} AS clock
    FROM gpufleet.gpu_1m FINAL
    WHERE {_minute()}
) AS m ON m.site = p.site AND m.node_id = p.node_id AND m.gpu_index = p.gpu
LEFT JOIN
(
    SELECT site, node_id, gpu_index, arrayStringConcat(arraySort(groupArray(toString(reason))), ', ') AS reasons,
        any(toString(action)) AS action
    FROM gpufleet.sick_1m FINAL
    WHERE {newest_sick(SCOPE)}
    GROUP BY site, node_id, gpu_index
) AS s ON s.site = p.site AND s.node_id = p.node_id AND s.gpu_index = p.gpu
ORDER BY gpu LIMIT 100"""
    return table(
        Node.GPUS,
        "GPUs",
        sql,
        {
            "site": HIDDEN,
            "node_id": HIDDEN,
            "gpu": Column("GPU", width=60, links=(links.to_gpu(),)),
            "uuid": Column("UUID"),
            "reasons": Column("What is wrong"),
            "action": Column("Action"),
            "power": Column("Power", units.WATT, 0, 80),
            "hottest": Column("Hottest", units.CELSIUS, 0, 80, steps=thresholds.GPU_TEMPERATURE),
            "memory": Column("Memory used", units.BYTES, 1, 110),
            "busy": Column("Busy", units.RATIO, 0, 70),
            "tensor": Column("Tensor", units.RATIO, 0, 70),
            "clock": Column("SM clock", units.MEGAHERTZ, width=90),
        },
        means="Every GPU that the inventory has on the node, with its newest minute and what is wrong with it.",
        do="Open a GPU by its number.",
    )


def _series(metric: str) -> str:
    return GPU.by_series(f"""SELECT {GPU.time}, {_SERIES}, {weighted(metric)} AS "Value"
FROM {GPU.rows(f"gpu_index, {metric}_sum, {metric}_s", SCOPE)}
{_BY_GPU}""")


def _power() -> Panel:
    return timeseries(
        Node.POWER,
        "Power",
        _series("power_w"),
        unit=units.of("node-telemetry", "power_w"),
        means="Mean power of each GPU.",
        do="One GPU below its peers in one job: a straggler or a failing board. See SM clock.",
    )


def _temperature() -> Panel:
    sql = GPU.by_series(f"""SELECT {GPU.time}, {_SERIES}, max(temp_gpu_c_max) AS "Value"
FROM {GPU.rows("gpu_index, temp_gpu_c_max", SCOPE)}
{_BY_GPU}""")
    return timeseries(
        Node.TEMPERATURE,
        "Core temperature",
        sql,
        unit=units.of("node-telemetry", "temp_gpu_c"),
        bottom=None,
        steps=thresholds.GPU_TEMPERATURE,
        means="Highest core temperature of each GPU.",
        do="From 93 C: one GPU: its cold plate; all: the rack's coolant.",
    )


def _utilisation() -> Panel:
    return timeseries(
        Node.UTILISATION,
        "Tensor pipes busy",
        _series("tensor_active"),
        unit=units.of("node-telemetry", "tensor_active"),
        means="Share of cycles in which a tensor pipe worked, per GPU: separates work from spinning.",
        do="All at zero with busy engines: the job waits. One at zero: its process died.",
    )


def _clock() -> Panel:
    return timeseries(
        Node.SM_CLOCK,
        "SM clock",
        _series("clock_sm_mhz"),
        unit=units.of("node-telemetry", "clock_sm_mhz"),
        bottom=None,
        means="Mean clock of the SMs, per GPU.",
        do="One GPU 15 % below its peers slows its whole job: look at the reasons beside, then replace or reset it.",
    )


def _throttling() -> Panel:
    return common.throttling(Node.THROTTLING, GPU, SCOPE, width=24)


def _host() -> Panel:
    lines = {
        "CPU": "avg(host_cpu_util)",
        "memory": "avg(host_mem_used_bytes / host_mem_total_bytes)",
        "root disk": "max(host_disk_used)",
        "I/O pressure": "max(host_psi_io)",
    }
    sql = samples("host_samples", lines, SCOPE)
    return timeseries(
        Node.HOST,
        "Host",
        sql,
        unit=units.of("node-telemetry", "host_cpu_util"),
        interval="1s",
        means="CPU, memory and root disk in use, and the share of time that tasks waited for I/O. Raw samples of the "
        "last 15 minutes of the range.",
        do="Memory or disk near 100 %: the node will fail its job before its GPUs do.",
    )


def _network() -> Panel:
    lines = {
        "sent": "avg(nic_tx_bytes_per_s)",
        "received": "avg(nic_rx_bytes_per_s)",
    }
    sql = samples("host_samples", lines, SCOPE)
    return timeseries(
        Node.NETWORK,
        "RDMA ports",
        sql,
        unit=units.of("node-telemetry", "nic_tx_bytes_per_s"),
        interval="1s",
        means="Bytes over the node's RDMA ports together. Raw samples of the last 15 minutes of the range.",
        do="Zero while the job's other nodes send: link or switch port; link_down in Events.",
    )


def _place() -> Panel:
    sql = f"""SELECT site, node_id, tenant, lease_id, rack, slot, feed, pdu, cdu, nvlink_domain, gpu_model, since
FROM gpufleet.node_place FINAL
WHERE {SCOPE}
LIMIT 10"""
    return table(
        Node.PLACE,
        "Where it stands, and whose it is",
        sql,
        {
            "site": Column("Site"),
            "node_id": Column("Node"),
            "tenant": Column("Customer"),
            "lease_id": Column("Lease"),
            "rack": Column("Rack", links=(links.to_rack(),)),
            "slot": Column("Slot"),
            "feed": Column("Feed"),
            "pdu": Column("PDU"),
            "cdu": Column("CDU"),
            "nvlink_domain": Column("NVLink domain"),
            "gpu_model": Column("Model"),
            "since": Column("As it is since", units.TIME),
        },
        height=4,
        means="The node's place and make as the newest inventory has it, and who leases it now (not at the range's "
        "end).",
        do="Open its rack; its feed and CDU are on Power and cooling.",
    )


def _jobs() -> Panel:
    sql = f"""SELECT job_id, name, job_kind, state, gpus, length(nodes) AS nodes_, started_at, ended_at, exit_reason
FROM gpufleet.jobs
WHERE {only("site")} AND has(nodes, {chosen("node")}) AND started_at <= $__toTime
    AND (isNull(ended_at) OR ended_at >= $__fromTime)
ORDER BY started_at DESC LIMIT 50"""
    return table(
        Node.JOBS,
        "Jobs",
        sql,
        {
            "job_id": Column("Job"),
            "name": Column("Name"),
            "job_kind": Column("Kind", width=90),
            "state": Column("State", width=90),
            "gpus": Column("GPUs", width=70),
            "nodes_": Column("Nodes", width=70),
            "started_at": Column("Started", units.TIME, width=180),
            "ended_at": Column("Ended", units.TIME, width=180),
            "exit_reason": Column("Ended because", colours={"node_failure": colours.BAD, "hung": colours.BAD}),
        },
        width=12,
        none="no job known on this node",
        means="Jobs that held a GPU of the node at some time of the range.",
        do="Before taking the node: whose job is on it, and how large is it.",
    )


def _events() -> Panel:
    return common.events(Node.EVENTS, SCOPE, width=12)
