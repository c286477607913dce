"""`gpufleet bench ingest`: a fleet's events through the real consumer and projector, against the usual way.

1. Fill the topics with the fleet's events (fast lane every second, slow lane, events), nothing else running.
2. The consumer alone drains a part, once it is warm, without merges: work like the baseline's. Beside it, the
   straightforward pipeline over the first of the same messages, from the same topics.
3. Consumer and projector drain the rest, merges on: what is sustained; CPU, merge debt and memory over time.
4. Merge what is left and measure bytes per value.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infra.bench import stage
from infra.bench.baseline import Beside
from infra.bench.debt import bytes_per_value, merges_stopped
from infra.bench.fill import Filled, fill
from infra.config import Settings
from infra.kafka.client import librdkafka
from infra.up.stack import Broker, Stack
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from producers.simulator import topology
from producers.simulator.scenario import Scenario
from producers.simulator.simulation import TOPICS, Simulation, producers

EMBEDDED_CAP_BYTES = 2 << 30
"""What the embedded broker is given: it keeps its log in memory."""
WARM, ALONE = 0.88, 0.4
"""Share of the messages left when the consumer counts as warm, and when at the latest the projector joins it: it does
when the straightforward pipeline is done."""
BASELINE_SHARE, BASELINE_LEAST = 0.04, 400_000
"""What the straightforward pipeline takes of a small fill, at most, and how many GPU samples (four of its batches) in
any case: it must be done before the consumer is."""
TICKS = 5
Say = Callable[[str], None]


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
        stack.start_consumer()
        stage.drain(stack, client, backlog, int(total * WARM), say)
        say("inserts alone, and the straightforward pipeline beside them, on the first of the same messages")
        most = min(1.0, max(BASELINE_SHARE, BASELINE_LEAST / filled.gpu_samples))
        with merges_stopped(client), Beside(stack, filled.gpu_samples, most=most) as beside:
            alone = stage.drain(stack, client, backlog, int(total * ALONE), say, beside.done)
            baseline = beside.result()
        stack.start_projector()
        drained = stage.drain(stack, client, backlog, 0, say)
        say("merging what is left, for the size")
        # A part that stays is wide, and only of a wide one does the store know each column's size.
        client.command("ALTER TABLE node_telemetry MODIFY SETTING min_bytes_for_wide_part = 0")
        client.command("OPTIMIZE TABLE node_telemetry FINAL", settings={"optimize_throw_if_noop": 0})
        per_value, per_value_row = bytes_per_value(client)
        exact = client.query(
            "SELECT count(), uniqExact(producer_id, run_id, seq), sum(length(gpu_index) * ticks) FROM node_telemetry"
        ).result_rows[0]
        client.close()
        journal.close()
    ratios = {
        "ratio_inserts": alone.ratio_to(baseline.per_cpu_s),
        "ratio_everything": drained.ratio_to(baseline.merged_per_cpu_s),
    }
    return {
        "fill": _filled(filled),
        "inserts_only": alone.as_dict(),
        "everything": drained.as_dict(),
        "storage": {
            "bytes_per_metric_value": round(per_value, 3),
            "bytes_per_metric_value_whole_row": round(per_value_row, 3),
        },
        "exact": {
            "sent": filled.events["node-telemetry"],
            **dict(zip(("rows", "distinct", "gpu_samples"), (int(value) for value in exact), strict=True)),
        },
        "baseline": baseline.as_dict(),
        **ratios,
        "void": baseline.void or None in ratios.values(),
    }


def _fill(stack: Stack, journal: Journal, scenario: Scenario, seconds: int, broker: Broker, say: Say) -> Filled:
    gpus = {node.node_id.encode(): node.gpus for node in topology.build(scenario).nodes}
    end_us = time.time_ns() // 60_000_000_000 * 60_000_000
    with KafkaOutbox(librdkafka(stack.settings.kafka, "producer"), journal) as outbox:
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


def _filled(filled: Filled) -> dict[str, Any]:
    return {
        "gpu_samples": filled.gpu_samples,
        "events": dict(filled.events),
        "wall_s": round(filled.wall_s, 1),
        "gpu_samples_per_cpu_s": round(filled.gpu_samples / filled.cpu_s),
        "bytes_per_gpu_sample_on_wire": round(filled.value_bytes / filled.gpu_samples, 1),
        "capped": filled.capped,
    }
