"""``gpufleet tenant``: customers as users of the store, who read their own rows and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infra.cli.common import UsageError, json_option, print_json, settings_options

if TYPE_CHECKING:
    from infra.config import Settings
    from infra.tenants.steps import Step, Tenants

_password_file = click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the password (mode 0600). [default: in store.tenant_password_dir; without that it is shown once]",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Show what would be done, secrets hidden, and do nothing.")


@click.group(
    "tenant",
    epilog="""\b
Examples:
  gpufleet tenant list
  gpufleet tenant add anthropic --dry-run
  gpufleet tenant add anthropic --password-file /etc/gpufleet/tenants/anthropic.password
  gpufleet tenant rotate anthropic && gpufleet tenant rotate anthropic --finish
  gpufleet tenant remove anthropic""",
)
def command() -> None:
    """Add, list and remove tenants, and give them new passwords.

    A tenant's user bears the tenant's name, reads its own rows of every table that has a tenant and nothing of the
    others, within limits of time, memory and size. On a ClickHouse server that takes a user who may manage users
    (store.admin_user); on the store of a running `gpufleet up` it takes effect at once.
    """


@command.command(
    "prepare",
    epilog="""\b
Examples:
  gpufleet tenant prepare --dry-run""",
)
@_dry_run
@json_option
@settings_options
def prepare(settings: Settings, dry_run: bool, as_json: bool) -> None:
    """Give the roles of writers, operators and readers their rights and row policies (a ClickHouse server only).

    Once after the first `migrate`, and after one that made tables; `add` does it as well.
    """
    tenants = _tenants(settings)
    steps = tenants.prepare()
    _run(tenants, steps, dry_run)
    _say(as_json, dry_run, steps, {}, "roles, profiles and row policies are up to date")


@command.command(
    "add",
    epilog="""\b
Examples:
  gpufleet tenant add anthropic --dry-run
  gpufleet tenant add anthropic --password-file /etc/gpufleet/tenants/anthropic.password""",
)
@click.argument("name")
@_password_file
@_dry_run
@json_option
@settings_options
def add(settings: Settings, name: str, password_file: Path | None, dry_run: bool, as_json: bool) -> None:
    """Make the tenant NAME, or bring its rights up to date.

    One that exists keeps its password, whatever --password-file says: `gpufleet tenant rotate` makes new ones.
    """
    from infra.tenants.names import Secret, checked

    checked(name)
    tenants = _tenants(settings)
    known = name in {tenant.name for tenant in tenants.known()}
    secret = Secret(_file(settings, name, password_file))
    password = "" if known or dry_run else secret.prepare(keep=True)
    steps = tenants.add(name, password)
    done = _run(tenants, steps, dry_run)
    if done and not known:
        secret.done()
    if known and password_file is not None:
        click.echo(f"tenant {name} exists: its password stays, and {password_file} was left as it is", err=True)
    said = {"tenant": name, "existed": known, **_told(secret, shown=done and not known)}
    _say(as_json, dry_run, steps, said, f"tenant {name}: {'up to date' if known else 'added'}")


@command.command(
    "rotate",
    epilog="""\b
Examples:
  gpufleet tenant rotate anthropic
  gpufleet tenant rotate anthropic --finish""",
)
@click.argument("name")
@_password_file
@click.option("--finish", is_flag=True, help="End a rotation: the password before is good no more.")
@click.option("--now", "at_once", is_flag=True, help="The password before is good no more at once (it leaked).")
@_dry_run
@json_option
@settings_options
def rotate(
    settings: Settings,
    name: str,
    password_file: Path | None,
    finish: bool,
    at_once: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Give the tenant NAME a new password.

    The one before stays good, so that nobody is locked out meanwhile, until `--finish` is said.
    """
    from infra.tenants.names import Secret, checked

    if finish and (at_once or password_file):
        raise UsageError("--finish makes no new password: it goes with neither --now nor --password-file")
    tenants = _known(settings, checked(name))
    if finish:
        steps = tenants.finish(name)
        _run(tenants, steps, dry_run)
        _say(as_json, dry_run, steps, {"tenant": name}, f"tenant {name}: only the newest password is good")
        return
    good = next((tenant.passwords for tenant in tenants.known() if tenant.name == name), 1)
    if good > 1 and not at_once:
        raise UsageError(
            f"the password before the last of {name} is still good, and may be in use: `gpufleet tenant rotate {name} "
            "--finish` ends it; then make another (or --now: only the new one is good)"
        )
    secret = Secret(_file(settings, name, password_file))
    steps = tenants.rotate(name, "" if dry_run else secret.prepare(keep=False), at_once=at_once)
    done = _run(tenants, steps, dry_run)
    if done:
        secret.done()
    before = "is good no more" if at_once else f"stays good until `gpufleet tenant rotate {name} --finish`"
    said = {"tenant": name, "finished": at_once, **_told(secret, shown=done)}
    _say(as_json, dry_run, steps, said, f"tenant {name}: new password; the one before {before}")


