"""`gpufleet bench ingest`: a fleet's events through the real consumer and projector, against the usual way.

1. Fill the topics with the fleet's events (fast lane every second, slow lane, events), nothing else running.
2. Drain them through consumer and projector with merges on; CPU of each process, merge debt and memory over time.
3. Merge what is left and measure bytes per value.
4. In the same run, the straightforward pipeline over a sample of the same events.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client

from infra.bench import straightforward
from infra.bench.cpu import CpuMeter, Usage
from infra.bench.debt import Debt, bytes_per_value, debt
from infra.bench.fill import Filled, fill
from infra.clickhouse.client import ClickHouse, connect
from infra.config import Settings
from infra.connections import clickhouse
from infra.kafka.client import librdkafka
from infra.up.stack import Broker, Stack
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from producers.simulator import topology
from producers.simulator.scenario import Scenario
from producers.simulator.simulation import TOPICS, Simulation, producers

EMBEDDED_CAP_BYTES = 2 << 30
"""What the embedded broker is given: it keeps its log in memory."""
STALL_S = 120.0
Say = Callable[[str], None]


@dataclass(slots=True)
class Drained:
    """The drain: the real pipeline at work."""

    wall_s: float = 0.0
    gpu_samples: int = 0
    cpu: dict[str, Usage] = field(default_factory=dict)
    """Usage by role: broker, consumer, projector, store."""
    debts: list[Debt] = field(default_factory=list)
    consumer_rss: list[int] = field(default_factory=list)
    """Resident bytes of the consumer, every five seconds."""
    store_rss_max: int = 0

    @property
    def cpu_s(self) -> float:
        return sum(usage.cpu_s for usage in self.cpu.values())

    @property
    def ingest_cpu_s(self) -> float:
        """CPU of what the baseline has too: consumer and store, without broker and projector."""
        return sum(usage.cpu_s for role, usage in self.cpu.items() if role in ("consumer", "store"))


@dataclass(slots=True)
class Baseline:
    """The straightforward pipeline on the sample."""

    gpu_samples: int
    client_cpu_s: float
    store_cpu_s: float

    @property
    def per_cpu_s(self) -> float:
        return self.gpu_samples / (self.client_cpu_s + self.store_cpu_s)


def ingest(
    data: Path,
    settings: Settings,
    broker: Broker,
    scenario: Scenario,
    seconds: int,
    say: Say,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the benchmark in an empty ``data`` folder; the report as a dictionary."""
    with Stack(data, settings, broker, overrides=overrides, say=say) as stack:
        journal = Journal.start(stack.journals, scenario.site, producers(scenario), TOPICS)
        filled = _fill(stack, journal, scenario, seconds, broker, say)
        say(f"filled {filled.gpu_samples:,} GPU samples in {filled.wall_s:.0f} s; draining")
        client = stack.client()
        drained = _drain(stack, client, journal, filled, say)
        say("merging what is left, for the size")
        client.command("OPTIMIZE TABLE node_telemetry FINAL", settings={"optimize_throw_if_noop": 0})
        per_value, per_value_row = bytes_per_value(client)
        exact = client.query(
            "SELECT count(), uniqExact(producer_id, run_id, seq), sum(length(gpu_index) * ticks) FROM node_telemetry"
        ).result_rows[0]
        stack.stop_child("consumer")
        stack.stop_child("projector")
        say(f"the straightforward pipeline, on {filled.sample_gpu_samples:,} of the same samples")
        baseline = _baseline(stack, filled)
        client.close()
        journal.close()
    return _report(filled, drained, baseline, per_value, per_value_row, [int(value) for value in exact])


def _fill(stack: Stack, journal: Journal, scenario: Scenario, seconds: int, broker: Broker, say: Say) -> Filled:
    gpus = {node.node_id.encode(): node.gpus for node in topology.build(scenario).nodes}
    ticks = 5
    end_us = time.time_ns() // 60_000_000_000 * 60_000_000
    with KafkaOutbox(librdkafka(stack.settings.kafka), journal) as outbox:
        simulation = Simulation(scenario, journal, outbox, ticks=ticks)
        filled = fill(
            simulation,
            outbox,
            end_us - seconds * 1_000_000,
            end_us,
            lambda key: gpus[key] * ticks,
            cap_bytes=EMBEDDED_CAP_BYTES if broker == "embedded" else None,
            progress=lambda share: say(f"filling: {share:.0%}"),
        )
        simulation.close()
    return filled


