"""What a full spool does, oldest first: thin the fast lane to 10 s, to a minute, give it up, then the slow lane.

Facts (node events, inventory, leases, usage, limits) are in a log of their own and never touched. Telemetry that has
grown older than the consumer takes is given up as well. Whatever goes is written down first, by sequence number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from producers.spool.accounts import GIVEN_UP, THINNED, Account, Accounts, count, ranges
from producers.spool.log import Log
from producers.spool.record import Record
from producers.spool.segment import Segment, Stream
from producers.spool.settings import SpoolSettings
from producers.spool.thin import TOPIC, SchemaOf, thin
from schemas import identity

LEVELS_MS = (10_000, 60_000)
"""Intervals to which the fast lane is thinned, one after the other."""
FULL = "the spool was full"
TOO_OLD = "they had grown older than the store takes"


class Bounds:
    """Keeps the spool inside its bounds, one file at a time. One thread; ``lock`` is the spool's."""

    def __init__(
        self,
        settings: SpoolSettings,
        facts: Log,
        samples: Log,
        accounts: Accounts,
        schema: SchemaOf,
        lock: threading.Lock,
    ) -> None:
        self._settings, self._facts, self._samples = settings, facts, samples
        self._accounts, self._schema, self._lock = accounts, schema, lock
        self.thinned = self.given_up = 0
        """Events, since the start."""

    def step(self, now_us: int, reading: Segment | None) -> bool:
        """Rewrite or delete at most one file; whether another step may be due. OSError when the disk refuses.

        ``reading`` is the file that is being sent, which stays as it is.
        """
        with self._lock:
            files = [segment for segment in self._samples.closed() if segment is not reading]
            size = self._facts.bytes + self._samples.bytes
        horizon = now_us - int(self._settings.max_age_s * 1e6)
        for segment in files:
            if segment.last_ts < horizon and segment.left > len(segment.flying):
                return self._give_up(segment, lambda _record: True, TOO_OLD)
        if size <= self._settings.max_bytes:
            return False
        return any(self._thin_oldest(files, level) for level in LEVELS_MS) or self._give_up_oldest(files)

    def _thin_oldest(self, files: Iterable[Segment], level_ms: int) -> bool:
        for segment in files:
            fresh = max(segment.thinned_ms, segment.barren_ms) < level_ms and not segment.opened
            if fresh and any(topic == TOPIC for topic, _, _ in segment.spans) and self._thin(segment, level_ms):
                return True
        return False

    def _give_up_oldest(self, files: Iterable[Segment]) -> bool:
        files = list(files)
        for segment in files:
            if any(topic == TOPIC for topic, _, _ in segment.spans) and segment.left > len(segment.flying):
                return self._give_up(segment, lambda record: record.message.topic == TOPIC, FULL)
        for segment in files:
            if segment.left > len(segment.flying):
                return self._give_up(segment, lambda _record: True, FULL)
        return False

    def _thin(self, segment: Segment, level_ms: int) -> bool:
        """Thin one file that nobody has read from; whether it became smaller."""
        waiting = self._waiting(segment)
        if waiting is None:
            return True
        result = thin(waiting, level_ms, lambda record: not record.offered, self._schema)
        if not result.kept:
            segment.barren_ms = level_ms
            return False
        accounts = []
        for key, kept in result.kept.items():
            first, last = result.span_us[key]
            numbers = result.gone.get(key, [])
            for number, gone in enumerate(ranges(numbers) or [""]):
                made = 0 if number else kept
                accounts.append(Account(THINNED, TOPIC, *key, gone, count(gone), made, first, last, level_ms, FULL))
        self._accounts.add(accounts)
        before = segment.bytes
        self._replace(segment, result.records, level_ms)
        self.thinned += sum(account.events + account.kept for account in accounts)
        return segment.bytes < before

    def _give_up(self, segment: Segment, which: Callable[[Record], bool], reason: str) -> bool:
        """Take some records out of a file, or delete it with all of them."""
        with self._lock:
            flying = set(segment.flying)
        kept: list[Record] = []
        gone: list[Record] = []
        for record in self._waiting(segment) or ():
            (gone if which(record) and record.ordinal not in flying else kept).append(record)
        accounts = given_up(gone, reason)
        self._accounts.add(accounts)
        events = sum(account.events for account in accounts)
        if kept:
            self._replace(segment, kept, segment.thinned_ms)
        else:
            with self._lock:
                segment.left = 0
                self._samples.drop_if_done(segment)
        self.given_up += events
        return bool(gone)

    def _waiting(self, segment: Segment) -> list[Record] | None:
        """The records of a file; None when its last event was acknowledged meanwhile."""
        found: list[Record] = []

        def read() -> None:
            found.extend(record for record in segment.records() if record.ordinal not in segment.acked)

        return found if self._samples.unless_gone(segment, read) else None

    def _replace(self, segment: Segment, records: list[Record], thinned_ms: int) -> None:
        segment.replace(records, thinned_ms)
        with self._lock:
            segment.adopt(records, thinned_ms)
            self._samples.drop_if_done(segment)
            self._samples.clear_if_gone(segment)


def given_up(records: Iterable[Record], reason: str) -> list[Account]:
    """Accounts of events that go for good, and with each of all that thinning had made a part of it."""
    streams: dict[Stream, list[tuple[int, int, int]]] = {}
    for record in records:
        who = identity.unpack(record.message.header)
        streams.setdefault((record.message.topic, who.producer_id, who.run_id), []).append(
            (who.seq, who.ts, record.merged)
        )
    accounts = []
    for (topic, producer, run), events in streams.items():
        first, last = min(ts for _, ts, _ in events), max(ts for _, ts, _ in events)
        for gone in ranges(seq for first_seq, _, merged in events for seq in range(first_seq, first_seq + merged + 1)):
            accounts.append(Account(GIVEN_UP, topic, producer, run, gone, count(gone), 0, first, last, reason=reason))
    return accounts
