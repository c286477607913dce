"""Removes rows that are stored twice, where the engine will not merge them any more.

Doubles in two parts vanish when the parts merge; beside a part above the merge size limit they never do. All but the
last inserted row of an event are deleted by their place (``_part``, ``_part_offset``); a part that merged meanwhile no
longer has the name, so nothing is deleted by mistake and the next attempt finds what is left.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from consumers.audit.report import Finding, Kind
from consumers.audit.scope import quoted
from consumers.projector.requests import ask
from consumers.projector.store import Store, rows
from consumers.projector.windows import MINUTE_S, Range
from schemas.catalogue import KINDS, EventKind

log = logging.getLogger(__name__)

ATTEMPTS = 5
_CHUNK = 500


@dataclass(slots=True)
class Repaired:
    """What a repair did."""

    deleted: dict[str, int] = field(default_factory=dict)
    """Rows deleted, by table."""
    minutes: int = 0
    """Minutes that the projector was asked to recompute."""
    left: int = 0
    """Doubles that are still there: merges kept moving them; run the repair again."""


def repair(store: Store, findings: Iterable[Finding]) -> Repaired:
    """Remove the doubles among the findings, and have stale windows and those they touched recomputed.

    A CONFLICT is left alone: which of two different events is the true one is not for a program to say.
    """
    done = Repaired()
    touched: set[int] = set()
    doubled: dict[str, set[tuple[str, int]]] = {}
    for finding in findings:
        if finding.kind is Kind.DOUBLE:
            doubled.setdefault(finding.topic, set()).add((finding.producer_id, finding.run_id))
        elif finding.kind is Kind.WINDOW:
            touched.update(range(finding.first, finding.last, MINUTE_S))
    for topic, runs in sorted(doubled.items()):
        kind = KINDS[topic]
        minutes = _remove(store, kind, sorted(runs), done)
        if topic == "node-telemetry":
            touched |= minutes
    for window in _ranges(touched):
        ask(store, window, None, "audit --repair")
    done.minutes = len(touched)
    return done


def _remove(store: Store, kind: EventKind, runs: Sequence[tuple[str, int]], done: Repaired) -> set[int]:
    minutes: set[int] = set()
    for at in range(0, len(runs), _CHUNK):
        pairs = ", ".join(f"({quoted(p)}, {r})" for p, r in runs[at : at + _CHUNK])
        of_these = f"(producer_id, run_id) IN ({pairs})"
        found = _extra(store, kind, of_these)
        for _ in range(ATTEMPTS):
            if not found:
                break
            for part, offsets, at_minutes in found:
                minutes.update(at_minutes)
                store.command(
                    f"ALTER TABLE gpufleet.{kind.table} DELETE WHERE _part = {quoted(part)} AND _part_offset IN"
                    f" ({', '.join(map(str, offsets))})",
                    settings={"mutations_sync": 2, "max_execution_time": 600},
                )
            before = sum(len(offsets) for _, offsets, _ in found)
            found = _extra(store, kind, of_these)
            deleted = before - sum(len(offsets) for _, offsets, _ in found)
            done.deleted[kind.table] = done.deleted.get(kind.table, 0) + deleted
            log.info("%s: %d doubled rows deleted", kind.table, deleted)
        done.left += sum(len(offsets) for _, offsets, _ in found)
    return minutes


def _extra(store: Store, kind: EventKind, of_these: str) -> list[tuple[str, list[int], list[int]]]:
    """Places of the rows to delete: all but the newest of each event."""
    order = ", ".join(kind.sort)
    found = rows(
        store,
        f"""SELECT part, groupArray(place), groupUniqArray(minute)
FROM
(
    SELECT _part AS part, _part_offset AS place, toUnixTimestamp(toStartOfMinute(toDateTime(ts, 'UTC'))) AS minute,
        row_number() OVER (PARTITION BY {order}, ts, producer_id, run_id, seq
            ORDER BY stored_at DESC, _part DESC, _part_offset DESC) AS nth
    FROM gpufleet.{kind.table}
    WHERE {of_these}
)
WHERE nth > 1
GROUP BY part""",
    )
    return [(str(p), [int(o) for o in offsets], [int(m) for m in minutes]) for p, offsets, minutes in found]


def _ranges(minutes: set[int]) -> list[Range]:
    found: list[Range] = []
    for minute in sorted(minutes):
        if found and found[-1].end == minute:
            found[-1] = Range(found[-1].start, minute + MINUTE_S)
        else:
            found.append(Range(minute, minute + MINUTE_S))
    return found
