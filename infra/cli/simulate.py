"""``gpufleet simulate``: a simulated fleet, to Kafka."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infra.cli.common import Finite, UsageError, json_option, print_json, settings_options
from infra.cli.producing import expect_topics, explained

if TYPE_CHECKING:
    from infra.config import Settings
    from producers.journal import Journal
    from producers.publisher import KafkaOutbox
    from producers.simulator.links import LinkSchedule
    from producers.simulator.scenario import Scenario
    from producers.simulator.simulation import Simulation
    from producers.spool.outbox import SpoolOutbox

FOLDER = "simulator"
"""Of the journal, the truth, and the injected faults, below the setting simulate.state_dir."""
LARGE_FLEET_GPUS = 10_000
"""From here an event holds five ticks instead of one."""
DRY_RUN_S = 60
BEHIND_S = 3600
"""How far before now a simulation without an end starts that runs faster than the clock."""
PROGRESS_S = 1.0


@click.command(
    epilog="""\b
Examples:
  gpufleet simulate
  gpufleet simulate --scenario colossus1 --nodes 500 --for 5m
  gpufleet simulate --for 60s --speed 30
  gpufleet simulate --link-schedule 8m/95m --speed 60
  gpufleet simulate --scenario my-fleet.toml --dry-run"""
)
@click.option("--scenario", "-s", help="small, colossus1, or a TOML file. [default: setting simulate.scenario]")
@click.option("--nodes", type=click.IntRange(1), help="Scale the fleet to this many nodes.")
@click.option("--seed", type=int, help="Another seed than the scenario's.")
@click.option(
    "--ticks", type=click.IntRange(1, 60), help="Ticks of a second in an event. [default: 1; 5 from 10,000 GPUs]"
)
@click.option("--speed", type=Finite(min=0, min_open=True), default=1.0, show_default=True, help="Times faster.")
@click.option("--for", "duration", metavar="TIME", help="Stop after this time, e.g. 60s. [default: run until stopped]")
@click.option(
    "--link-schedule",
    metavar="SPEC|FILE",
    help="Send in contact windows alone, spool between them: 8m/95m+10m is 8 minutes every 95, from minute 10 on; "
    "or a file of START END lines. Event time counts, so --speed plays an orbit faster.",
)
@click.option("--dry-run", is_flag=True, help="Send nothing: count the events of that time (a minute).")
@json_option
@settings_options
def command(
    settings: Settings,
    scenario: str | None,
    nodes: int | None,
    seed: int | None,
    ticks: int | None,
    speed: float,
    duration: str | None,
    link_schedule: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Stream a simulated fleet's telemetry, faults, leases and usage to Kafka.

    Faster than the clock, it starts in the past and slows down when it has caught up: no event lies in the future.
    """
    from producers.checks import duration_us
    from producers.simulator import scenario as scenarios

    with explained("--for"):
        length_us = duration_us(duration) if duration else None
    try:
        fleet = scenarios.load(scenario or settings.simulate.scenario, nodes or settings.simulate.nodes or None, seed)
    except scenarios.ScenarioError as error:
        raise UsageError(str(error)) from None
    ticks = ticks or (5 if fleet.gpus >= LARGE_FLEET_GPUS else 1)
    if 60 % ticks:
        raise UsageError(f"--ticks must divide a minute: 1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30 or 60, found {ticks}")
    start_us = _start(speed, length_us)
    links = None
    if link_schedule:
        from producers.simulator.links import load

        with explained("--link-schedule"):
            links = load(link_schedule, start_us or time.time_ns() // 1000)
    if dry_run:
        return _count(fleet, ticks, (length_us or DRY_RUN_S * 1_000_000), as_json)
    return _send(settings, fleet, ticks, speed, start_us, length_us, links, as_json)


def _count(fleet: Scenario, ticks: int, length_us: int, as_json: bool) -> int:
    """What would be sent in that time, without a broker."""
    from producers.journal import Journal
    from producers.simulator.simulation import TOPICS, Simulation, producers

    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal.start(Path(folder), fleet.site, producers(fleet), TOPICS)
        simulation = Simulation(fleet, journal, lambda _message: None, ticks=ticks)
        start_us = time.time_ns() // 60_000_000_000 * 60_000_000
        cpu = time.process_time()
        for message in simulation.generate(start_us, start_us + length_us):
            counts[message.topic] += 1
            sizes[message.topic] += len(message.value)
        cpu = time.process_time() - cpu
        samples = simulation.truth.gpu_samples
        journal.close()
    if as_json:
        print_json({"events": counts, "bytes": sizes, "gpu_samples": samples, "cpu_s": round(cpu, 3)})
        return 0
    click.echo(
        f"{fleet.name}: {fleet.gpus:,} GPUs on {fleet.nodes:,} nodes, {length_us / 1e6:g} s at {ticks} ticks an event"
    )
    for topic, count in counts.most_common():
        click.echo(f"  {topic:20} {count:>12,} events {sizes[topic] / 1e6:>10.2f} MB")
    click.echo(f"  {samples:,} GPU samples in {cpu:.2f} CPU-seconds: {samples / max(cpu, 1e-9):,.0f} per CPU-second")
    return 0


def _send(
    settings: Settings,
    fleet: Scenario,
    ticks: int,
    speed: float,
    start_us: int | None,
    length_us: int | None,
    links: LinkSchedule | None,
    as_json: bool,
) -> int:
    from producers import journal as journals
    from producers.simulator.reading import ScenarioError
    from producers.simulator.simulation import TOPICS, Simulation, producers
    from producers.spool.outbox import SpoolOutbox

    expect_topics(settings, TOPICS)
    folder = settings.simulate.state_dir / FOLDER
    ids = schema_ids(settings)
    with explained():
        held = journals.lock(folder)
        journal = journals.Journal.start(folder, fleet.site, producers(fleet), TOPICS)
        contact = Contact(links, start_us or time.time_ns() // 1000)
        try:
            with _outbox(settings, folder, journal, contact, ids, fleet.nodes) as outbox:
                try:
                    simulation = Simulation(
                        fleet,
                        journal,
                        outbox,
                        ticks,
                        schema_ids=ids,
                        state=folder,
                        journals=folder,
                        truth_file=folder / "truth.jsonl",
                        spool=outbox if isinstance(outbox, SpoolOutbox) else None,
                    )
                except ScenarioError as error:
                    raise UsageError(str(error)) from None
                contact.follow(simulation)
                try:
                    _run(simulation, outbox, speed, start_us, length_us)
                finally:
                    simulation.close()
                left = outbox.flush(30)
                spooled = outbox.spooled if isinstance(outbox, SpoolOutbox) else 0
                said = outbox.counters.last_error
        finally:
            journal.close()
            os.close(held)
    truth = simulation.truth
    if as_json:
        print_json(
            {"events": truth.events, "gpu_samples": truth.gpu_samples, "unacknowledged": left, "spooled": spooled}
        )
    else:
        sent = sum(truth.events.values())
        waits = f", {spooled:,} of them in the spool for the next run" if spooled else ""
        click.echo(
            f"sent {sent:,} events, {truth.gpu_samples:,} GPU samples; {left:,} not acknowledged{waits}"
            f" {said if left > spooled else ''}"
        )
    return 1 if left > spooled else 0


class Contact:
    """Whether there is a link, at the event time that the simulation has come to."""

    def __init__(self, links: LinkSchedule | None, start_us: int) -> None:
        self.links = links
        self._start_us = start_us
        self._simulation: Simulation | None = None

    def follow(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def __call__(self) -> bool:
        now_us = self._simulation.now_us if self._simulation else 0
        return self.links is None or self.links.open_at(now_us or self._start_us)


def _outbox(
    settings: Settings, folder: Path, journal: Journal, contact: Contact, ids: dict[str, int], nodes: int
) -> KafkaOutbox | SpoolOutbox:
    """The publisher; behind a spool for a link that comes and goes, or when an earlier run left something in it."""
    from infra.cli.agent import spool_settings
    from infra.kafka.client import librdkafka
    from infra.signing import signer
    from producers.publisher import KafkaOutbox
    from producers.spool.outbox import SpoolOutbox

    kafka = {**librdkafka(settings.kafka, "producer"), "message.max.bytes": settings.kafka.message_max_bytes}
    sign = signer(settings, site=journal.site, whole_site=True)
    place = folder / "spool"
    if contact.links is None and not (place.is_dir() and any(place.iterdir())):
        return KafkaOutbox(kafka, journal, sign=sign)
    one = spool_settings(settings.agent.spool)
    # One process stands for all nodes: their bounds and rates add up. They do not wait for each other.
    all_of_them = replace(
        one,
        max_bytes=one.max_bytes * nodes,
        drain_bytes_per_s=one.drain_bytes_per_s * nodes,
        drain_jitter_s=0.0,
        segment_bytes=min(64 << 20, one.segment_bytes * max(1, nodes // 8)),
        live_window_bytes=min(128 << 20, one.live_window_bytes * nodes),
        drain_window_bytes=min(64 << 20, one.drain_window_bytes * nodes),
    )
    return SpoolOutbox(
        place,
        journal,
        folder,
        lambda told: KafkaOutbox(kafka, told, sign=sign),
        all_of_them,
        schema_ids=ids,
        contact=contact,
    )


def _start(speed: float, length_us: int | None) -> int | None:
    """Where a faster simulation starts, so that it ends at now; None = now."""
    if speed <= 1:
        return None
    back = int(length_us * (speed - 1)) if length_us else BEHIND_S * 1_000_000
    return (time.time_ns() // 1000 - back) // 60_000_000 * 60_000_000


def _run(
    simulation: Simulation,
    outbox: KafkaOutbox | SpoolOutbox,
    speed: float,
    start_us: int | None,
    length_us: int | None,
) -> None:
    """Live until the time is up or a signal comes; a progress line on a terminal."""
    stop, over = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def live() -> None:
        try:
            simulation.live(stop, speed, start_us)
        except BaseException as error:  # noqa: BLE001  # raised again by the caller
            failed.append(error)
        finally:
            over.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    thread = threading.Thread(target=live, name="simulator")
    thread.start()
    ends = time.monotonic() + length_us / 1e6 if length_us else float("inf")
    shows = sys.stderr
    try:
        while not over.wait(min(PROGRESS_S, max(0.02, ends - time.monotonic()))):
            if time.monotonic() >= ends:
                stop.set()
            if shows.isatty():
                truth = simulation.truth
                at = time.strftime("%H:%M:%S", time.gmtime(simulation.now_us / 1e6))
                click.echo(
                    f"\r{at} UTC  {sum(truth.events.values()):,} events  {truth.gpu_samples:,} GPU samples"
                    f"  {outbox.waiting:,} waiting ",
                    err=True,
                    nl=False,
                )
    finally:
        stop.set()
        thread.join()
    if shows.isatty():
        click.echo(err=True)
    if failed:
        raise failed[0]


def schema_ids(settings: Settings) -> dict[str, int]:
    """Ids of the newest schemas in the configured registry; empty without one."""
    if not settings.registry.url:
        return {}
    from infra.cli.schema import registry

    return registry(settings.registry).ids()
