"""`gpufleet bench audit`: an hour of a whole fleet's events, accounted for one by one.

The audit of events reads identities and times, no metrics, so the store is filled by itself: the rows of both lanes
are made by INSERT ... SELECT with every producer's run, seq 0, 1, 2 ... and times, GPU indices, and no metric arrays.
One event is left out and one is stored twice, and the audit has to name both: a fast wrong answer is no answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client

from consumers.audit import Expected, Kind, audit
from infra.bench.cpu import CpuMeter
from infra.clickhouse.client import ClickHouse, connect
from infra.clickhouse.migrate import migrate
from infra.clickhouse.tenancy import POLICIES
from infra.embedded.store.process import StoreProcess
from infra.errors import GpufleetError

MINUTE_US = 60_000_000
GPUS = 8


@dataclass(frozen=True, slots=True)
class Lane:
    """What a node sends in a minute."""

    topic: str
    table: str
    events: int
    ticks: int
    interval_ms: int


LANES = (
    Lane("node-telemetry", "node_telemetry", 12, 5, 1_000),
    Lane("node-counters", "node_counters", 1, 6, 10_000),
)

# Grain: one event. A minute of every node's events of one lane.
FILL = """
INSERT INTO gpufleet.{table} (site, producer_id, run_id, seq, ts, node_id, rack, gpu_model, interval_ms, ticks,
    gpu_index)
SELECT
    'bench', node, {{run:Int64}}, {{minute:Int64}} * {events} + nth,
    fromUnixTimestamp64Micro({{start:Int64}} + nth * {step}, 'UTC'), node, concat('rack-', toString(intDiv(n, 8))),
    'H100', {interval_ms}, {ticks}, range({gpus})
FROM
(
    SELECT number AS n, concat('node-', leftPad(toString(number), 6, '0')) AS node,
        arrayJoin(range({events})) AS nth
    FROM numbers({{nodes:UInt64}})
)
WHERE NOT (n = {{without:Int64}} AND nth = 0)
"""
REPEAT = """
INSERT INTO gpufleet.node_telemetry
SELECT * FROM gpufleet.node_telemetry WHERE producer_id = {producer:String} AND seq = 0
"""


def bench(folder: Path, nodes: int, minutes: int, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Fill a store, audit it so many times, report. GpufleetError when the audit does not find what was planted."""
    with StoreProcess(folder / "store", policies=POLICIES) as store:
        client = connect(ClickHouse(store.host, store.port, store.username, store.password))
        try:
            migrate(client)
            client.database = "gpufleet"
            run = (time.time_ns() // 1000 // MINUTE_US - minutes - 5) * MINUTE_US
            filled = CpuMeter({"store": store.pid})
            rows = _fill(client, run, nodes, minutes, say)
            say(f"{rows:,} rows in {filled.read()['store'].cpu_s:.0f} CPU-s")
            expected = list(_expected(run, nodes, minutes))
            times = [_audit(client, store.pid, expected, rows, nodes, say) for _ in range(repeats)]
            parts = client.command("SELECT count() FROM system.parts WHERE active AND table = 'node_telemetry'")
        finally:
            client.close()
    best = min(times, key=lambda each: each["wall_s"])
    return {"nodes": nodes, "minutes": minutes, "rows": rows, "parts": parts, **best, "runs": times}


def _fill(client: Client, run: int, nodes: int, minutes: int, say: Callable[[str], None]) -> int:
    """Minute by minute, so that there are parts as a consumer leaves them; rows, one left out and one doubled."""
    told = time.monotonic()
    for minute in range(minutes):
        for lane in LANES:
            sql = FILL.format(
                table=lane.table,
                events=lane.events,
                step=lane.ticks * lane.interval_ms * 1000,
                interval_ms=lane.interval_ms,
                ticks=lane.ticks,
                gpus=GPUS,
            )
            # In the middle of the run, of one node, the minute's first event of the fast lane is missing.
            without = nodes - 1 if minute == minutes // 2 and lane is LANES[0] else -1
            values = {"run": run, "minute": minute, "start": run + minute * MINUTE_US}
            client.command(sql, parameters={**values, "nodes": nodes, "without": without})
        if time.monotonic() - told > 10:
            told = time.monotonic()
            say(f"minute {minute + 1} of {minutes} is filled")
    # The engine collapses a double when it merges: it must not, before the audit has looked.
    client.command("SYSTEM STOP MERGES gpufleet.node_telemetry")
    client.command(REPEAT, parameters={"producer": "node-000000"})
    counted = "SELECT sum(n) FROM (" + " UNION ALL ".join(f"SELECT count() AS n FROM {e.table}" for e in LANES) + ")"
    return int(client.query(counted).result_rows[0][0])


def _expected(run: int, nodes: int, minutes: int) -> Iterator[Expected]:
    """What the producers' journals would say."""
    for lane in LANES:
        for number in range(nodes):
            yield Expected(f"node-{number:06d}", run, lane.topic, lane.events * minutes, ended=True)


def _audit(
    client: Client, pid: int, expected: list[Expected], rows: int, nodes: int, say: Callable[[str], None]
) -> dict[str, Any]:
    meter, began, own = CpuMeter({"store": pid}), time.monotonic(), time.process_time()
    report = audit(client, expected, compare_windows="none")
    wall_s, own_s = time.monotonic() - began, time.process_time() - own
    found = {(f.kind, f.producer_id, f.count) for f in report.findings}
    if found != {(Kind.GAP, f"node-{nodes - 1:06d}", 1), (Kind.DOUBLE, "node-000000", 1)}:
        raise GpufleetError(f"expected one gap and one double, the audit found {[str(f) for f in report.findings[:5]]}")
    if sum(report.stored.values()) != rows - 1:
        raise GpufleetError(f"expected {rows - 1} events, the audit counted {sum(report.stored.values())}")
    usage = meter.read()["store"]
    answer = {
        "wall_s": round(wall_s, 1),
        "store_cpu_s": round(usage.cpu_s, 1),
        "audit_cpu_s": round(own_s, 1),
        "store_rss_mib": usage.rss_bytes >> 20,
        "events_per_s": round(rows / wall_s),
    }
    say(", ".join(f"{name} {value:,}" for name, value in answer.items()))
    return answer
