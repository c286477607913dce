"""`gpufleet bench ingest --paced`: the fleet at one sample a second by the wall clock; how fresh its rows are."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.bench.cpu import CpuMeter
from infra.bench.debt import debt
from infra.bench.ingest import Say
from infra.config import Settings
from infra.kafka.client import librdkafka
from infra.up.snapshot import freshness_since
from infra.up.stack import Broker, Stack
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from producers.simulator.scenario import Scenario
from producers.simulator.simulation import TOPICS, Simulation, producers


def paced(
    data: Path,
    settings: Settings,
    broker: Broker,
    scenario: Scenario,
    seconds: int,
    ticks: int,
    say: Say,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the fleet live for ``seconds`` with K = ``ticks``; freshness leaves out the first 20 s (groups join)."""
    with Stack(data, settings, broker, overrides=overrides, say=say) as stack:
        journal = Journal.start(stack.journals, scenario.site, producers(scenario), TOPICS)
        stack.start_readers()
        client = stack.client()
        backlog = stack.backlog(client, journal)
        meter = CpuMeter(stack.pids())
        stop = threading.Event()
        with KafkaOutbox(librdkafka(stack.settings.kafka), journal) as outbox:
            simulation = Simulation(scenario, journal, outbox, ticks=ticks)
            started, cpu = time.time_ns() // 1000, time.process_time()
            runner = threading.Thread(target=simulation.live, args=(stop,), name="simulator")
            runner.start()
            debts = []
            while time.time_ns() // 1000 < started + seconds * 1_000_000:
                stop.wait(5)
                stack.check()
                debts.append(debt(client, "node_telemetry", time.time() - started / 1e6))
                say(f"{backlog.count():,} messages on their way, {debts[-1].parts} parts")
            simulator_cpu_s = time.process_time() - cpu
            usage = meter.read()
            stop.set()
            runner.join()
            simulation.close()
        while backlog.count():
            time.sleep(0.5)
            stack.check()
        median, high = freshness_since(client, started + 20_000_000)
        rows, distinct, samples = client.query(
            "SELECT count(), uniqExact(producer_id, run_id, seq), sum(length(gpu_index) * ticks) FROM node_telemetry"
        ).result_rows[0]
        sent = simulation.truth.events["node-telemetry"]
        client.close()
        journal.close()
    return {
        "seconds": seconds,
        "ticks_per_event": ticks,
        "gpu_samples_per_s": round(samples / seconds),
        "freshness_p50_s": median,
        "freshness_p99_s": high,
        "cpu_s": {role: round(used.cpu_s, 1) for role, used in usage.items()}
        | {"simulator": round(simulator_cpu_s, 1)},
        "parts_max": max(d.parts for d in debts),
        "exact": {"sent": sent, "rows": rows, "distinct": distinct},
    }
