"""What part of the store an audit looks at."""

from __future__ import annotations

from dataclasses import dataclass, replace


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@dataclass(frozen=True, slots=True)
class Scope:
    """Times in seconds since 1970, by the store's clock."""

    now: float
    oldest_raw: float
    """Raw events before this may be gone."""
    since: float | None = None
    """Event time from which on to look; None = all there is."""
    node: str | None = None
    """One producer, or all."""
    in_flight_s: float = 0.0
    """The tail of a run that stored something this recently counts as on its way."""

    def events(self, column: str) -> str:
        """Condition on an event table. ``column`` holds the node."""
        parts = ["1"]
        if self.since is not None:
            parts.append(f"ts >= fromUnixTimestamp64Micro({int(self.since * 1e6)}, 'UTC')")
        if self.node is not None:
            parts.append(f"{column} = {quoted(self.node)}")
        return " AND ".join(parts)

    def concerns(self, producer_id: str) -> bool:
        """Whether a producer is looked at."""
        return self.node is None or self.node == producer_id

    def unlimited(self) -> Scope:
        """The same without a limit in time."""
        return replace(self, since=None)
