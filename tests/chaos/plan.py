"""What a schedule does, all of it drawn from its seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

KILL_POINTS = (
    "polled", "looked up", "framed", "insert sent", "insert answered", "inserted", "dead letters flushed", "recorded",
    "ledger stamped", "ledger written", "to commit", "committed", "revoke drained", "assigned",
)  # fmt: skip
"""Failpoints of the consumer, in the order of the hot path."""
PROJECTOR_POINTS = ("window inserted", "window written", "position saved", "lease read")
RAISE_POINTS = ("looked up", "framed", "insert answered", "inserted", "ledger stamped", "ledger written")
"""Where an error of the store may come up."""

WEIGHTS: Mapping[str, float] = {
    "consumer killed": 10,
    "consumer stopped": 8,
    "consumer joins": 5,
    "consumer leaves": 5,
    "consumer at a failpoint": 16,
    "producer killed": 7,
    "producer stopped": 4,
    "producer's clock steps": 5,
    "projector killed": 6,
    "projector stopped": 4,
    "projector at a failpoint": 5,
    "projector replaced": 2,
    "broker killed": 0.6,
    "broker stopped": 3,
    "store killed": 5,
    "store stopped": 5,
    "store's disk full": 4,
    "store forgets": 3,
    "connections cut": 6,
    "connections refused": 3,
    "connections slowed": 4,
    "connections held": 4,
    "answer lost": 12,
    "request cut": 6,
    "killed before the answer": 4,
    "garbage": 6,
}
"""Faults and how often each is drawn."""
SPECIAL: Mapping[str, float] = {"topic recreated": 0.025, "retention overtakes": 0.025}
"""Kinds of schedules of their own, and their share."""


@dataclass(frozen=True)
class Fault:
    """One fault. Times in seconds of the schedule."""

    at: float
    kind: str
    lasts: float
    which: float
    """0 to 1: picks a process, a link, a place."""
    detail: str = ""


@dataclass(frozen=True)
class Plan:
    """One schedule."""

    seed: int
    special: str
    """Empty, or one of ``SPECIAL``."""
    seconds: float
    """For which producers send."""
    back_s: int
    """How far before now the events lie."""
    speed: float
    every_s: float
    producers: int
    nodes: int
    """Of each producer."""
    leased: bool
    consumers: int
    """Running at the beginning and the end."""
    faults: tuple[Fault, ...] = field(default=())

    def __str__(self) -> str:
        told = ", ".join(f"{f.at:.2f} s {f.kind}{' ' + f.detail if f.detail else ''}" for f in self.faults)
        return f"seed {self.seed}: {self.special + ': ' if self.special else ''}{told or 'no fault'}"


def plan(seed: int, special: str | None = None) -> Plan:
    """The schedule of a seed. ``special`` overrules what the seed says."""
    pick = random.Random(seed)
    drawn = pick.random()
    chosen, at = "", 0.0
    for name, share in SPECIAL.items():
        if at <= drawn < at + share:
            chosen = name
        at += share
    seconds = pick.uniform(1.0, 2.2)
    faults = []
    for _ in range(pick.choice([1, 1, 2, 2, 3, 3, 4, 5, 6])):
        kind = pick.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        faults.append(
            Fault(pick.uniform(0.05, seconds * 0.75), kind, _lasts(kind, pick), pick.random(), _detail(kind, pick))
        )
    return Plan(
        seed=seed,
        special=chosen if special is None else special,
        seconds=seconds,
        back_s=pick.choice([150] * 8 + [210] * 6 + [300] * 4 + [600, 3600]),
        speed=pick.choice([5.0, 25.0, 40.0]),
        every_s=pick.choice([0.08, 0.15]),
        producers=pick.choice([1, 1, 2]),
        nodes=pick.randint(2, 5),
        leased=pick.random() < 0.25,
        consumers=pick.choice([1, 2, 2, 3]),
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
    )


def _lasts(kind: str, pick: random.Random) -> float:
    if kind in ("consumer stopped", "store stopped", "projector stopped"):
        return pick.choice([pick.uniform(0.1, 0.8), pick.uniform(0.8, 2.0), pick.uniform(2.2, 3.2)])
    if kind == "broker stopped":
        return pick.choice([pick.uniform(0.1, 0.8), pick.uniform(0.8, 2.5)])
    return pick.uniform(0.05, 0.8)


def _detail(kind: str, pick: random.Random) -> str:
    if kind == "consumer at a failpoint":
        point = pick.choice(KILL_POINTS)
        action = pick.choice(["kill", "kill", "sleep:0.4", "sleep:1.5", "raise"])
        if action == "raise" and point not in RAISE_POINTS:
            action = "kill"
        return f"{point}={action}@{pick.choice([1, 1, 2, 3])}"
    if kind == "projector at a failpoint":
        return f"{pick.choice(PROJECTOR_POINTS)}={pick.choice(['kill', 'sleep:0.7'])}@{pick.choice([1, 2, 5])}"
    if kind in ("answer lost", "request cut"):
        return pick.choice(["store insert", "store insert", "store any", "consume 8", "consume 1", "consume 11",
            "consume 12", "consume 14", "produce 0", "produce 0"])  # fmt: skip
    if kind == "producer's clock steps":
        return f"{pick.choice([-60.0, -7.0, 5.0, 45.0])}"
    return ""
