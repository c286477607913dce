"""A simulated day of known causes, stored and projected as the consumer and the projector would have done it."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from clickhouse_connect.driver.client import Client

from consumers.projector.projector import Projector, ProjectorSettings
from consumers.projector.worklist import Pace
from producers.encode import Message
from producers.journal import Journal
from producers.simulator import scenario as scenarios
from producers.simulator import simulation, story
from producers.simulator.incidents import INCIDENTS
from producers.simulator.scenario import Faults, Group, Jobs, Power, Scenario, Story, Tenant
from producers.simulator.simulation import Simulation, Sink
from producers.simulator.truth import Truth
from producers.simulator.workload import Job, JobKind
from producers.simulator.world import World
from schemas import catalogue, framing
from schemas.container import ContainerWriter

MINUTE_US = 60_000_000
_ROWS = 4000
"""Events of one insert."""
_FIRST = ("leases", "inventory", "tenant-limits")
"""Stored before the rest, so that every row resolves its tenant."""
_LEFT_OUT = ("tenant-usage",)
"""Nothing here reads it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how large; the causes come at fixed fractions of the time."""

    hours: float = 24.0
    nodes: int = 64
    rate_scale: float = 30.0
    """Random faults, over the published rates: a fleet so small would see one in days. 0 = none."""
    seed: int = 1
    one_job: bool = False
    """The whole fleet is one training job of H100, in which one GPU after another slows down by 15 %."""


@dataclass(frozen=True, slots=True)
class Day:
    """What was told to the store. Times in microseconds since 1970."""

    truth: Truth
    plan: Plan
    gpus: int
    start_us: int
    end_us: int
    events: int


def scenario(plan: Plan) -> Scenario:
    """Colossus 1 scaled down, with four feeds in two pairs, small coolant loops and jobs that fit."""
    whole = scenarios.load("colossus1", nodes=plan.nodes, seed=plan.seed)
    rates = whole.faults
    faults = Faults(
        rate_scale=plan.rate_scale,
        bad_gpus=1 if plan.rate_scale else 0,
        bad_gpu_errors_per_day=2.0,
        stragglers_per_day_1000_gpus=rates.stragglers_per_day_1000_gpus * plan.rate_scale,
        silent_per_day_1000_nodes=rates.silent_per_day_1000_nodes * plan.rate_scale,
        link_flaps_per_day_1000_nics=rates.link_flaps_per_day_1000_nics * plan.rate_scale,
        repair_hours=2.0,
    )
    made = replace(
        whole,
        faults=faults,
        power=Power(feeds=4, feed_headroom=1.35),
        cooling=replace(whole.cooling, racks_per_cdu=2),
        jobs=Jobs(training_nodes=(2, 4, 8), training_hours=12.0),
        story=Story((), (), (), (), ()),
    )
    if not plan.one_job:
        return made
    return replace(
        made,
        groups=(Group("H100", plan.nodes),),
        tenants=(Tenant("t", 1.0, training=1.0, serving=0.0),),
        jobs=Jobs(training_nodes=(plan.nodes,), training_hours=10_000.0),
    )


def causes(world: World, start_us: int, end_us: int) -> None:
    """Queue what the day is about: a straggler, a feed trip, maintenance, two coolant failures, a hung job."""

    def at(fraction: float) -> int:
        return start_us + int((end_us - start_us) * fraction) // MINUTE_US * MINUTE_US

    minutes = MINUTE_US
    last_cdu = len(world.fleet.cdus) - 1
    world.at(at(0.08), lambda now: slow_down(world, now, now + 25 * minutes))
    world.at(at(0.22), lambda now: story.trip_feed(world, now, 0, now + 15 * minutes))
    world.at(at(0.40), lambda now: _maintain(world, now, 40 * minutes))
    world.at(at(0.52), lambda now: story.fail_coolant(world, now, 0, now + 15 * minutes))
    world.at(at(0.68), lambda now: story.leak_coolant(world, now, last_cdu, now + 15 * minutes))
    world.at(at(0.84), lambda now: _hang(world, now, 15 * minutes))


def slow_gpus(world: World, start_us: int, end_us: int) -> None:
    """Queue one GPU of the largest job after another, one every two hours for twelve minutes, each somewhere else."""
    hour = 60 * MINUTE_US
    for number, at in enumerate(range(start_us + hour, end_us - hour // 2, 2 * hour)):
        share, gpu = (0.5 + 0.37 * number) % 1.0, (7 + 3 * number) % 8

        def begin(now: int, share: float = share, gpu: int = gpu) -> None:
            slow_down(world, now, now + 12 * MINUTE_US, place=share, gpu=gpu)

        world.at(at, begin)


def training(world: World) -> list[Job]:
    """Training jobs, the largest first."""
    found = [job for job in world.scheduler.jobs.values() if job.kind is JobKind.TRAINING and not job.hung]
    return sorted(found, key=lambda job: (-len(job.nodes), job.job_id))


def slow_down(
    world: World, now_us: int, until_us: int, clock: float = 0.85, *, place: float = 0.5, gpu: int = -1
) -> None:
    """One GPU of the largest training job runs at ``clock`` of its peers' SM clock: ``place`` 0..1 among its nodes."""
    job = training(world)[0]
    node = world.fleet.nodes[job.nodes[int(len(job.nodes) * place)]]
    state, position = world.where(node.index)
    gpu %= node.gpus
    state.slow[position, gpu] = 1 / clock
    world.refresh(job)
    world.truth.note("cause", kind="straggler", node=node.node_id, gpu=gpu, job=job.job_id, at=now_us, until=until_us)

    def recover(_now: int) -> None:
        state.slow[position, gpu] = 1.0
        current = world.scheduler.job_of.get(node.index)
        if current is not None:
            world.refresh(current)

    world.at(until_us, recover)


