"""The outbox of a producer whose events outlive it: on disk first, then to the broker, gone when it acknowledged them.

Two lanes. A live event goes to the broker's client as soon as it is on disk. When the client has its fill, or the
broker has acknowledged nothing for a while, events wait on disk alone: they are the backlog, which a thread of its own
sends (draining.py), paced, the facts first and then the samples, each oldest first; live events never wait for it. A
later process sends what it finds on disk as it is: same identity, same bytes.

Threads: any thread may offer. The spool's thread reads, sends the backlog, syncs, compresses and keeps the bounds.
The publisher's thread acknowledges. One lock guards the accounts in memory and the appending; it is never held while
the publisher is called, nor while a file is rewritten.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from producers.encode import Message
from producers.journal import Journal, JournalError
from producers.publisher import Acknowledgements, Counters, KafkaOutbox
from producers.spool.accounts import THINNED, Account, Notice, notice
from producers.spool.bounds import given_up
from producers.spool.draining import IDLE_S, Draining
from producers.spool.flights import Flight, Flights, Health
from producers.spool.pace import Link
from producers.spool.settings import SpoolSettings
from producers.spool.storing import Storage
from schemas import identity

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
        self._journal = journal
        self._contact, self._clock, self._wall_us = contact, clock, wall_us
        self._lock = threading.Lock()
        self._storage = Storage(folder, journals_folder, settings, schema_ids or {}, self._lock, clock)
        self._flights = Flights()
        self._link = Link(settings.link_timeout_s)
        self._draining = Draining(
            self._storage, self._flights, self._link, journal, settings, self._lock, clock, jitter, contact
        )
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
            return self._storage.left

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
            storage, bounds = self._storage, self._storage.bounds
            oldest = min((segment.first_ts for segment in storage.segments() if segment.left), default=None)
            return Health(
                storage.bytes,
                storage.left,
                0.0 if oldest is None else max(0.0, (self._wall_us() - oldest) / 1e6),
                self._link.up and self._contact(),
                storage.writable,
                bounds.thinned,
                bounds.given_up,
                self._draining.sent_bytes,
                self._draining.rate,
            )

    # what the producer should tell

    def notices(self) -> list[tuple[Notice, Account | None]]:
        """What happened, to be sent as node events. Those about an account are given again until it is settled."""
        said: list[tuple[Notice, Account | None]] = [(each, None) for each in self._storage.notices.take()]
        return said + [(notice(account), account) for account in self._storage.accounts.open]

    def settle(self, account: Account) -> None:
        """The account's event was offered, and so is on disk."""
        try:
            self._storage.accounts.settle([account])
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
                self._storage.earlier[account.run_id, account.producer_id, account.topic] += account.events

    # what the publisher says

    def acknowledge(self, row: int) -> None:
        """The broker has the event of that ticket."""
        now = self._clock()
        with self._lock:
            if row < 0:
                self._journal.acknowledge(-1 - row)
                return
            flight = self._flights.land(row)
            if flight is None:
                return
            self._link.acknowledged(now)
            if flight.backlog:
                self._draining.acknowledged(now - flight.at, now)
            if flight.row >= 0:
                self._journal.acknowledge(flight.row)
            else:
                self._storage.earlier[flight.stream] += 1
            flight.segment.acknowledge(flight.ordinal)
            flight.log.drop_if_done(flight.segment)
        if self._draining.active:
            self._wake.set()

    def reject(self, row: int) -> None:
        """No broker will ever take the event of that ticket: it is not kept."""
        if row < 0:
            return
        with self._lock:
            flight = self._flights.land(row)
            if flight is None:
                return
            for record in flight.segment.records():
                if record.ordinal == flight.ordinal:
                    self._storage.rejected.extend(given_up([record], "the broker refuses it"))
            flight.segment.acknowledge(flight.ordinal)
            flight.log.drop_if_done(flight.segment)

    # storing

    def _store(self, message: Message) -> tuple[int | None, bool]:
        """Put it on disk: (ticket, whether it goes to the broker now). No ticket: the disk refused."""
        storage, size = self._storage, len(message.value)
        if not storage.opened and not storage.rests:
            self._open()
        now = self._clock()
        live = self._is_live(now, size)
        place = storage.store(message, offered=live)
        if place is None:
            return None, False
        if not live:
            return 0, False
        who = identity.unpack(message.header)
        stream = (who.run_id, who.producer_id, message.topic)
        ticket = self._flights.board(Flight(*place, message.row, size, now, stream, backlog=False))
        self._link.sent(now, len(self._flights))
        return ticket, True

    def _is_live(self, now: float, size: int) -> bool:
        return (
            self._contact()
            and self._link.check(now, len(self._flights))
            and self._flights.bytes[False] + size <= self._settings.live_window_bytes
        )

    def _take_back(self, ticket: int) -> None:
        """The publisher did not take it: it waits on disk."""
        with self._lock:
            flight = self._flights.land(ticket)
            if flight is not None:
                flight.segment.stranded = True

    def _open(self) -> None:
        if self._storage.open():
            self._draining.begin(self._settings.drain_jitter_s)

    # the spool's thread

    def _serve(self) -> None:
        pause = IDLE_S
        while not self._stop.is_set():
            self._wake.wait(pause)
            self._wake.clear()
            self._safely(self._tidy)
            pause = self._safely(partial(self._draining.step, self._outbox.offer, self._stop)) or IDLE_S
            self.rounds += 1

    def _safely(self, work: Callable[[], Result]) -> Result | None:
        """Do a part of the round; what goes wrong in one part stops neither the other nor the thread."""
        try:
            return work()
        except (OSError, JournalError) as error:
            with self._lock:
                self._storage.refused(error)
        except Exception:  # a thread that died would leave the backlog on disk without a word
            logger.exception("the spool goes on after an error of its own")
        return None

    def _tidy(self, closing: bool = False) -> None:
        self._storage.tidy(self._draining.reading, self._wall_us, self._stop, closing=closing)
