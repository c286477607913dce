"""``gpufleet limit``: a tenant's caps and limits declared in a file, as events in the log."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infra.cli.common import json_option, print_json, settings_options
from infra.cli.producing import confirm, explained, producer, read_log

if TYPE_CHECKING:
    from infra.config import Settings
    from producers.limits.model import HeldLimit


@click.group(
    "limit",
    epilog="""\b
Examples:
  gpufleet limit list --tenant anthropic
  gpufleet limit apply limits.toml --dry-run""",
)
def command() -> None:
    """Apply and list a tenant's caps and limits."""


@command.command(
    "apply",
    epilog="""\b
Examples:
  gpufleet limit apply limits.toml --dry-run
  gpufleet limit apply limits.toml --yes""",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--reason", default="", help="Why, kept with the events.")
@click.option("--dry-run", is_flag=True, help="Show the differences and send nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@settings_options
def apply(settings: Settings, file: Path, reason: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Make the limits declared in FILE (TOML) hold. Limits it does not name stay as they are."""
    from producers.limits.document import read_limits
    from producers.limits.model import TOPIC, LimitHistory
    from producers.limits.plan import plan

    with explained(str(file)):
        declared = read_limits(file)
        history = LimitHistory(read_log(settings, TOPIC), settings.site.name)
        changes = plan(history, declared, _now())
    if not as_json:
        for change in changes:
            click.echo(str(change))
        if not changes:
            click.echo("nothing to change")
    if changes and not dry_run:
        confirm(f"Send {len(changes)} change(s)?", yes)
        with producer(settings, "limit-cli", [TOPIC]) as session:
            now = _now()
            for change in changes:
                session.send(TOPIC, now, change.fields(reason))
            session.finish()
        if not as_json:
            click.echo(f"sent and acknowledged: {len(changes)} event(s)")
    if as_json:
        print_json(
            {
                "changes": [change.fields(reason) for change in changes],
                "unchanged": len(declared) - len(changes),
                "sent": 0 if dry_run else len(changes),
                "dry_run": dry_run,
            }
        )


@command.command(
    "list",
    epilog="""\b
Examples:
  gpufleet limit list --tenant anthropic --json""",
)
@click.option("--tenant", help="Only this customer's.")
@json_option
@settings_options
def list_limits(settings: Settings, tenant: str | None, as_json: bool) -> None:
    """The limits that hold, and those to come, as the log says."""
    from producers.limits.model import TOPIC, LimitHistory

    history = LimitHistory(read_log(settings, TOPIC), settings.site.name)
    now = _now()
    shown: list[tuple[str, HeldLimit]] = []
    for key in history.keys():  # noqa: SIM118 - not a dict
        if tenant not in (None, key.tenant):
            continue
        holding, last = history.holding(key, now), history.last(key)
        if holding:
            shown.append(("holds", holding))
        if last and last.valid_from > now:
            shown.append(("to come", last))
    if as_json:
        print_json([_as_dict(state, item) for state, item in shown])
        return
    for state, item in shown:
        click.echo(_line(state, item))
    if not shown:
        click.echo("no limits")


def _now() -> int:
    return time.time_ns() // 1000


def _line(state: str, item: HeldLimit) -> str:
    from producers.checks import utc_text

    value = "none" if item.value is None else f"{item.value:,.15g}"
    return f"{item.key}  {value}  since {utc_text(item.valid_from)}  {item.action}  {state}"


def _as_dict(state: str, item: HeldLimit) -> dict[str, Any]:
    from producers.checks import utc_text

    return {
        **item.key._asdict(),
        "value": item.value,
        "from": utc_text(item.valid_from),
        "action": item.action,
        "reason": item.reason,
        "state": state,
    }
