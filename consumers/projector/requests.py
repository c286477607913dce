"""Requests to recompute a range, kept in the store: by the audit's repair, a rebuild, or a person."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from consumers.projector.store import Store, rows
from consumers.projector.windows import MINUTE_S, Range, instant


@dataclass(frozen=True, slots=True)
class Request:
    """A range of time to recompute, in seconds since 1970; no nodes = all."""

    request_id: str
    start: int
    end: int
    nodes: frozenset[str]

    def minutes(self, oldest_raw: float) -> list[int]:
        """The minutes of the range whose raw events are still there."""
        first = max(self.start, int(oldest_raw)) // MINUTE_S * MINUTE_S
        return list(range(first, self.end, MINUTE_S))


def ask(store: Store, window: Range, nodes: Iterable[str] | None, reason: str) -> None:
    """Put a request; the projector answers it in its next steps."""
    named = ", ".join(_quoted(n) for n in sorted(nodes or ()))
    store.command(
        "INSERT INTO gpufleet.projector_requests (from_ts, to_ts, nodes, reason)"
        f" SELECT {instant(window.start)}, {instant(window.end)}, [{named}]::Array(String), {_quoted(reason)}",
        settings={"async_insert": 0, "insert_deduplicate": 0},
    )


def unanswered(store: Store) -> list[Request]:
    """Requests that have not been answered, oldest first."""
    found = rows(
        store,
        "SELECT toString(request_id), toUnixTimestamp(from_ts), toUnixTimestamp(to_ts), nodes"
        " FROM gpufleet.projector_requests FINAL WHERE done_at IS NULL ORDER BY requested_at",
    )
    return [Request(str(r[0]), int(r[1]), int(r[2]), frozenset(r[3])) for r in found]


def answered(store: Store, request: Request) -> None:
    """Mark a request as done."""
    store.command(
        "INSERT INTO gpufleet.projector_requests (requested_at, request_id, from_ts, to_ts, nodes, reason, done_at)"
        " SELECT now64(6), request_id, from_ts, to_ts, nodes, reason, now64(6) FROM gpufleet.projector_requests FINAL"
        f" WHERE request_id = toUUID('{request.request_id}')",
        settings={"async_insert": 0, "insert_deduplicate": 0},
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
