"""gpufleet bench: measure this machine, as a ratio to a baseline in the same run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click

from infra.cli.common import json_option, print_json
from infra.config import load
from infra.errors import UsageError


@click.group(
    epilog="""\b
Examples:
  gpufleet bench ingest --gpus 100000 --seconds 120
  gpufleet bench agent --seconds 60 --json"""
)
def command() -> None:
    """Measure on this machine, as a ratio to a baseline in the same run."""


@command.command(
    epilog="""\b
Examples:
  gpufleet bench ingest --gpus 100000 --seconds 120
  gpufleet bench ingest --broker kafka --gpus 220160 --seconds 600 --json
  gpufleet bench ingest --broker kafka --paced --seconds 300"""
)
@click.option("--broker", type=click.Choice(["embedded", "kafka"]), default="embedded", show_default=True)
@click.option("--gpus", type=click.IntRange(min=72), default=220_160, show_default=True, help="Size of the fleet.")
@click.option("--seconds", type=click.IntRange(min=1), default=600, show_default=True, help="Fleet time to send.")
@click.option("--paced", is_flag=True, help="By the wall clock at 1 Hz: measures freshness.")
@click.option("--ticks", type=click.IntRange(1, 60), default=5, show_default=True, help="K, samples per event.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the data here. [default: a temporary folder]")
@json_option
def ingest(
    broker: Literal["embedded", "kafka"],
    gpus: int,
    seconds: int,
    paced: bool,
    ticks: int,
    folder: Path | None,
    as_json: bool,
) -> None:
    """A fleet's events through the real consumer and projector, against a well-written straightforward pipeline.

    Fills the topics, drains them, reports GPU samples per second and per CPU-second of broker, consumer and store,
    merge debt, bytes per value, and the ratios ("void" when a stage was too short for one). The embedded broker is
    memory only: its fill is capped, and says so.
    """
    from infra.bench import ingest as bench
    from infra.bench import paced as at_pace
    from producers.simulator import scenario as scenarios

    _divides_a_minute(ticks)

    def say(text: str) -> None:
        click.echo(text, err=True)

    with _place(folder) as data:
        settings = load(config=None, data=None)
        whole = scenarios.load("colossus1")
        fleet = scenarios.load("colossus1", nodes=max(1, round(whole.nodes * gpus / whole.gpus)))
        overrides = {
            "kafka.partitions": 8,
            "kafka.history_partitions": 1,
            "consume.metrics_port": 0,
            "project.tail_s": 10.0,
        }
        if paced:
            report = at_pace.paced(data, settings, broker, fleet, seconds, ticks, say, overrides)
        else:
            report = bench.ingest(data, settings, broker, fleet, seconds, say, overrides)
    print_json(report) if as_json else _print(report)


@command.command(
    epilog="""\b
Examples:
  gpufleet bench agent
  gpufleet bench agent --seconds 60 --json"""
)
@click.option("--seconds", type=click.IntRange(min=5), default=600, show_default=True, help="How long it runs.")
@click.option("--gpus", type=click.IntRange(1, 16), default=8, show_default=True, help="GPUs of the stand-in.")
@click.option("--ticks", type=click.IntRange(1, 60), default=5, show_default=True, help="K, samples per event.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep its log here. [default: a temporary folder]")
@json_option
def agent(seconds: int, gpus: int, ticks: int, folder: Path | None, as_json: bool) -> None:
    """What the node agent costs: its CPU and memory at one sample a second.

    Runs `gpufleet agent` with nvml, kmsg, host and nic against an embedded broker. Without an NVIDIA driver it
    watches a stand-in: a library compiled here (needs a C compiler) whose GPUs and NICs change every second.
    """
    from infra.bench import agent as bench

    _divides_a_minute(ticks)
    with _place(folder) as data:
        data.mkdir(parents=True, exist_ok=True)
        report = bench.agent(data, seconds, gpus, ticks, lambda text: click.echo(text, err=True))
    print_json(report) if as_json else _print(report)


@command.command(
    epilog="""\b
