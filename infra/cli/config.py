"""``gpufleet config``: the settings in effect, a file to start from, the reference page."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from infra.cli.common import UsageError, json_option, print_json, settings_options
from infra.config import Settings
from infra.config.render import reference, rows, template


@click.group(
    epilog="""\b
Examples:
  gpufleet config init
  gpufleet config show
  gpufleet config show --json"""
)
def command() -> None:
    """Show the settings in effect, or write a settings file to start from."""


@command.command(
    epilog="""\b
Examples:
  gpufleet config show --changed
  gpufleet config show --json"""
)
@click.option("--changed", is_flag=True, help="Only what differs from the defaults.")
@json_option
@settings_options
def show(settings: Settings, changed: bool, as_json: bool) -> None:
    """Every setting, its value, and where the value came from. Secrets are hidden."""
    shown = [row for row in rows(settings) if not changed or row.origin != "default"]
    if as_json:
        print_json({row.key: {"value": row.value, "origin": row.origin} for row in shown})
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ("setting", "value", "from"):
        table.add_column(title, overflow="fold")
    for row in shown:
        value = "" if row.value is None else str(row.value).lower() if isinstance(row.value, bool) else str(row.value)
        style = "dim" if row.origin == "default" else ""
        table.add_row(Text(row.key, style), Text(value, style), Text(row.origin, style))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@command.command(
    epilog="""\b
Examples:
  gpufleet config init
  gpufleet config init /etc/gpufleet/gpufleet.toml"""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path("gpufleet.toml"))
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def init(file: Path, force: bool) -> None:
    """Write FILE (default: gpufleet.toml) with every setting, commented out at its default."""
    try:
        with file.open("w" if force else "x", encoding="utf-8") as out:
            out.write(template())
    except FileExistsError:
        raise UsageError(f"{file} exists and was left as it is; --force overwrites it") from None
    click.echo(f"wrote {file}; `gpufleet config show --config {file}` shows what is in effect")


@command.command(
    "reference",
    hidden=True,
    epilog="""\b
Examples:
  gpufleet config reference > docs/configuration.md""",
)
def reference_page() -> None:
    """The reference page of all settings, Markdown (docs/configuration.md)."""
    click.echo(reference(), nl=False)
