"""The outbox of a producer whose events outlive it: on disk first, then to the broker, gone when it acknowledged them.

Two lanes. A live event goes to the broker's client as soon as it is on disk. When the client has its fill, or the
broker has acknowledged nothing for a while, events wait on disk alone: they are the backlog, which a thread of its own
sends, paced, the facts first and then the samples, each oldest first; live events never wait for it. A later process
sends what it finds on disk as it is: same identity, same bytes.

Threads: any thread may offer. The spool's thread reads, sends the backlog, syncs, compresses and keeps the bounds.
The publisher's thread acknowledges. One lock guards the accounts in memory and the appending; it is never held while
the publisher is called, nor while a file is rewritten.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from producers import journal as journals
from producers.encode import Message
from producers.journal import Journal, JournalError
from producers.publisher import Acknowledgements, Counters, KafkaOutbox
from producers.spool.accounts import THINNED, Account, Accounts, Notice, notice
from producers.spool.backlog import BacklogReader
from producers.spool.bounds import Bounds, given_up
from producers.spool.flights import Flight, Health
from producers.spool.log import Log
from producers.spool.notices import Notices
from producers.spool.pace import Link, Pacer
from producers.spool.segment import Segment
from producers.spool.settings import SpoolSettings
from producers.spool.thin import schema_of
from schemas import catalogue, identity
from schemas.catalogue import Retention

IDLE_S = 0.5
"""Longest pause of the spool's thread."""
ACKS_EVERY_S = 2.0
"""Acknowledgements not older than this are forgotten when the process is killed: a few events are sent again."""
SETTLES_S = 30.0
"""A closed file whose events are all on their way is compressed only after this."""
MakeOutbox = Callable[[Acknowledgements], KafkaOutbox]
Result = TypeVar("Result")
logger = logging.getLogger("gpufleet.spool")


