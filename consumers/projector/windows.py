"""The SQL that computes each window table from the events, or from a finer table.

Every statement computes whole windows of a range [from, to) and is told the version to write; nothing here depends
on what a window held before. Duplicates that the engine has not merged yet vanish by FINAL, flawed events are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from consumers.projector.measures import ARRAYS, NAMES, aggregates, neutral, rolled_up

SLOT_S = 10
"""Length of the finest window."""
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400


@dataclass(frozen=True, slots=True)
class Table:
    """A window table."""

    name: str
    window_s: int
    key: tuple[str, ...]
    columns: tuple[str, ...]
    """All columns but version and is_deleted, in the order the statement yields them."""


@dataclass(frozen=True, slots=True)
class Range:
    """Windows that start in [start, end): seconds since 1970, whole windows."""

    start: int
    end: int


_RACK = ("site", "ts", "rack", "gpu_model", "tenant")
_FLEET = ("site", "ts", "gpu_model", "tenant")
_GPU = ("site", "ts", "node_id", "gpu_index", "tenant")
_USAGE = ("site", "tenant", "ts", "workspace", "product", "model", "tier")
_ENERGY = ("energy_j", "driver_epoch", "energy_last_j", "energy_base")
USAGE_SUMS = (
    "requests",
    "throttled_requests",
    "failed_requests",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
)
_USAGE_COLUMNS = (*_USAGE, "windows", *USAGE_SUMS, "latency_bounds_ms", "ttft_counts", "latency_counts")

RACK_10S = Table("rack_10s", SLOT_S, _RACK, (*_RACK, "nodes", "gpus", *NAMES))
FLEET_10S = Table("fleet_10s", SLOT_S, _FLEET, (*_FLEET, "nodes", "gpus", *NAMES))
RACK_1M = Table("rack_1m", MINUTE_S, _RACK, (*_RACK, "nodes", "gpus", *NAMES, "energy_j", "energy_gpus"))
GPU_1M = Table("gpu_1m", MINUTE_S, _GPU, (*_GPU, "rack", "gpu_model", "gpu_uuid", *NAMES, *_ENERGY))
GPU_1H = Table("gpu_1h", HOUR_S, _GPU, (*_GPU, "rack", "gpu_model", "gpu_uuid", "minutes", *NAMES, "energy_j"))
USAGE_1M = Table("usage_1m", MINUTE_S, _USAGE, _USAGE_COLUMNS)
USAGE_1H = Table("usage_1h", HOUR_S, _USAGE, _USAGE_COLUMNS)
USAGE_1D = Table("usage_1d", DAY_S, _USAGE, _USAGE_COLUMNS)

HEALTH_COUNTS = (
    "gpus",
    "gpus_in_service",
    "gpus_reporting",
    "gpus_healthy",
    "gpus_unhealthy",
    "gpus_unknown",
    "gpus_opted_out",
    "gpus_not_in_service",
)
HEALTH_SUMS = (
    "healthy_s",
    "unhealthy_s",
    "unknown_s",
    "opted_out_s",
    "not_in_service_s",
    "slowdown_s",
    "fault_s",
    "reported_s",
    "expected_s",
    "used_s",
    "energy_j",
)
HEALTH_SECONDS = tuple(name for name in HEALTH_SUMS if name != "energy_j")
FLEET_1H = Table("fleet_1h", HOUR_S, _FLEET, (*_FLEET, "nodes", "gpus", *NAMES, "energy_j"))
RACK_1H = Table("rack_1h", HOUR_S, _RACK, (*_RACK, "nodes", "gpus", *NAMES, "energy_j", *HEALTH_SECONDS))

_HELD = ("gpu_model", "tenant", "lease_id")
_SUPPLY = ("feed", "pdu", "cdu")
_HEALTH = (*HEALTH_COUNTS, *HEALTH_SUMS)
HEALTH_1M = Table(
    "health_1m",
    MINUTE_S,
    ("site", "ts", "rack", *_HELD),
    ("site", "ts", "rack", *_HELD, *_SUPPLY, *_HEALTH),
)
HEALTH_1H = Table("health_1h", HOUR_S, ("site", "ts", *_HELD), ("site", "ts", *_HELD, *_HEALTH))
_SICK = ("site", "ts", "node_id", "gpu_index", "reason")
SICK_1M = Table(
    "sick_1m",
    MINUTE_S,
    _SICK,
    (
        *_SICK,
        "tenant",
        "rack",
        *_SUPPLY,
        "nvlink_domain",
        "gpu_model",
        "gpu_uuid",
        "job_id",
        "action",
        "scope",
        "origin_node",
        "since",
        "in_service",
        "detail",
    ),
)
_SPELL = ("site", "ts", "node_id", "gpu_index", "reason", "since", "tenant", "in_service")
SICK_1H = Table(
    "sick_1h",
    HOUR_S,
    _SPELL,
    (
        *_SPELL,
        "rack",
        "feed",
        "cdu",
        "nvlink_domain",
        "gpu_model",
        "action",
        "scope",
        "origin_node",
        "minutes",
        "first_minute",
        "last_minute",
        "detail",
    ),
)
JOB_1M = Table(
    "job_1m",
    MINUTE_S,
    ("site", "ts", "job_id"),
    (
        "site",
        "ts",
        "job_id",
        "tenant",
        "job_kind",
        "name",
        "gpus",
        "gpus_reporting",
        "nodes",
        "gr_engine_active",
        "tensor_active",
        "power_w",
        "power_w_sum",
        "nvlink_tx_bytes",
        "nic_tx_bytes",
        "clock_sm_mhz_median",
        "slowest_node",
        "slowest_gpu",
        "slowest_ratio",
        "quiet",
        "hung",
        "slow_nodes",
        "slow_gpus",
        "slow_ratios",
        "straggler",
    ),
)
_READINGS = (
    "power_w_avg",
    "power_w_max",
    "power_cap_w",
    "supply_temp_c_max",
    "return_temp_c_max",
    "flow_lpm_min",
    "flow_lpm_avg",
    "pressure_kpa_min",
    "leak",
    "energy_j",
)
_ASSET = ("site", "ts", "asset_id")
_OF_ASSET = ("asset_kind", "parent_id", "rack", "state", "readings")
FACILITY_1M = Table("facility_1m", MINUTE_S, _ASSET, (*_ASSET, *_OF_ASSET, *_READINGS))
FACILITY_1H = Table("facility_1h", HOUR_S, _ASSET, (*_ASSET, *_OF_ASSET, "minutes", *_READINGS))


def instant(seconds: int) -> str:
    """A DateTime literal."""
    return f"toDateTime('{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}', 'UTC')"


def instant64(seconds: int) -> str:
    """A DateTime64(6) literal, for comparisons with event times."""
    return f"toDateTime64('{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}', 6, 'UTC')"


def one_of(column: str, values: Sequence[str] | None) -> str:
    """`` AND column IN (..)``; nothing for None. Values are quoted."""
    if values is None:
        return ""
    quoted = ", ".join("'" + v.replace("\\", "\\\\").replace("'", "\\'") + "'" for v in values)
    return f" AND {column} IN ({quoted})" if values else " AND 0"


def scope(window: Range, narrowing: str = "") -> str:
    """Condition on the rows of a window table that a recomputation replaces."""
    return f"ts >= {instant(window.start)} AND ts < {instant(window.end)}{narrowing}"


def version_sql(tables: Sequence[Table], window: Range) -> str:
    """The version for a recomputation of ``window``: above all there, and not below the store's clock."""
    maxima = "\n    UNION ALL ".join(
        f"SELECT max(version) AS v FROM gpufleet.{t.name} WHERE {scope(covering(t, window))}" for t in tables
    )
    return f"SELECT greatest(max(v) + 1, toUInt64(toUnixTimestamp64Micro(now64(6)))) FROM\n(\n    {maxima}\n)"


