"""GPU: what it does, what happened to it, how its job's other GPUs do."""

from __future__ import annotations

from typing import Final

from infra.grafana import links, marks, thresholds, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards import common
from infra.grafana.boards.ids import Gpu
from infra.grafana.boards.operator import counters
from infra.grafana.panels import HIDDEN, Column, Panel, stat, table, timeline, timeseries
from infra.grafana.query import (
    GPU,
    IN_MINUTES,
    SICK,
    chosen,
    gpu_state,
    known,
    last,
    minutes_known_s,
    only,
    recent,
    samples,
    share,
    weighted,
)
from infra.grafana.target import OPERATOR

_NODE: Final = f"{only('site')} AND node_id = {chosen('node')}"
SCOPE: Final = f"{_NODE} AND gpu_index = toInt32OrNull({chosen('gpu')})"
_EVENTS: Final = f"{_NODE} AND (isNull(gpu_index) OR gpu_index = toInt32OrNull({chosen('gpu')}))"
_SITE: Final = links.variable("site")
_COUNTERS_S: Final = 180
"""The slow lane is sent every minute; three minutes hold at least one event of it. [s]"""


def board() -> Board:
    return Board(
        uid=Gpu.UID,
        title="GPU",
        description="One GPU: activity, power, heat, memory, links, error counters, events, and the peers of its job.",
        datasource=OPERATOR,
        variables=(variables.SITE, variables.RACK_FILTER, variables.NODE, variables.GPU),
        annotations=(marks.xids(_EVENTS), marks.maintenance(_NODE)),
        links=(links.to_node(links.variable("node"), _SITE),),
        time_from="now-1h",
        rows=(
            Row("", _now()),
            Row(
                "What it does", (_health(), _activity(), _power(), _temperature(), _clocks(), _throttling(), _memory())
            ),
            Row("Links and errors", (_links(), counters.panel(Gpu.COUNTERS, SCOPE), _last_minutes())),
            Row("Peers and history", (_peers(), _identity(), _events())),
        ),
    )


def _now() -> tuple[Panel, ...]:
    minute = f"FROM gpufleet.gpu_1m FINAL\nWHERE {recent('gpu_1m', where=SCOPE)} AND {SCOPE}\nHAVING count() > 0"
    newest = f"FROM gpufleet.gpu_counters\nWHERE {_counters_bounds()} AND {SCOPE}\nHAVING count() > 0"
    return (
        stat(
            Gpu.HEALTH,
            "What is wrong",
            f"""SELECT {known("uniqExact(reason)")} AS "Reasons"
FROM gpufleet.sick_1m FINAL
WHERE ts > $__toTime - 180 AND ts <= $__toTime - 60 AND {SCOPE}""",
            unit=units.WHOLE,
            steps=thresholds.ANY_IS_BAD,
            width=3,
            means="Different things wrong with this GPU in the last two closed minutes.",
            do="Events below says what and since when; Sick GPUs on Health says what to do.",
        ),
        stat(
            Gpu.POWER_NOW,
            "Power",
            f'SELECT {weighted("power_w")} AS "Power"\n{minute}',
            unit=units.WATT,
            decimals=0,
            width=3,
            means="Mean board power of the newest minute.",
            do="NVIDIA's own check takes less than 65 W or more than 1,500 W as a fault of the sensor or the board.",
        ),
        stat(
            Gpu.TEMPERATURE_NOW,
            "Core temperature",
            f'SELECT max(temp_gpu_c_max) AS "Temperature"\n{minute}',
            unit=units.CELSIUS,
            steps=thresholds.GPU_TEMPERATURE,
            width=4,
            means="Highest core temperature of the newest minute.",
            do="From 93 C the driver slows it down soon; compare with the node's others.",
        ),
        stat(
            Gpu.ACTIVE_NOW,
            "Tensor busy",
            f'SELECT {weighted("tensor_active")} AS "Tensor"\n{minute}',
            unit=units.RATIO,
            decimals=0,
            width=3,
            means="Share of cycles in which a tensor pipe worked, newest minute.",
            do="Zero with a busy engine: it waits for a peer or hangs.",
        ),
        stat(
            Gpu.AGAINST_PEERS,
            "SM clock vs its job",
            f"""SELECT clock / median AS "Against peers"
FROM (SELECT {weighted("clock_sm_mhz")} AS clock {minute.replace("HAVING count() > 0", "")}) AS g,
    (SELECT argMax(clock_sm_mhz_median, ts) AS median FROM gpufleet.job_1m FINAL
        WHERE {last(1)} AND ts > $__toTime - 900 AND {only("site")} AND job_id IN ({_JOB})) AS j
WHERE median > 0 AND clock > 0""",
            unit=units.RATIO,
            decimals=0,
            steps=thresholds.STRAGGLER_RATIO,
            width=4,
            means="Its SM clock over the median of its job's busy GPUs, newest minutes; no data = it has no job.",
            do="Below 92 % for three minutes it is a straggler and slows its whole job: look at the reasons for held "
            "clocks, drain and replace.",
        ),
        stat(
            Gpu.ECC_NOW,
            "Uncorrected ECC",
            f'SELECT argMax(ecc_dbe_volatile, event_ts) AS "ECC"\n{newest}',
            unit=units.of("node-counters", "ecc_dbe_volatile"),
            steps=thresholds.ANY_IS_BAD,
            width=3,
            means="Uncorrected ECC errors since the driver was loaded.",
            do="Any: rows are remapped at the next reset; a failed remap means replacing the GPU.",
        ),
        stat(
            Gpu.COMPLETENESS,
            "Completeness",
            f"""SELECT {share("sum(seconds)", minutes_known_s(_NODE))} AS "Completeness"
FROM {GPU.rows("seconds", f"{SCOPE} AND {IN_MINUTES}")}""",
            unit=units.RATIO,
            decimals=1,
            steps=thresholds.COMPLETENESS,
            width=4,
            means="Seconds of the range for which a sample came in, of all since the inventory knows the node.",
            do="Compare with the node: if the others are complete, the GPU was gone (gpu_lost).",
        ),
    )


