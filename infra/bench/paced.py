"""`gpufleet bench ingest --paced`: the fleet at one sample a second by the wall clock; how fresh its rows are.

The consumer is in its steady path here: every event is newer than all before it. For a quarter of the time it only
inserts (no merges, no projector: work like the baseline's, which runs beside it then), then everything runs, and
freshness is measured; the simulator shares the machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client

from infra.bench import stage
from infra.bench.baseline import Beside
from infra.bench.debt import debt, merges_stopped
from infra.config import Settings
from infra.kafka.client import librdkafka
from infra.up.drain import Backlog
from infra.up.snapshot import freshness_since
from infra.up.stack import Broker, Stack
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from producers.simulator.scenario import Scenario
from producers.simulator.simulation import TOPICS, Simulation, producers

WARM_S = 60.0
"""Longest time that is left out of every figure, twice: first the group joins, inventories and leases are sent, then
what came while merges were stopped is merged."""
LOOK_S = 3.0
WARM_LEFT = 2
"""Messages a node that are on their way when the pipeline has caught up with its start."""
FEW_PARTS = 16
"""Parts that wait to be merged when merges have caught up."""
Say = Callable[[str], None]


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
    """Run the fleet live for ``seconds`` after it is warm, with K = ``ticks``; the report as a dictionary."""
    with Stack(data, settings, broker, overrides=overrides, say=say) as stack:
        journal = Journal.start(stack.journals, scenario.site, producers(scenario), TOPICS)
        stack.start_consumer()
        client = stack.client()
        backlog = stack.backlog(client, journal)
        stop = threading.Event()
        with KafkaOutbox(librdkafka(stack.settings.kafka, "producer"), journal) as outbox:
            simulation = Simulation(scenario, journal, outbox, ticks=ticks)
            runner = threading.Thread(target=simulation.live, args=(stop,), name="simulator", daemon=True)
            runner.start()
            _steady(stack, client, backlog, WARM_LEFT * scenario.nodes, say)
            say("inserts alone, and the straightforward pipeline beside them, on the first of the same messages")
            held = int(client.query(stage.SAMPLES).result_rows[0][0])
            with Beside(stack, held, seconds / 4, most=0.9) as beside:
                with merges_stopped(client):
                    alone = stage.follow(stack, client, backlog, seconds / 4, say)
                stack.start_projector()
                baseline = beside.result()
            _steady(stack, client, backlog, WARM_LEFT * scenario.nodes, say, parts=FEW_PARTS)
            since_us, cpu = time.time_ns() // 1000, time.process_time()
            whole = stage.follow(stack, client, backlog, seconds * 3 / 4, say)
            own_cpu_s = time.process_time() - cpu
            stop.set()
            runner.join()
            simulation.close()
        stage.drain(stack, client, backlog, 0, say)
        median, high = freshness_since(client, since_us)
        rows, distinct = client.query(
            "SELECT count(), uniqExact(producer_id, run_id, seq) FROM node_telemetry"
        ).result_rows[0]
        client.close()
        journal.close()
    return {
        "gpus": scenario.gpus,
        "ticks_per_event": ticks,
        "freshness_p50_s": median,
        "freshness_p99_s": high,
        "inserts_only": alone.as_dict(),
        "everything": whole.as_dict(),
        "simulator_and_bench_cpu_s": round(own_cpu_s, 1),
        "exact": {"sent": simulation.truth.events["node-telemetry"], "rows": rows, "distinct": distinct},
        "baseline": baseline.as_dict(),
        "ratio_inserts": alone.ratio_to(baseline.per_cpu_s),
        "ratio_everything": whole.ratio_to(baseline.merged_per_cpu_s),
        "void": baseline.void,
    }


def _steady(stack: Stack, client: Client, backlog: Backlog, few: int, say: Say, parts: int | None = None) -> None:
    """Until little enough is on its way and (with ``parts``) little enough waits to be merged, twice in a row."""
    deadline, good = time.monotonic() + WARM_S, 0
    while good < 2 and time.monotonic() < deadline:
        stage.follow(stack, client, backlog, LOOK_S, say)
        left, unmerged = backlog.count(), debt(client, "node_telemetry", 0.0).unmerged_parts
        say(f"until all is steady: {left:,} messages left, {unmerged} parts unmerged")
        good = good + 1 if left <= few and (parts is None or unmerged <= parts) else 0
