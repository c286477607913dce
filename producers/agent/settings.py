"""What an agent is told: who it is, how often it samples, which sources it has."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from producers.spool.settings import SpoolSettings

MINUTE_MS = 60_000
MAX_SPREAD = 0.6
"""Later than 60 % of the sending period, and the next stages no longer meet the freshness target."""
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
SOURCES = ("nvml", "kmsg", "dcgm", "host", "nic")


class AgentSettingsError(ValueError):
    """A setting that an agent cannot run with; says what was expected."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the node stands, as its configuration says; empty = unknown."""

    rack: str = ""
    slot: str = ""
    feed: str = ""
    pdu: str = ""
    coolant_loop: str = ""
    lifecycle: str = "accepted"


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Settings of one node agent. AgentSettingsError from the constructor names the one that is wrong."""

    node_id: str
    site: str
    state_dir: Path
    place: Place = field(default_factory=Place)
    interval_ms: int = 1000
    """Fast lane: time between two ticks."""
    ticks: int = 5
    """Fast lane: K, ticks in an event."""
    slow_interval_ms: int = 10_000
    """Slow lane: time between two ticks; an event a minute, and one at once on change."""
    spread: float = MAX_SPREAD
    """Sending is spread over this share of the sending period, by a hash of the node."""
    sources: tuple[str, ...] = ("nvml", "kmsg", "host", "nic")
    dcgm_url: str = "http://127.0.0.1:9400/metrics"
    dcgm_interval_s: float = 5.0
    dcgm_timeout_s: float = 2.0
    nvml_library: Path | None = None
    """The libnvidia-ml.so.1 to load; None = the system's."""
    kmsg: Path = Path("/dev/kmsg")
    sysfs: Path = Path("/sys")
    procfs: Path = Path("/proc")
    pending_facts: int = 10_000
    """Discrete events kept while the outbox refuses."""
    pending_samples: int = 600
    """Fast-lane and slow-lane events kept while the outbox refuses, beyond the outbox's own bound."""
    spool_dir: Path | None = None
    """Folder of the durable spool; None = events wait for the broker in memory alone."""
    spool: SpoolSettings = field(default_factory=SpoolSettings)
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    """Port of /metrics; 0 = any free one, None = no page."""

    def __post_init__(self) -> None:
        per_minute, rest = divmod(MINUTE_MS, max(self.interval_ms, 1))
        if self.interval_ms < 1 or rest:
            raise AgentSettingsError(f"interval_ms must divide a minute (60000), found {self.interval_ms}")
        if self.ticks < 1 or per_minute % self.ticks or self.ticks > 255:
            raise AgentSettingsError(
                f"ticks (K) must divide the {per_minute} ticks of a minute and be at most 255, found {self.ticks}"
            )
        if self.slow_interval_ms % self.interval_ms or MINUTE_MS % self.slow_interval_ms:
            raise AgentSettingsError(
                f"slow_interval_ms must be a multiple of interval_ms and divide a minute, found {self.slow_interval_ms}"
            )
        if not 0 <= self.spread <= MAX_SPREAD:
            raise AgentSettingsError(f"spread must lie between 0 and {MAX_SPREAD}, found {self.spread}")
        unknown = [name for name in self.sources if name not in SOURCES]
        if unknown or not self.sources:
            raise AgentSettingsError(
                f"sources must be some of {', '.join(SOURCES)}; found {', '.join(unknown) or 'none'}"
            )
        if not NODE_NAME.fullmatch(self.node_id):
            raise AgentSettingsError(
                "node_id must be letters, digits and . _ : - (the first one a letter or digit, at most 128 in all), "
                f"as in a host name; found {self.node_id!r}"
            )
