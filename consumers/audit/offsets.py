"""The ledger against Kafka: every offset from the first read to the committed one is accounted for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from consumers.audit.report import Finding, Kind
from consumers.audit.scope import Scope
from consumers.projector.store import Store, rows

Committed = Mapping[tuple[str, int], int]
"""(topic, partition) -> the next offset the consumer group would read."""


def check(store: Store, scope: Scope, committed: Committed | None = None) -> Iterator[Finding]:
    """Holes between ledger rows, rows that do not add up, and commits ahead of the ledger."""
    since = "1" if scope.since is None else f"at >= fromUnixTimestamp64Micro({int(scope.since * 1e6)}, 'UTC')"
    yield from _holes(store, since)
    yield from _sums(store, since)
    yield from _ends(store, committed, whole=scope.since is None)


def _holes(store: Store, since: str) -> Iterator[Finding]:
    # Ranges may overlap: what the filter path reads again was read before.
    found = rows(
        store,
        f"""SELECT topic, partition, covered + 1, first_offset - 1
FROM
(
    SELECT topic, topic_id, partition, first_offset,
        max(last_offset) OVER place AS covered,
        count() OVER place AS before
    FROM gpufleet.ingest_ledger
    WHERE {since}
    WINDOW place AS (PARTITION BY topic, topic_id, partition ORDER BY first_offset, last_offset
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
WHERE before > 0 AND first_offset > covered + 1
ORDER BY topic, partition, first_offset""",
    )
    for topic, partition, first, last in found:
        yield Finding(
            Kind.LEDGER_HOLE,
            str(topic),
            f"partition {partition}: offsets {first}..{last} are in no ledger row",
            first=int(first),
            last=int(last),
            count=int(last) - int(first) + 1,
        )


def _sums(store: Store, since: str) -> Iterator[Finding]:
    found = rows(
        store,
        f"""SELECT topic, partition, first_offset, last_offset, messages, rows, duplicates, dead_letters
FROM gpufleet.ingest_ledger
WHERE {since} AND messages != rows + duplicates + dead_letters
ORDER BY topic, partition, first_offset
LIMIT 1000""",
    )
    for topic, partition, first, last, messages, stored, duplicates, dead in found:
        yield Finding(
            Kind.LEDGER_SUM,
            str(topic),
            f"partition {partition}: offsets {first}..{last}: {messages} messages, but {stored} rows + {duplicates}"
            f" duplicates + {dead} dead letters",
            first=int(first),
            last=int(last),
            count=abs(int(messages) - int(stored) - int(duplicates) - int(dead)),
        )


def _ends(store: Store, committed: Committed | None, *, whole: bool) -> Iterator[Finding]:
    # A topic made anew has another id; its offsets begin anew as well.
    found = rows(
        store,
        """SELECT topic, partition, argMax(first, newest), argMax(last, newest)
FROM
(
    SELECT topic, topic_id, partition, min(first_offset) AS first, max(last_offset) AS last, max(at) AS newest
    FROM gpufleet.ingest_ledger
    GROUP BY topic, topic_id, partition
)
GROUP BY topic, partition""",
    )
    ends = {(str(topic), int(partition)): (int(first), int(last)) for topic, partition, first, last in found}
    for (topic, partition), (first, _) in sorted(ends.items()):
        if whole and first > 0:
            yield Finding(
                Kind.RETENTION,
                topic,
                f"partition {partition}: the ledger begins at offset {first}; what came before is no longer kept",
                first=0,
                last=first - 1,
                count=first,
            )
    for (topic, partition), offset in sorted((committed or {}).items()):
        last = ends.get((topic, partition), (0, -1))[1]
        if offset > last + 1:
            yield Finding(
                Kind.LEDGER_BEHIND,
                topic,
                f"partition {partition}: committed up to offset {offset}, but the ledger ends at {last}",
                first=last + 1,
                last=offset - 1,
                count=offset - last - 1,
            )
