"""``gpufleet inject``: a fault for a running simulation."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from infra.cli.common import UsageError, settings_options
from infra.cli.producing import explained
from infra.cli.simulate import FOLDER

if TYPE_CHECKING:
    from infra.config import Settings


@click.command(
    epilog="""\b
Examples:
  gpufleet inject --list
  gpufleet inject gpu_lost --node h100-r0001-n03 --gpu 5 --for 10m
  gpufleet inject coolant --asset cdu-001 --for 5m"""
)
@click.argument("fault", required=False)
@click.option("--node", help="Node it happens to.")
@click.option("--gpu", type=click.IntRange(0), help="GPU of the node. [default: 0]")
@click.option("--asset", help="Feed or CDU it happens to.")
@click.option("--for", "duration", metavar="TIME", help="How long it lasts, e.g. 60s. [default: what is usual for it]")
@click.option("--list", "only_list", is_flag=True, help="List the faults there are.")
@settings_options
def command(
    settings: Settings,
    fault: str | None,
    node: str | None,
    gpu: int | None,
    asset: str | None,
    duration: str | None,
    only_list: bool,
) -> int:
    """Add FAULT to the simulation that runs with the same settings or --data; it begins within a tick."""
    from producers.checks import duration_us
    from producers.simulator import injection
    from producers.simulator.memory import Memory

    if only_list:
        for name, what in injection.available().items():
            click.echo(f"{name:18} {what}")
        return 0
    if fault is None:
        raise UsageError("expected a FAULT: `gpufleet inject --list` names them")
    with explained("--for"):
        length_us = duration_us(duration) if duration else None
    folder = settings.simulate.state_dir / FOLDER
    if not (folder / "fleet.json").exists():
        raise UsageError(
            f"no simulation ever ran in {folder}: start `gpufleet simulate` or `gpufleet up`, or name its --data"
        )
    memory = Memory(folder)
    try:
        injection.check(fault, node, gpu, asset, memory.announced())
    except injection.InjectionError as error:
        raise UsageError(str(error)) from None
    request = {"fault": fault, "node": node, "gpu": gpu, "asset": asset}
    memory.inject(str(time.time_ns()), {**request, "duration_s": length_us and length_us / 1e6})
    place = asset or node
    click.echo(f"{fault} asked for on {place}{'' if gpu is None else f', GPU {gpu}'}: the simulation takes it up")
    return 0
