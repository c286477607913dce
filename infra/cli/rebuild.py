"""``gpufleet rebuild``: a table made once more from what it comes from, compared with the live one, and exchanged."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from infra.cli.common import GpufleetError, UsageError, json_option, print_json, settings_options
from infra.cli.consume import _ask, consume_settings
from infra.cli.project import when
from infra.config import Settings
from infra.config.leaves import nearest

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from consumers.rebuild.compare import Hour
    from consumers.rebuild.events import EventRebuild, Say
    from consumers.rebuild.gone import Gone
    from consumers.rebuild.report import Plan, Report
    from consumers.rebuild.windows import WindowRebuild

FOUND_WRONG = 1
_SHOWN = 48
HOUR_S = 3600


@click.command(
    epilog="""\b
Examples:
  gpufleet rebuild node_telemetry --dry-run
  gpufleet rebuild node_telemetry --from 2026-11-17T10:00 --to 2026-11-17T12:00
  gpufleet rebuild node_telemetry --swap
  gpufleet rebuild rack_1m --from 2026-11-17T00:00 --json
  gpufleet rebuild node_telemetry --discard"""
)
@click.argument("table", metavar="TABLE")
@click.option("--from", "start", metavar="TIME", help="First hour (ISO 8601, UTC).  [default: all there is]")
@click.option("--to", "end", metavar="TIME", help="End of the last hour.  [default: now, and what arrives is followed]")
@click.option("--swap", is_flag=True, help="Put the hours that differ in the place of the live ones.")
@click.option("--discard", is_flag=True, help="Drop what an earlier run has built; the live table stays as it is.")
@click.option("--dry-run", is_flag=True, help="Only say what would be read, and what nobody can read any more.")
@click.option("--max-rows-per-s", type=click.FloatRange(min=1), help="Read at most so many events a second.")
@json_option
@settings_options
def command(
    settings: Settings,
    table: str,
    start: str | None,
    end: str | None,
    swap: bool,
    discard: bool,
    dry_run: bool,
    max_rows_per_s: float | None,
    as_json: bool,
) -> None:
    """Make a table again beside the live one, and compare the two hour by hour.

    Event tables are read from Kafka's log, rollups are computed from the events. The live table is never touched
    without --swap; ingestion goes on meanwhile. A run that was killed goes on where it was. Exits with 1 when the
    tables differ (and were not swapped), or when what they are made from is gone and nothing could be compared.
    """
    from consumers import garbage
    from consumers.errors import ConsumerError
    from consumers.rebuild.tables import RebuildError
    from infra.connections import connect_store

    if sum((swap, discard, dry_run)) > 1:
        raise UsageError("--swap, --discard and --dry-run exclude each other")
    first, last = _hours(start, end)

    def say(text: str) -> None:
        click.echo(text, err=True)

    client = connect_store(settings, admin=True)
    before = signal.signal(signal.SIGTERM, _as_interrupt)  # a supervisor's stop ends as Ctrl-C does
    try:
        work = work_on(settings, client, table, max_rows_per_s, say)
        garbage.settle()
        if discard:
            there = work.discard()
            if as_json:
                print_json({"discarded": there})
            else:
                click.echo(f"dropped what was built beside {table}" if there else f"nothing was built beside {table}")
        elif dry_run:
            plan = work.plan(first, last)
            print_json(_plan(plan)) if as_json else _show_plan(plan)
        else:
            report = run(work, first, last, swap=swap)
            print_json(report.to_dict()) if as_json else show(report)
            if not report.equal and not report.swapped:
                raise SystemExit(FOUND_WRONG)
    except (RebuildError, ConsumerError) as error:
        raise GpufleetError(str(error)) from error
    finally:
        signal.signal(signal.SIGTERM, before)
        client.close()


CUT_SHORT = (
    "stopped in the middle of an exchange: rows that came in meanwhile are missing until the same command is run again"
)


def _as_interrupt(*_signal: object) -> None:
    raise KeyboardInterrupt


def run(work: EventRebuild | WindowRebuild, start: int | None, end: int | None, *, swap: bool) -> Report:
    """Build, compare, and with ``swap`` exchange. What was built is dropped unless it differs and is still wanted."""
    from consumers.rebuild import state
    from consumers.rebuild.events import EventRebuild
    from consumers.rebuild.swap import exchange, finish

    if isinstance(work, EventRebuild):
        left = state.load_job(work.store, work.kind.table)
        if left is not None and left.swapping:
            work.means.say("an exchange was cut short: putting back what came in meanwhile")
            finish(work, left)
        job = work.build(start, end)
        report = work.compare(job)
        if swap:
            try:
                exchange(work, job)
            except KeyboardInterrupt:
                if job.swapping:
                    work.means.say(CUT_SHORT)
                raise
    else:
        job = work.build(start, end)
        report = work.compare(job)
        if swap:
            work.swap()
    if swap or not report.differing:
        work.discard()
    return report


def work_on(
    settings: Settings, client: Client, table: str, rate: float | None, say: Say
) -> EventRebuild | WindowRebuild:
    """The rebuild of a table with these settings. UsageError for a table that cannot be rebuilt."""
    from consumers.clock import SystemClock
    from consumers.rebuild.events import EventRebuild, Means
    from consumers.rebuild.tables import EVENTS, PROJECTIONS, TABLES
    from consumers.rebuild.throttle import Throttle
    from consumers.rebuild.windows import WindowRebuild, WindowSettings
    from consumers.schema_book import SchemaBook
    from infra.cli.project import projector_settings
    from infra.cli.schema import registry
    from infra.connections import connect_store, render
    from infra.signing import consumer_signing
    from schemas import catalogue

    clock = SystemClock()
    throttle, ddl = Throttle(clock, rate), render(settings).statement
    if table in PROJECTIONS:
        limits = projector_settings(settings).limits
        given = WindowSettings(raw_days=settings.retention.raw_days, limits=limits)
        return WindowRebuild(PROJECTIONS[table], client, given, throttle, ddl, say)
    if table not in EVENTS:
        near = nearest(table, TABLES)
        hint = f"; did you mean {near}?" if near else ""
        raise UsageError(f"expected one of {', '.join(TABLES)}, found {table!r}{hint}")
    known = registry(settings.registry) if settings.registry.url else None
    consume = consume_settings(settings)
    book = SchemaBook(catalogue.by_id(), _ask(known) if known else None, clock, consume.unknown_schema_recheck_s)
    means = Means(
        client,
        lambda: connect_store(settings, admin=True),
        consume,
        book,
        throttle,
        ddl,
        say,
        consumer_signing(settings),
        settings.retention.raw_days,
        clock,
    )
    return EventRebuild(EVENTS[table], means)


def _hours(start: str | None, end: str | None) -> tuple[int | None, int | None]:
    """The whole hours that hold a range."""
    first = when(start) // HOUR_S * HOUR_S if start else None
    last = -(-when(end) // HOUR_S) * HOUR_S if end else None
    if first is not None and last is not None and first >= last:
        raise UsageError(f"--from {start} is not before --to {end}")
    return first, last


def show(report: Report) -> None:
    """The report for a person."""
    _show_gone(report.gone)
    told = [hour for hour in report.hours if hour.differs or hour.gone]
    listed = report.hours if len(report.hours) <= _SHOWN else told[:_SHOWN]
    if listed:
        click.echo(f"{'hour (UTC)':17} {'live':>12} {'rebuilt':>12}  verdict")
    for hour in listed:
        click.echo(f"{_at(hour.start):17} {hour.live:>12,} {hour.rebuilt:>12,}  {_verdict(hour)}")
        for example in hour.examples:
            click.echo(f"{'':17} {example}")
    if len(listed) < len(report.hours):
        click.echo(
            f"... and {len(report.hours) - len(listed)} more hours, {len(told)} of all not equal; --json has all"
        )
    if report.doubtful:
        click.echo(f"DOUBTFUL: {report.doubtful}")
    for note in report.notes:
        click.echo(note)
    if report.behind:
        click.echo(f"the live consumer is {report.behind:,} messages behind the log: those count as missing")
    if report.unsettled:
        click.echo(f"{report.unsettled:,} windows were not judged: the projector is still at work on them")
    click.echo(
        f"{report.read:,} read in {report.seconds:.1f} s, {report.rows:,} rows built, {report.duplicates:,} duplicates,"
        f" {report.bad:,} dead letters"
    )
    if report.swapped:
        click.echo(
            f"exchanged {', '.join(report.swapped)} of {report.table}: {len(report.differing)} hours as rebuilt, the"
            f" rest as it was; {report.put_back:,} rows that came in meanwhile were put back"
        )
    elif report.equal:
        alone = len(report.hours) - len(report.judged)
        beyond = f"; {alone:,} more hours were not judged, what they are made from is gone" if alone else ""
        click.echo(f"{report.table} is equal to what it is made from{beyond}")
    elif not report.differing:
        click.echo(f"{report.table} was not judged: what it is made from is gone")
    else:
        click.echo(
            f"{report.table} DIFFERS in {len(report.differing)} hours; --swap puts them right, --discard forgets"
        )


def _verdict(hour: Hour) -> str:
    if hour.gone:
        return "left alone: what it is made from is gone"
    if not hour.differs:
        beyond = abs(hour.live - hour.rebuilt)
        return f"equal in all that is judged; {beyond:,} rows are not" if beyond else "equal"
    counts = {"missing": hour.missing, "extra": hour.extra, "doubled": hour.doubled, "different": hour.different}
    said = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f"DIFFERS: {said}" + (f" ({', '.join(hour.columns)})" if hour.columns else "")


def _show_gone(gone: Sequence[Gone]) -> None:
    for one in gone:
        since = "an unknown time" if one.start is None else _at(one.start)
        click.echo(
            f"gone: {one.topic}[{one.partition}] offsets {one.first} to {one.last}, events of {since} to {_at(one.end)}"
            f" ({one.why})"
        )


def _plan(plan: Plan) -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(plan), "count": plan.count}


def _show_plan(plan: Plan) -> None:
    _show_gone(plan.gone)
    for reading in plan.readings:
        if plan.bytes is None:
            click.echo(f"{reading.source}: {reading.count:,} rows of {_at(reading.first)} to {_at(reading.end)}")
        else:
            click.echo(f"{reading.source}: {reading.count:,} messages, offsets {reading.first} to {reading.end - 1}")
    size = "" if plan.bytes is None else f", about {plan.bytes / 1e6:,.1f} MB"
    click.echo(f"would read {plan.count:,}{size}, and compare with {plan.live_rows:,} rows of {plan.table}")
    if plan.hours_left_alone:
        click.echo(
            f"{len(plan.hours_left_alone)} hours would be left alone, from {_at(plan.hours_left_alone[0])} to"
            f" {_at(plan.hours_left_alone[-1])}: what they are made from is gone"
        )


def _at(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M}"
