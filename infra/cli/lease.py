"""``gpufleet lease``: leases declared in a file, as events in the log."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infra.cli.common import GpufleetError, json_option, print_json, settings_options
from infra.cli.producing import confirm, explained, log_end, producer, read_log

if TYPE_CHECKING:
    from infra.config import Settings
    from producers.leases.model import HeldLease
    from producers.leases.plan import Change

_FILE = click.argument("file", type=click.Path(path_type=Path))
_INVENTORY = click.option(
    "--inventory", type=click.Path(path_type=Path, dir_okay=False), help="Node list (node,rack a line) for wildcards."
)
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show the differences and send nothing.")
_YES = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


@click.group(
    "lease",
    epilog="""\b
Examples:
  gpufleet lease list
  gpufleet lease apply leases.toml --dry-run
  gpufleet lease correct leases.toml --reason "wrong rack"
""",
)
def command() -> None:
    """Apply, correct and list leases."""


@command.command(
    "apply",
    epilog="""\b
Examples:
  gpufleet lease apply leases.toml --dry-run
  gpufleet lease apply leases.toml --yes""",
)
@_FILE
@_INVENTORY
@click.option("--reason", default="", help="Why, kept with the events.")
@_DRY_RUN
@_YES
@json_option
@settings_options
def apply(
    settings: Settings, file: Path, inventory: Path | None, reason: str, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Make the leases declared in FILE (TOML) hold. Leases it does not name stay as they are.

    Refuses to change what a lease was in time gone by: that takes `correct`.
    """
    _make_hold(settings, file, inventory, reason, dry_run, yes, as_json, correcting=False)


@command.command(
    "correct",
    epilog="""\b
Examples:
  gpufleet lease correct leases.toml --reason "wrong rack" --dry-run""",
)
@_FILE
@_INVENTORY
@click.option("--reason", required=True, help="Why the past changes, kept with the events.")
@_DRY_RUN
@_YES
@json_option
@settings_options
def correct(
    settings: Settings, file: Path, inventory: Path | None, reason: str, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """As apply, but time gone by may change: rows and windows are attributed anew."""
    _make_hold(settings, file, inventory, reason, dry_run, yes, as_json, correcting=True)


@command.command(
    "list",
    epilog="""\b
Examples:
  gpufleet lease list
  gpufleet lease list --all --json""",
)
@click.option("--all", "everything", is_flag=True, help="Also leases that have ended.")
@json_option
@settings_options
def list_leases(settings: Settings, everything: bool, as_json: bool) -> None:
    """The leases that hold, as the log says."""
    from producers.leases.model import TOPIC, held_leases

    now = _now()
    held = sorted(
        held_leases(read_log(settings, TOPIC), settings.site.name).values(),
        key=lambda item: (item.lease.tenant, item.lease.valid_from, item.lease.lease_id),
    )
    shown = [item for item in held if everything or _state(item, now) != "ended"]
    if as_json:
        print_json([_as_dict(item, now) for item in shown])
        return
    for item in shown:
        click.echo(_line(item, now))
    if not shown:
        click.echo("no leases" + ("" if everything or not held else f" ({len(held)} ended: --all)"))


def _make_hold(
    settings: Settings,
    file: Path,
    inventory: Path | None,
    reason: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    *,
    correcting: bool,
) -> None:
    from producers.leases.document import read_leases
    from producers.leases.model import TOPIC, held_leases
    from producers.leases.plan import conflicts, plan

    with explained(str(file)):
        declared = read_leases(file, inventory, empty_allowed=correcting)
        end = log_end(settings, TOPIC)
        held = held_leases(read_log(settings, TOPIC), settings.site.name)
        changes = plan(held, declared, _now(), correcting=correcting)
    left_alone = len(set(held) - {lease.lease_id for lease in declared})
    if not as_json:
        _show(changes, left_alone)
    if changes and not dry_run:
        confirm(f"Send {len(changes)} change(s)?", yes)
        with producer(settings, "lease-cli", [TOPIC]) as session:
            now = _now()
            for change in changes:
                session.send(TOPIC, now, change.fields(reason))
            session.finish()
            run_id = session.journal.run_id
        lost = conflicts(changes, held_leases(read_log(settings, TOPIC, end), settings.site.name), run_id)
        if lost:
            raise GpufleetError(
                f"somebody else changed {', '.join(lost)} at the same moment and theirs holds: look with "
                "`gpufleet lease list`, then apply again"
            )
        if not as_json:
            click.echo(f"sent and acknowledged: {len(changes)} event(s)")
    if as_json:
        print_json(
            {
                "changes": [_change_as_dict(change) for change in changes],
                "unchanged": len(declared) - len(changes),
                "left_alone": left_alone,
                "sent": 0 if dry_run else len(changes),
                "dry_run": dry_run,
            }
        )


def _now() -> int:
    return time.time_ns() // 1000


def _show(changes: list[Change], left_alone: int) -> None:
    for change in changes:
        click.echo(f"{change.action}: {change.lease.lease_id} (revision {change.revision})")
        for difference in change.differences:
            click.echo(f"    {difference}")
        if change.rewrites_past:
            click.echo("    reaches into time gone by: rows and windows since then will be attributed anew")
    if not changes:
        click.echo("nothing to change")
    if left_alone:
        click.echo(f"{left_alone} lease(s) that the file does not name stay as they are")


def _change_as_dict(change: Change) -> dict[str, Any]:
    return {
        "lease_id": change.lease.lease_id,
        "action": change.action,
        "revision": change.revision,
        "differences": list(change.differences),
        "rewrites_past": change.rewrites_past,
    }


def _state(item: HeldLease, now: int) -> str:
    if item.lease.valid_to is not None and item.lease.valid_to <= now:
        return "ended"
    return "holds" if item.lease.valid_from <= now else "to come"


def _line(item: HeldLease, now: int) -> str:
    from producers.checks import utc_text

    lease = item.lease
    to = utc_text(lease.valid_to) if lease.valid_to is not None else "open"
    return (
        f"{lease.lease_id}  {lease.tenant}  {len(lease.nodes)} nodes  {utc_text(lease.valid_from)} .. {to}  "
        f"{lease.kind}  {lease.price:g} {lease.currency}/GPU-h  SLA {lease.sla:g}  "
        f"operator {'reads' if lease.operator_reads_usage else 'does not read'} usage  "
        f"revision {item.revision} ({item.action})  {_state(item, now)}"
    )


def _as_dict(item: HeldLease, now: int) -> dict[str, Any]:
    from producers.checks import utc_text

    lease = item.lease
    return {
        "lease_id": lease.lease_id,
        "tenant": lease.tenant,
        "state": _state(item, now),
        "nodes": list(lease.nodes),
        "from": utc_text(lease.valid_from),
        "to": utc_text(lease.valid_to) if lease.valid_to is not None else None,
        "kind": lease.kind,
        "price": lease.price,
        "currency": lease.currency,
        "sla": lease.sla,
        "operator_reads_usage": lease.operator_reads_usage,
        "revision": item.revision,
        "action": item.action,
        "reason": item.reason,
        "changed_at": utc_text(item.changed_at),
    }
