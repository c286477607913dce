"""From what the browser may name (a board, a query of it, variables, a range) to the SQL that the store is asked.

The browser never sends SQL, and the values of its variables reach the text the way Grafana's do. Who asks decides what
comes back: operator boards are asked as the configured user, customer boards as a tenant, whose rows the store's own
policies choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from infra.grafana.expand import MAX_DATA_POINTS, MacroError, TimeRange, Value, expand, interval_of
from infra.preview.boards import Board, Boards

LONGEST_VALUE: Final = 1000
"""Characters of a variable's value; no name of anything is longer."""
LAST_MS: Final = 4_102_444_800_000
"""2100-01-01: DateTime columns end soon after it."""
MOST_POINTS: Final = 4000


class RefusedError(ValueError):
    """A request that makes no sense, or that this asker may not make; the message says which."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask, and as whom."""

    sql: str
    tenant: str
    """The tenant whose user asks; empty = the configured user."""


@dataclass(frozen=True, slots=True)
class Askers:
    """Who may be asked as. ``only``: this server shows that tenant's view and nothing else."""

    tenants: tuple[str, ...]
    only: str = ""

    def sees(self, board: Board) -> bool:
        """Whether a board is offered at all."""
        return not self.only or board.dashboard.audience == "customer"

    def tenant(self, board: Board, wanted: str) -> str:
        """The tenant that a board is asked as, empty for the operator; RefusedError."""
        title = board.dashboard.title
        if self.only and (wanted not in ("", self.only) or not self.sees(board)):
            raise RefusedError(f"this page shows the view of {self.only} only")
        if board.dashboard.audience == "operator":
            if wanted:
                raise RefusedError(f"{title} is an operator's board: it is not asked as a tenant")
            return ""
        chosen = wanted or self.only
        if not chosen:
            raise RefusedError(f"{title} is a customer's board: choose whose view")
        if chosen not in self.tenants:
            raise RefusedError(
                f"no credentials for tenant {chosen[:80]!r}; there are: {', '.join(self.tenants) or 'none'}"
            )
        return chosen


def question(boards: Boards, askers: Askers, body: Any) -> Question:
    """The question in a request's body; RefusedError or NotFoundError.

    ``{"board": uid, "role": "panel" | "variable" | "annotation", "name": ..., "from": ms, "to": ms, "points": n,
    "variables": {name: text}, "as": tenant}``
    """
    if not isinstance(body, Mapping):
        raise RefusedError("expected a JSON object")
    unknown = set(body) - {"board", "role", "name", "from", "to", "points", "variables", "as"}
    if unknown:
        raise RefusedError(f"unknown: {', '.join(sorted(str(name)[:40] for name in unknown))}")
    board = boards[_text(body, "board")]
    tenant = askers.tenant(board, _text(body, "as", ""))
    query = board.query(_text(body, "role"), _text(body, "name"))
    time_range = _range(body)
    interval = interval_of(query, time_range, _points(body.get("points", MAX_DATA_POINTS)))
    values: dict[str, Value | str] = {**board.dashboard.defaults()}
    values |= _variables(board, body.get("variables") or {})
    try:
        return Question(expand(query.sql, time_range, values, interval), tenant)
    except (MacroError, OverflowError) as error:
        raise RefusedError(str(error)) from None


def _text(body: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str) or len(value) > LONGEST_VALUE:
        raise RefusedError(f"expected {name} to be a text of at most {LONGEST_VALUE} characters")
    return value


def _range(body: Mapping[str, Any]) -> TimeRange:
    ends = [body.get("from"), body.get("to")]
    if not all(isinstance(end, int) and not isinstance(end, bool) and 0 <= end <= LAST_MS for end in ends):
        raise RefusedError("expected from and to as milliseconds since 1970, before the year 2100")
    start, end = int(ends[0] or 0), int(ends[1] or 0)
    if start >= end:
        raise RefusedError("expected a range that ends after its start")
    return TimeRange(start, end)


def _points(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RefusedError("expected points to be a whole number from 1 up")
    return min(value, MOST_POINTS)


def _variables(board: Board, given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise RefusedError("expected variables to be an object")
    known = {variable.name for variable in board.dashboard.variables}
    for name, value in given.items():
        if name not in known:
            raise RefusedError(f"{board.dashboard.uid} has no variable {str(name)[:80]!r}")
        if not isinstance(value, str) or len(value) > LONGEST_VALUE:
            raise RefusedError(f"variable {name}: expected one text of at most {LONGEST_VALUE} characters")
        if not value.isprintable():
            raise RefusedError(f"variable {name}: expected printable characters")
    return dict(given)
