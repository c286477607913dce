"""What the log no longer holds: named by partition, offsets and times, and which hours of the live table rest on it.

Those hours cannot be made again, not even in part, so they are left as they are. The ledger says which minutes the
offsets touched; where it does not reach that far back, every hour before the first message that is left counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from consumers.projector.store import Store, rows
from consumers.rebuild.state import Position
from consumers.rebuild.tables import HOUR_S, quoted
from schemas.catalogue import EventKind

AHEAD_S = 600
"""How far ahead of its append time an event's time may lie (consume.future_limit_s)."""


@dataclass(frozen=True, slots=True)
class Gone:
    """Offsets of one partition of the log that nobody can read any more."""

    topic: str
    partition: int
    first: int
    last: int
    """Inclusive."""
    start: int | None
    """The earliest event time among them, seconds since 1970, as the ledger knows it; None = not known."""
    end: int
    """The latest event time among them, or the latest it can be."""
    why: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Missing:
    """All of it, and the hours it touches."""

    ranges: tuple[Gone, ...] = ()
    hours: frozenset[int] = frozenset()
    """Hours that rest on offsets that are gone, as the ledger says."""
    before: int = 0
    """Every hour that begins before this may rest on them, too: the ledger does not say."""

    def touches(self, hour: int) -> bool:
        return hour in self.hours or hour < self.before


def missing(store: Store, kind: EventKind, topic_id: str, positions: Mapping[int, Position]) -> Missing:
    """What of a topic's log is gone, for a rebuild that reads from ``positions``."""
    ranges: list[Gone] = []
    hours: set[int] = set()
    before = 0
    for number, position in sorted(positions.items()):
        lost = ([(0, position.first)] if position.first else []) + position.lost
        for first, end in lost:
            known = _ledger(store, kind, f"topic_id = {quoted(topic_id)} AND partition = {number}", first, end)
            hours |= known.hours
            bound = known.end
            if not known.whole:
                bound = position.first_append_us // 1_000_000 + AHEAD_S if position.first_append_us else _forever(store)
                before = max(before, bound)
            start = known.start if known.whole else None
            ranges.append(Gone(kind.topic, number, first, end - 1, start, bound, "retention"))
    for topic, number, first, last, start, end, touched in rows(
        store,
        f"""SELECT topic_id, partition, min(first_offset), max(last_offset),
    toUnixTimestamp(min(event_ts_min)), toUnixTimestamp(max(event_ts_max)),
    groupUniqArrayArray(arrayMap(m -> intDiv(toUnixTimestamp(m), {HOUR_S}) * {HOUR_S}, minutes))
FROM gpufleet.ingest_ledger
WHERE topic = {quoted(kind.topic)} AND topic_id != {quoted(topic_id)} AND rows + duplicates > 0
GROUP BY topic_id, partition ORDER BY min(at), partition""",
    ):
        why = f"another topic of that name ({topic or 'without an id'}), since deleted"
        ranges.append(Gone(kind.topic, int(number), int(first), int(last), int(start), int(end), why))
        hours.update(int(hour) for hour in touched)
    return Missing(tuple(ranges), frozenset(hours), -(-before // HOUR_S) * HOUR_S)


@dataclass(frozen=True, slots=True)
class _Known:
    hours: frozenset[int]
    start: int
    end: int
    whole: bool
    """Whether the ledger accounts for every one of the offsets."""


def _ledger(store: Store, kind: EventKind, where: str, first: int, end: int) -> _Known:
    """What the ledger says of offsets [first, end).

    Every row names all minutes of its offsets, so rows that hold nothing else are asked first, then the shortest that
    reaches over the end. Rows that were read again after a restart may be long and name hours that are still there.
    """
    here = f"topic = {quoted(kind.topic)} AND {where}"
    inside, reached = _rows(store, f"{here} AND first_offset >= {first} AND last_offset < {end}", first, end)
    if inside.whole:
        return inside
    over = rows(
        store,
        f"""SELECT first_offset, last_offset FROM gpufleet.ingest_ledger
WHERE {here} AND first_offset <= {reached} AND last_offset >= {end - 1} ORDER BY first_offset DESC LIMIT 1""",
    )
    if over:
        [(low, high)] = over
        last, _ = _rows(store, f"{here} AND first_offset = {low} AND last_offset = {high}", first, end)
        earliest = min(last.start, inside.start) if inside.hours else last.start
        return _Known(inside.hours | last.hours, earliest, max(inside.end, last.end), whole=True)
    return _rows(store, f"{here} AND first_offset < {end} AND last_offset >= {first}", first, end)[0]


def _rows(store: Store, where: str, first: int, end: int) -> tuple[_Known, int]:
    """What some rows of the ledger say of offsets [first, end), and up to where they cover them without a hole."""
    [(covered, reached, start, last, touched)] = rows(
        store,
        f"""SELECT sum(fresh), max(after), toUnixTimestamp(minIf(event_ts_min, rows + duplicates > 0)),
    toUnixTimestamp(maxIf(event_ts_max, rows + duplicates > 0)),
    groupUniqArrayArray(arrayMap(m -> intDiv(toUnixTimestamp(m), {HOUR_S}) * {HOUR_S}, minutes))
FROM
(
    -- Ranges may overlap: what was read again counts once.
    SELECT event_ts_min, event_ts_max, minutes, rows, duplicates, least(last_offset + 1, {end}) AS after,
        max(least(last_offset + 1, {end})) OVER (
            ORDER BY first_offset, last_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before,
        greatest(0, after - greatest(first_offset, {first}, before)) AS fresh
    FROM gpufleet.ingest_ledger
    WHERE {where}
)""",
    )
    whole = int(covered or 0) >= end - first
    reach = int(reached) if int(covered or 0) == int(reached) - first else first
    return _Known(frozenset(int(h) for h in touched), int(start), int(last), whole), reach


def _forever(store: Store) -> int:
    return int(rows(store, "SELECT toUnixTimestamp(now()) + 86400")[0][0])
