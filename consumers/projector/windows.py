"""The SQL that computes each window table from the events, or from a finer table.

Every statement computes whole windows of a range [from, to) and is told the version to write; nothing here depends
on what a window held before. Duplicates that the engine has not merged yet vanish by FINAL, flawed events are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from consumers.projector.measures import NAMES

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
FACILITY_READINGS = (
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
FACILITY_1M = Table("facility_1m", MINUTE_S, _ASSET, (*_ASSET, *_OF_ASSET, *FACILITY_READINGS))
FACILITY_1H = Table("facility_1h", HOUR_S, _ASSET, (*_ASSET, *_OF_ASSET, "minutes", *FACILITY_READINGS))


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
