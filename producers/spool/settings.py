"""What a spool is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fsync = Literal["event", "interval", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """Settings of one spool. Sizes in bytes, times in seconds."""

    max_bytes: int = 256 << 20
    """Bound on the disk. Past it the oldest fast-lane ticks are thinned, then given up; facts never are."""
    max_age_s: float = 7 * 86_400.0
    """Telemetry older than this is given up: the consumer would refuse it."""
    fsync: Fsync = "interval"
    """When the disk is made to hold what was written. A killed process loses nothing in any case."""
    fsync_interval_s: float = 0.5
    """With ``interval``: the most a power cut can take."""
    drain_bytes_per_s: float = 100_000.0
    """Most of a backlog to send in a second; 0 = as fast as the broker takes it."""
    drain_jitter_s: float = 60.0
    """Sending a backlog begins up to this long after an outage (a tenth of its length at most)."""
    segment_bytes: int = 1 << 20
    """Size at which a file is closed."""
    live_window_bytes: int = 1 << 20
    """Live events that may wait for the broker in memory; more of them wait on disk."""
    drain_window_bytes: int = 256 << 10
    """Events of a backlog that may be on their way at a time."""
    link_timeout_s: float = 5.0
    """The broker counts as away when it acknowledged nothing for this long."""
    retry_s: float = 5.0
    """Time between two attempts to write to a disk that refused."""
