"""``gpufleet topics``: Kafka's topics as they are, as they should be, and the way from one to the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from infra.cli.common import GpufleetError, UsageError, json_option, print_json, settings_options
from infra.config import Settings

if TYPE_CHECKING:
    from infra.kafka.acls import Rule
    from infra.kafka.topics import Step, Topics, Wanted

ROLES = {
    "agent": "Nodes' agents: write telemetry, counters, events, inventory.",
    "usage": "A tenant's gateway: writes tenant-usage.",
    "facility": "Writes power and cooling, and the inventory of what has no agent.",
    "scheduler": "Writes allocations.",
    "operator": "Writes leases, limits, maintenance; reads leases and limits.",
    "consumer": "Reads everything as consume.group_id, rebuilds and audits; writes dead-letters.",
    "simulator": "Writes everything but dead-letters.",
    "replay": "Runs dlq replay: writes everything but dead-letters again.",
    "admin": "Runs topics apply and topics acl.",
}
"""Role -> what it is for."""


@click.group(
    epilog="""\b
Examples:
  gpufleet topics plan
  gpufleet topics apply --dry-run
  gpufleet topics acl --agent agents --consumer gpufleet --usage gateway-acme
  gpufleet topics acl --agent "CN=n1,O=fleet" --apply"""
)
def command() -> None:
    """Plan and create Kafka's topics, and who may use them."""


@command.command(
    "list",
    epilog="""\b
Examples:
  gpufleet topics list
  gpufleet topics list --all --json""",
)
@click.option("--all", "everything", is_flag=True, help="Also topics that are not gpufleet's.")
@json_option
@settings_options
def list_topics(settings: Settings, everything: bool, as_json: bool) -> None:
    """The topics that exist, with their settings."""
    topics, wanted = _topics(settings)
    found = topics.found(None if everything else [topic.name for topic in wanted])
    keys = ("message.timestamp.type", "retention.ms", "max.message.bytes")
    if as_json:
        print_json(
            [
                {
                    "topic": topic.name,
                    "partitions": topic.partitions,
                    "replication": topic.replication,
                    "config": {key: topic.config.get(key) for key in keys},
                }
                for topic in found.values()
            ]
        )
        return
    for topic in found.values():
        config = "  ".join(f"{key}={topic.config[key]}" for key in keys if key in topic.config)
        click.echo(f"{topic.name:<20} {topic.partitions:>4} partitions  x{topic.replication}  {config}")
    if not found:
        click.echo("no topics; `gpufleet topics apply` creates them")


@command.command(
    epilog="""\b
Examples:
  gpufleet topics plan"""
)
@json_option
@settings_options
def plan(settings: Settings, as_json: bool) -> None:
    """What `apply` would do. Exit code 1 if a topic conflicts with the settings."""
    topics, wanted = _topics(settings)
    steps = topics.plan(wanted)
    _show(steps, as_json)
    _refuse_conflicts(steps)


