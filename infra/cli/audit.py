"""``gpufleet audit``: is every event stored exactly once, and does every window say what its events say?"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infra.cli.common import Finite, UsageError, json_option, print_json, settings_options
from infra.config import Settings

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from consumers.audit import AuditReport, Expected
    from consumers.audit.report import Finding
    from consumers.audit.spools import Spooled

FOUND_WRONG = 1
_SHOWN = 50
_SHOWN_HARMLESS = 3
"""Of one kind and topic."""
_SPAN = re.compile(r"(\d+)\s*(s|m|h|d)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.command(
    epilog="""\b
Examples:
  gpufleet audit
  gpufleet audit --since 2026-11-17T10:00 --node h100-r0001-n03 --json
  gpufleet audit --repair"""
)
@click.option("--since", metavar="TIME", help="Look at events from then on: 90s, 15m, 2h, 3d ago or ISO 8601 (UTC).")
@click.option("--node", help="Look at one node (or another producer) only.")
@click.option("--repair", "mend", is_flag=True, help="Remove doubled rows; recompute windows that are off.")
@click.option(
    "--journals",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="Producers' journals, at any depth: all given out must be stored. [default: agent's and simulate's state_dir]",
)
@click.option(
    "--windows",
    type=click.Choice(["none", "sample", "all"]),
    help="Which minutes and hours to compute again. [default: all with --since, else a sample]",
)
@click.option("--no-kafka", is_flag=True, help="Leave the consumer group's committed offsets out.")
@click.option(
    "--in-flight",
    type=Finite(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Tails younger than this may still be on their way.",
)
@json_option
@settings_options
def command(
    settings: Settings,
    since: str | None,
    node: str | None,
    mend: bool,
    journals: tuple[Path, ...],
    windows: str | None,
    no_kafka: bool,
    in_flight: float,
    as_json: bool,
) -> None:
    """Account for every event: lost, doubled, dead letters, offsets, windows, tenants.

    Exits with 1 when anything is off, naming producers and exact ranges.
    """
    from consumers.audit import audit
    from consumers.audit.repair import repair
    from consumers.audit.runs import record
    from infra.connections import connect_store

    begin = since_when(since) if since else None
    client = connect_store(settings, admin=True)
    kept = dict.fromkeys((settings.agent.state_dir, settings.simulate.state_dir))
    folders = journals or tuple(folder for folder in kept if folder.is_dir())
    if node is not None:
        _known(client, node, folders)
    report = audit(
        client,
        list(expected(folders)),
        begin,
        node,
        committed=None if no_kafka else committed(settings),
        compare_windows=windows or ("all" if since else "sample"),  # type: ignore[arg-type]
        raw_days=settings.retention.raw_days,
        in_flight_s=in_flight,
        spooled=list(spooled(folders)),
        say=(lambda text: click.echo(f"... {text}", err=True)) if sys.stderr.isatty() else lambda _text: None,
    )
    record(client, report, begin, node)
    mended = repair(client, report.findings) if mend else None
    if as_json:
        print_json({**report.to_dict(), **({"repaired": asdict(mended)} if mended else {})})
    else:
        show(report)
        if mended is not None:
            rows = ", ".join(f"{count} rows of {table}" for table, count in mended.deleted.items()) or "no rows"
            click.echo(f"repaired: {rows} deleted; {mended.minutes} minutes to be recomputed by the projector")
            if mended.left:
                click.echo(f"{mended.left} doubled rows are left, merges kept moving them: run it again")
    client.close()
    if not report.ok:
        raise SystemExit(FOUND_WRONG)


def _known(client: Client, node: str, folders: tuple[Path, ...]) -> None:
    """UsageError for a producer that never gave out nor stored anything: a typing mistake would look exact."""
    from consumers.audit.scope import quoted
    from schemas.catalogue import KINDS

    only = f"WHERE producer_id = {quoted(node)} LIMIT 1"
    tables = " UNION ALL ".join(f"(SELECT 1 FROM gpufleet.{kind.table} {only})" for kind in KINDS.values())
    if not client.query(tables).result_rows and all(given.producer_id != node for given in expected(folders)):
        raise UsageError(
            f"no event and no journal names the producer {node!r}: expected a node's name, or another producer_id"
        )


def show(report: AuditReport) -> None:
    """The report for a person."""
    width = max((len(topic) for topic in report.stored), default=10)
    click.echo(f"{'':{width}}  {'produced':>14}  {'stored':>14}")
    for topic, stored in report.stored.items():
        produced = f"{report.produced[topic]:,}" if topic in report.produced else "-"
        click.echo(f"{topic:{width}}  {produced:>14}  {stored:>14,}")
    wrong = [f for f in report.findings if not f.harmless]
    for finding in wrong[:_SHOWN]:
        click.echo(f"! {finding}")
    if len(wrong) > _SHOWN:
        click.echo(f"! ... and {len(wrong) - _SHOWN} more; --json lists them")
    for line in _harmless([f for f in report.findings if f.harmless]):
        click.echo(f"  {line}")
    if report.freshness_p50_s is not None:
        click.echo(
            f"freshness p50 {report.freshness_p50_s:.2f} s, p99 {report.freshness_p99_s:.2f} s"
            f" of {report.ticks_live:,} live node ticks"
        )
    if report.ticks_late:
        click.echo(f"{report.ticks_late:,} node ticks of live runs were stored more than two minutes late")
    verdict = "exact" if report.ok else "NOT exact"
    click.echo(
        f"{verdict}: {report.lost:,} lost, {report.duplicated:,} doubled, {report.late:,} still in spools,"
        f" {report.thinned:,} thinned, {report.dead_letters:,} dead letters,"
        f" {report.windows_checked} minutes and {report.hours_checked} hours of windows compared,"
        f" {report.gpu_samples:,} GPU samples ({report.seconds:.1f} s)"
    )


def _harmless(findings: list[Finding]) -> Iterator[str]:
    """Findings that are no fault, kind by kind: of a kind and topic with many, how many they are."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.kind.value, finding.topic), []).append(finding)
    for (kind, topic), alike in kinds.items():
        if len(alike) <= _SHOWN_HARMLESS:
            yield from map(str, alike)
        else:
            events = sum(finding.count for finding in alike)
            yield f"{kind}: {topic}: {events:,} events, {len(alike):,} times; --json lists them; for example {alike[0]}"


