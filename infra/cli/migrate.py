"""``gpufleet migrate``: bring the store's tables and views up to date."""

from __future__ import annotations

import click

from infra.cli.common import json_option, print_json, settings_options
from infra.config import Settings


@click.command(
    epilog="""\b
Examples:
  gpufleet migrate --dry-run
  gpufleet migrate"""
)
@click.option("--dry-run", is_flag=True, help="Only say what would be applied.")
@json_option
@settings_options
def command(settings: Settings, dry_run: bool, as_json: bool) -> None:
    """Apply the migrations that the store lacks, in order. Doing it again changes nothing."""
    from infra.clickhouse.migrate import migrate
    from infra.connections import connect_store, render

    client = connect_store(settings, admin=True)
    applied = migrate(client, render(settings), dry_run=dry_run, progress=lambda line: click.echo(line, err=as_json))
    if as_json:
        print_json({"dry_run": dry_run, "applied": [{"number": m.number, "name": m.name} for m in applied]})
    elif not applied:
        click.echo("nothing to do: every migration is applied")
    else:
        click.echo(f"{len(applied)} migrations {'would be' if dry_run else ''} applied".replace("  ", " "))
