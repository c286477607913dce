"""``gpufleet maintenance``: nodes taken out of service and brought back, as events in the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from infra.cli.common import UsageError, json_option, print_json, settings_options
from infra.cli.producing import confirm, explained, producer

if TYPE_CHECKING:
    from infra.config import Settings
    from infra.maintenance import Change, Node, UnderWay

    Plan = Callable[[dict[str, Node], list[UnderWay], Sequence[str], int | None, str], list[Change]]

_NODES = click.argument("nodes", nargs=-1, metavar="NODE...")
_RACKS = click.option("--rack", "racks", multiple=True, metavar="RACK", help="All nodes of a rack.")
_GPU = click.option("--gpu", type=click.IntRange(0, 255), help="This GPU of each node alone, by its index.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would be sent and send nothing.")
_YES = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


@click.group(
    "maintenance",
    epilog="""\b
Examples:
  gpufleet maintenance begin h100-r0001-n03 --reason "GPU 5 fell off the bus"
  gpufleet maintenance list
  gpufleet maintenance end h100-r0001-n03""",
)
def command() -> None:
    """Take nodes out of service and bring them back; alerts are quiet meanwhile."""


@command.command(
    "begin",
    epilog="""\b
Examples:
  gpufleet maintenance begin h100-r0001-n03 --reason "GPU 5 fell off the bus"
  gpufleet maintenance begin "h100-r0001-n[01-08]" --reason "coolant pump" --dry-run
  gpufleet maintenance begin --rack gb200-r0001 --reason "switch tray" --yes
  gpufleet maintenance begin h100-r0001-n03 --gpu 5 --reason "row remap failed" """,
)
@_NODES
@_RACKS
@_GPU
@click.option("--reason", required=True, help="Why: who leases the node reads it.")
@_DRY_RUN
@_YES
@json_option
@settings_options
def begin(
    settings: Settings,
    nodes: tuple[str, ...],
    racks: tuple[str, ...],
    gpu: int | None,
    reason: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Take NODEs out of service from now on: not delivered, if they are leased, and left out by alerts about nodes."""
    from infra.maintenance import beginning

    _tell(settings, beginning, nodes, racks, gpu, reason, dry_run=dry_run, yes=yes, as_json=as_json)


@command.command(
    "end",
    epilog="""\b
Examples:
  gpufleet maintenance end h100-r0001-n03
  gpufleet maintenance end --rack gb200-r0001 --reason "tray replaced" --yes""",
)
@_NODES
@_RACKS
@_GPU
@click.option("--reason", default="", help="What was done.")
@_DRY_RUN
@_YES
@json_option
@settings_options
def end(
    settings: Settings,
    nodes: tuple[str, ...],
    racks: tuple[str, ...],
    gpu: int | None,
    reason: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Bring NODEs back into what they were before. Their open faults count as repaired."""
    from infra.maintenance import ending

    _tell(settings, ending, nodes, racks, gpu, reason, dry_run=dry_run, yes=yes, as_json=as_json)


@command.command(
    "list",
    epilog="""\b
Examples:
  gpufleet maintenance list --json""",
)
@json_option
@settings_options
def list_(settings: Settings, as_json: bool) -> None:
    """What is in maintenance, the longest first."""
    from infra.connections import connect_store
    from infra.maintenance import place, under_way

    client = connect_store(settings)
    found = under_way(client, settings.site.name)
    client.close()
    if as_json:
        print_json([{**asdict(each), "since": f"{each.since:%Y-%m-%dT%H:%M:%SZ}"} for each in found])
        return
    for each in found:
        where = place(each.node, each.gpu)
        click.echo(f"{where}  since {each.since:%Y-%m-%d %H:%M:%S} UTC  {each.reason}  ({each.said_by})")
    if not found:
        click.echo("nothing is in maintenance")


def _tell(
    settings: Settings,
    plan: Plan,
    names: tuple[str, ...],
    racks: tuple[str, ...],
    gpu: int | None,
    reason: str,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    from infra.connections import connect_store
    from infra.maintenance import TOPIC, nodes, under_way
    from producers.leases.nodes import NodeList, resolve

    if not names and not racks:
        raise UsageError("name a NODE, or --rack RACK")
    client = connect_store(settings)
    known, now = nodes(client, settings.site.name), under_way(client, settings.site.name)
    client.close()
    source = f"the inventory of site {settings.site.name}"
    with explained():
        chosen = resolve(names, racks, NodeList(source, {node: each.rack for node, each in known.items()}))
    try:
        changes = plan(known, now, chosen, gpu, reason)
    except LookupError as error:
        raise UsageError(str(error.args[0])) from None
    if not as_json:
        for change in changes:
            click.echo(str(change))
        if not changes:
            click.echo("nothing to change: all of it is in maintenance already")
    if changes and not dry_run:
        confirm(f"Send {len(changes)} event(s)?", yes)
        with producer(settings, "maintenance-cli", [TOPIC], [change.node for change in changes]) as session:
            for change in changes:
                session.send(TOPIC, time.time_ns() // 1000, change.fields())
            session.finish()
        if not as_json:
            click.echo(f"sent and acknowledged: {len(changes)} event(s)")
    if as_json:
        sent = 0 if dry_run else len(changes)
        print_json({"changes": [change.fields() for change in changes], "sent": sent, "dry_run": dry_run})