_JOB: Final = f"""SELECT job_id FROM gpufleet.job_gpus
        WHERE {_NODE} AND gpu_index = toInt32OrNull({chosen("gpu")}) AND started_at <= $__toTime
            AND (isNull(ended_at) OR ended_at > $__toTime)"""


def _counters_bounds() -> str:
    return f"event_ts > $__toTime - {_COUNTERS_S} AND event_ts <= $__toTime"


def _health() -> Panel:
    sql = f"""SELECT {SICK.time}, concat('GPU ', toString(gpu_index)) AS series, max(state) AS "Value"
FROM {gpu_state(SCOPE)}
GROUP BY time, series
ORDER BY time"""
    return timeline(
        Gpu.MINUTE_BY_MINUTE,
        "Minute by minute",
        sql,
        height=4,
        means="State of the GPU in each minute. A blank: nothing projected. Beyond a day the worst of each hour.",
        do="Compare the first minute of trouble with the events below.",
    )


def _means(metrics: dict[str, str]) -> str:
    columns = ",\n    ".join(f'{weighted(metric)} AS "{name}"' for metric, name in metrics.items())
    sums = ", ".join(f"{metric}_sum, {metric}_s" for metric in metrics)
    return f"""SELECT {GPU.time},
    {columns}
FROM {GPU.rows(sums, SCOPE)}
GROUP BY time
{GPU.gaps}"""


def _activity() -> Panel:
    names = {
        "gr_engine_active": "engine busy",
        "sm_active": "SMs busy",
        "tensor_active": "tensor pipes busy",
        "dram_active": "memory busy",
    }
    return timeseries(
        Gpu.ACTIVITY,
        "What it does",
        _means(names),
        unit=units.RATIO,
        top=1,
        means="Shares of time or cycles: engine busy, a warp resident, tensor pipes working, memory in use.",
        do="Engine busy and tensor pipes idle for minutes: waiting or hung.",
    )


def _power() -> Panel:
    sql = f"""SELECT {GPU.time},
    {weighted("power_w")} AS "mean", max(power_w_max) AS "highest",
    if(count() = 0, NULL, sum(energy_j) / {GPU.covered_s}) AS "by energy counter"
FROM {GPU.rows("power_w_sum, power_w_s, power_w_max, energy_j", SCOPE)}
GROUP BY time
{GPU.gaps}"""
    return timeseries(
        Gpu.POWER,
        "Power",
        sql,
        unit=units.of("node-telemetry", "power_w"),
        means="Mean and highest power by the sensor, and mean power by the energy counter, which misses nothing.",
        do="Sensor and counter apart by more than a few per cent: bill and judge by the counter.",
    )


def _temperature() -> Panel:
    sql = f"""SELECT {GPU.time}, max(temp_gpu_c_max) AS "core", max(temp_mem_c_max) AS "memory"
FROM {GPU.rows("temp_gpu_c_max, temp_mem_c_max", SCOPE)}
GROUP BY time
{GPU.gaps}"""
    return timeseries(
        Gpu.TEMPERATURE,
        "Temperatures",
        sql,
        unit=units.of("node-telemetry", "temp_mem_c"),
        bottom=None,
        steps=thresholds.GPU_TEMPERATURE,
        means="Highest core and memory temperature.",
        do="Memory hot and core cool: the memory's cooling, e.g. its pads.",
    )


def _clocks() -> Panel:
    peers = f"""SELECT toStartOfInterval(ts, toIntervalSecond(toUInt32(greatest($__interval_s, 60)))) AS time,
    avg(clock_sm_mhz_median) AS "median of its job"
FROM gpufleet.job_1m FINAL
WHERE {last(24)} AND {only("site")} AND job_id IN ({_JOB})
GROUP BY time
ORDER BY time"""
    return timeseries(
        Gpu.CLOCKS,
        "SM clock, and its job's",
        (_means({"clock_sm_mhz": "this GPU"}), peers),
        unit=units.of("node-telemetry", "clock_sm_mhz"),
        bottom=None,
        means="Clock of its SMs against the median of the job that it works for at the end of the range.",
        do="Steadily below its peers: a straggler; see why its clocks are held down.",
    )


