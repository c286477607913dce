"""``gpufleet spool``: what waits on this machine for the broker."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click

from infra.cli.common import UsageError, json_option, print_json, settings_options
from infra.config import Settings


@click.command(
    epilog="""\b
Examples:
  gpufleet spool
  gpufleet spool /var/lib/gpufleet/spool --json"""
)
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@json_option
@settings_options
def command(settings: Settings, folder: Path | None, as_json: bool) -> None:
    """Show what waits in the spools on this machine, run by run; changes nothing, and may be asked at any time.

    FOLDER is looked through at any depth; by default the agent's spool and the simulator's.
    """
    from producers.spool.look import folders, look, size

    kept = (settings.agent.spool.dir, settings.agent.state_dir, settings.simulate.state_dir)
    roots = [folder] if folder else [root for root in dict.fromkeys(kept) if root is not None and root.is_dir()]
    try:
        spools = sorted({spool for root in roots for spool in folders(root)})
        found = [(spool, size(spool), look(spool)) for spool in spools]
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from None
    if as_json:
        said = [{"folder": str(at), "bytes": used, "waiting": [asdict(w) for w in waits]} for at, used, waits in found]
        print_json({"spools": said})
        return
    if not found:
        click.echo("nothing waits: no spool holds a file")
    for at, used, waits in found:
        click.echo(f"{at}: {sum(each.events for each in waits):,} events wait, {used / 1e6:.1f} MB on disk")
        for each in waits:
            click.echo(
                f"  {each.topic:18} {each.producer_id} run {each.run_id}: {each.events:,} events,"
                f" seq {each.ranges[0][0]}..{each.ranges[-1][1]}, the oldest {_age(each.oldest_us)} old"
            )


def _age(since_us: int) -> str:
    seconds = max(0.0, time.time() - since_us / 1e6)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
