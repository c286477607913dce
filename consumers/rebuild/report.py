"""What a rebuild found and did, for people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from consumers.rebuild.compare import Hour
from consumers.rebuild.gone import Gone


@dataclass(frozen=True, slots=True)
class Reading:
    """What is to be read of one partition of the log, or of a projection's sources."""

    source: str
    first: int
    """Offset; for a projection the first second of the range."""
    end: int
    count: int
    """Messages; for a projection rows of its source."""


@dataclass(slots=True)
class Plan:
    """What a rebuild would read: nothing is written for it."""

    table: str
    readings: list[Reading] = field(default_factory=list)
    live_rows: int = 0
    """Rows of the live table in the range."""
    gone: list[Gone] = field(default_factory=list)
    hours_left_alone: list[int] = field(default_factory=list)
    bytes: int | None = None
    """Of messages' values, as the ledger has them; None for a projection."""

    @property
    def count(self) -> int:
        return sum(reading.count for reading in self.readings)


@dataclass(slots=True)
class Report:
    """A comparison, and what was done about it."""

    table: str
    hours: list[Hour] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    read: int = 0
    """Messages or windows that this run read or computed."""
    rows: int = 0
    """Rows that this run put into the table beside the live one."""
    duplicates: int = 0
    bad: int = 0
    """Messages that are dead letters."""
    seconds: float = 0.0
    """Reading, without comparison and swap."""
    behind: int = 0
    """Messages that the live consumer had not stored when it was waited for no longer: they count as missing."""
    unsettled: int = 0
    """Windows that were not judged: their minutes are still being computed."""
    swapped: list[str] = field(default_factory=list)
    """Partitions of the live table that were exchanged."""
    put_back: int = 0
    """Rows that came in meanwhile and were put into the exchanged table again."""
    recompute: list[tuple[int, int]] = field(default_factory=list)
    """Ranges that the projector was asked to compute anew."""
    notes: list[str] = field(default_factory=list)
    doubtful: str = ""
    """Why what was built should not be trusted: it is not exchanged."""

    @property
    def differing(self) -> list[Hour]:
        return [hour for hour in self.hours if hour.differs]

    @property
    def judged(self) -> list[Hour]:
        """Hours whose sources are still there."""
        return [hour for hour in self.hours if not hour.gone]

    @property
    def equal(self) -> bool:
        """Whether no judged hour differs, and there was one to judge unless the table is empty."""
        return not self.differing and bool(self.judged or not self.hours)

    def to_dict(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "equal": self.equal,
            "judged": len(self.judged),
            "hours": [hour.to_dict() for hour in self.hours],
            "gone": [one.to_dict() for one in self.gone],
            "read": self.read,
            "rows": self.rows,
            "duplicates": self.duplicates,
            "dead_letters": self.bad,
            "seconds": round(self.seconds, 2),
            "live_behind": self.behind,
            "windows_unsettled": self.unsettled,
            "swapped": self.swapped,
            "put_back": self.put_back,
            "recompute": [list(one) for one in self.recompute],
            "notes": self.notes,
            "doubtful": self.doubtful,
        }


def together(starts: Sequence[int], step: int) -> list[tuple[int, int]]:
    """Sorted starts of neighbouring ranges of one length as [start, end) ranges."""
    found: list[tuple[int, int]] = []
    for start in sorted(set(starts)):
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], start + step)
        else:
            found.append((start, start + step))
    return found
