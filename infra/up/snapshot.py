"""What the terminal view shows, asked of the store once every few seconds: one query a line of the view."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from clickhouse_connect.driver.client import Client

# Grain: one row. The fleet's last 20 seconds as stored; freshness is from a tick to the moment its row was queryable.
LIVE = """
SELECT
    sum(gpus) AS gpus_reporting,
    sum(recent) / 10 AS samples_per_s,
    maxIf(newest, newest > 0) AS newest_tick
FROM
(
    SELECT
        node_id,
        max(length(gpu_index)) AS gpus,
        sumIf(length(gpu_index) * ticks, stored_at > now64(6) - INTERVAL 10 SECOND) AS recent,
        max(toUnixTimestamp64Micro(ts) + (ticks - 1) * interval_ms * 1000) AS newest
    FROM node_telemetry
    WHERE ts > now64(6) - INTERVAL 20 SECOND AND flaws = 0
    GROUP BY node_id
)
"""

# Grain: one row. Seconds from a tick to the moment its row was inserted.
FRESHNESS = """
SELECT quantiles(0.5, 0.99)(date_diff('microsecond', ts + toIntervalMillisecond(interval_ms * tick), stored_at) / 1e6)
FROM node_telemetry
ARRAY JOIN range(toUInt32(ticks)) AS tick
WHERE ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
"""

POWER = """
SELECT argMax(power_w, ts), argMax(power_cap_w, ts)
FROM facility_telemetry
WHERE asset_kind = 'site' AND ts > now64(6) - INTERVAL 3 MINUTE
"""

TENANTS = """
SELECT if(tenant = '', 'unleased', tenant) AS tenant, sum(gpus) AS gpus
FROM
(
    SELECT node_id, argMax(tenant, ts) AS tenant, max(length(gpu_index)) AS gpus
    FROM node_telemetry
    WHERE ts > now64(6) - INTERVAL 20 SECOND AND flaws = 0
    GROUP BY node_id
)
GROUP BY tenant
ORDER BY gpus DESC
"""

SICK = "SELECT reason, count() AS gpus FROM sick_gpus WHERE in_service GROUP BY reason ORDER BY gpus DESC LIMIT 5"

DEAD_LETTERS = "SELECT count() FROM dead_letters"

# Grain: one row. Age of the newest minute that the boards' figures of health can be of; NULL = there is none.
BEHIND = """
SELECT if(count() = 0, NULL, dateDiff('second', max(ts) + 60, now()))
FROM health_1m
WHERE ts > now() - INTERVAL 2 DAY
"""


@dataclass(slots=True)
class Snapshot:
    """The fleet as the store sees it now."""

    gpus_reporting: int = 0
    samples_per_s: float = 0.0
    freshness_p50_s: float | None = None
    freshness_p99_s: float | None = None
    power_w: float | None = None
    power_cap_w: float | None = None
    tenants: dict[str, int] = field(default_factory=dict)
    """GPUs by tenant."""
    sick: dict[str, int] = field(default_factory=dict)
    """GPUs by reason."""
    dead_letters: int = 0
    minutes_behind_s: float | None = None
    """Age of the newest minute whose health is computed; a minute or so when nothing is left to catch up with."""


def take(client: Client, since_us: int) -> Snapshot:
    """Ask the store. ``since_us``: start of the live run, before which freshness means nothing."""
    shot = Snapshot()
    gpus, samples, _newest = client.query(LIVE).result_rows[0]
    shot.gpus_reporting, shot.samples_per_s = int(gpus), float(samples)
    recent = max(since_us, time.time_ns() // 1000 - 60_000_000)
    shot.freshness_p50_s, shot.freshness_p99_s = freshness_since(client, recent)
    shot.power_w, shot.power_cap_w = client.query(POWER).result_rows[0]
    shot.tenants = {str(tenant): int(count) for tenant, count in client.query(TENANTS).result_rows}
    shot.sick = {str(cause): int(count) for cause, count in client.query(SICK).result_rows}
    shot.dead_letters = int(client.query(DEAD_LETTERS).result_rows[0][0])
    shot.minutes_behind_s = client.query(BEHIND).result_rows[0][0]
    return shot


def freshness_since(client: Client, since_us: int) -> tuple[float | None, float | None]:
    """Median and 99th percentile seconds from a tick to its row, of events since then; None without any."""
    rows = client.query(FRESHNESS, parameters={"since": since_us}).result_rows
    median, high = rows[0][0] if rows and rows[0][0] else (math.nan, math.nan)
    return (None, None) if math.isnan(median) else (round(median, 3), round(high, 3))