def _maintain(world: World, now_us: int, length_us: int) -> None:
    idle = [node for node in world.fleet.nodes if node.index not in world.out]
    INCIDENTS["host_maintenance"].begin(world, now_us, idle[len(idle) // 2], 0, length_us)


def _hang(world: World, now_us: int, length_us: int) -> None:
    job = training(world)[0]
    INCIDENTS["hang"].begin(world, now_us, world.fleet.nodes[job.nodes[0]], 0, length_us)


def simulate(
    plan: Plan, end: datetime, journal: Journal, sink: Sink, made: Scenario, queue: Callable[[World, int, int], None]
) -> Day:
    """Simulate the time before ``end`` at one sample a minute, every event into ``sink``."""
    end_us = int(end.timestamp()) // 60 * MINUTE_US
    start_us = end_us - int(plan.hours * 60) * MINUTE_US
    fleet = Simulation(made, journal, sink, ticks=1)
    queued = False

    def once(_done: int, _total: int) -> None:
        nonlocal queued
        if not queued:
            queued = True
            queue(fleet.world, start_us, end_us)

    fleet.backfill(start_us, end_us, progress=once)
    fleet.close()
    return Day(fleet.truth, plan, made.gpus, start_us, end_us, fleet.truth.events.total())


def tell(
    client: Client,
    plan: Plan,
    end: datetime,
    *,
    made: Scenario | None = None,
    queue: Callable[[World, int, int], None] = causes,
) -> Day:
    """Simulate the time before ``end`` and store its events and the ledger, as a consumer that kept up would have."""
    chosen = made or scenario(plan)
    messages: list[Message] = []
    folder = Path(tempfile.mkdtemp(prefix="gpufleet-rehearsal-"))
    try:
        journal = Journal.start(folder, chosen.site, simulation.producers(chosen), simulation.TOPICS)
        day = simulate(plan, end, journal, messages.append, chosen, queue)
        journal.close()
    finally:
        shutil.rmtree(folder)
    store(client, messages)
    return day


def store(client: Client, messages: Iterable[Message]) -> None:
    """Insert as the consumer does: one container block a batch, one row of the ledger each."""
    by_topic: dict[str, list[Message]] = {}
    for message in messages:
        by_topic.setdefault(message.topic, []).append(message)
    order = sorted((topic for topic in by_topic if topic not in _LEFT_OUT), key=lambda topic: topic not in _FIRST)
    reloaded = False
    for topic in order:
        if topic not in _FIRST and not reloaded:
            for name in ("lease_by_node", "node_at"):
                client.command(f"SYSTEM RELOAD DICTIONARY gpufleet.{name}")
            reloaded = True
        offset = 0
        for batch in _batches(by_topic[topic]):
            _insert(client, topic, batch, offset)
            offset += len(batch)


def _batches(messages: Sequence[Message]) -> Iterable[Sequence[Message]]:
    for first in range(0, len(messages), _ROWS):
        yield messages[first : first + _ROWS]


def _insert(client: Client, topic: str, batch: Sequence[Message], offset: int) -> None:
    schema = catalogue.latest(topic)
    client.raw_insert(
        f"gpufleet.{schema.kind.table}",
        column_names=[field["name"] for field in schema.fields],
        insert_block=io.BytesIO(
            ContainerWriter(schema).frame([message.value[framing.PREFIX_BYTES :] for message in batch])
        ),
        fmt="Avro",
        settings={"async_insert": 0, "optimize_on_insert": 0, "input_format_avro_allow_missing_fields": 1},
    )
    times = [_ts(message) for message in batch]
    # One row of the ledger per minute, as a consumer that kept up would have written them.
    minutes = sorted({ts // MINUTE_US for ts in times})
    rows = []
    for minute in minutes:
        count = sum(ts // MINUTE_US == minute for ts in times)
        first, last = _moment(minute * MINUTE_US), _moment((minute + 1) * MINUTE_US)
        rows.append(
            [last, "rehearsal", topic, f"id-{topic}", 0, offset, offset + count - 1, count, count, 0, 0, 1, 90.0,
             "steady", first, last, last, [first], []]
        )  # fmt: skip
        offset += count
    client.insert("gpufleet.ingest_ledger", rows, column_names=list(_LEDGER))


_LEDGER = (
    "at", "consumer", "topic", "topic_id", "partition", "first_offset", "last_offset", "messages", "rows", "duplicates",
    "dead_letters", "bytes", "insert_ms", "path", "event_ts_min", "event_ts_max", "append_ts_max", "minutes",
    "late_producers",
)  # fmt: skip


def _ts(message: Message) -> int:
    """Event time from the identity header."""
    from schemas.identity import unpack

    return unpack(message.header).ts


def _moment(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1e6, UTC)


def project(connect: Callable[[], Client], timeout_s: float = 900.0) -> bool:
    """Bring every window up to date; False when time ran out first."""
    pace = Pace(quiet_s=0.0, patience_s=0.0)
    projector = Projector(
        connect, ProjectorSettings("rehearsal", pace=pace, late_inserts_s=0.0, ledger_overlap_s=1.0, lock_settle_s=0.1)
    )
    try:
        return projector.catch_up(timeout_s)
    finally:
        projector.close()