def covering(table: Table, window: Range) -> Range:
    """The whole windows of a table that a range touches."""
    size = table.window_s
    return Range(window.start // size * size, -(-window.end // size) * size)


def tombstones_sql(table: Table, window: Range, version: int, narrowing: str = "") -> str:
    """Keys that stood in the windows and were not written again: written as deleted."""
    key = ", ".join(table.key)
    return f"""INSERT INTO gpufleet.{table.name} ({key}, version, is_deleted)
SELECT {key}, {version}, 1
FROM gpufleet.{table.name} FINAL
WHERE {scope(window, narrowing)} AND version < {version}"""


def insert_sql(table: Table, select: str, version: int) -> str:
    """Write what ``select`` yields (the table's columns, by name) as rows of ``version``."""
    columns = ", ".join(table.columns)
    return f"""INSERT INTO gpufleet.{table.name} ({columns}, version, is_deleted)
SELECT {columns}, {version}, 0
FROM
(
{select}
)"""


# --- grain: site, rack, model, tenant and 10 seconds; the one pass over the events ----------------------------------

_EVENT = "site, rack, gpu_model, tenant, node_id, gpu_index"
_SLOT_US = SLOT_S * 1_000_000


def _sliced() -> str:
    """The arrays, cut to the ticks [lo, hi). Element i of an array is tick i % ticks."""
    inside = "(i - 1) % ticks >= lo AND (i - 1) % ticks < hi"
    cut = "arrayFilter((x, i) -> {1}, cut_from.{0}, arrayEnumerate(cut_from.{0})) AS {0}"
    return ",\n        ".join(cut.format(name, inside) for name in ARRAYS)


def doubled_sql(window: Range, nodes: Sequence[str] | None = None) -> str:
    """Whether an event of the window is stored twice and not merged yet (or two share a hash, which does no harm)."""
    return f"""SELECT count() != uniqExact(cityHash64(site, producer_id, run_id, seq))
FROM gpufleet.node_telemetry
PREWHERE ts >= {instant64(window.start // 60 * 60)} AND ts < {instant64(window.end)}{one_of("node_id", nodes)}"""


def rack_10s_sql(window: Range, nodes: Sequence[str] | None = None, *, final: bool = True) -> str:
    """rack_10s from node_telemetry.

    A tick of up to 10 s counts where it starts. A longer one (back-fill) counts in every 10 seconds it covers, for
    as long as it covers them; the last one of the minute takes what reaches beyond. Seconds are conserved either way.

    Without ``final`` the window must hold no doubles; it saves reading all columns of the rows that PREWHERE drops.
    """
    source = f"""FROM gpufleet.node_telemetry{" FINAL" if final else ""}
        PREWHERE ts >= {instant64(window.start // 60 * 60)} AND ts < {instant64(window.end)} AND flaws = 0
            AND {{which}}"""
    wanted = f"notEmpty(gpu_index){one_of('node_id', nodes)}"
    t0, tick = "toUnixTimestamp64Micro(ts)", "toInt64(interval_ms) * 1000"
    one_slot = f"{tick} <= {_SLOT_US} AND intDiv({t0}, {_SLOT_US}) = intDiv({t0} + (ticks - 1) * {tick}, {_SLOT_US})"
    columns = f"{_EVENT}, ts, interval_ms, ticks, {', '.join(ARRAYS)}"
    return f"""SELECT
    site,
    toDateTime(slot * {SLOT_S}, 'UTC') AS ts,
    rack,
    gpu_model,
    tenant,
    uniqExact(node_id) AS nodes,
    uniqExactArray(arrayMap(g -> cityHash64(node_id, g), gpu_index)) AS gpus,
    {aggregates("    ")}
FROM
(
    -- All ticks lie in one slot: the arrays serve as they are.
    SELECT
        {_EVENT},
        intDiv({t0}, {_SLOT_US}) AS slot,
        interval_ms / 1000 AS w,
        ticks * length(gpu_index) AS started,
        ticks * length(gpu_index) AS covered,
        {", ".join(ARRAYS)}
    {source.format(which=f"ts >= {instant64(window.start)} AND {one_slot}")}
    WHERE {wanted}
    UNION ALL
    -- The rest: one row per slot, or per slot and tick when a tick is longer than a slot.
    SELECT
        {_EVENT},
        slot,
        (if(coarse, piece_to - piece_from, tick) / 1000000) AS w,
        if(coarse AND lo_at < slot * {_SLOT_US}, 0, hi - lo) * length(gpu_index) AS started,
        (hi - lo) * length(gpu_index) AS covered,
        {_sliced()}
    FROM
    (
        SELECT
            {columns},
            {t0} AS t0,
            {tick} AS tick,
            tick > {_SLOT_US} AS coarse,
            intDiv(t0, 60000000) * {60 // SLOT_S} + {60 // SLOT_S - 1} AS last_of_minute,
            -- (first, past) tick of each piece: all ticks for the fine ones, each alone for the coarse ones.
            arrayJoin(if(coarse, arrayMap(i -> (i, i + 1), range(toUInt64(ticks))), [(0, toUInt64(ticks))])) AS run,
            toInt64(run.1) AS run_lo,
            toInt64(run.2) AS run_hi,
            t0 + run_lo * tick AS lo_at,
            t0 + run_hi * tick AS past,
            intDiv(lo_at, {_SLOT_US}) AS first_slot,
            least(intDiv(past - 1, {_SLOT_US}), last_of_minute) AS last_slot,
            toInt64(arrayJoin(range(toUInt64(first_slot), toUInt64(last_slot + 1)))) AS slot,
            if(coarse, run_lo, greatest(0, intDiv(slot * {_SLOT_US} - t0 + tick - 1, tick))) AS lo,
            if(coarse, run_hi, least(ticks, intDiv((slot + 1) * {_SLOT_US} - t0 + tick - 1, tick))) AS hi,
            greatest(slot * {_SLOT_US}, lo_at) AS piece_from,
            if(slot = last_slot, past, (slot + 1) * {_SLOT_US}) AS piece_to
        {source.format(which=f"NOT ({one_slot})")}
        WHERE {wanted}
    ) AS cut_from
    WHERE slot >= {window.start // SLOT_S} AND slot < {window.end // SLOT_S} AND hi > lo
)
GROUP BY site, slot, rack, gpu_model, tenant"""


# --- grain: site, model, tenant and 10 seconds; from rack_10s -------------------------------------------------------


def fleet_10s_sql(window: Range) -> str:
    """fleet_10s from rack_10s. A GPU stands in one rack, so counts add up."""
    return f"""SELECT
    site,
    ts,
    gpu_model,
    tenant,
    sum(nodes) AS nodes,
    sum(gpus) AS gpus,
    {rolled_up("    ")}
FROM gpufleet.rack_10s FINAL
WHERE {scope(window)}
GROUP BY site, ts, gpu_model, tenant"""


# --- grain: site, rack, model, tenant and minute; from rack_10s, energy from gpu_1m ---------------------------------


def rack_1m_sql(window: Range, racks: Sequence[str] | None = None, nodes: Sequence[str] | None = None) -> str:
    """rack_1m from rack_10s, and energy from the minutes of gpu_1m that are there. ``nodes`` holds all of ``racks``."""
    return f"""SELECT
    site,
    minute AS ts,
    rack,
    gpu_model,
    tenant,
    max(nodes) AS nodes,
    max(gpus) AS gpus,
    {rolled_up("    ")},
    sum(energy_j) AS energy_j,
    sum(energy_gpus) AS energy_gpus
FROM
(
    SELECT
        site, toStartOfMinute(ts) AS minute, rack, gpu_model, tenant,
        -- Per slot the racks' rows are one; the most of any slot is the minute's.
        max(nodes) AS nodes, max(gpus) AS gpus,
        {rolled_up("        ")},
        0 AS energy_j,
        0 AS energy_gpus
    FROM gpufleet.rack_10s FINAL
    WHERE {scope(window, one_of("rack", racks))}
    GROUP BY site, minute, rack, gpu_model, tenant
    UNION ALL
    SELECT
        site, ts AS minute, rack, gpu_model, tenant,
        0 AS nodes, 0 AS gpus,
        {neutral("        ")},
        sum(energy_j) AS energy_j,
        uniqExactIf((node_id, gpu_index), energy_last_j >= 0) AS energy_gpus
    FROM gpufleet.gpu_1m FINAL
    WHERE {scope(window, one_of("rack", racks) + one_of("node_id", nodes))}
    GROUP BY site, minute, rack, gpu_model, tenant
)
GROUP BY site, minute, rack, gpu_model, tenant
HAVING samples > 0 OR nodes > 0"""
