"""What schedules came to, as lines of JSON between processes and as a table for docs/reliability.md."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.plan import SPECIAL, WEIGHTS, Plan
from tests.chaos.schedule import Outcome


def line(outcome: Outcome) -> str:
    """One passed schedule."""
    return json.dumps(
        {
            "seed": outcome.plan.seed,
            "special": outcome.plan.special,
            "faults": [fault.kind for fault in outcome.plan.faults],
            "unmet": outcome.unmet,
            "events": outcome.events,
            "copies": outcome.copies,
            "dead_letters": outcome.dead_letters,
            "unmerged": outcome.unmerged,
            "hung": outcome.hung,
            "recovery": outcome.recovery,
            "seconds": {name: round(seconds, 2) for name, seconds in outcome.seconds.items()},
        }
    )


def failure(plan: Plan, error: BaseException) -> str:
    """One failed schedule."""
    return json.dumps({"seed": plan.seed, "plan": str(plan), "failed": f"{type(error).__name__}: {error}"})


@dataclass
class Results:
    """Sums over all schedules of all worlds."""

    passed: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    unmet: Counter[str] = field(default_factory=Counter)
    special: Counter[str] = field(default_factory=Counter)
    events: int = 0
    copies: int = 0
    dead_letters: int = 0
    unmerged: int = 0
    hung: int = 0
    recovery: dict[str, list[float]] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)

    def add(self, told: dict[str, Any]) -> None:
        """Count a line."""
        if "failed" in told:
            self.failed.append(told)
            return
        self.passed += 1
        self.unmet.update(told["unmet"])
        self.faults.update(told["faults"])
        self.faults.subtract(told["unmet"])
        if told["special"]:
            self.special[told["special"]] += 1
        self.events += told["events"]
        self.copies += told["copies"]
        self.dead_letters += told["dead_letters"]
        self.unmerged += told["unmerged"]
        self.hung += told["hung"]
        for what, seconds in told["recovery"]:
            self.recovery.setdefault(what, []).append(seconds)
        for phase, seconds in told["seconds"].items():
            self.seconds[phase] += seconds

    def read(self, record: Path | None) -> float:
        """Count the schedules of earlier runs; the seconds that they took."""
        wall_s = 0.0
        if record is not None and record.exists():
            for line in record.read_text().splitlines():
                told = json.loads(line)
                self.add(told)
                wall_s = max(wall_s, float(told["wall_s"]))
        return wall_s

    def progress(self, elapsed_s: float) -> str:
        """One line for a person who waits."""
        rate = self.passed / max(1.0, elapsed_s) * 60
        return (
            f"{elapsed_s / 60:5.1f} min: {self.passed} passed, {len(self.failed)} failed, {rate:.0f} a minute,"
            f" {self.faults.total()} faults, {self.events:,} events, {self.copies:,} sent again"
        )

    def table(self, elapsed_s: float, machine: str) -> str:
        """Markdown."""
        kills = [s for some in self.recovery.values() for s in some]
        rows = [
            ("schedules passed", f"{self.passed:,}"),
            ("schedules failed", f"{len(self.failed):,}"),
            ("faults", f"{self.faults.total():,}"),
            ("events, each compared field by field", f"{self.events:,}"),
            ("messages sent again by producers", f"{self.copies:,}"),
            ("lost", "0" if not self.failed else "see the failed"),
            ("doubled for any reader", "0" if not self.failed else "see the failed"),
            ("rows of inserts that outlived their sender, removed by `audit --repair`", f"{self.unmerged:,}"),
            ("dead letters, each stored once", f"{self.dead_letters:,}"),
            ("consumers ended by their watchdog", f"{self.hung:,}"),
            ("wall time", f"{elapsed_s / 60:.0f} min"),
            ("machine", machine),
        ]
        text = _table(("", ""), rows)
        text += "\n\nFirst fresh row after a kill, of the slowest partition, seconds:\n\n"
        measured = [(what, *_spread(self.recovery[what])) for what in sorted(self.recovery)]
        text += _table(("killed", "kills", "p50", "p95", "max"), [*measured, ("all", *_spread(kills))])
        text += "\n\nFaults by kind:\n\n"
        kinds = [*WEIGHTS, *SPECIAL]
        counted = [(kind, f"{(self.faults | self.special)[kind]:,}") for kind in kinds]
        text += _table(("fault", "times"), counted)
        if self.unmet:
            text += f"\n\nNot possible here: {dict(self.unmet)}"
        return text


def _spread(seconds: Sequence[float]) -> tuple[str, str, str, str]:
    if not seconds:
        return "0", "-", "-", "-"
    ordered = sorted(seconds)

    def at(share: float) -> str:
        return f"{ordered[min(len(ordered) - 1, int(share * len(ordered)))]:.1f}"

    return f"{len(ordered):,}", at(0.5), at(0.95), f"{ordered[-1]:.1f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
