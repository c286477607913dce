"""``gpufleet topics``: Kafka's topics as they are, as they should be, and the way from one to the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from infra.cli.common import GpufleetError, json_option, print_json, settings_options
from infra.config import Settings

if TYPE_CHECKING:
    from infra.kafka.topics import Step, Topics, Wanted


@click.group(
    epilog="""\b
Examples:
  gpufleet topics plan
  gpufleet topics apply --dry-run"""
)
def command() -> None:
    """Plan and create Kafka's topics."""


@command.command("list")
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


@command.command()
@json_option
@settings_options
def plan(settings: Settings, as_json: bool) -> None:
    """What `apply` would do. Exit code 1 if a topic conflicts with the settings."""
    topics, wanted = _topics(settings)
    steps = topics.plan(wanted)
    _show(steps, as_json)
    _refuse_conflicts(steps)


@command.command()
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