class SpoolOutbox:
    """An ``Outbox`` on disk in ``folder``. The caller holds the journal's lock, which stands for the folder, too.

    ``journal`` is this run's and ``journals_folder`` where it lies, with those of earlier runs. ``make_outbox`` makes
    the publisher, told whom to acknowledge to. ``contact`` says whether there is a link at all (a simulated one).
    While the disk refuses, events go to the publisher's memory, up to its own bound.
    """

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        journals_folder: Path,
        make_outbox: MakeOutbox,
        settings: SpoolSettings | None = None,
        *,
        schema_ids: Mapping[str, int] | None = None,
        contact: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings = settings or SpoolSettings()
        self._folder, self._journal, self._journals = folder, journal, journals_folder
        self._contact, self._clock, self._wall_us, self._jitter = contact, clock, wall_us, jitter
        durable = settings.fsync != "never"
        self._facts = Log(folder, "facts", settings.segment_bytes, durable=durable, clock=clock)
        self._samples = Log(folder, "samples", settings.segment_bytes, durable=durable, clock=clock)
        self._accounts = Accounts(folder / "accounts.jsonl", durable=durable)
        self._lock = threading.Lock()
        self._bounds = Bounds(
            settings, self._facts, self._samples, self._accounts, schema_of(schema_ids or {}), self._lock
        )
        self._notices = Notices()
        self._flights: dict[int, Flight] = {}
        self._tickets = 0
        self._flying_bytes = {False: 0, True: 0}
        """Of live events and of the backlog."""
        self._earlier: Counter[tuple[int, str, str]] = Counter()
        """Acknowledged events of earlier runs that their journals do not know of yet."""
        self._rejected: deque[Account] = deque()
        self._link, self._pacer = Link(settings.link_timeout_s), Pacer(settings.drain_bytes_per_s)
        self._backlog = BacklogReader(self._facts, self._samples, self._notices, self._lock)
        self._draining = False
        self._drain_at = 0.0
        self._away_since = float("inf")
        self._opened = False
        self._broken_until = float("-inf")
        self._synced_at = self._flushed_at = clock()
        self.rounds = 0
        """Of the spool's thread."""
        self._wake, self._stop = threading.Event(), threading.Event()
        self._open()
        self._outbox = make_outbox(self)
        self._thread = threading.Thread(target=self._serve, name="spool", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # offering

    def offer(self, message: Message) -> bool:
        """See ``Outbox``: True once the event is on disk; else what the publisher's memory says."""
        with self._lock:
            ticket, live = self._store(message)
        if ticket is None:
            return self._outbox.offer(message._replace(row=-1 - message.row))
        if live and not self._outbox.offer(message._replace(row=ticket)):
            self._take_back(ticket)
        return True

    def offer_many(self, messages: Sequence[Message]) -> int:
        """See ``Outbox``."""
        for number, message in enumerate(messages):
            if not self.offer(message):
                return number
        return len(messages)

    def flush(self, timeout_s: float) -> int:
        """See ``Outbox``. Does not wait while the broker is away: what waits is on disk."""
        deadline = self._clock() + timeout_s
        while self.waiting and self._clock() < deadline and self._link.up and self._contact():
            if not self._stop.wait(0.01) and not self._thread.is_alive():
                break
        return self.waiting

    def close(self, timeout_s: float = 10.0) -> int:
        """Flush, then let go; the number of events that were not acknowledged in time. Those on disk stay there."""
        if not self._stop.is_set():
            self.flush(timeout_s)
            self._stop.set()
            self._wake.set()
            self._thread.join()
            self._outbox.close(0.0 if self.spooled else timeout_s)
            self._safely(partial(self._tidy, closing=True))
        return self.waiting

    @property
    def spooled(self) -> int:
        """Events on disk that the broker did not acknowledge yet."""
        with self._lock:
            return self._facts.left + self._samples.left

    @property
    def waiting(self) -> int:
        """Events taken and not acknowledged, on disk or (while the disk refuses) in memory alone."""
        return self.spooled + max(0, self._outbox.waiting - len(self._flights))

    @property
    def counters(self) -> Counters:
        """The publisher's."""
        return self._outbox.counters

    def health(self) -> Health:
        """How the spool is now."""
        with self._lock:
            segments = [*self._facts.segments.values(), *self._samples.segments.values()]
            oldest = min((segment.first_ts for segment in segments if segment.left), default=None)
            return Health(
                self._facts.bytes + self._samples.bytes,
                self._facts.left + self._samples.left,
                0.0 if oldest is None else max(0.0, (self._wall_us() - oldest) / 1e6),
                self._link.up and self._contact(),
                self._opened and self._broken_until == float("-inf"),
                self._bounds.thinned,
                self._bounds.given_up,
            )

    # what the producer should tell

    def notices(self) -> list[tuple[Notice, Account | None]]:
        """What happened, to be sent as node events. Those about an account are given again until it is settled."""
        said: list[tuple[Notice, Account | None]] = [(each, None) for each in self._notices.take()]
        return said + [(notice(account), account) for account in self._accounts.open]

    def settle(self, account: Account) -> None:
        """The account's event was offered, and so is on disk."""
        try:
            self._accounts.settle([account])
        except OSError as error:
            logger.warning("an account of the spool may be told again: %s", error)
        if account.event != THINNED:
            return
        with self._lock:
            # In the journal they are done with, so that it can be deleted some day.
            if account.run_id == self._journal.run_id:
                for _ in range(account.events):
                    self._journal.acknowledge(self._journal.row(account.producer_id, account.topic))
            else:
                self._earlier[account.run_id, account.producer_id, account.topic] += account.events

    # what the publisher says

    def acknowledge(self, row: int) -> None:
        """The broker has the event of that ticket."""
        now = self._clock()
        with self._lock:
            if row < 0:
                self._journal.acknowledge(-1 - row)
                return
            flight = self._land(row)
            if flight is None:
                return
            self._link.acknowledged(now)
            if flight.backlog:
                self._pacer.acknowledged(now - flight.at, now)
            if flight.row >= 0:
                self._journal.acknowledge(flight.row)
            else:
                self._earlier[flight.stream] += 1
            flight.segment.acknowledge(flight.ordinal)
            flight.log.drop_if_done(flight.segment)
        if self._draining:
            self._wake.set()

    def reject(self, row: int) -> None:
        """No broker will ever take the event of that ticket: it is not kept."""
        if row < 0:
            return
        with self._lock:
            flight = self._land(row)
            if flight is None:
                return
            for record in flight.segment.records():
                if record.ordinal == flight.ordinal:
                    self._rejected.extend(given_up([record], "the broker refuses it"))
            flight.segment.acknowledge(flight.ordinal)
            flight.log.drop_if_done(flight.segment)

    # storing

    def _store(self, message: Message) -> tuple[int | None, bool]:
        """Put it on disk: (ticket, whether it goes to the broker now). No ticket: the disk refused."""
        now = self._clock()
        if now < self._broken_until:
            return None, False
        if not self._opened:
            self._open()
            if not self._opened:
                return None, False
        log = self._log(message.topic)
        live = self._is_live(now, len(message.value))
        try:
            segment, ordinal = log.append(message, offered=live)
            if self._settings.fsync == "event":
                log.sync()
        except OSError as error:
            self._refused(error)
            return None, False
        self._works_again()
        if not live:
            return 0, False
        who = identity.unpack(message.header)
        stream = (who.run_id, who.producer_id, message.topic)
        return self._board(log, segment, ordinal, message.row, len(message.value), stream, backlog=False), True

    def _log(self, topic: str) -> Log:
        kind = catalogue.KINDS.get(topic)
        return self._samples if kind is not None and kind.retention is Retention.TELEMETRY else self._facts

    def _is_live(self, now: float, size: int) -> bool:
        return (
            self._contact()
            and self._link.check(now, len(self._flights))
            and self._flying_bytes[False] + size <= self._settings.live_window_bytes
        )

    def _board(
        self,
        log: Log,
        segment: Segment,
        ordinal: int,
        row: int,
        size: int,
        stream: tuple[int, str, str],
        *,
        backlog: bool,
    ) -> int:
        now = self._clock()
        self._tickets += 1
        self._flights[self._tickets] = Flight(log, segment, ordinal, row, size, now, stream, backlog)
        segment.flying.add(ordinal)
        self._flying_bytes[backlog] += size
        self._link.sent(now, len(self._flights))
        return self._tickets

    def _land(self, ticket: int) -> Flight | None:
        flight = self._flights.pop(ticket, None)
        if flight is not None:
            flight.segment.flying.discard(flight.ordinal)
            self._flying_bytes[flight.backlog] -= flight.size
        return flight

    def _take_back(self, ticket: int) -> None:
        """The publisher did not take it: it waits on disk."""
        with self._lock:
            flight = self._land(ticket)
            if flight is not None and not flight.backlog:
                flight.segment.stranded = True

    def _open(self) -> None:
        """Find what earlier processes left, and make their journals agree."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            damaged = self._facts.recover() + self._samples.recover()
            self._accounts.load()
            given: dict[tuple[int, str, str], int] = {}
            for log in (self._facts, self._samples):
                for segment in log.segments.values():
                    for (topic, producer, run), span in segment.spans.items():
                        given[run, producer, topic] = max(given.get((run, producer, topic), 0), span.last + 1)
            journals.amend(self._journals, given, {})
        except (OSError, JournalError) as error:
            self._refused(error)
            return
        self._opened = True
        if damaged:
            self._notices.damaged(damaged)
        if given:
            self._backlog_begins(self._clock(), self._settings.drain_jitter_s)

    def _refused(self, error: Exception) -> None:
        if self._broken_until == float("-inf"):
            logger.warning("the spool cannot be written; events wait in memory: %s", error)
        self._notices.unwritable(self._folder, error)
        self._broken_until = self._clock() + self._settings.retry_s

    def _works_again(self) -> None:
        if self._broken_until != float("-inf"):
            self._broken_until = float("-inf")
            self._notices.writable(self._folder)

    # the spool's thread

    def _serve(self) -> None:
        pause = IDLE_S
        while not self._stop.is_set():
            self._wake.wait(pause)
            self._wake.clear()
            self._safely(self._tidy)
            pause = self._safely(self._drain) or IDLE_S
            self.rounds += 1

    def _safely(self, work: Callable[[], Result]) -> Result | None:
        """Do a part of the round; what goes wrong in one part stops neither the other nor the thread."""
        try:
            return work()
        except (OSError, JournalError) as error:
            with self._lock:
                self._refused(error)
        except Exception:  # a thread that died would leave the backlog on disk without a word
            logger.exception("the spool goes on after an error of its own")
        return None

    def _tidy(self, closing: bool = False) -> None:
        """Sync, write acknowledgements down, compress, keep the bounds."""
        now = self._clock()
        if not self._opened:
            return
        if closing:
            with self._lock:
                self._facts.close_active()
                self._samples.close_active()
        if self._settings.fsync == "interval" and now - self._synced_at >= self._settings.fsync_interval_s:
            self._synced_at = now
            for log in (self._facts, self._samples):
                log.sync_outside(self._lock)
        if closing or now - self._flushed_at >= ACKS_EVERY_S:
            self._flushed_at = now
            self._write_acks()
        while self._rejected:
            self._accounts.add([self._rejected[0]])
            self._rejected.popleft()
        for log in (self._facts, self._samples):
            log.compress_closed(self._lock, self._backlog.reading, settles_s=SETTLES_S, now=now)
        while self._bounds.step(self._wall_us(), self._backlog.reading) and not self._stop.is_set():
            pass

    def _write_acks(self) -> None:
        with self._lock:
            for log in (self._facts, self._samples):
                for segment in log.segments.values():
                    segment.flush_acks()
            earlier, self._earlier = self._earlier, Counter()
        if earlier:
            journals.amend(self._journals, {}, earlier)

    def _drain(self) -> float:
        """Send of the backlog what may go now; how long to pause."""
        now = self._clock()
        with self._lock:
            if not self._opened or not self._contact() or not self._link.check(now, len(self._flights)):
                self._draining = False
                self._away_since = min(self._away_since, now)
                return IDLE_S
            if not self._facts.waiting and not self._samples.waiting and not self._flying_bytes[True]:
                self._away_since = float("inf")
                if self._draining:
                    self._draining = False
                    self._notices.drained()
                return IDLE_S
            if not self._draining:
                # A backlog of a moment's congestion needs no spreading; one of an outage does, with its length.
                away = max(0.0, now - self._away_since)
                self._backlog_begins(now, min(self._settings.drain_jitter_s, away / 10))
        if now < self._drain_at:
            return min(IDLE_S, self._drain_at - now)
        return self._send_backlog()

    def _backlog_begins(self, now: float, spread_s: float) -> None:
        """Say what waits, and choose when to begin. Called with the lock held, or before there are threads."""
        self._draining = True
        self._drain_at = now + self._jitter() * spread_s
        self._away_since = float("inf")
        self._pacer.begin(self._drain_at)
        self._notices.backlog([*self._facts.segments.values(), *self._samples.segments.values()])

    def _send_backlog(self) -> float:
        while not self._stop.is_set():
            pause = self._pacer.wait_s(self._clock())
            if pause:
                return min(IDLE_S, pause)
            record = self._backlog.next()
            if record is None:
                return IDLE_S
            message, segment = record.message, self._backlog.reading
            assert segment is not None
            size = len(message.value)
            who = identity.unpack(message.header)
            stream = (who.run_id, who.producer_id, message.topic)
            row = self._journal.row(who.producer_id, message.topic) if who.run_id == self._journal.run_id else -1
            with self._lock:
                flying = self._flying_bytes[True]
                if flying and flying + size > self._settings.drain_window_bytes:
                    self._backlog.put_back(record)
                    return IDLE_S  # an acknowledgement wakes the thread sooner
                if record.ordinal in segment.acked or record.ordinal in segment.flying:
                    continue
                ticket = self._board(self._log(message.topic), segment, record.ordinal, row, size, stream, backlog=True)
            if not self._outbox.offer(message._replace(row=ticket)):
                self._take_back(ticket)
                self._backlog.put_back(record)
                return IDLE_S
            self._pacer.spend(size)
        return IDLE_S