def expected(folders: tuple[Path, ...]) -> Iterator[Expected]:
    """What the journals in these folders, at any depth, say was given out."""
    from consumers.audit import Expected
    from producers import journal

    for folder in sorted({path.parent for root in folders for path in root.rglob("*.seq")}):
        newest = max(journal.run_ids(folder), default=0)  # a folder belongs to one process: earlier runs are over
        for given in journal.read(folder):
            yield Expected(given.producer_id, given.run_id, given.topic, given.given, ended=given.run_id < newest)


def spooled(folders: tuple[Path, ...]) -> Iterator[Spooled]:
    """What waits in the spools beside these journals, at any depth: late, not lost."""
    from consumers.audit.spools import Spooled
    from producers.spool.look import folders as spools
    from producers.spool.look import look

    for folder in sorted({spool for root in folders for spool in spools(root)}):
        for waiting in look(folder):
            for first, last in waiting.ranges:
                yield Spooled(waiting.producer_id, waiting.run_id, waiting.topic, first, last)


def committed(settings: Settings) -> dict[tuple[str, int], int] | None:
    """The consumer group's committed offsets; None, with a word on stderr, when Kafka cannot be asked."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    from infra.kafka.client import librdkafka, quiet_logger
    from schemas.catalogue import KINDS

    config = {
        **librdkafka(settings.kafka, "consumer"),
        "group.id": settings.consume.group_id,
        "enable.auto.commit": False,
    }
    timeout = settings.kafka.timeout_s
    consumer = Consumer(config, logger=quiet_logger())
    try:
        topics = consumer.list_topics(timeout=timeout).topics
        places = [TopicPartition(t, p) for t in KINDS if t in topics for p in topics[t].partitions]
        answer = consumer.committed(places, timeout=timeout)
        return {(place.topic, place.partition): place.offset for place in answer if place.offset >= 0}
    except KafkaException as error:
        reason = error.args[0].str() if error.args else str(error)
        click.echo(f"Kafka at {settings.kafka.bootstrap}: {reason}; committed offsets are left out", err=True)
        return None
    finally:
        consumer.close()


def since_when(text: str) -> datetime:
    """A moment: so long ago (15m, 2h), or ISO 8601. UsageError when it is neither."""
    span = _SPAN.fullmatch(text.strip())
    if span:
        try:
            return datetime.now(UTC) - timedelta(seconds=int(span[1]) * _UNIT_S[span[2]])
        except OverflowError:
            raise UsageError(f"{text} ago is before there was a calendar") from None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"expected 90s, 15m, 2h, 3d or a time such as 2026-11-17T10:00, found {text!r}") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
