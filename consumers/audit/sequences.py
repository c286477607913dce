"""Every event exactly once: gaps, doubles and lost tails per (producer, run, topic).

One aggregate per topic finds the runs that are off; only those are looked at number by number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from consumers.audit.report import AuditReport, Expected, Finding, Kind
from consumers.audit.scope import Scope, quoted
from consumers.audit.spools import RunKey, Spooled, Word, split, words
from consumers.projector.store import Store, rows
from schemas.catalogue import KINDS, EventKind, Retention

_CHUNK = 500
"""Runs looked at in one statement."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is stored of one run on one topic."""

    producer_id: str
    run_id: int
    rows: int
    distinct: int
    first: int
    last: int
    newest_at: float
    """When its newest row was stored, seconds since 1970."""


@dataclass(slots=True)
class Runs:
    """All runs on one topic, and who answers for how much."""

    kind: EventKind
    stored: dict[RunKey, Run] = field(default_factory=dict)
    expected: dict[RunKey, int] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    """Producer -> its newest run on any topic that somebody answers for: the ones before it send nothing any more.
    One more than the newest run when that is over as well."""


def check(
    store: Store, whole: Scope, expected: Iterable[Expected], report: AuditReport, spooled: Collection[Spooled] = ()
) -> None:
    """Add lost, duplicated, late, thinned, stored, produced and their findings to the report."""
    answers: dict[str, dict[RunKey, int]] = {}
    newest: dict[str, int] = {}
    for entry in (*expected, *_named_by_successors(store, whole.unlimited())):
        of_topic = answers.setdefault(entry.topic, {})
        key = (entry.producer_id, entry.run_id)
        of_topic[key] = max(of_topic.get(key, 0), entry.given)
        newest[entry.producer_id] = max(newest.get(entry.producer_id, 0), entry.run_id + entry.ended)
    for kind in KINDS.values():
        # A history kind may name an old time in a new event: only whole runs have no gaps by time.
        scope = whole.unlimited() if kind.retention is Retention.HISTORY else whole
        runs = Runs(kind, _stored(store, kind, scope), answers.get(kind.topic, {}), newest)
        report.stored[kind.topic] = sum(run.distinct for run in runs.stored.values())
        report.duplicated += sum(run.rows - run.distinct for run in runs.stored.values())
        of_these = [given for (producer, _), given in runs.expected.items() if whole.concerns(producer)]
        if of_these:
            report.produced[kind.topic] = sum(of_these)
        report.add(_doubles(store, scope, runs))
        if kind.dense:
            for finding in _missing(store, scope, runs, spooled):
                report.lost += finding.count if not finding.harmless else 0
                report.late += finding.count if finding.kind is Kind.LATE else 0
                report.thinned += finding.count if finding.kind is Kind.THINNED else 0
                report.add([finding])
    report.dead_letters = report.stored["dead-letters"]


def _named_by_successors(store: Store, scope: Scope) -> Iterator[Expected]:
    """agent_start names, per topic, the last number that the run before it gave out."""
    found = rows(
        store,
        f"""SELECT producer_id, previous_run_id, mapKeys(previous_last_seq), mapValues(previous_last_seq)
FROM gpufleet.node_events FINAL
WHERE event = 'agent_start' AND previous_run_id IS NOT NULL AND {scope.events("node_id")}""",
    )
    for producer, run, topics, lasts in found:
        for topic, last in zip(topics, lasts, strict=True):
            if topic in KINDS and last >= 0:
                yield Expected(str(producer), int(run), str(topic), int(last) + 1)


def _stored(store: Store, kind: EventKind, scope: Scope, extra: str = "") -> dict[RunKey, Run]:
    """Runs by key. A bitmap counts distinct numbers as exactly as uniqExact, in half the time and memory."""
    found = rows(
        store,
        f"""SELECT producer_id, run_id, count(), groupBitmap(toUInt64(seq)), min(seq), max(seq),
    toUnixTimestamp(max(stored_at))
FROM gpufleet.{kind.table}
WHERE {scope.events("producer_id")}{extra}
GROUP BY producer_id, run_id""",
    )
    runs = (Run(str(r[0]), int(r[1]), int(r[2]), int(r[3]), int(r[4]), int(r[5]), float(r[6])) for r in found)
    return {(run.producer_id, run.run_id): run for run in runs}


