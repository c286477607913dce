"""`gpufleet bench ingest`: a fleet's events through the real consumer and projector, against the usual way.

1. Fill the topics with the fleet's events (fast lane every second, slow lane, events), nothing else running.
2. The consumer alone drains a part, once it is warm: work like the baseline's.
3. Consumer and projector drain the rest, merges on: what is sustained; CPU, merge debt and memory over time.
4. Merge what is left and measure bytes per value.
5. In the same run, the straightforward pipeline over the first of the same messages, from the same topic.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client

from infra.bench import stage, straightforward
from infra.bench.cpu import CpuMeter
from infra.bench.debt import bytes_per_value
from infra.bench.fill import Filled, fill
from infra.bench.stage import Stage
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
BASELINE_SAMPLES = 1_600_000
WARM, ALONE = 0.88, 0.65
"""Share of the messages left when the consumer counts as warm, and when the projector joins it."""
TICKS = 5
Say = Callable[[str], None]


@dataclass(slots=True)
class Baseline:
    """The straightforward pipeline on the first messages of the topic."""

    gpu_samples: int
    client_cpu_s: float
    store_cpu_s: float
    """Inserts, and one merge of what was inserted."""

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
        backlog = stack.backlog(client, journal)
        total = backlog.count()
        stack.start_child("consumer", "consume")
        stage.run(stack, client, backlog, int(total * WARM), say)
        alone = stage.run(stack, client, backlog, int(total * ALONE), say)
        stack.start_child("projector", "project")
        drained = stage.run(stack, client, backlog, 0, say)
        say("merging what is left, for the size")
        client.command("OPTIMIZE TABLE node_telemetry FINAL", settings={"optimize_throw_if_noop": 0})
        per_value, per_value_row = bytes_per_value(client)
        exact = client.query(
            "SELECT count(), uniqExact(producer_id, run_id, seq), sum(length(gpu_index) * ticks) FROM node_telemetry"
        ).result_rows[0]
        stack.stop_child("consumer")
        stack.stop_child("projector")
        say("the straightforward pipeline, on the first of the same messages")
        baseline = _baseline(stack)
        client.close()
        journal.close()
    return {
        "fill": _filled(filled),
        "consumer_alone": _stage(alone),
        "drain": _stage(drained),
        "storage": {
            "bytes_per_metric_value": round(per_value, 3),
            "bytes_per_metric_value_whole_row": round(per_value_row, 3),
        },
        "exact": {
            "sent": filled.events["node-telemetry"],
            **dict(zip(("rows", "distinct", "gpu_samples"), (int(value) for value in exact), strict=True)),
        },
        "baseline": {
            "gpu_samples": baseline.gpu_samples,
            "client_cpu_s": round(baseline.client_cpu_s, 1),
            "store_cpu_s": round(baseline.store_cpu_s, 1),
            "gpu_samples_per_cpu_s": round(baseline.per_cpu_s),
        },
        "ratio": round(alone.gpu_samples / alone.ingest_cpu_s / baseline.per_cpu_s, 2),
        "ratio_with_projector": round(drained.gpu_samples / drained.ingest_cpu_s / baseline.per_cpu_s, 2),
        "void": baseline.per_cpu_s < straightforward.VOID_BELOW,
    }


def _fill(stack: Stack, journal: Journal, scenario: Scenario, seconds: int, broker: Broker, say: Say) -> Filled:
    gpus = {node.node_id.encode(): node.gpus for node in topology.build(scenario).nodes}
    end_us = time.time_ns() // 60_000_000_000 * 60_000_000
    with KafkaOutbox(librdkafka(stack.settings.kafka), journal) as outbox:
        simulation = Simulation(scenario, journal, outbox, ticks=TICKS)
        filled = fill(
            simulation,
            outbox,
            end_us - seconds * 1_000_000,
            end_us,
            lambda key: gpus[key] * TICKS,
            cap_bytes=EMBEDDED_CAP_BYTES if broker == "embedded" else None,
            progress=lambda share: say(f"filling: {share:.0%}"),
        )
        simulation.close()
    return filled


def _baseline(stack: Stack) -> Baseline:
    assert stack.store is not None
    meter = CpuMeter({"store": stack.store.pid})
    where = clickhouse(stack.settings.store, database=stack.settings.store.database)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rows, cpu_s = pool.apply(run_baseline, (where, librdkafka(stack.settings.kafka)))
    return Baseline(rows, cpu_s, meter.read()["store"].cpu_s)


def run_baseline(where: ClickHouse, kafka: dict[str, Any]) -> tuple[int, float]:
    """In a process of its own, so that its CPU clock is its own: rows and CPU seconds."""
    client: Client = connect(where)
    straightforward.create_table(client)
    try:
        return straightforward.run(client, straightforward.messages(kafka), BASELINE_SAMPLES)
    finally:
        client.command(f"DROP TABLE IF EXISTS {straightforward.TABLE}")


def _filled(filled: Filled) -> dict[str, Any]:
    return {
        "gpu_samples": filled.gpu_samples,
        "events": dict(filled.events),
        "wall_s": round(filled.wall_s, 1),
        "gpu_samples_per_cpu_s": round(filled.gpu_samples / filled.cpu_s),
        "bytes_per_gpu_sample_on_wire": round(filled.value_bytes / filled.gpu_samples, 1),
        "capped": filled.capped,
    }


def _stage(part: Stage) -> dict[str, Any]:
    rss = part.consumer_rss
    return {
        "wall_s": round(part.wall_s, 1),
        "gpu_samples": part.gpu_samples,
        "gpu_samples_per_s": round(part.gpu_samples / part.wall_s),
        "cpu_s": {role: round(usage.cpu_s, 1) for role, usage in part.cpu.items()},
        "gpu_samples_per_cpu_s_all": round(part.gpu_samples / part.cpu_s),
        "gpu_samples_per_cpu_s": round(part.gpu_samples / part.ingest_cpu_s),
        "consumer_gpu_samples_per_cpu_s": round(part.gpu_samples / part.cpu["consumer"].cpu_s),
        "consumer_rss_mib": {"first": rss[0] >> 20, "last": rss[-1] >> 20, "max": max(rss) >> 20} if rss else {},
        "store_rss_max_mib": part.store_rss_max >> 20,
        "parts_max": max((d.parts for d in part.debts), default=0),
        "debt": [asdict(d) for d in part.debts],
    }
