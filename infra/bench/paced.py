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

FIRST_S = 100.0
"""What is left out of every figure at least: the group joins, inventories and leases are sent, and the first event of
each node on each topic asks the store how far its run had come; that of the slow lane is sent within a minute, and
stored a quarter of one later. A run that measures for less is warm sooner, too."""
WARM_S, CATCH_UP_S = 60.0, 150.0
"""Longest time that is left out beyond that; and until what came meanwhile is merged and projected, once both run."""
LOOK_S = 3.0
WARM_LEFT = 2
"""Messages a node that are on their way when the pipeline has caught up with its start."""
FEW_PARTS = 16
"""Parts that wait to be merged when merges have caught up."""
PROJECTED_S = 180
"""How far what the projector has done with lies behind what is stored when it has caught up, at most."""
# Grain: one row.
BEHIND = """
SELECT dateDiff('second', (SELECT max(position) FROM projector_state FINAL WHERE name = 'ledger'), max(at))
FROM ingest_ledger
"""
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
            _steady(stack, client, backlog, WARM_LEFT * scenario.nodes, say, min(FIRST_S, seconds))
            say("inserts alone, and the straightforward pipeline beside them, on the first of the same messages")
            held = int(client.query(stage.SAMPLES).result_rows[0][0])
            with Beside(stack, held, seconds / 4, most=0.9) as beside:
                with merges_stopped(client):
                    alone = stage.follow(stack, client, backlog, seconds / 4, say, between=True)
                stack.start_projector()
                baseline = beside.result()
            _caught_up(stack, client, backlog, WARM_LEFT * scenario.nodes, say, min(CATCH_UP_S, seconds))
            since_us, cpu = time.time_ns() // 1000, time.process_time()
            whole = stage.follow(stack, client, backlog, seconds * 3 / 4, say, between=True)
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


def _steady(stack: Stack, client: Client, backlog: Backlog, few: int, say: Say, least_s: float) -> None:
    """For ``least_s``, and until little enough is on its way, twice in a row."""
    begun, good = time.monotonic(), 0
    while (took := time.monotonic() - begun) < least_s or (good < 2 and took < least_s + WARM_S):
        stage.follow(stack, client, backlog, LOOK_S, say)
        left = backlog.count()
        say(f"until all is steady: {left:,} messages left")
        good = good + 1 if left <= few else 0


def _caught_up(stack: Stack, client: Client, backlog: Backlog, few: int, say: Say, most_s: float) -> None:
    """Until little enough is on its way, waits to be merged and waits to be projected, twice in a row."""
    begun, good = time.monotonic(), 0
    while good < 2 and time.monotonic() - begun < most_s:
        stage.follow(stack, client, backlog, LOOK_S, say)
        left, unmerged = backlog.count(), debt(client, "node_telemetry", 0.0).unmerged_parts
        behind_s = client.query(BEHIND).result_rows[0][0]
        say(f"until all is steady: {left:,} messages left, {unmerged} parts unmerged, {behind_s} s to be projected")
        good = good + 1 if left <= few and unmerged <= FEW_PARTS and 0 <= behind_s <= PROJECTED_S else 0
