"""The spool's files: found at the start, written, synced, compressed, kept inside their bounds.

A disk that refuses is tried again every few seconds; until then nothing is stored, and whoever offers keeps the event.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path

from producers import journal as journals
from producers.encode import Message
from producers.journal import JournalError
from producers.spool.accounts import Account, Accounts
from producers.spool.bounds import Bounds
from producers.spool.log import Log
from producers.spool.notices import Notices
from producers.spool.segment import Segment
from producers.spool.settings import SpoolSettings
from producers.spool.thin import schema_of
from schemas import catalogue
from schemas.catalogue import Retention

ACKS_EVERY_S = 2.0
"""Acknowledgements not older than this are forgotten when the process is killed: a few events are sent again."""
SETTLES_S = 30.0
"""A closed file whose events are all on their way is compressed only after this."""
NEVER = float("-inf")
Place = tuple[Log, Segment, int]
"""Where an event lies: its log, file, and ordinal within."""
logger = logging.getLogger("gpufleet.spool")


class Storage:
    """Two logs in a folder, facts and samples, and what became of the events that are no longer there.

    ``lock`` guards the accounts in memory and the appending; it is never held while a file is rewritten.
    """

    def __init__(
        self,
        folder: Path,
        journals_folder: Path,
        settings: SpoolSettings,
        schema_ids: Mapping[str, int],
        lock: threading.Lock,
        clock: Callable[[], float],
    ) -> None:
        self._folder, self._journals, self._settings = folder, journals_folder, settings
        self._lock, self._clock = lock, clock
        durable = settings.fsync != "never"
        self.facts = Log(folder, "facts", settings.segment_bytes, durable=durable, clock=clock)
        self.samples = Log(folder, "samples", settings.segment_bytes, durable=durable, clock=clock)
        self.logs = (self.facts, self.samples)
        self.accounts = Accounts(folder / "accounts.jsonl", durable=durable)
        self.bounds = Bounds(settings, self.facts, self.samples, self.accounts, schema_of(schema_ids), lock)
        self.notices = Notices()
        self.earlier: Counter[tuple[int, str, str]] = Counter()
        """Acknowledged events of earlier runs that their journals do not know of yet."""
        self.rejected: deque[Account] = deque()
        """Accounts to be written down."""
        self.opened = False
        self._broken_until = NEVER
        self._synced_at = self._flushed_at = clock()

    @property
    def writable(self) -> bool:
        return self.opened and self._broken_until == NEVER

    @property
    def left(self) -> int:
        """Events that wait for an acknowledgement."""
        return self.facts.left + self.samples.left

    @property
    def waiting(self) -> int:
        """Of those, the ones that the broker's client does not have."""
        return self.facts.waiting + self.samples.waiting

    @property
    def bytes(self) -> int:
        return self.facts.bytes + self.samples.bytes

    def segments(self) -> list[Segment]:
        return [*self.facts.segments.values(), *self.samples.segments.values()]

    def log(self, topic: str) -> Log:
        """The log of a topic's events."""
        kind = catalogue.KINDS.get(topic)
        return self.samples if kind is not None and kind.retention is Retention.TELEMETRY else self.facts

    def open(self) -> bool:
        """Find what earlier processes left, and make their journals agree; whether there is any of it.

        Called with the lock held, or before there are threads.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            damaged = self.facts.recover() + self.samples.recover()
            self.accounts.load()
            given: dict[tuple[int, str, str], int] = {}
            for segment in self.segments():
                for (topic, producer, run), span in segment.spans.items():
                    given[run, producer, topic] = max(given.get((run, producer, topic), 0), span.last + 1)
            journals.amend(self._journals, given, {})
        except (OSError, JournalError) as error:
            self.refused(error)
            return False
        self.opened = True
        if damaged:
            self.notices.damaged(damaged)
        return bool(given)

    def store(self, message: Message, *, offered: bool) -> Place | None:
        """Put an event on disk, with the lock held; None when the disk refuses, or did so a moment ago."""
        if self._clock() < self._broken_until or not self.opened:
            return None
        log = self.log(message.topic)
        try:
            segment, ordinal = log.append(message, offered=offered)
            if self._settings.fsync == "event":
                log.sync()
        except OSError as error:
            self.refused(error)
            return None
        if self._broken_until != NEVER:
            self._broken_until = NEVER
            self.notices.writable(self._folder)
        return log, segment, ordinal

    @property
    def rests(self) -> bool:
        """Whether the disk refused a moment ago and is left alone."""
        return self._clock() < self._broken_until

    def refused(self, error: Exception) -> None:
        """The disk did not do as told; with the lock held."""
        if self._broken_until == NEVER:
            logger.warning("the spool cannot be written; events wait in memory: %s", error)
        self.notices.unwritable(self._folder, error)
        self._broken_until = self._clock() + self._settings.retry_s

    def tidy(
        self, reading: Segment | None, wall_us: Callable[[], int], stop: threading.Event, *, closing: bool
    ) -> None:
        """Sync, write acknowledgements down, compress, keep the bounds. Without the lock; OSError, JournalError.

        ``reading`` is the file that is being sent, which stays as it is.
        """
        now = self._clock()
        if not self.opened:
            return
        if closing:
            with self._lock:
                for log in self.logs:
                    log.close_active()
        if self._settings.fsync == "interval" and now - self._synced_at >= self._settings.fsync_interval_s:
            self._synced_at = now
            for log in self.logs:
                log.sync_outside(self._lock)
        if closing or now - self._flushed_at >= ACKS_EVERY_S:
            self._flushed_at = now
            self._write_acks()
        while self.rejected:
            self.accounts.add([self.rejected[0]])
            self.rejected.popleft()
        for log in self.logs:
            log.compress_closed(self._lock, reading, settles_s=SETTLES_S, now=now)
        while self.bounds.step(wall_us(), reading) and not stop.is_set():
            pass

    def _write_acks(self) -> None:
        with self._lock:
            for segment in self.segments():
                segment.flush_acks()
            earlier, self.earlier = self.earlier, Counter()
        if earlier:
            journals.amend(self._journals, {}, earlier)
