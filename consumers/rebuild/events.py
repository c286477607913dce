"""An event table, read once more from the log into a table beside it, and compared with it while ingestion goes on."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client

from consumers.assignment import topic_ids
from consumers.clock import Clock, SystemClock
from consumers.projector.store import Store, rows
from consumers.rebuild import compare, gone, state, tables, tenant
from consumers.rebuild.compare import Range, Settled
from consumers.rebuild.log import LogReader
from consumers.rebuild.reading import Counted
from consumers.rebuild.report import Plan, Reading, Report
from consumers.rebuild.state import Job, Position
from consumers.rebuild.tables import BESIDE, SWAP, Ddl, RebuildError, now_us
from consumers.rebuild.throttle import Throttle
from consumers.schema_book import SchemaBook
from consumers.settings import ConsumeSettings
from consumers.signatures import Signing
from consumers.store import EventStore
from schemas.catalogue import EventKind, Retention

LIVE_WAIT_S = 60.0
"""How long the live consumer is waited for before it is compared with, ..."""
LIVE_STILL_S = 10.0
"""... less if it does not move."""
DAY_S = 86_400
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Means:
    """What a rebuild works with."""

    store: Store
    """A connection of the store's administrator."""
    connect: Callable[[], Client]
    """Opens another, for inserts."""
    settings: ConsumeSettings
    book: SchemaBook
    throttle: Throttle
    ddl: Ddl
    say: Say
    signing: Signing | None = None
    raw_days: int = 0
    """Age at which the store lets telemetry go; 0 = never."""
    clock: Clock = field(default_factory=SystemClock)


