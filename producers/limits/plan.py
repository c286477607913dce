"""From what is declared and what holds to the events that make it so, or the reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from producers.checks import utc_text
from producers.errors import ConflictError
from producers.limits.model import HeldLimit, Limit, LimitHistory, LimitKey


@dataclass(frozen=True, slots=True)
class LimitChange:
    """One limit that will get a new value."""

    key: LimitKey
    value: float | None
    """None = removed."""
    previous: float | None
    """The value before; None when there was none."""
    valid_from: int
    action: str
    """set, raised, lowered or removed."""

    def __str__(self) -> str:
        before = "" if self.previous is None else f"{self.previous:,.15g} -> "
        value = "none" if self.value is None else f"{self.value:,.15g}"
        return f"{self.action}: {self.key}: {before}{value} from {utc_text(self.valid_from)}"

    def fields(self, reason: str) -> dict[str, Any]:
        """The event for topic tenant-limits, without its header."""
        return {
            "tenant": self.key.tenant,
            "limit_name": self.key.name,
            "window_s": self.key.window_s,
            "product": self.key.product,
            "model": self.key.model,
            "tier": self.key.tier,
            "limit_value": 0.0 if self.value is None else self.value,
            "previous_value": self.previous,
            "valid_from": self.valid_from,
            "action": self.action,
            "reason": reason,
        }


def plan(history: LimitHistory, declared: Sequence[Limit], now_us: int) -> list[LimitChange]:
    """The changes that make what is declared hold; limits that are not declared stay as they are.

    A limit without ``from`` begins at ``now_us``, cut to the second. ConflictError for a change that would begin
    before the limit's latest one: that one would go on holding.
    """
    return [change for limit in declared if (change := _change(history.last(limit.key), limit, now_us))]


def _change(last: HeldLimit | None, limit: Limit, now_us: int) -> LimitChange | None:
    previous = last.value if last else None
    if limit.value == previous and (last is None or limit.valid_from in (None, last.valid_from)):
        return None
    if limit.value is None and previous is None:
        return None
    valid_from = now_us - now_us % 1_000_000 if limit.valid_from is None else limit.valid_from
    if last and valid_from < last.valid_from:
        held = "none" if last.value is None else f"{last.value:,.15g}"
        raise ConflictError(
            f"limit {limit.key}: a change from {utc_text(valid_from)} would not hold, for another begins later, at "
            f"{utc_text(last.valid_from)} ({last.action} to {held}): "
            "give a `from` after it"
        )
    return LimitChange(limit.key, limit.value, previous, valid_from, _action(previous, limit.value))


def _action(previous: float | None, value: float | None) -> str:
    if value is None:
        return "removed"
    if previous is None or value == previous:
        return "set"
    return "raised" if value > previous else "lowered"
