"""The ledger: one row per insert and partition, written before the offsets it covers are committed.

Lag, freshness and the projector's list of windows to recompute come from it, so a batch of which nothing was left to
insert has its row too (rows = 0): no touched window is ever forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from consumers.batch import Bad, Batch, Chunk, Group, Message
from consumers.clock import Clock
from consumers.errors import StoreUnavailableError
from consumers.failpoints import failpoint
from consumers.intake import LATEST_US, identity_of

TABLE = "ingest_ledger"


class LedgerStore(Protocol):
    """What the ledger asks of the store."""

    def append(self, table: str, columns: Sequence[str], lines: str) -> None: ...

    def ledger_count(self, consumer: str, times: Sequence[int]) -> int: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of ingest_ledger, without ``at`` and ``consumer``. Times in microseconds since 1970, UTC."""

    topic: str
    topic_id: str
    partition: int
    first_offset: int
    last_offset: int
    messages: int
    rows: int
    duplicates: int
    dead_letters: int
    bytes: int
    insert_ms: float
    path: str
    event_ts_min: int
    event_ts_max: int
    append_ts_max: int
    minutes: tuple[int, ...]
    """UTC minutes touched, in minutes since 1970."""
    late_producers: tuple[str, ...]
    """All producers with a late event; empty when there are none or too many to list."""


@dataclass(frozen=True, slots=True)
class Lateness:
    """Which events count as late: older than ``after_us`` against the youngest append time of their row."""

    after_us: int
    producers_max: int


COLUMNS = ("at", "consumer", *Entry.__dataclass_fields__)


def entries(batch: Batch, kept: dict[int, list[Message]], lateness: Lateness) -> list[Entry]:
    """What to record of a delivered batch. ``kept``: per group's id(), the messages that were inserted."""
    rows = []
    for chunk in batch.chunks:
        bad = list(chunk.bad)
        groups = [group for group in chunk.groups.values() if group.messages]
        alone = len(groups) <= 1
        maybe: list[Group | None] = [*groups] or [None]
        for group in maybe:
            rows.append(_entry(batch, chunk, group, bad, kept, alone, lateness))
            bad = []  # recorded with the chunk's first row
    return rows


def _entry(
    batch: Batch,
    chunk: Chunk,
    group: Group | None,
    bad: list[Bad],
    kept: dict[int, list[Message]],
    alone: bool,
    lateness: Lateness,
) -> Entry:
    offsets = [one.message.offset() or 0 for one in bad]
    first, last = chunk.first_offset, chunk.next_offset - 1
    if group is None:
        size = sum(len(one.message.value() or b"") for one in bad)
        append = max((one.message.timestamp()[1] * 1000 for one in bad), default=0)
        return Entry(
            chunk.kind.topic, chunk.topic_id, chunk.partition, first, last, len(bad), 0, 0, len(bad), size, 0.0,
            "steady", 0, 0, max(append, 0), (), (),
        )  # fmt: skip
    if not alone:
        first, last = min([group.first_offset, *offsets]), max([group.last_offset, *offsets])
    insert = next(i for i in batch.inserts if any(g is group for _, g in i.groups))
    share = group.size / max(1, sum(g.size for _, g in insert.groups))
    rows = len(kept[id(group)])
    return Entry(
        chunk.kind.topic,
        chunk.topic_id,
        chunk.partition,
        first,
        last,
        len(group.messages) + len(bad),
        rows,
        len(group.messages) - rows,
        len(bad),
        chunk.size if alone else group.size,
        insert.seconds * 1e3 * share,
        "filter" if batch.check_all or group.suspects else "steady",
        group.ts_min,
        group.ts_max,
        group.append_max,
        tuple(sorted(group.minutes)),
        late_producers(group, lateness),
    )


def late_producers(group: Group, lateness: Lateness) -> tuple[str, ...]:
    """Producers of the group's late events; empty when there are none or too many to list."""
    before = group.append_max - lateness.after_us
    if group.ts_min >= before:
        return ()
    late: set[str] = set()
    for message in group.messages:
        who = identity_of(message)
        if who is not None and who.ts < before:
            late.add(who.producer_id)
            if len(late) > lateness.producers_max:
                return ()
    return tuple(sorted(late))


class Ledger:
    """Writes entries, each exactly once. One thread."""

    def __init__(self, store: LedgerStore, consumer: str, clock: Clock) -> None:
        self._store, self._consumer, self._clock = store, consumer, clock
        self._last_at = 0
        self._stamped: list[tuple[int, Entry]] = []
        """Rows of a write whose outcome is not known."""

    def write(self, new: Sequence[Entry]) -> None:
        """Write the entries and those of earlier calls that failed. StoreUnavailableError and others: call again.

        A failed write may have been stored: its rows are looked for before they are written again. Then they are
        stamped anew: a row that appears long after its time is one that the projector has read past.
        """
        if self._stamped and self._store.ledger_count(self._consumer, [at for at, _ in self._stamped]):
            self._stamped = []
        again = [entry for _, entry in self._stamped]
        self._stamped = []
        for entry in (*again, *new):
            self._last_at = max(self._clock.now_us(), self._last_at + 1)
            self._stamped.append((self._last_at, entry))
        if self._stamped:
            failpoint("ledger stamped")
            lines = "\n".join(json.dumps(self._line(at, entry)) for at, entry in self._stamped)
            try:
                self._store.append(TABLE, COLUMNS, lines)
            except Exception as error:
                if isinstance(error, StoreUnavailableError):
                    raise
                raise StoreUnavailableError(f"the ledger cannot be written: {error}") from error
            self._stamped = []

    def _line(self, at: int, entry: Entry) -> dict[str, Any]:
        line = {name: getattr(entry, name) for name in Entry.__dataclass_fields__}
        for name in ("event_ts_min", "event_ts_max", "append_ts_max"):
            line[name] = _text(line[name])
        line["minutes"] = [minute * 60 for minute in entry.minutes]
        return {"at": _text(at), "consumer": self._consumer, **line}


def _text(us: int) -> str:
    # Of messages that were refused the time may be anything.
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=min(max(us, 0), LATEST_US))
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"
