"""What a limit is, and which limits the log holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from producers.log import LogEvent

TOPIC = "tenant-limits"
RATES = ("requests", "input_tokens", "output_tokens", "messages")
"""Counted over a window."""
LEVELS = ("gpu_quota", "power_cap")
"""Not to be exceeded at any moment: GPUs, watts."""


class LimitKey(NamedTuple):
    """What a limit binds; one value holds for each at a time."""

    tenant: str
    name: str
    window_s: int = 0
    product: str = ""
    model: str = ""
    tier: str = ""

    def __str__(self) -> str:
        window = f"/{window_text(self.window_s)}" if self.window_s else ""
        binds = [part for part in self[3:] if part]
        return f"{self.tenant} {self.name}{window}" + (f" ({', '.join(binds)})" if binds else "")


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit as declared."""

    key: LimitKey
    value: float | None
    """In its own unit: requests, tokens, GPUs, W. None = there shall be none."""
    valid_from: int | None = None
    """Microseconds since 1970; None = from now on."""


@dataclass(frozen=True, slots=True)
class HeldLimit:
    """The last word of the log on a limit; it may begin in the future."""

    key: LimitKey
    value: float | None
    """None = removed."""
    valid_from: int
    action: str
    reason: str
    order: tuple[int, int, int, int]
    """(valid_from, ts, run_id, seq): of those that have begun, the highest holds."""


class LimitHistory:
    """What the log says about the limits of one site."""

    def __init__(self, events: Iterable[LogEvent], site: str) -> None:
        self._changes: dict[LimitKey, list[HeldLimit]] = {}
        for event in events:
            fields = event.fields
            if fields["site"] != site:
                continue
            names = ("tenant", "limit_name", "window_s", "product", "model", "tier")
            key = LimitKey(*(fields[name] for name in names))
            order = (fields["valid_from"], fields["ts"], event.identity.run_id, event.identity.seq)
            value = None if fields["action"] == "removed" else fields["limit_value"]
            change = HeldLimit(key, value, fields["valid_from"], fields["action"], fields["reason"], order)
            self._changes.setdefault(key, []).append(change)
        for changes in self._changes.values():
            changes.sort(key=lambda change: change.order)

    def last(self, key: LimitKey) -> HeldLimit | None:
        """The latest change, begun or not; None for a limit that there never was."""
        changes = self._changes.get(key)
        return changes[-1] if changes else None

    def holding(self, key: LimitKey, us: int) -> HeldLimit | None:
        """What holds at a moment; None when nothing does."""
        begun = [change for change in self._changes.get(key, ()) if change.valid_from <= us]
        return begun[-1] if begun and begun[-1].value is not None else None

    def keys(self) -> list[LimitKey]:
        """Every limit that ever was, sorted."""
        return sorted(self._changes)


def window_text(window_s: int) -> str:
    """60 as 1m, 18000 as 5h, 604800 as 7d."""
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if window_s and window_s % seconds == 0:
            return f"{window_s // seconds}{unit}"
    return f"{window_s}s"