def _throttling() -> Panel:
    return common.throttling(Gpu.THROTTLING, GPU, SCOPE, width=12)


def _memory() -> Panel:
    return timeseries(
        Gpu.MEMORY,
        "Memory in use",
        _means({"fb_used_bytes": "used"}),
        unit=units.of("node-telemetry", "fb_used_bytes"),
        means="Device memory in use, mean.",
        do="Used without a job: a process was left behind; reset before leasing again.",
    )


def _links() -> Panel:
    lines = {
        "NVLink sent": "avg(nvlink_tx_bytes_per_s)",
        "NVLink received": "avg(nvlink_rx_bytes_per_s)",
        "PCIe sent": "avg(pcie_tx_bytes_per_s)",
        "PCIe received": "avg(pcie_rx_bytes_per_s)",
    }
    sql = samples("gpu_samples", lines, SCOPE)
    return timeseries(
        Gpu.LINKS,
        "NVLink and PCIe (last 15 minutes)",
        sql,
        unit=units.of("node-telemetry", "nvlink_tx_bytes_per_s"),
        interval="1s",
        means="Bytes a second over NVLink and PCIe. Raw samples of the last 15 minutes of the range.",
        do="NVLink silent while its peers talk: links down, see the counters beside.",
    )


def _last_minutes() -> Panel:
    lines = {
        "mean": "avg(power_w)",
        "highest instant": "max(power_instant_w)",
    }
    sql = samples("gpu_samples", lines, SCOPE)
    return timeseries(
        Gpu.LAST_MINUTES,
        "Power, second by second (last 15 minutes)",
        sql,
        unit=units.of("node-telemetry", "power_instant_w"),
        width=24,
        interval="1s",
        means="Raw samples of the last 15 minutes of the range: a synchronous job swings between compute and "
        "communication.",
        do="Flat where its peers swing: it does not take part in the job.",
    )


def _peers() -> Panel:
    sql = f"""SELECT
    site, node_id, gpu_index AS gpu, rack,
    {share("clock_sm_mhz_sum", "clock_sm_mhz_s")} AS clock,
    {share("power_w_sum", "power_w_s")} AS power,
    {share("tensor_active_sum", "tensor_active_s")} AS tensor,
    temp_gpu_c_max AS hottest,
    throttle_slowdown_s AS slowed
FROM gpufleet.gpu_1m FINAL
WHERE {recent("gpu_1m", where=_NODE)}
    AND (node_id, gpu_index) IN (SELECT node_id, gpu_index FROM gpufleet.job_gpus WHERE job_id IN ({_JOB}))
    AND node_id IN (SELECT node_id FROM gpufleet.job_gpus WHERE job_id IN ({_JOB}))
ORDER BY clock LIMIT 100"""
    return table(
        Gpu.PEERS,
        "Peers of its job, the slowest first",
        sql,
        {
            "site": HIDDEN,
            "node_id": Column("Node", links=(links.to_node(),)),
            "gpu": Column("GPU", width=60, links=(links.to_gpu(),)),
            "rack": Column("Rack"),
            "clock": Column("SM clock", units.MEGAHERTZ),
            "power": Column("Power", units.WATT, 0),
            "tensor": Column("Tensor", units.RATIO, 0),
            "hottest": Column("Hottest", units.CELSIUS, 0, steps=thresholds.GPU_TEMPERATURE),
            "slowed": Column("Slowed down", units.SECONDS, 0, steps=thresholds.ANY_IS_NOTICE),
        },
        width=14,
        height=10,
        none="no job known on this GPU",
        means="The GPUs of the job that holds this GPU at the end of the range, newest minute; at most 100.",
        do="First in the list and far below the second: the straggler.",
    )


def _identity() -> Panel:
    sql = f"""SELECT gpu_uuid AS uuid, gpu_model, rack, slot, feed, cdu, nvlink_domain, nvlink_count AS nvlinks, since
FROM gpufleet.gpu_inventory
WHERE {SCOPE}
LIMIT 10"""
    return table(
        Gpu.IDENTITY,
        "What it is",
        sql,
        {
            "uuid": Column("UUID"),
            "gpu_model": Column("Model"),
            "rack": Column("Rack", links=(links.to_rack(site=_SITE),)),
            "slot": Column("Slot"),
            "feed": Column("Feed"),
            "cdu": Column("CDU"),
            "nvlink_domain": Column("NVLink domain"),
            "nvlinks": Column("NVLinks"),
            "since": Column("Here since", units.TIME),
        },
        width=10,
        height=10,
        means="Identity and place by the newest inventory. A younger date than its neighbours': it was swapped.",
        do="Give the UUID to whoever replaces it.",
    )


def _events() -> Panel:
    return common.events(Gpu.EVENTS, _EVENTS)
