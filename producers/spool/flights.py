"""What the broker's client has, and how a spool is: two plain records."""

from __future__ import annotations

from dataclasses import dataclass

from producers.spool.log import Log
from producers.spool.segment import Segment


@dataclass(slots=True)
class Flight:
    """An event that the broker's client has."""

    log: Log
    segment: Segment
    ordinal: int
    row: int
    """Of this run's journal; -1 for an event of an earlier run."""
    size: int
    at: float
    stream: tuple[int, str, str]
    """(run_id, producer_id, topic)"""
    backlog: bool


@dataclass(frozen=True, slots=True)
class Health:
    """How a spool is."""

    bytes: int
    """On disk."""
    events: int
    """Not acknowledged yet."""
    oldest_s: float
    """Age of the oldest of them."""
    link_up: bool
    writable: bool
    thinned: int
    given_up: int