Examples:
  gpufleet bench panels
  gpufleet bench panels --gpus 4000 --hours 2
  gpufleet bench panels --gpu-hours 24 --json --folder /data/bench"""
)
@click.option("--gpus", type=click.IntRange(min=72), default=220_160, show_default=True, help="Size of the fleet.")
@click.option("--hours", type=click.IntRange(2, 72), default=24, show_default=True, help="Of rollups.")
@click.option(
    "--gpu-hours", type=click.IntRange(min=1), help="Of minutes per GPU, the largest table by far. [default: --hours]"
)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Timed runs of a query.")
@click.option("--board", default="", help="Only boards whose uid contains this.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the store here. [default: a temporary folder]")
@json_option
def panels(
    gpus: int, hours: int, gpu_hours: int | None, repeats: int, board: str, folder: Path | None, as_json: bool
) -> int:
    """How long every dashboard panel takes on a day of a whole fleet.

    Fills a store with rollups of a day and ten minutes of raw events, then asks every query of every board as its user
    would; the full fleet with --gpu-hours 1 takes 1 GB of disk, and a day of its minutes is 317 million rows. A
    --folder that an earlier run has filled is asked again as it is. Exit code 1 when a goal is missed: p95 of 300 ms
    on the operator's boards, 200 ms on a customer's.
    """
    from infra.bench import panels as bench
    from producers.simulator import scenario as scenarios

    with _place(folder) as data:
        data.mkdir(parents=True, exist_ok=True)
        whole = scenarios.load("colossus1")
        fleet = scenarios.load("colossus1", nodes=max(3, round(whole.nodes * gpus / whole.gpus)))
        settings = load(config=None, data=None)
        report = bench.bench(
            data, settings, fleet, hours, gpu_hours or hours, repeats, lambda text: click.echo(text, err=True), board
        )
    print_json(report) if as_json else click.echo(bench.shown(report))
    return 0 if report["good"] else 1


@command.command(
    epilog="""\b
Examples:
  gpufleet bench spool
  gpufleet bench spool --hours 2 --json"""
)
@click.option(
    "--hours", type=click.FloatRange(min=0, min_open=True), default=24.0, show_default=True, help="Of outage."
)
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the data here. [default: a temporary folder]")
@json_option
def spool(hours: float, folder: Path | None, as_json: bool) -> None:
    """An outage for one agent's spool: eight GPUs at 1 Hz, as fast as the spool takes them.

    Reports the size on disk, CPU and waiting time per event (by fsync policy), how much faster than real time the
    backlog is sent to the embedded broker, and memory along the way.
    """
    from infra.bench import spool as bench
    from infra.embedded.broker import EmbeddedBroker
    from infra.kafka.client import admin
    from infra.kafka.topics import Topics, wanted

    with _place(folder) as data, EmbeddedBroker(data / "broker") as broker:
        settings = load(config=None, data=None).with_flags({"kafka.bootstrap": broker.bootstrap})
        topics = Topics(admin(settings.kafka), settings.kafka)
        topics.apply(topics.plan(wanted(settings.kafka, settings.retention)))
        report = bench.spool(data / "spool", hours, broker.bootstrap, lambda text: click.echo(text, err=True))
    print_json(report) if as_json else _print(report)


@command.command(
    "audit",
    epilog="""\b
Examples:
  gpufleet bench audit
  gpufleet bench audit --nodes 2000 --minutes 10 --json""",
)
@click.option("--nodes", type=click.IntRange(min=2), default=30_040, show_default=True, help="Producers.")
@click.option("--minutes", type=click.IntRange(1, 1440), default=60, show_default=True, help="Of their events.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Timed runs; the best one.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the store here. [default: a temporary folder]")
@json_option
def audit_(nodes: int, minutes: int, repeats: int, folder: Path | None, as_json: bool) -> None:
    """How long `gpufleet audit` takes to account for an hour of a whole fleet, event by event.

    Fills a store with events that have identities and no metrics (the full fleet: 23 million rows, some minutes),
    one of them missing and one doubled, and runs the audit without windows; it has to name both.
    """
    from infra.bench import audit as bench

    with _place(folder) as data:
        report = bench.bench(data, nodes, minutes, repeats, lambda text: click.echo(text, err=True))
    print_json(report) if as_json else _print(report)


@command.command(
    epilog="""\b
