"""`gpufleet bench rebuild`: a rebuild against live ingestion, and the identity filter against the steady path.

1. Fill the topics with a fleet's events, nothing else running.
2. The live consumer drains them, once it is warm: what ingestion takes (all of it through the filter, as after every
   assignment).
3. `gpufleet rebuild` reads the same log into a table beside it, in this process: the steady path, with watermarks and
   no look-ups. Then the two are compared.
4. The same once more, every event through the filter, as after an assignment or a failure: into a table that holds
   nothing of it, half (every second partition), or all. What look-ups cost, per CPU-second of reader and store.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client

from consumers import garbage
from consumers.rebuild import tables, tenant
from consumers.rebuild.events import EventRebuild
from consumers.rebuild.state import Position
from consumers.rebuild.tables import BESIDE
from consumers.store import EventStore
from infra.bench import stage
from infra.bench.cpu import CpuMeter
from infra.bench.debt import merges_stopped
from infra.bench.fill import fill
from infra.cli.rebuild import work_on
from infra.config import Settings
from infra.connections import connect_store
from infra.kafka.client import librdkafka
from infra.up.stack import Broker, Stack
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from producers.simulator import topology
from producers.simulator.scenario import Scenario
from producers.simulator.simulation import TOPICS, Simulation, producers
from schemas.catalogue import KINDS

TABLE = "node_telemetry"
TICKS = 5
WARM = 0.9
"""Share of the messages left when the consumer counts as warm."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pass:
    """One reading of the log."""

    events: int
    wall_s: float
    reader_cpu_s: float
    store_cpu_s: float

    @property
    def per_cpu_s(self) -> float:
        """Events per CPU-second of reader and store."""
        return self.events / max(0.01, self.reader_cpu_s + self.store_cpu_s)

    def as_dict(self) -> dict[str, Any]:
        return {
            "events": self.events,
            "wall_s": round(self.wall_s, 2),
            "events_per_s": round(self.events / self.wall_s),
            "reader_cpu_s": round(self.reader_cpu_s, 2),
            "store_cpu_s": round(self.store_cpu_s, 2),
            "events_per_cpu_s": round(self.per_cpu_s),
        }


def rebuild(
    data: Path, settings: Settings, broker: Broker, scenario: Scenario, seconds: int, say: Say, *, rounds: int = 1
) -> dict[str, Any]:
    """Run the benchmark in an empty ``data`` folder; the report as a dictionary. The best of ``rounds`` counts."""
    overrides = {"kafka.partitions": 8, "kafka.history_partitions": 1, "consume.metrics_port": 0}
    with Stack(data, settings, broker, overrides=overrides, say=say) as stack:
        journal = Journal.start(stack.journals, scenario.site, producers(scenario), TOPICS)
        _fill(stack, journal, scenario, seconds, say)
        client = stack.client()
        backlog = stack.backlog(client, journal)
        total = backlog.count()
        say(f"{total:,} messages; the live consumer drains them")
        stack.start_consumer()
        stage.drain(stack, client, backlog, int(total * WARM), say)
        began = time.monotonic()
        before = _events(client, TABLE)
        meter = CpuMeter(stack.pids())
        stage.drain(stack, client, backlog, 0, say)
        usage = meter.read()
        live = Pass(
            _events(client, TABLE) - before,
            time.monotonic() - began,
            usage["consumer"].cpu_s,
            usage["store"].cpu_s,
        )
        stack.stop_child("consumer")
        work = work_on(stack.settings, client, TABLE, None, say)
        assert isinstance(work, EventRebuild)
        garbage.settle()
        say("rebuild: the same log into a table beside")
        passes: dict[str, list[Pass]] = {name: [] for name in ("rebuild", "steady", "none", "half", "all")}
        passes["rebuild"].append(_measured(stack, lambda: _built(client, work)))
        tenant.align(client, KINDS["node-telemetry"], TABLE)  # no projector follows the leases here
        began = time.monotonic()
        report = work.compare(work.build(None, None))
        compared_s = time.monotonic() - began
        for _ in range(rounds):
            with merges_stopped(client):
                for name, stored in (("steady", 0), ("none", 0), ("half", 2), ("all", 1)):
                    say(f"reading once more, {name}")
                    _prepare(stack, client, work, stored)
                    passes[name].append(_measured(stack, partial(_read, stack, work, check_all=name != "steady")))
        work.discard()
        client.close()
        journal.close()
    best = {name: max(some, key=lambda one: one.per_cpu_s) for name, some in passes.items()}
    return {
        "live": live.as_dict(),
        "rebuild": best["rebuild"].as_dict(),
        "rebuild_to_live_by_wall": round(
            (best["rebuild"].events / best["rebuild"].wall_s) / (live.events / live.wall_s), 2
        ),
        "rebuild_to_live_by_cpu": round(best["rebuild"].per_cpu_s / live.per_cpu_s, 2),
        "equal": report.equal,
        "differing": [hour.to_dict() for hour in report.differing],
        "compared_s": round(compared_s, 1),
        "steady": best["steady"].as_dict(),
        "filter": {
            f"{name}_stored": {
                **best[name].as_dict(),
                "to_steady": round(best[name].per_cpu_s / best["steady"].per_cpu_s, 2),
            }
            for name in ("none", "half", "all")
        },
    }


def _built(client: Client, work: EventRebuild) -> int:
    work.build(None, None)
    return _events(client, f"{TABLE}{BESIDE}")


def _prepare(stack: Stack, client: Client, work: EventRebuild, every: int) -> None:
    """An empty table beside, or with the events of every so many partitions in it; unmerged."""
    tables.make(client, TABLE, BESIDE, lambda sql: sql)
    client.command(f"SYSTEM STOP MERGES gpufleet.{TABLE}{BESIDE}")
    if every:
        _read(stack, work, every=every)


def _measured(stack: Stack, run: Callable[[], int]) -> Pass:
    assert stack.store is not None
    meter = CpuMeter({"store": stack.store.pid})
    began, cpu = time.monotonic(), time.process_time()
    events = run()
    wall, own = time.monotonic() - began, time.process_time() - cpu
    return Pass(events, wall, own, meter.read()["store"].cpu_s)


def _read(stack: Stack, work: EventRebuild, *, check_all: bool = False, every: int = 1) -> int:
    """The log, or every so many partitions of it, into the table beside; events read."""
    target = EventStore(lambda: connect_store(stack.settings, admin=True), stack.settings.store.database, suffix=BESIDE)
    reader = work.reader(target, None, None)
    try:
        bounds = reader.bounds()
        positions = {number: Position(low, low) for number, (low, _) in bounds.items() if not number % every}
        reader.read(positions, {number: end for number, (_, end) in bounds.items()}, check_all=check_all)
        return reader.counted.messages
    finally:
        reader.close()


def _events(client: Client, table: str) -> int:
    return int(client.query(f"SELECT count() FROM gpufleet.{table}").result_rows[0][0])


def _fill(stack: Stack, journal: Journal, scenario: Scenario, seconds: int, say: Say) -> None:
    gpus = {node.node_id.encode(): node.gpus for node in topology.build(scenario).nodes}
    end_us = time.time_ns() // 60_000_000_000 * 60_000_000
    with KafkaOutbox(librdkafka(stack.settings.kafka, "producer"), journal) as outbox:
        simulation = Simulation(scenario, journal, outbox, ticks=TICKS)
        fill(
            simulation,
            outbox,
            end_us - seconds * 1_000_000,
            end_us,
            lambda key: gpus[key] * TICKS,
            progress=lambda share: say(f"filling: {share:.0%}"),
        )
        simulation.close()
