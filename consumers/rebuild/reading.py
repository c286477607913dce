"""What is kept of a log while it is read, in all and by partition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from consumers.batch import Bad
from consumers.commit import CommitHorizon
from consumers.intake import PartitionIntake
from consumers.rebuild.state import Position


@dataclass(slots=True)
class Counted:
    """What reading has done so far."""

    messages: int = 0
    """Read from the log."""
    skipped: int = 0
    """Of these, events outside the range of time."""
    rows: int = 0
    """Inserted."""
    duplicates: int = 0
    """In the table already: sent twice, or read again after a kill."""
    bad: int = 0
    """Dead letters: told of when they came, left out here."""
    minutes: set[int] = field(default_factory=set)
    """UTC minutes of the rows inserted, seconds since 1970."""


@dataclass(slots=True, eq=False)
class PartitionReading:
    """One partition while it is read."""

    intake: PartitionIntake
    horizon: CommitHorizon
    position: Position
    until: int
    seen: int
    """One past the last message taken from Kafka, in the range or not."""
    tail_from: float | None = None
    heard_at: float = 0.0
    """Monotonic time of its last message, or of the beginning."""
    at_end: bool = False
    """The broker has said that there is no more, and nothing came since."""
    ended: bool = False
    blocked_until: float = 0.0


class NoLetters:
    """Messages that cannot be stored are dead letters since they came."""

    def write(self, bad: Sequence[tuple[Bad, str]]) -> None:
        """Nothing to write."""
