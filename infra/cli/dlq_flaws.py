"""``gpufleet dlq flaws``: events that are stored but absurd, explained."""

from __future__ import annotations

from dataclasses import asdict

import click

from infra.cli.common import UsageError, json_option, print_json, settings_options
from infra.config import Settings


@click.command(
    epilog="""\b
Examples:
  gpufleet dlq flaws
  gpufleet dlq flaws --flaw ragged_gpu --since 1h --limit 5
  gpufleet dlq flaws --producer h100-r0001-n03 --json"""
)
@click.option("--topic", metavar="NAME", help="Topic of the events.")
@click.option("--producer", metavar="ID", help="Their producer.")
@click.option("--flaw", metavar="NAME", help="One bit: ragged_gpu, tick_count ...")
@click.option("--since", metavar="TIME", help="Event time from then on: 90s, 15m, 2h, 3d ago or ISO 8601 (UTC).")
@click.option("--until", metavar="TIME", help="Event time before then.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Newest events shown.")
@json_option
@settings_options
def flaws(
    settings: Settings,
    topic: str | None,
    producer: str | None,
    flaw: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Explain events that are stored but absurd, and so left out of every figure: what was expected, what was found."""
    from consumers.letters import absurd
    from infra.cli.audit import since_when
    from infra.connections import connect_store
    from schemas.catalogue import KINDS

    if topic is not None and topic not in KINDS:
        raise UsageError(f"--topic expects one of {', '.join(KINDS)}, found {topic!r}")
    try:
        bit = absurd.named(flaw) if flaw else None
    except ValueError as error:
        raise UsageError(f"--flaw {error}") from None
    client = connect_store(settings)  # a tenant's usage is shown to nobody else, flawed or not
    found, total = absurd.find(
        client, topic=topic, producer=producer, flaw=bit, limit=limit, database=settings.store.database,
        since=since_when(since) if since else None, until=since_when(until) if until else None,
    )  # fmt: skip
    client.close()
    if as_json:
        events = [
            {**asdict(one), "points": [{**point._asdict(), "flaw": point.name} for point in one.points]}
            for one in found
        ]
        print_json({"total": total, "events": events})
        return
    for one in found:
        click.echo(
            f"{one.topic} producer {one.producer_id} run {one.run_id} seq {one.seq} at {one.ts:%Y-%m-%d %H:%M:%S}"
        )
        for point in one.points:
            click.echo(f"  {point}")
    click.echo(
        f"{total:,} flawed event{'s' * (total != 1)}" + (f", the newest {len(found)} shown" * (total > len(found)))
    )