Examples:
  gpufleet bench signing
  gpufleet bench signing --messages 2000 --json"""
)
@click.option("--nodes", type=click.IntRange(min=2), default=500, show_default=True, help="Producers.")
@click.option("--messages", type=click.IntRange(min=100), default=20_000, show_default=True, help="Events measured.")
@json_option
def signing(nodes: int, messages: int, as_json: bool) -> None:
    """What signing an event costs its producer, and verifying it the consumer, beside the rest of its work."""
    from infra.bench import signing as bench
    from infra.embedded.broker import EmbeddedBroker
    from infra.kafka.client import admin
    from infra.kafka.topics import Topics, wanted

    with _place(None) as data, EmbeddedBroker(data / "broker") as broker:
        settings = load(config=None, data=None).with_flags(
            {"kafka.bootstrap": broker.bootstrap, "kafka.partitions": 1, "kafka.history_partitions": 1}
        )
        topics = Topics(admin(settings.kafka), settings.kafka)
        topics.apply(topics.plan(wanted(settings.kafka, settings.retention)))
        report = bench.signing(data, broker.bootstrap, nodes, messages, lambda text: click.echo(text, err=True))
    print_json(report) if as_json else _print(report)


@command.command(
    epilog="""\b
Examples:
  gpufleet bench rebuild --gpus 20000 --seconds 120
  gpufleet bench rebuild --broker embedded --gpus 2000 --seconds 60 --json"""
)
@click.option("--broker", type=click.Choice(["embedded", "kafka"]), default="kafka", show_default=True)
@click.option("--gpus", type=click.IntRange(min=72), default=20_000, show_default=True, help="Size of the fleet.")
@click.option("--seconds", type=click.IntRange(min=60), default=120, show_default=True, help="Fleet time to send.")
@click.option("--rounds", type=click.IntRange(min=1), default=1, show_default=True, help="Timed runs; the best one.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the data here. [default: a temporary folder]")
@json_option
def rebuild(
    broker: Literal["embedded", "kafka"], gpus: int, seconds: int, rounds: int, folder: Path | None, as_json: bool
) -> None:
    """A rebuild against live ingestion, and the identity filter against the steady path.

    The live consumer drains a fleet's events, then `gpufleet rebuild` reads them once more; both per second and per
    CPU-second of reader and store. The filter is measured with nothing stored (after a failure) and with everything.
    """
    from infra.bench import rebuild as bench
    from producers.simulator import scenario as scenarios

    with _place(folder) as data:
        settings = load(config=None, data=None)
        whole = scenarios.load("colossus1")
        fleet = scenarios.load("colossus1", nodes=max(1, round(whole.nodes * gpus / whole.gpus)))
        report = bench.rebuild(data, settings, broker, fleet, seconds, lambda t: click.echo(t, err=True), rounds=rounds)
    print_json(report) if as_json else _print(report)


def _divides_a_minute(ticks: int) -> None:
    if 60 % ticks:
        raise UsageError(f"--ticks must divide a minute, since no event crosses one: 1, 2, 3, 5, 6 ..., found {ticks}")


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="gpufleet-bench-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


def _print(report: dict[str, Any], indent: str = "") -> None:
    for name, value in report.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{name}:")
            _print(value, indent + "  ")
        elif isinstance(value, list):
            click.echo(f"{indent}{name}: {len(value)} readings (--json shows them)")
        elif isinstance(value, int) and not isinstance(value, bool):
            click.echo(f"{indent}{name}: {value:,}")
        else:
            click.echo(f"{indent}{name}: {value}")
