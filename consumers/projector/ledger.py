"""Reads ingest_ledger in order of time, every row once, and keeps the projector's position in the store."""

from __future__ import annotations

from collections.abc import Iterator

from consumers.projector.store import Store, rows
from consumers.projector.worklist import Entry

TOPICS = (
    "node-telemetry",
    "node-counters",
    "node-events",
    "inventory",
    "allocations",
    "facility-telemetry",
    "tenant-usage",
    "leases",
)
"""Kinds that windows follow from."""
_STRIDE_S = 6 * 3600
"""Ledger time read at once when catching up."""


class LedgerReader:
    """Follows the ledger from a position.

    Rows carry their writer's clock and may appear after later ones: the last ``overlap_s`` are read again each time
    and told apart by their key.
    """

    def __init__(self, position: float, overlap_s: float = 120.0) -> None:
        self._from = position
        self._overlap = overlap_s
        self._seen: dict[tuple[object, ...], float] = {}

    def read(self, store: Store, now: float) -> Iterator[Entry]:
        """Rows not seen before, oldest first, up to an hour ahead of ``now`` (the store's clock)."""
        start = self._from - self._overlap
        until = now + 3600
        while start < until:
            if until - start > _STRIDE_S:  # catching up, or an empty ledger: time without rows is stepped over
                start = max(start, _first(store, start, until))
            end = min(start + _STRIDE_S, until)
            for entry in _between(store, start, end):
                if entry.key not in self._seen:
                    self._seen[entry.key] = entry.at
                    self._from = max(self._from, entry.at)
                    yield entry
            start = end
        self._seen = {key: at for key, at in self._seen.items() if at >= self._from - 2 * self._overlap}


def _between(store: Store, start: float, end: float) -> Iterator[Entry]:
    topics = ", ".join(f"'{t}'" for t in TOPICS)
    found = rows(
        store,
        f"""SELECT toUnixTimestamp64Micro(at), topic, arrayMap(m -> toUnixTimestamp(m), minutes), late_producers,
    toUnixTimestamp64Micro(event_ts_min), toUnixTimestamp64Micro(append_ts_max),
    topic_id, partition, first_offset, last_offset, consumer
FROM gpufleet.ingest_ledger
WHERE at >= fromUnixTimestamp64Micro({_micros(start)}, 'UTC') AND at < fromUnixTimestamp64Micro({_micros(end)}, 'UTC')
    AND topic IN ({topics})
ORDER BY at""",
    )
    for at, topic, minutes, late, event_ts_min, append_ts_max, *key in found:
        yield Entry(
            at=at / 1e6,
            topic=str(topic),
            minutes=tuple(int(m) for m in minutes),
            late=tuple(late),
            event_ts_min=event_ts_min / 1e6,
            append_ts_max=append_ts_max / 1e6,
            key=(at, topic, *key),
        )


def _first(store: Store, start: float, until: float) -> float:
    """Time of the first row in [start, until); ``until`` when there is none."""
    found = rows(
        store,
        f"""SELECT count(), toUnixTimestamp64Micro(min(at))
FROM gpufleet.ingest_ledger
WHERE at >= fromUnixTimestamp64Micro({_micros(start)}, 'UTC')
    AND at < fromUnixTimestamp64Micro({_micros(until)}, 'UTC')""",
    )
    return int(found[0][1]) / 1e6 if found[0][0] else until


def _micros(at: float) -> int:
    return max(0, round(at * 1e6))


def oldest(store: Store) -> float:
    """Time of the ledger's first row; where a projector without a position starts. 0 for an empty ledger."""
    found = rows(store, "SELECT count(), toUnixTimestamp64Micro(min(at)) FROM gpufleet.ingest_ledger")
    return int(found[0][1]) / 1e6 if found[0][0] else 0.0


def load(store: Store) -> tuple[float | None, list[int]]:
    """The saved position (None: never saved), and hours that were still open."""
    found = rows(store, "SELECT name, toUnixTimestamp64Micro(position) FROM gpufleet.projector_state FINAL")
    position = next((int(p) / 1e6 for name, p in found if name == "ledger"), None)
    hours = [int(p) // 1_000_000 for name, p in found if str(name).startswith("hour/") and int(p) > 0]
    return position, sorted(hours)


def load_frontier(store: Store) -> int | None:
    """Minute before which health, jobs and sick GPUs have been computed, seconds since 1970; None: never."""
    sql = "SELECT toUnixTimestamp(toDateTime(position)) FROM gpufleet.projector_state FINAL WHERE name = 'health'"
    found = rows(store, sql)
    return int(found[0][0]) if found else None


def load_begin(store: Store) -> int | None:
    """Oldest minute of health that is there, seconds since 1970 (answered by what each part knows of its times)."""
    found = rows(store, "SELECT count(), toUnixTimestamp(min(ts)) FROM gpufleet.health_1m")
    return int(found[0][1]) if found[0][0] else None


def save(store: Store, position: float, owner: str) -> None:
    """Remember that all work up to ``position`` is done."""
    _put(store, "ledger", _micros(position), owner)


def save_hour(store: Store, hour: int, *, is_open: bool, owner: str) -> None:
    """Remember that gpu_1h of an hour is (or is no longer) to be computed once the hour has closed."""
    _put(store, f"hour/{hour}", hour * 1_000_000 if is_open else 0, owner)


def save_frontier(store: Store, minute: int, owner: str) -> None:
    """Remember that health, jobs and sick GPUs of every minute before ``minute`` have been computed."""
    _put(store, "health", minute * 1_000_000, owner)


def _put(store: Store, name: str, micros: int, owner: str) -> None:
    quoted = owner.replace("\\", "\\\\").replace("'", "\\'")
    store.command(
        "INSERT INTO gpufleet.projector_state (name, position, owner)"
        f" SELECT '{name}', fromUnixTimestamp64Micro({micros}, 'UTC'), '{quoted}'",
        settings={"async_insert": 0, "insert_deduplicate": 0},
    )