def _drain(stack: Stack, client: Client, journal: Journal, filled: Filled, say: Say) -> Drained:
    drained = Drained(gpu_samples=filled.gpu_samples)
    backlog = stack.backlog(client, journal)
    stack.start_readers()
    meter = CpuMeter(stack.pids())
    started = moved = told = time.monotonic()
    left = last = backlog.count()
    while left:
        time.sleep(1.0)
        stack.check()
        left = backlog.count()
        now = time.monotonic()
        if left < last:
            last, moved = left, now
        if now - moved > STALL_S:
            raise RuntimeError(f"no message was stored for {STALL_S:.0f} s with {left} left; logs in {stack.data}/log")
        if now - told >= 5 or not left:
            told = now
            usage = meter.read()
            drained.debts.append(debt(client, "node_telemetry", now - started))
            drained.consumer_rss.append(usage["consumer"].rss_bytes)
            drained.store_rss_max = max(drained.store_rss_max, usage["store"].rss_bytes)
            parts = drained.debts[-1]
            say(f"{left:,} messages left, {parts.parts} parts ({parts.unmerged_parts} unmerged)")
    drained.wall_s = time.monotonic() - started
    drained.cpu = meter.read()
    return drained


def _baseline(stack: Stack, filled: Filled) -> Baseline:
    assert stack.store is not None
    meter = CpuMeter({"store": stack.store.pid})
    where = clickhouse(stack.settings.store, database=stack.settings.store.database)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rows, cpu_s = pool.apply(run_baseline, (where, filled.sample))
    return Baseline(rows, cpu_s, meter.read()["store"].cpu_s)


def run_baseline(where: ClickHouse, values: list[bytes]) -> tuple[int, float]:
    """In a process of its own, so that its CPU clock is its own: rows and CPU seconds."""
    client = connect(where)
    straightforward.create_table(client)
    try:
        return straightforward.run(client, values)
    finally:
        client.command(f"DROP TABLE IF EXISTS {straightforward.TABLE}")


def _report(
    filled: Filled, drained: Drained, baseline: Baseline, per_value: float, per_value_row: float, exact: list[int]
) -> dict[str, Any]:
    rows, distinct, samples = exact
    per_cpu = drained.gpu_samples / drained.ingest_cpu_s
    steady = [d for d in drained.debts if d.at_s > drained.wall_s / 4]
    rss = drained.consumer_rss[len(drained.consumer_rss) // 4 :]
    return {
        "fill": {
            "gpu_samples": filled.gpu_samples,
            "events": dict(filled.events),
            "wall_s": round(filled.wall_s, 1),
            "gpu_samples_per_cpu_s": round(filled.gpu_samples / filled.cpu_s),
            "bytes_per_gpu_sample_on_wire": round(filled.value_bytes / filled.gpu_samples, 1),
            "capped": filled.capped,
        },
        "drain": {
            "wall_s": round(drained.wall_s, 1),
            "gpu_samples_per_s": round(drained.gpu_samples / drained.wall_s),
            "cpu_s": {role: round(usage.cpu_s, 1) for role, usage in drained.cpu.items()},
            "gpu_samples_per_cpu_s_all": round(drained.gpu_samples / drained.cpu_s),
            "gpu_samples_per_cpu_s": round(per_cpu),
            "consumer_gpu_samples_per_cpu_s": round(drained.gpu_samples / drained.cpu["consumer"].cpu_s),
            "consumer_rss_mib": {"first": rss[0] >> 20, "last": rss[-1] >> 20, "max": max(rss) >> 20} if rss else {},
            "store_rss_max_mib": drained.store_rss_max >> 20,
            "parts_max": max((d.parts for d in steady), default=0),
            "debt": [asdict(d) for d in drained.debts],
        },
        "storage": {
            "bytes_per_metric_value": round(per_value, 3),
            "bytes_per_metric_value_whole_row": round(per_value_row, 3),
        },
        "exact": {"sent": filled.events["node-telemetry"], "rows": rows, "distinct": distinct, "gpu_samples": samples},
        "baseline": {
            "gpu_samples": baseline.gpu_samples,
            "client_cpu_s": round(baseline.client_cpu_s, 1),
            "store_cpu_s": round(baseline.store_cpu_s, 1),
            "gpu_samples_per_cpu_s": round(baseline.per_cpu_s),
        },
        "ratio": round(per_cpu / baseline.per_cpu_s, 2),
        "void": baseline.per_cpu_s < straightforward.VOID_BELOW,
    }
