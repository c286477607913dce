"""What producers' spools said of numbers that are not stored: thinned, given up, or still to come.

A node's spool tells by node events: ``events_thinned`` and ``events_dropped`` name sequence numbers in the attribute
``gone`` (1-11,13-23); ``spool_backlog`` names a range that is being sent late and holds until ``spool_drained``, or
until the agent starts anew, which tells again what waits then. A producer speaks for itself alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from consumers.audit.scope import Scope, quoted
from consumers.projector.store import Store, rows

RunKey = tuple[str, int]
Ranges = list[tuple[int, int]]
_CHUNK = 500
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Spooled:
    """Events that lie in a spool on this machine."""

    producer_id: str
    run_id: int
    topic: str
    first: int
    last: int


@dataclass(slots=True)
class Word:
    """Ranges of one run on one topic, both ends inclusive, sorted."""

    thinned: Ranges = field(default_factory=list)
    given_up: Ranges = field(default_factory=list)
    late: Ranges = field(default_factory=list)


def words(
    store: Store, scope: Scope, topic: str, runs: Collection[RunKey], spooled: Iterable[Spooled] = ()
) -> dict[RunKey, Word]:
    """What was said about these runs. A backlog announced longer ago than raw tables keep is no excuse any more."""
    said: dict[RunKey, Word] = {}
    producers = sorted({producer for producer, _ in runs})
    for at in range(0, len(producers), _CHUNK):
        for producer, run, event, gone, first, last in _told(store, scope, topic, producers[at : at + _CHUNK]):
            word = said.setdefault((str(producer), int(run)), Word())
            if event == "spool_backlog":
                word.late.append((int(first), int(last)))
            else:
                (word.thinned if event == "events_thinned" else word.given_up).extend(parsed(str(gone)))
    for entry in spooled:
        if entry.topic == topic:
            said.setdefault((entry.producer_id, entry.run_id), Word()).late.append((entry.first, entry.last))
    for word in said.values():
        word.thinned.sort()
        word.given_up.sort()
        word.late.sort()
        # What was thinned and then given up is gone: the event that it was a part of went with it.
        word.thinned = [r for low, high in word.thinned for r in _without(low, high, word.given_up)]
    return {key: word for key, word in said.items() if key in runs}


def _told(store: Store, scope: Scope, topic: str, producers: list[str]) -> Sequence[Sequence[Any]]:
    these = f"producer_id IN ({', '.join(quoted(producer) for producer in producers)})"
    return rows(
        store,
        f"""SELECT producer_id, toInt64OrZero(attributes['run']) AS run, event, attributes['gone'],
    toInt64OrZero(attributes['first_seq']), toInt64OrZero(attributes['last_seq'])
FROM gpufleet.node_events FINAL
LEFT JOIN
(
    SELECT producer_id, max((run_id, seq)) AS drained
    FROM gpufleet.node_events FINAL
    WHERE event IN ('spool_drained', 'agent_start') AND {these}
    GROUP BY producer_id
) AS over USING (producer_id)
WHERE event IN ('events_thinned', 'events_dropped', 'spool_backlog') AND value = {quoted(topic)} AND {these}
    AND run != 0
    AND (event != 'spool_backlog' OR ((run_id, seq) > drained
        AND ts >= fromUnixTimestamp64Micro({int(scope.oldest_raw * 1e6)}, 'UTC')))""",
    )


def parsed(text: str) -> Iterator[tuple[int, int]]:
    """The ranges of a text such as 1-11,13; what is no range is passed over."""
    for part in text.split(",") if text else ():
        low, _, high = part.partition("-")
        if _NUMBER.fullmatch(low) and _NUMBER.fullmatch(high or low) and int(low) <= int(high or low):
            yield int(low), int(high or low)


def _without(low: int, high: int, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    return ((first, last) for first, last, covered in split(low, high, ranges) if not covered)


def split(low: int, high: int, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, bool]]:
    """The range [low, high] cut where sorted ``ranges`` cover it: (first, last, whether covered)."""
    at = low
    for first, last in ranges:
        first, last = max(first, at), min(last, high)
        if first > last:
            continue
        if at < first:
            yield at, first - 1, False
        yield first, last, True
        at = last + 1
    if at <= high:
        yield at, high, False