@command.command(
    epilog="""\b
Examples:
  gpufleet topics apply --dry-run
  gpufleet topics apply"""
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
@settings_options
def apply(settings: Settings, dry_run: bool, as_json: bool) -> None:
    """Create what lacks and set what differs.

    Partitions and copies of an existing topic are never changed: more partitions move keys, and an event would be
    read ahead of its predecessors. docs/operations.md says how to do that safely.
    """
    topics, wanted = _topics(settings)
    steps = topics.plan(wanted)
    if not dry_run:
        topics.apply(steps)
    _show(steps, as_json)
    _refuse_conflicts(steps)


def _role_options(command: Callable[..., None]) -> Callable[..., None]:
    for role, help_text in reversed(ROLES.items()):
        command = click.option(f"--{role}", role, multiple=True, metavar="USER", help=help_text)(command)
    return command


@command.command(
    epilog="""\b
Examples:
  gpufleet topics acl --agent agents --consumer gpufleet --operator ops --admin gpufleet-admin
  gpufleet topics acl --usage gateway-acme --usage gateway-nimbus --apply
  gpufleet topics acl --agent "CN=n1,O=fleet" --agent "CN=n2,O=fleet" --json"""
)
@_role_options
@click.option("--apply", "really", is_flag=True, help="Set what is missing.")
@click.option("--prune", is_flag=True, help="With --apply: take away what else these users may do by name.")
@click.option("--dry-run", is_flag=True, help="Only print the ACLs; the default, without asking the broker.")
@json_option
@settings_options
def acl(settings: Settings, really: bool, prune: bool, dry_run: bool, as_json: bool, **users: tuple[str, ...]) -> None:
    """Print the ACLs that roles need on the broker, and with --apply set them.

    USER is a SCRAM user's name or a client certificate's distinguished name as Kafka writes it. Tenants share the topic
    tenant-usage: it is the signature that keeps one from writing for another (docs/signing.md).
    """
    from infra.kafka.acls import Role, rules

    for role, names in users.items():
        if any(not name.strip() or name.strip() == "*" for name in names):
            raise UsageError(f"--{role} expects the name of one user; an empty name or '*' would let anybody in")
    group = settings.consume.group_id
    wanted = [rule for role, names in users.items() for name in names for rule in rules(Role(role), name, group)]
    wanted = list(dict.fromkeys(wanted))
    if not wanted:
        raise UsageError(f"say whose: {', '.join(f'--{role}' for role in ROLES)} with a user's name")
    if prune and not really:
        raise UsageError("--prune goes with --apply")
    if users["usage"] and settings.signing.mode != "require":
        click.echo(
            "note: until signing.mode is require, a user with write on tenant-usage can write for any tenant", err=True
        )
    status = _set_acls(settings, wanted, prune) if really and not dry_run else {}
    if as_json:
        print_json([{**rule.as_dict(), **({"status": status[rule]} if status else {})} for rule in status or wanted])
        return
    for rule in status or wanted:
        click.echo(f"{status[rule]:<8}{rule}" if status else str(rule))


def _set_acls(settings: Settings, wanted: list[Rule], prune: bool) -> dict[Rule, str]:
    """What became of each rule: there, added, surplus or removed."""
    from infra.kafka.acls import Acls
    from infra.kafka.client import admin

    acls = Acls(admin(settings.kafka), settings.kafka)
    held = acls.held(dict.fromkeys(rule.principal for rule in wanted))
    surplus = sorted(held.difference(wanted))
    acls.add(rule for rule in wanted if rule not in held)
    if prune:
        acls.remove(surplus)
    status = {rule: "there" if rule in held else "added" for rule in wanted}
    return status | dict.fromkeys(surplus, "removed" if prune else "surplus")


def _topics(settings: Settings) -> tuple[Topics, list[Wanted]]:
    from infra.kafka.client import admin
    from infra.kafka.topics import Topics, wanted

    return Topics(admin(settings.kafka), settings.kafka), wanted(settings.kafka, settings.retention)


def _show(steps: Iterable[Step], as_json: bool) -> None:
    if as_json:
        print_json([step.as_dict() for step in steps])
        return
    for step in steps:
        topic = step.found or step.wanted
        click.echo(f"{step.status.value:<9} {step.wanted.name:<20} {topic.partitions:>4} partitions")
        for difference in step.differences:
            click.echo(f"          {difference}")


def _refuse_conflicts(steps: Iterable[Step]) -> None:
    from infra.kafka.topics import Status

    conflicts = [step.wanted.name for step in steps if step.status is Status.CONFLICT]
    if conflicts:
        raise GpufleetError(
            f"{', '.join(conflicts)}: partitions or copies differ from the settings and were left alone; set "
            "kafka.partitions, kafka.history_partitions and kafka.replication to what is there, or change the topics "
            "as docs/operations.md says (producers stopped, lag zero)"
        )
