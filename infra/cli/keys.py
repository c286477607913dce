"""``gpufleet keys``: the site's signing keys, and the keys that producers get from them (docs/signing.md)."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infra.cli.common import ConfigError, UsageError, json_option, print_json, settings_options
from infra.config import Settings
from infra.errors import GpufleetError

if TYPE_CHECKING:
    from schemas.signing import Scope
    from schemas.signing_keys import ProducerKey, SiteKeys


@click.group(
    epilog="""\b
Examples:
  gpufleet keys new --file /etc/gpufleet/site.keys
  gpufleet keys derive --node r0001-n01 --output r0001-n01.keys
  gpufleet keys list
  gpufleet keys retire 3f2a91c4 --at 2026-12-01T00:00:00Z
  gpufleet keys revoke --node r0001-n01"""
)
def command() -> None:
    """Make, hand out, rotate and revoke signing keys."""


def _file_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--file",
        "file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File of site keys. [default: setting signing.site_keys_file]",
    )(command)


def _who_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.option("--node", "nodes", multiple=True, metavar="NODE", help="A node's agent."),
            click.option("--tenant", metavar="TENANT", help="A tenant's gateway; with --producer."),
            click.option(
                "--scope",
                type=click.Choice(["facility", "scheduler", "operator"]),
                help="Who writes power and cooling, jobs, or leases and limits; with --producer.",
            ),
            click.option(
                "--producer", "producers", multiple=True, metavar="ID", help="Producer id, e.g. lease-cli@HOST."
            ),
        )
    ):
        command = option(command)
    return command


@command.command(
    epilog="""\b
Examples:
  gpufleet keys new --file /etc/gpufleet/site.keys
  gpufleet keys new --from 2026-12-01T00:00:00Z --dry-run"""
)
@_file_option
@click.option("--site", help="Site of the key. [default: setting site.name]")
@click.option("--from", "since", metavar="TIME", help="Sign with it from then on. [default: now]")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@settings_options
def new(settings: Settings, file: Path | None, site: str | None, since: str | None, dry_run: bool) -> None:
    """Make a site key, beside those that are there.

    Give the file to the consumers first: they accept every key in it within seconds, without a restart.
    """
    from schemas.signing_keys import SiteKey, SiteKeys

    path = _path(settings, file)
    held = _read(path) if path.exists() else SiteKeys(())
    key = SiteKey(site or settings.site.name, secrets.token_bytes(32), _time(since, "--from") if since else _now())
    if not dry_run:
        _write(path, replace(held, keys=(*held.keys, key)))
    named = key.id.hex() if not dry_run else "with a new id"
    click.echo(f"{'would add' if dry_run else 'added'} site key {named} of {key.site} to {path}")


@command.command(
    epilog="""\b
Examples:
  gpufleet keys derive --node r0001-n01 --output r0001-n01.keys
  gpufleet keys derive --node r0001-n01 --node r0001-n02 --output keys/"""
)
@_file_option
@_who_options
@click.option("--site", help="Site of the producer. [default: setting site.name]")
@click.option("--key", "key_id", metavar="ID", help="Site key to derive from. [default: the newest]")
@click.option(
    "--output", type=click.Path(path_type=Path), help="File to write, readable by its owner alone. [default: stdout]"
)
@settings_options
def derive(
    settings: Settings,
    file: Path | None,
    nodes: tuple[str, ...],
    tenant: str | None,
    scope: str | None,
    producers: tuple[str, ...],
    site: str | None,
    key_id: str | None,
    output: Path | None,
) -> None:
    """Print the keys of producers, for their setting signing.key_file. The same every time, until one is revoked.

    A folder as --output gets a file NODE.keys for each --node; of several nodes it is one, made if need be.
    """
    from schemas.signing_keys import derived, render_producer_keys

    whose = _who(nodes, tenant, scope, producers)
    keys = _read(_path(settings, file))
    site = site or settings.site.name
    chosen = keys.newest(site, _now()) if key_id is None else next((k for k in keys.keys if k.id.hex() == key_id), None)
    if chosen is None or chosen.site != site:
        known = ", ".join(f"{k.id.hex()} of {k.site}" for k in keys.keys)
        raise UsageError(f"no such site key of {site} in use: there are {known}")
    made = [derived(keys, chosen, *who) for who in whose]
    if output is not None and len(nodes) > 1:
        _folder(output)
    if output is None:
        click.echo(render_producer_keys(made), nl=False)
        return
    files: dict[Path, list[ProducerKey]] = {}
    for key in made:
        files.setdefault(output / f"{_as_file(key.producer_id)}.keys" if output.is_dir() else output, []).append(key)
    for path, some in files.items():
        _write_private(path, render_producer_keys(some))
    click.echo(f"{len(made)} key(s) of site key {chosen.id.hex()} in {len(files)} file(s)")


@command.command(
    "list",
    epilog="""\b