def _missing(store: Store, scope: Scope, runs: Runs, spooled: Collection[Spooled]) -> Iterator[Finding]:
    """Gaps within, ahead of and behind what is stored of each run, less the dead letters."""
    kind = runs.kind
    inner = [r for r in runs.stored.values() if r.last - r.first + 1 != r.distinct]
    holes: dict[RunKey, list[tuple[int, int]]] = _holes(store, kind, scope, inner)
    if scope.since is None:
        for key, run in runs.stored.items():
            if run.first > 0:
                holes.setdefault(key, []).append((0, run.first - 1))
    for key, tail in _tails(store, scope, runs).items():
        holes.setdefault(key, []).append(tail)
    dead = _dead(store, kind.topic, holes)
    told = words(store, scope, kind.topic, holes.keys(), spooled)
    for key in sorted(holes):
        producer, run_id = key
        stored = runs.stored.get(key)
        word = told.get(key)
        # A thinned minute leaves twelve holes around what is kept: one finding names the run's whole sum.
        thinned: list[tuple[int, int]] = []
        for first, last in sorted(holes[key]):
            for low, high in without(first, last, dead.get(key, [])):
                for at, end, gone in split(low, high, word.thinned if word else ()):
                    if gone:
                        thinned.append((at, end))
                        continue
                    alive = run_id >= runs.newest.get(producer, 0)
                    yield from _explained(kind, scope, stored, word, producer, run_id, at, end, alive=alive)
        if thinned:
            yield _thinned(kind, producer, run_id, thinned)


def _thinned(kind: EventKind, producer: str, run_id: int, ranges: Sequence[tuple[int, int]]) -> Finding:
    count = sum(high - low + 1 for low, high in ranges)
    low, high = ranges[0][0], ranges[-1][1]
    return Finding(
        Kind.THINNED,
        kind.topic,
        f"producer {producer} run {run_id}: {count} events within seq {low}..{high} were thinned by its full spool",
        producer,
        run_id,
        low,
        high,
        count,
    )


def _explained(
    kind: EventKind,
    scope: Scope,
    stored: Run | None,
    word: Word | None,
    producer: str,
    run_id: int,
    low: int,
    high: int,
    *,
    alive: bool,
) -> Iterator[Finding]:
    """Findings of a missing range, cut where the producer's spool says that events are late or were given up."""
    for at, end, gone in split(low, high, word.given_up if word else ()):
        if gone:
            found = _named(kind, scope, stored, producer, run_id, at, end, alive=alive)
            yield replace(found, kind=Kind.GAP, detail=found.detail + ": the producer gave them up and says so")
            continue
        for first, last, late in split(at, end, word.late if word else ()):
            found = _named(kind, scope, stored, producer, run_id, first, last, alive=alive)
            if late and not found.harmless:
                numbers = found.detail.split(" are ")[0].split(" were ")[0]
                found = replace(found, kind=Kind.LATE, detail=numbers + " wait in the producer's spool")
            yield found


def _named(
    kind: EventKind, scope: Scope, stored: Run | None, producer: str, run_id: int, low: int, high: int, *, alive: bool
) -> Finding:
    """The finding of a missing range: what sort of gap it is, by where it lies. ``alive``: the run may still send."""
    what, why = Kind.GAP, "are not stored"
    at_tail = stored is None or low > stored.last
    if at_tail:
        what, why = Kind.TAIL, "were given out last and are not stored"
        # Of a run that has nothing stored yet, its id says when it began.
        if alive and scope.now - (stored.newest_at if stored else run_id / 1e6) < scope.in_flight_s:
            what, why = Kind.IN_FLIGHT, "were given out last and may be on their way"
    elif (
        stored is not None
        and high < stored.first
        and kind.retention is Retention.TELEMETRY
        and run_id / 1e6 < scope.oldest_raw
    ):
        what, why = Kind.RETENTION, "are older than the raw tables keep"
    numbers = f"seq {low}" if low == high else f"seq {low}..{high}"
    return Finding(
        what,
        kind.topic,
        f"producer {producer} run {run_id}: {numbers} ({high - low + 1} events) {why}",
        producer,
        run_id,
        low,
        high,
        high - low + 1,
    )


def _holes(store: Store, kind: EventKind, scope: Scope, runs: Sequence[Run]) -> dict[RunKey, list[tuple[int, int]]]:
    holes: dict[RunKey, list[tuple[int, int]]] = {}
    for of_these in _chunks([(r.producer_id, r.run_id) for r in runs]):
        found = rows(
            store,
            f"""SELECT producer_id, run_id,
    arrayFilter(
        hole -> hole.1 <= hole.2,
        arrayMap((before, after) -> (before + 1, after - 1), arrayPopBack(numbers), arrayPopFront(numbers))) AS holes
FROM
(
    SELECT producer_id, run_id, arraySort(groupUniqArray(seq)) AS numbers
    FROM gpufleet.{kind.table}
    WHERE {scope.events("producer_id")} AND {of_these}
    GROUP BY producer_id, run_id
)""",
        )
        for producer, run_id, ranges in found:
            holes[str(producer), int(run_id)] = [(int(a), int(b)) for a, b in ranges]
    return holes


