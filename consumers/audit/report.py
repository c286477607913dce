"""What an audit found, for people and programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


class Kind(Enum):
    """What is wrong, or only worth saying."""

    GAP = "gap"
    """Sequence numbers between stored ones are neither stored nor dead letters."""
    TAIL = "tail"
    """The last numbers that a run gave out are neither stored nor dead letters."""
    DOUBLE = "double"
    """An event is stored more than once."""
    CONFLICT = "conflict"
    """One identity, two different event times: the producer used a number twice."""
    LEDGER_HOLE = "ledger_hole"
    """Kafka offsets that no ledger row accounts for."""
    LEDGER_SUM = "ledger_sum"
    """A ledger row whose messages are not rows + duplicates + dead letters."""
    LEDGER_BEHIND = "ledger_behind"
    """Offsets were committed that no ledger row accounts for."""
    WINDOW = "window"
    """A window is not what its events say."""
    PROJECTOR_BEHIND = "projector_behind"
    """The projector is not following the ledger."""
    TENANT = "tenant"
    """Rows carry another tenant than the leases say."""
    RETENTION = "retention"
    """The head of a run or partition is older than what is kept: not an error."""
    IN_FLIGHT = "in_flight"
    """The last numbers of a run that is alive may still be on their way: not an error."""
    LATE = "late"
    """The producer's spool holds them and has said so: they are still to come."""
    THINNED = "thinned"
    """A full spool made fewer, coarser events of them and has named each: not an error."""


HARMLESS = frozenset({Kind.RETENTION, Kind.IN_FLIGHT, Kind.LATE, Kind.THINNED})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found, with the exact place."""

    kind: Kind
    topic: str
    """Topic, or table for windows."""
    detail: str
    """What was expected and what was found, in a sentence."""
    producer_id: str = ""
    run_id: int = 0
    first: int = 0
    """First sequence number or offset; of a window: its first minute, seconds since 1970."""
    last: int = 0
    """Last sequence number or offset, inclusive; of a window: its end."""
    count: int = 0
    """Events, rows or windows."""

    @property
    def harmless(self) -> bool:
        return self.kind in HARMLESS

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "kind": self.kind.value}

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.topic}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Expected:
    """What a producer's run gave out on a topic, by its journal or its successor's agent_start."""

    producer_id: str
    run_id: int
    topic: str
    given: int
    """Sequence numbers 0 .. given-1 were given out."""
    ended: bool = False
    """The run is known to be over: nothing of it is on its way any more."""


MAX_LISTED = 1000


@dataclass(slots=True)
class AuditReport:
    """The accounts, and what is off."""

    produced: dict[str, int] = field(default_factory=dict)
    """Events given out, by topic, of the runs that somebody answers for."""
    stored: dict[str, int] = field(default_factory=dict)
    """Distinct events stored, by topic."""
    gpu_samples: int = 0
    lost: int = 0
    duplicated: int = 0
    """Rows beyond one per event."""
    late: int = 0
    """Events that wait in producers' spools."""
    thinned: int = 0
    """Events that full spools merged into coarser ones."""
    dead_letters: int = 0
    freshness_p50_s: float | None = None
    """Store time minus tick time of live ticks; None when there are none."""
    freshness_p99_s: float | None = None
    ticks_live: int = 0
    """Node ticks that freshness is measured on: of live runs, stored within two minutes."""
    ticks_late: int = 0
    """Those of live runs that came later (an outage, a spool); a back-fill counts in neither."""
    windows_checked: int = 0
    """Minutes whose windows were computed again."""
    hours_checked: int = 0
    """Hours whose windows were computed again."""
    findings: list[Finding] = field(default_factory=list)
    unlisted: int = 0
    """Findings beyond those listed."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Nothing is off; harmless findings do not count."""
        return not self.lost and not self.duplicated and all(f.harmless for f in self.findings)

    def add(self, findings: Iterable[Finding]) -> None:
        """List findings, wrong ones always ahead of the bound."""
        for finding in findings:
            if len(self.findings) < MAX_LISTED or not finding.harmless:
                self.findings.append(finding)
            else:
                self.unlisted += 1

    def to_dict(self) -> dict[str, Any]:
        """As one JSON object; at most ``MAX_LISTED`` findings, the wrong ones first."""
        listed = sorted(self.findings, key=lambda f: f.harmless)[:MAX_LISTED]
        return {
            "ok": self.ok,
            "produced": self.produced,
            "stored": self.stored,
            "gpu_samples": self.gpu_samples,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "late": self.late,
            "thinned": self.thinned,
            "dead_letters": self.dead_letters,
            "freshness_p50_s": self.freshness_p50_s,
            "freshness_p99_s": self.freshness_p99_s,
            "ticks_live": self.ticks_live,
            "ticks_late": self.ticks_late,
            "windows_checked": self.windows_checked,
            "hours_checked": self.hours_checked,
            "findings": [f.to_dict() for f in listed],
            "findings_unlisted": self.unlisted + len(self.findings) - len(listed),
            "seconds": round(self.seconds, 2),
        }