Examples:
  gpufleet keys list --json""",
)
@_file_option
@json_option
@settings_options
def list_keys(settings: Settings, file: Path | None, as_json: bool) -> None:
    """The site keys and revocations, without the secrets."""
    keys = _read(_path(settings, file))
    now = _now()
    rows = []
    for key in keys.keys:
        signs = keys.newest(key.site, now) is key
        ended = key.until_us is not None and key.until_us <= now
        state = "ended" if ended else "signs" if signs else "waits" if key.since_us > now else "accepted"
        rows.append(
            {
                "id": key.id.hex(),
                "site": key.site,
                "state": state,
                "from": _text(key.since_us),
                "until": _text(key.until_us),
            }
        )
    gone = [
        {
            "site": r.site,
            "scope": r.scope.word,
            "subject": r.subject,
            "producer": r.producer_id,
            "below": r.below,
            "from": _text(r.since_us),
        }
        for r in keys.revoked
    ]
    if as_json:
        print_json({"site_keys": rows, "revoked": gone})
        return
    for row in rows:
        until = f", until {row['until']}" if row["until"] else ""
        click.echo(f"{row['id']}  {row['site']:<16} {row['state']:<9} from {row['from'] or 'the beginning'}{until}")
    for one in gone:
        click.echo(
            f"revoked   {one['site']:<16} {one['scope']} {one['subject']} as {one['producer']}, below {one['below']}"
        )


@command.command(
    epilog="""\b
Examples:
  gpufleet keys retire 3f2a91c4 --at 2026-12-01T00:00:00Z"""
)
@click.argument("key_id", metavar="ID")
@click.option("--at", "until", required=True, metavar="TIME", help="Events that the broker gets later are refused.")
@_file_option
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@settings_options
def retire(settings: Settings, key_id: str, until: str, file: Path | None, dry_run: bool) -> None:
    """Give a site key its last day. What is in the log by then stays good."""
    path = _path(settings, file)
    keys = _read(path)
    end = _time(until, "--at")
    if not any(key.id.hex() == key_id for key in keys.keys):
        raise UsageError(f"no site key {key_id} in {path}; there are {', '.join(k.id.hex() for k in keys.keys)}")
    after = replace(keys, keys=tuple(replace(k, until_us=end) if k.id.hex() == key_id else k for k in keys.keys))
    for site in dict.fromkeys(key.site for key in keys.keys if key.id.hex() == key_id):
        if after.newest(site, max(end, _now())) is None:
            raise UsageError(f"{site} would have no key left: make its successor first (`gpufleet keys new`)")
    if not dry_run:
        _write(path, after)
    click.echo(f"site key {key_id} {'would end' if dry_run else 'ends'} at {_text(end)}")


@command.command(
    epilog="""\b