def _tails(store: Store, scope: Scope, runs: Runs) -> dict[RunKey, tuple[int, int]]:
    """What was given out beyond the last stored number of a run. Not of a run whose producer had begun another before
    the time looked at: all of its events are older (a run's number is its start in microseconds)."""
    begun = _begun_before(scope, runs)
    short = {
        key: given
        for key, given in runs.expected.items()
        if scope.concerns(key[0])
        and (key not in runs.stored or runs.stored[key].last < given - 1)
        and begun.get(key[0], 0) <= key[1]
    }
    last = {key: run.last for key, run in runs.stored.items()}
    if scope.since is not None:
        # The run may have ended before the time looked at: then its last number lies before it, too.
        everything = scope.unlimited()
        for of_these in _chunks(sorted(short)):
            for key, run in _stored(store, runs.kind, everything, f" AND {of_these}").items():
                last[key] = max(run.last, last.get(key, -1))
    return {key: (last.get(key, -1) + 1, given - 1) for key, given in short.items() if last.get(key, -1) < given - 1}


def _begun_before(scope: Scope, runs: Runs) -> dict[str, int]:
    """Producer -> its newest run that had begun before the time looked at."""
    begun: dict[str, int] = {}
    if scope.since is not None:
        for producer, run in (*runs.expected, *runs.stored):
            if run <= scope.since * 1e6:
                begun[producer] = max(run, begun.get(producer, 0))
    return begun


def _dead(store: Store, topic: str, holes: Mapping[RunKey, object]) -> dict[RunKey, list[int]]:
    """Numbers of these runs that are dead letters: not stored, and not lost either."""
    dead: dict[RunKey, list[int]] = {}
    for of_these in _chunks(sorted(holes), "source_producer_id", "source_run_id"):
        found = rows(
            store,
            f"""SELECT source_producer_id, assumeNotNull(source_run_id),
    arraySort(groupUniqArray(assumeNotNull(source_seq)))
FROM gpufleet.dead_letters
WHERE source_topic = {quoted(topic)} AND source_run_id IS NOT NULL AND source_seq IS NOT NULL AND {of_these}
GROUP BY 1, 2""",
        )
        for producer, run_id, numbers in found:
            dead[str(producer), int(run_id)] = [int(n) for n in numbers]
    return dead


def _doubles(store: Store, scope: Scope, runs: Runs) -> Iterator[Finding]:
    off = [(r.producer_id, r.run_id) for r in runs.stored.values() if r.rows != r.distinct]
    for of_these in _chunks(sorted(off)):
        found = rows(
            store,
            f"""SELECT producer_id, run_id, differ, groupArray(seq), sum(extra)
FROM
(
    SELECT producer_id, run_id, seq, count() - 1 AS extra, uniqExact(ts) > 1 AS differ
    FROM gpufleet.{runs.kind.table}
    WHERE {scope.events("producer_id")} AND {of_these}
    GROUP BY producer_id, run_id, seq
    HAVING extra > 0
)
GROUP BY producer_id, run_id, differ""",
        )
        for producer, run_id, differ, numbers, extra in found:
            kind = Kind.CONFLICT if differ else Kind.DOUBLE
            what = "with different event times" if differ else "more than once"
            ranges = list(ranges_of(sorted(int(n) for n in numbers)))
            for low, high in ranges:
                named = f"seq {low}" if low == high else f"seq {low}..{high}"
                count = high - low + 1 if len(ranges) > 1 else int(extra)
                yield Finding(
                    kind,
                    runs.kind.topic,
                    f"producer {producer} run {run_id}: {named} stored {what}",
                    str(producer),
                    int(run_id),
                    low,
                    high,
                    count,
                )


def _chunks(keys: Sequence[RunKey], producer: str = "producer_id", run: str = "run_id") -> Iterator[str]:
    """Conditions that pick these runs, ``_CHUNK`` at a time."""
    for at in range(0, len(keys), _CHUNK):
        pairs = ", ".join(f"({quoted(p)}, {r})" for p, r in keys[at : at + _CHUNK])
        yield f"({producer}, {run}) IN ({pairs})"


def ranges_of(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Sorted numbers as ranges, both ends inclusive."""
    low = high = None
    for number in numbers:
        if low is not None and high is not None and number == high + 1:
            high = number
            continue
        if low is not None and high is not None:
            yield low, high
        low = high = number
    if low is not None and high is not None:
        yield low, high


def without(first: int, last: int, numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The range [first, last] less some sorted numbers, as ranges."""
    low = first
    for number in numbers:
        if first <= number <= last:
            if low < number:
                yield low, number - 1
            low = number + 1
    if low <= last:
        yield low, last
