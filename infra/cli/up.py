"""gpufleet up: the whole pipeline on this machine, in one command."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Literal

import click

from infra.cli.common import Finite, json_option, print_json
from infra.cli.producing import explained
from infra.config import load
from infra.config.runtime import DEFAULT_FOLDER
from infra.errors import UsageError


@click.command(
    epilog="""\b
Examples:
  gpufleet up
  gpufleet up --for 60s --json
  gpufleet up --scenario colossus1 --nodes 500 --no-backfill
  gpufleet up --broker kafka --data /var/tmp/gpufleet"""
)
@click.option("--config", "-c", "config_file", type=click.Path(path_type=Path, dir_okay=False), help="Settings file.")
@click.option("--scenario", default=None, help="small, colossus1, or a TOML file. [default: small]")
@click.option("--nodes", type=click.IntRange(min=1), help="Scale the scenario to this many nodes.")
@click.option("--seed", type=click.IntRange(min=0), help="Another fleet, other faults.")
@click.option("--for", "duration", metavar="TIME", help="Stop by itself after this long live (60s, 5m), and audit.")
@click.option("--speed", type=Finite(min=0.01), default=1.0, show_default=True, help="Faster than the clock.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Folder.",
)
@click.option("--broker", type=click.Choice(["embedded", "kafka"]), default="embedded", show_default=True)
@click.option("--backfill-hours", type=click.FloatRange(min=0, max=168), default=24.0, show_default=True)
@click.option("--no-backfill", is_flag=True, help="Start live at once.")
@click.option("--no-preview", is_flag=True, help="Without the page that shows the dashboards.")
@json_option
def command(
    config_file: Path | None,
    scenario: str | None,
    nodes: int | None,
    seed: int | None,
    duration: str | None,
    speed: float,
    data: Path,
    broker: Literal["embedded", "kafka"],
    backfill_hours: float,
    no_backfill: bool,
    no_preview: bool,
    as_json: bool,
) -> int:
    """Broker, store, simulated fleet, consumer and projector in one command, on this machine.

    Back-fills the last 24 hours, then runs live until Ctrl-C (or for the time given), serves the dashboards on a page
    of this machine, and ends with the proof that every event was stored exactly once. Exit code 0 only if nothing was
    lost or doubled.
    """
    from infra.up.run import Options, run
    from infra.up.view import View
    from producers.checks import duration_us
    from producers.simulator import scenario as scenarios

    with explained("--for"):
        length_us = duration_us(duration) if duration else None
    settings = load(config_file)
    try:
        fleet = scenarios.load(scenario or settings.simulate.scenario, nodes=nodes, seed=seed)
    except scenarios.ScenarioError as error:
        raise UsageError(str(error)) from None
    stop = threading.Event()
    _stop_on_signals(stop)
    options = Options(
        scenario=fleet,
        data=data,
        broker=broker,
        speed=speed,
        for_s=length_us / 1e6 if length_us is not None else None,
        backfill_hours=0.0 if no_backfill else backfill_hours,
        preview=not no_preview,
    )
    with View(f"gpufleet: {fleet.name}, {fleet.gpus:,} GPUs on {fleet.nodes:,} nodes") as view:
        try:
            outcome = run(options, settings, view, stop)
        except scenarios.ScenarioError as error:  # the folder remembers another fleet
            raise UsageError(str(error)) from None
    if as_json:
        print_json(outcome.as_dict(), pretty=False)
    else:
        click.echo(outcome.summary())
    return 0 if outcome.exact else 1


def _stop_on_signals(stop: threading.Event) -> None:
    """The first Ctrl-C (or SIGTERM) stops cleanly; the second does not wait."""

    def handle(_number: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()  # and no word here: it could land in the middle of one that the view is writing

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
