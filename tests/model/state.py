"""What the model of the protocol is made of: its rules, its moves by kind, and everything there is in a state."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

UNKNOWN = 99
"""Watermark of a run of which the store has not been asked: above every number."""

Part = tuple[str, ...]
"""Events that one insert stores, whole or not at all."""


class Do(Enum):
    """The kinds of moves."""

    APPEND, READ, LOOK_UP, ACKNOWLEDGED, BOOKS, LEDGER, COMMIT, ARRIVES, VANISHES, GROW_OLD = range(10)
    TAKE_OVER, FAILS, UNHEARD, GIVEN_UP, COMMIT_UNHEARD, KILL = range(10, 16)


class Step(NamedTuple):
    """What happened, for programs and for people."""

    do: Do
    words: str
    part: Part = ()


class Rule(Enum):
    """The rules of the protocol, each with what it demands."""

    NUMBERS_ONCE = "a producer's journal gives a number out once"
    FROM_THE_BEGINNING = "without a committed offset, reading starts at the beginning"
    WATERMARK = "a number not above the run's watermark is looked up"
    UNKNOWN_RUN = "a run not met before is looked up until the store has told its max(seq)"
    MAX_SEQ = "the watermark of such a run starts at the store's max(seq), not at what was read"
    HIGHEST = "and not below what was read of it meanwhile"
    ASSIGNMENT = "everything up to the log's end at the assignment is looked up"
    UNCLEAR = "after an insert that was not plainly acknowledged, the batch is looked up"
    WITHIN_BATCH = "a batch is searched for doubles within itself"
    ONE_IN_FLIGHT = "one batch of a partition is under way at a time"
    STALL_GUARD = "a consumer that stood still sends nothing until the group has confirmed it"
    COLLAPSE = "the engine makes one row of equal ones when it merges parts"
    HORIZON = "commits trail by a horizon"
    BOOT_WATCH = "before a commit, the store is asked whether it is still the start that stored it"
    BOOT_FIRST = "the store's start is known before the first insert"
    REWIND_FORGETS = "what was under way at a rewind counts no more"
    LEDGER_FIRST = "the ledger is written before the commit"
    LEDGER_HORIZON = "and the horizon counts from the ledger's row, not from the insert"


ALL = frozenset(Rule)


class Batch(NamedTuple):
    """Messages under way to the store."""

    items: tuple[tuple[int, bool], ...]
    """(offset, whether it takes the filter)"""
    unknown: tuple[str, ...]
    """Runs whose max(seq) is wanted."""
    plan: Part | None = None
    """What the filter left over and the insert stores; None before the look-up."""
    learned: tuple[tuple[str, int], ...] = ()
    check_all: bool = False
    counts: bool = True
    """Whether it still belongs to the reading it was read in."""


class Consumer(NamedTuple):
    """What one owner of the partition holds in memory."""

    next: int
    filter_until: int
    committed: int
    """What it believes is committed: where a rewind goes back to."""
    stored: int
    """Every message below is stored, as far as it knows."""
    runs: tuple[tuple[str, int, int], ...] = ()
    """(run, watermark, highest number read while the watermark was unknown)"""
    waiting: tuple[tuple[int, bool], ...] = ()
    unknown: tuple[str, ...] = ()
    batches: tuple[Batch, ...] = ()
    unwritten: tuple[int, ...] = ()
    """Offsets delivered, not yet in the ledger."""
    trailing: int = 0
    """Below: delivered (and in the ledger), not yet a horizon ago."""
    ripe: int = 0
    """Below: long enough ago to be committed."""
    cleared: int = 0
    """Below: may be committed now, the store was asked."""
    boot: int = -1
    """The store's start that it knows; -1 = none yet."""


class State(NamedTuple):
    """Everything there is."""

    log: int
    """Messages of the script that are in the log."""
    fresh: tuple[Part, ...]
    """Parts younger than a horizon: a killed store may lose any of them."""
    settled: Part
    """Rows that are durable; what is here twice stays twice."""
    ledger_fresh: tuple[int, ...]
    ledger: tuple[int, ...]
    """Offsets that the ledger accounts for."""
    boot: int
    late: tuple[Part, ...]
    """Inserts on their way that nobody waits for any more."""
    stalled: tuple[Part, ...]
    """What consumers that stand still have looked up and will send when they wake, however late."""
    committed: int
    """-1 = the group has none."""
    consumer: Consumer
    failures: int
    """How many more may happen."""


Move = tuple[Step, State]


def identity(event: str) -> str:
    return event[:2]


def together(*parts: Part) -> Part:
    return tuple(sorted(event for part in parts for event in part))