@command.command(
    "remove",
    epilog="""\b
Examples:
  gpufleet tenant remove anthropic --dry-run
  gpufleet tenant remove anthropic --yes""",
)
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_dry_run
@json_option
@settings_options
def remove(settings: Settings, name: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Take away the tenant NAME's access, end its queries, then delete its user.

    Its rows stay: they are the record of what was delivered and used.
    """
    from infra.tenants.names import checked, forget

    tenants = _tenants(settings)
    existed = checked(name) in {tenant.name for tenant in tenants.known()}
    steps = tenants.remove(name)
    if existed and not dry_run and not yes:
        if not sys.stdin.isatty():
            raise UsageError("nothing was changed: there is no terminal to ask on, say --yes (or look with --dry-run)")
        click.confirm(f"Remove {name}'s access to the store?", abort=True, err=True)
    done = _run(tenants, steps, dry_run)
    deleted = done and forget(_file(settings, name, None))
    said = {"tenant": name, "existed": existed, "password_file_deleted": deleted}
    _say(as_json, dry_run, steps, said, f"tenant {name}: {'removed' if existed else 'was not there'}")


@command.command(
    "list",
    epilog="""\b
Examples:
  gpufleet tenant list --json""",
)
@json_option
@settings_options
def list_tenants(settings: Settings, as_json: bool) -> None:
    """The tenants that the store knows."""
    tenants = _tenants(settings)
    found = tenants.known()
    tenants.close()
    if as_json:
        print_json([tenant.as_dict() for tenant in found])
        return
    for tenant in found:
        notes = [] if tenant.passwords == 1 else [f"{tenant.passwords} passwords are good: `rotate --finish` ends it"]
        if not tenant.complete:
            notes.append("rights are not those of today's tables: `tenant add` brings them up to date")
        click.echo("  ".join([tenant.name, *notes]))
    if not found:
        click.echo("no tenants")


def _tenants(settings: Settings) -> Tenants:
    from infra.connections import connect_store, render

    if settings.store.tenants_file is not None:
        from infra.tenants.embedded import EmbeddedTenants

        return EmbeddedTenants(settings.store.tenants_file, settings.store.url)
    from infra.tenants.server import ServerTenants

    return ServerTenants(connect_store(settings, admin=True), render(settings))


def _known(settings: Settings, name: str) -> Tenants:
    tenants = _tenants(settings)
    known = [tenant.name for tenant in tenants.known()]
    if name not in known:
        raise UsageError(f"no tenant {name!r}: found {', '.join(known) or 'none'}")
    return tenants


def _file(settings: Settings, name: str, given: Path | None) -> Path | None:
    folder = settings.store.tenant_password_dir
    return given or (folder / f"{name}.password" if folder else None)


def _run(tenants: Tenants, steps: list[Step], dry_run: bool) -> bool:
    """Run the steps; False when they were only to be shown."""
    try:
        for step in steps if not dry_run else []:
            step.run()
    finally:
        tenants.close()
    return not dry_run


def _told(secret: object, *, shown: bool) -> dict[str, str]:
    """Where the password is, or the password itself: the one time that it is shown."""
    from infra.tenants.names import Secret

    assert isinstance(secret, Secret)
    if not shown:
        return {}
    return {"password_file": str(secret.file)} if secret.file else {"password": secret.value}


def _say(as_json: bool, dry_run: bool, steps: list[Step], said: dict[str, object], text: str) -> None:
    if as_json:
        print_json({**said, "dry_run": dry_run, "steps": [step.shown for step in steps]})
        return
    if dry_run:
        for step in steps:
            click.echo(step.shown + (";" if not step.shown.startswith("/") else ""))
        click.echo("-- nothing was changed" if steps else "nothing to change")
        return
    click.echo(text)
    if "password" in said:
        click.echo(f"password (shown this once): {said['password']}")
    elif "password_file" in said:
        click.echo(f"password in {said['password_file']}")