Examples:
  gpufleet keys revoke --node r0001-n01 --dry-run"""
)
@_file_option
@_who_options
@click.option("--site", help="Site of the producer. [default: setting site.name]")
@click.option("--at", "since", metavar="TIME", help="In events that the broker gets from then on. [default: now]")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@settings_options
def revoke(
    settings: Settings,
    file: Path | None,
    nodes: tuple[str, ...],
    tenant: str | None,
    scope: str | None,
    producers: tuple[str, ...],
    site: str | None,
    since: str | None,
    dry_run: bool,
) -> None:
    """Refuse the keys that a producer was given so far; `keys derive` then gives it its next one."""
    from schemas.signing_keys import Revoked

    path = _path(settings, file)
    keys = _read(path)
    site = site or settings.site.name
    if all(key.site != site for key in keys.keys):
        raise UsageError(f"no site key of {site} in {path}: its keys are of {_sites(keys)}")
    start = _time(since, "--at") if since else _now()
    for who in _who(nodes, tenant, scope, producers):
        below = keys.serial(site, *who) + 1
        keys = replace(keys, revoked=(*keys.revoked, Revoked(site, *who, below, start)))
        done = "would be refused" if dry_run else "are refused"
        click.echo(
            f"keys of {who[0].word} {who[1]} of {site} as {who[2]} below serial {below} {done} from {_text(start)} on"
        )
    if not dry_run:
        _write(path, keys)


def _who(
    nodes: tuple[str, ...], tenant: str | None, scope: str | None, producers: tuple[str, ...]
) -> Iterable[tuple[Scope, str, str]]:
    """(scope, subject, producer id) of each producer that the options name."""
    from producers.agent.settings import NODE_NAME
    from schemas.signing import Scope

    if bool(nodes) + bool(tenant) + bool(scope) != 1:
        raise UsageError("say whose: --node NODE, --tenant TENANT --producer ID, or --scope SCOPE --producer ID")
    if nodes:
        if producers:
            raise UsageError("a node's producer id is the node's name: leave --producer out")
        for node in nodes:
            if not NODE_NAME.fullmatch(node):
                raise UsageError(f"--node expects a name that an agent can have, as a host's; found {node!r}")
        return [(Scope.NODE, node, node) for node in nodes]
    if not producers:
        raise UsageError("say which producer: --producer ID, e.g. usage-replay@HOST or lease-cli@HOST")
    if tenant:
        return [(Scope.TENANT, tenant, producer) for producer in producers]
    return [(Scope[str(scope).upper()], producer, producer) for producer in producers]


def _sites(keys: SiteKeys) -> str:
    return ", ".join(dict.fromkeys(key.site for key in keys.keys)) or "no site"


def _folder(path: Path) -> None:
    """Have a folder there, for its owner alone when it is made."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output of several nodes is a folder, and {path} cannot be one: {error.strerror}") from None


def _path(settings: Settings, file: Path | None) -> Path:
    path = file or settings.signing.site_keys_file
    if path is None:
        raise UsageError("no file of site keys: give --file, or set signing.site_keys_file")
    return path


def _read(path: Path) -> SiteKeys:
    from schemas.signing_keys import KeyFileError, parse_site_keys, read_private

    try:
        return parse_site_keys(read_private(path), str(path))
    except KeyFileError as error:
        raise ConfigError(str(error)) from None


def _write(path: Path, keys: SiteKeys) -> None:
    from schemas.signing_keys import render_site_keys

    _write_private(path, render_site_keys(keys))


def _write_private(path: Path, text: str) -> None:
    """Written beside and renamed: a consumer that reads it meanwhile sees the old file or the new one, whole."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  # of a descriptor
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        if path.exists():
            owner = path.stat()
            if (owner.st_uid, owner.st_gid) != (os.getuid(), os.getgid()) and os.getuid() == 0:
                os.chown(fresh, owner.st_uid, owner.st_gid)
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise GpufleetError(f"cannot write {path}: {error.strerror}") from None


def _as_file(name: str) -> str:
    return name.replace("/", "_")


def _time(text: str, option: str) -> int:
    from producers.checks import zoned_time
    from producers.errors import InputError

    try:
        return zoned_time(text, option)
    except InputError:
        raise UsageError(f"{option} expects a time with its zone, as 2026-11-01T00:00:00Z, found {text!r}") from None


def _now() -> int:
    return time.time_ns() // 1000


def _text(us: int | None) -> str:
    return datetime.fromtimestamp(us / 1e6, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if us else ""
