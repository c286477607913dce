"""Sends the backlog: what waits on disk alone, paced, while live events go past it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from producers.encode import Message
from producers.journal import Journal
from producers.spool.backlog import BacklogReader
from producers.spool.flights import Flight, Flights
from producers.spool.pace import Link, Pacer
from producers.spool.segment import Segment
from producers.spool.settings import SpoolSettings
from producers.spool.storing import Storage
from schemas import identity

IDLE_S = 0.5
"""Longest pause of the spool's thread."""


class Draining:
    """Where the sending of the backlog stands. One thread; ``lock`` is the spool's.

    ``offer`` hands a message to the publisher; ``contact`` says whether there is a link at all.
    """

    def __init__(
        self,
        storage: Storage,
        flights: Flights,
        link: Link,
        journal: Journal,
        settings: SpoolSettings,
        lock: threading.Lock,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        contact: Callable[[], bool],
    ) -> None:
        self._storage, self._flights, self._link, self._journal = storage, flights, link, journal
        self._settings, self._lock = settings, lock
        self._clock, self._jitter, self._contact = clock, jitter, contact
        self._pacer = Pacer(settings.drain_bytes_per_s)
        self._reader = BacklogReader(storage.facts, storage.samples, storage.notices, lock)
        self.active = False
        self._begins_at = 0.0
        self._away_since = float("inf")
        self.sent_bytes = 0
        """Of backlogs, since the start."""

    @property
    def reading(self) -> Segment | None:
        """The file that is being sent."""
        return self._reader.reading

    @property
    def rate(self) -> float:
        """Bytes per second that may be sent now; 0 = nothing is to be sent."""
        return self._pacer.rate if self.active else 0.0

    def acknowledged(self, took_s: float, now: float) -> None:
        """One event of the backlog was acknowledged that long after it was sent. With the lock held."""
        self._pacer.acknowledged(took_s, now)

    def begin(self, spread_s: float) -> None:
        """Say what waits, and choose when to begin. With the lock held, or before there are threads."""
        self.active = True
        self._begins_at = self._clock() + self._jitter() * spread_s
        self._away_since = float("inf")
        self._pacer.begin(self._begins_at)
        self._storage.notices.backlog(self._storage.segments())

    def step(self, offer: Callable[[Message], bool], stop: threading.Event) -> float:
        """Send of the backlog what may go now; how long to pause. OSError."""
        now = self._clock()
        with self._lock:
            away = not self._contact() or not self._link.check(now, len(self._flights))
            if not self._storage.opened or away:
                self.active = False
                self._away_since = min(self._away_since, now)
                return IDLE_S
            if not self._storage.waiting and not self._flights.bytes[True]:
                self._away_since = float("inf")
                self.active = False
                self._storage.notices.drained()  # said once, also when the link was away as the last was acknowledged
                return IDLE_S
            if not self.active:
                # A backlog of a moment's congestion needs no spreading; one of an outage does, with its length.
                self.begin(min(self._settings.drain_jitter_s, max(0.0, now - self._away_since) / 10))
        if now < self._begins_at:
            return min(IDLE_S, self._begins_at - now)
        return self._send(offer, stop)

    def _send(self, offer: Callable[[Message], bool], stop: threading.Event) -> float:
        while not stop.is_set():
            pause = self._pacer.wait_s(self._clock())
            if pause:
                return min(IDLE_S, pause)
            record = self._reader.next()
            if record is None:
                return IDLE_S
            message, segment = record.message, self._reader.reading
            assert segment is not None
            size = len(message.value)
            who = identity.unpack(message.header)
            row = self._journal.row(who.producer_id, message.topic) if who.run_id == self._journal.run_id else -1
            stream = (who.run_id, who.producer_id, message.topic)
            with self._lock:
                flying = self._flights.bytes[True]
                if flying and flying + size > self._settings.drain_window_bytes:
                    self._reader.put_back(record)
                    return IDLE_S  # an acknowledgement wakes the thread sooner
                if record.ordinal in segment.acked or record.ordinal in segment.flying:
                    continue
                now, log = self._clock(), self._storage.log(message.topic)
                ticket = self._flights.board(Flight(log, segment, record.ordinal, row, size, now, stream, backlog=True))
                self._link.sent(now, len(self._flights))
            if not offer(message._replace(row=ticket)):
                with self._lock:
                    self._flights.land(ticket)
                self._reader.put_back(record)
                return IDLE_S
            self.sent_bytes += size
            self._pacer.spend(size)
        return IDLE_S