class EventRebuild:
    """The rebuild of one event table. Each step finds what an earlier process left, and goes on there."""

    def __init__(self, kind: EventKind, means: Means) -> None:
        self.kind, self.means, self.store = kind, means, means.store
        self.layout = tables.layout(means.store, kind.table)
        self.topic_id = topic_ids(means.settings.writing, [kind.topic])[kind.topic]
        self.report = Report(kind.table)

    # --- what there is to do ------------------------------------------------------------------------------------

    def plan(self, start: int | None, end: int | None) -> Plan:
        """What building would read, from where it left off or from the beginning. Writes nothing."""
        job = self._job_to_resume()
        start, end = (job.start, job.end) if job else (start, end)
        reader = self.reader(self._beside(), start, end)
        try:
            bounds = reader.bounds()
            positions = state.load_positions(self.store, self.kind.table) if job else self._fresh(reader, bounds, start)
        finally:
            reader.close()
        plan = Plan(self.kind.table)
        for number, position in sorted(positions.items()):
            last = bounds[number][1]
            plan.readings.append(
                Reading(f"{self.kind.topic}[{number}]", position.next, last, max(0, last - position.next))
            )
        span = Range(start, end).sql(self.layout)
        plan.live_rows = int(rows(self.store, f"SELECT count() FROM gpufleet.{self.kind.table} WHERE {span}")[0][0])
        lost = gone.missing(self.store, self.kind, self.topic_id, positions)
        plan.gone = list(lost.ranges)
        hours = rows(
            self.store, f"SELECT DISTINCT {tables.hour_of()} FROM gpufleet.{self.kind.table} WHERE {span} ORDER BY 1"
        )
        plan.hours_left_alone = [int(hour) for (hour,) in hours if lost.touches(int(hour))]
        plan.bytes = self._bytes(positions)
        return plan

    # --- building and comparing ---------------------------------------------------------------------------------

    def build(self, start: int | None, end: int | None) -> Job:
        """Fill the table beside the live one from the log, as far as the log reaches now."""
        job = self._job_to_resume()
        if job is not None:
            if (start, end) != (None, None) and (start, end) != (job.start, job.end):
                raise RebuildError(
                    f"a rebuild of {self.kind.table} for {spoken(job.start, job.end)} is under way; leave --from and"
                    " --to out to go on with it, or drop it with --discard"
                )
            refuse_second(job)
            self.means.say(f"going on with the rebuild of {self.kind.table} for {spoken(job.start, job.end)}")
            job.owner = owner()
            state.save_job(self.store, job)
        else:
            beside = tables.make(self.store, self.kind.table, BESIDE, self.means.ddl)
            state.forget(self.store, self.kind.table)
            job = Job(self.kind.table, beside, start, end, owner(), self.topic_id, now_us(self.store))
            state.save_job(self.store, job)
        began = time.monotonic()
        self.read_on(job)
        self.report.seconds += time.monotonic() - began
        return job

    def read_on(self, job: Job) -> dict[int, Position]:
        """Read to the end of the log as it is now; where every partition stands then."""
        table = self.kind.table
        reader = self.reader(self._beside(), job.start, job.end)
        try:
            bounds = reader.bounds()
            positions = state.load_positions(self.store, table)
            if not positions:
                positions = self._fresh(reader, bounds, job.start)
                state.save_positions(self.store, table, positions)
            for number, (_, end) in bounds.items():
                positions.setdefault(number, Position(0, 0))
                if positions[number].next > end + 1_000_000:
                    raise RebuildError(f"{self.kind.topic}[{number}] ends at {end}, before what was read of it")
            total = sum(max(0, end - positions[n].next) for n, (_, end) in bounds.items())
            progress = _Progress(self.means.say, self.kind.topic, total)
            reader.read(
                positions,
                {number: end for number, (_, end) in bounds.items()},
                save=lambda moved: state.save_positions(self.store, table, moved),
                tell=progress.tell,
            )
            self._count(reader.counted)
            return positions
        finally:
            reader.close()

    def compare(self, job: Job) -> Report:
        """Judge the live table by the one beside it, both as they are now, hour by hour."""
        span = Range(job.start, job.end)
        positions = state.load_positions(self.store, self.kind.table)
        beside_us = now_us(self.store)
        self.report.behind = self.wait_for_live({n: p.next for n, p in positions.items()}, LIVE_WAIT_S)
        live_us = now_us(self.store)
        positions = self.read_on(job)
        tenant.align(self.store, self.kind, self.kind.table + BESIDE)
        lost = gone.missing(self.store, self.kind, self.topic_id, positions)
        self.report.gone = list(lost.ranges)
        oldest = self._oldest()
        self.report.hours = compare.events(
            self.store,
            self.layout,
            span,
            Settled(live_us, beside_us),
            lambda hour: lost.touches(hour) or hour < oldest,
            self.means.say,
        )
        known = self._dead_letters()
        if self.report.bad > known:
            self.report.doubtful = (
                f"{self.report.bad:,} messages were refused, but only {known:,} of {self.kind.topic} are known as dead"
                " letters: are keys or settings other than when they came (docs/rebuild.md)?"
            )
        return self.report

    def discard(self) -> bool:
        """Drop what was built, and forget where it stood. False when there is nothing."""
        job = state.load_job(self.store, self.kind.table)
        there = bool(tables.uuid(self.store, self.kind.table + BESIDE))
        if job is not None:
            refuse_second(job)
            if job.swapping:
                raise RebuildError(f"a swap of {self.kind.table} was cut short: run it again with --swap, then discard")
        for ending in (BESIDE, SWAP):
            tables.drop(self.store, self.kind.table, ending, self.means.ddl)
        state.forget(self.store, self.kind.table)
        return there or job is not None

    # --- parts --------------------------------------------------------------------------------------------------

    def reader(self, target: EventStore, start: int | None, end: int | None) -> LogReader:
        """A reader of the log into a table."""
        span = None
        if start is not None or end is not None:
            span = ((start or 0) * 1_000_000, (end if end is not None else 1 << 40) * 1_000_000)
        return LogReader(
            self.kind,
            self.topic_id,
            self.means.settings,
            target,
            self.means.book,
            span_us=span,
            throttle=self.means.throttle,
            signing=self.means.signing,
        )

    def ledger_next(self) -> dict[int, int]:
        """Up to which offset the live consumer accounts for the log, by partition."""
        found = rows(
            self.store,
            f"""SELECT partition, max(last_offset) + 1 FROM gpufleet.ingest_ledger
WHERE topic = {tables.quoted(self.kind.topic)} AND topic_id = {tables.quoted(self.topic_id)} GROUP BY partition""",
        )
        return {int(partition): int(after) for partition, after in found}

    def wait_for_live(self, wanted: Mapping[int, int], timeout_s: float, still_s: float = LIVE_STILL_S) -> int:
        """Until the live consumer accounts for these offsets; how many messages it lacks when it was given up."""
        deadline = time.monotonic() + timeout_s
        moved, before = time.monotonic(), -1
        while True:
            has = self.ledger_next()
            lacks = sum(max(0, offset - has.get(number, 0)) for number, offset in wanted.items())
            if lacks != before:
                moved, before = time.monotonic(), lacks
            if not lacks or time.monotonic() >= deadline or time.monotonic() - moved >= still_s:
                return lacks
            time.sleep(0.2)

    def _oldest(self) -> int:
        """The first hour that the live table holds whole: older rows go with age, on either side when it will."""
        if self.kind.retention is not Retention.TELEMETRY or not self.means.raw_days:
            return 0
        return -(-(now_us(self.store) // 1_000_000 - self.means.raw_days * DAY_S) // DAY_S) * DAY_S

    def _dead_letters(self) -> int:
        here = f"source_topic = {tables.quoted(self.kind.topic)} AND source_topic_id = {tables.quoted(self.topic_id)}"
        return int(rows(self.store, f"SELECT uniqExact(run_id, seq) FROM gpufleet.dead_letters WHERE {here}")[0][0])

    def _beside(self) -> EventStore:
        return EventStore(self.means.connect, self.means.settings.database, BESIDE)

    def _job_to_resume(self) -> Job | None:
        job = state.load_job(self.store, self.kind.table)
        if job is None:
            return None
        if job.topic_id != self.topic_id:
            raise RebuildError(
                f"the topic {self.kind.topic} was made anew since this rebuild began; drop it with --discard"
            )
        if job.beside != tables.uuid(self.store, self.kind.table + BESIDE):
            return None
        return job

    def _fresh(
        self, reader: LogReader, bounds: Mapping[int, tuple[int, int]], start: int | None
    ) -> dict[int, Position]:
        """From the beginning of the log; with a range, from what was appended when its first event can have been."""
        begin = {number: low for number, (low, _) in bounds.items()}
        if start is not None:
            # An event's time is at most so far ahead of its append time; it may be any time behind.
            ahead = int(self.means.settings.future_limit_s * 1e6)
            found = reader.appended_from(max(0, start * 1_000_000 - ahead), bounds)
            begin = {number: max(low, found.get(number, low)) for number, low in begin.items()}
        return {n: Position(low, begin[n], begin[n]) for n, (low, _) in bounds.items()}

    def _bytes(self, positions: Mapping[int, Position]) -> int:
        total = 0
        for number, position in positions.items():
            [(size,)] = rows(
                self.store,
                "SELECT sum(bytes) FROM gpufleet.ingest_ledger WHERE"
                f" topic = {tables.quoted(self.kind.topic)} AND topic_id = {tables.quoted(self.topic_id)}"
                f" AND partition = {number} AND first_offset >= {position.next}",
            )
            total += int(size)
        return total

    def _count(self, counted: Counted) -> None:
        self.report.read += counted.messages
        self.report.rows += counted.rows
        self.report.duplicates += counted.duplicates
        self.report.bad += counted.bad


class _Progress:
    """Says how far reading is, every two seconds."""

    def __init__(self, say: Say, topic: str, total: int) -> None:
        self._say, self._topic, self._total = say, topic, total
        self._began = self._said = time.monotonic()
        self._all_read = False

    def tell(self, counted: Counted, left: int) -> None:
        now = time.monotonic()
        if now - self._said < 2.0 and (left or self._all_read):
            return
        if not left and now - self._began < 2.0 and self._said == self._began:
            return  # too short to be worth a word
        self._said = now
        if self._all_read:
            self._say(f"{self._topic}: all is read; {counted.rows:,} rows are stored")
            return
        self._all_read = not left
        rate = counted.messages / max(0.001, now - self._began)
        share = 1.0 if not self._total else min(1.0, 1.0 - left / self._total)
        eta = f", {left / rate:,.0f} s left" if rate and left else ""
        self._say(
            f"{self._topic}: {counted.messages:,} messages read ({share:.0%}), {counted.rows:,} rows,"
            f" {rate:,.0f} messages/s{eta}"
        )


def owner() -> str:
    """Names this process in the store."""
    return f"{socket.gethostname()}/{os.getpid()}"


def refuse_second(job: Job) -> None:
    """RebuildError when another process on this machine works on it. One on another machine cannot be asked."""
    host, _, pid = job.owner.rpartition("/")
    if job.owner == owner() or host != socket.gethostname():
        return
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return
    except PermissionError:
        pass
    raise RebuildError(f"another process rebuilds {job.table}: {job.owner}")


def spoken(start: int | None, end: int | None) -> str:
    """A range for people."""
    if start is None and end is None:
        return "all of the log"
    low = "the beginning" if start is None else f"{datetime.fromtimestamp(start, UTC):%Y-%m-%dT%H:%M}"
    high = "now on" if end is None else f"{datetime.fromtimestamp(end, UTC):%Y-%m-%dT%H:%M}"
    return f"{low} to {high}"
