"""The consumer's own parts, walked along a path of the model: what is compared with it, step by step.

Real are the intake (watermarks, suspects), the batch, the identity filter's questions and planning, the commit horizon
and the boot watch. Threads, Kafka and the store are not: the path says what they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from consumers import identity_filter
from consumers.batch import Batch, Limits, pack
from consumers.boot import BootWatch
from consumers.commit import CommitHorizon
from consumers.intake import PartitionIntake
from consumers.quarantine import decodes
from consumers.schema_book import SchemaBook
from consumers.settings import ConsumeSettings
from consumers.store import Boot, Wanted
from consumers.watermark import UNKNOWN
from schemas import catalogue
from schemas.catalogue import KINDS, EventKind
from tests.consumers.fakes import FakeClock, FakeMessage
from tests.consumers.fleet import Node, Sent
from tests.model.protocol import told
from tests.model.state import Do, Part, State, Step, identity, together

KIND = KINDS["node-events"]
HORIZON_S = 10.0
TS = 1_800_000_000_000_000
NO_LIMITS = Limits(1 << 30, 1 << 30, 1 << 30)


def message_of(event: str) -> Sent:
    """The event of the model as a message: "a1" is seq 1 of the producer a."""
    node = Node(event[0], "s")
    sent = node.event(KIND.topic, ts=TS)
    for seq in range(1, int(event[1]) + 1):
        sent = node.event(KIND.topic, ts=TS + seq)
    return sent


class RowsOf:
    """The store's answers, out of the rows of a state of the model."""

    def __init__(self, state: State) -> None:
        self.rows = {(event[0], int(event[1])) for event in together(state.settled, *state.fresh)}

    def stored(self, kind: EventKind, wanted: Sequence[Wanted]) -> set[tuple[str, int, int]]:
        return {
            (w.producer_id, w.run_id, w.seq) for w in wanted if (w.producer_id, w.seq) in self.rows
        }  # fmt: skip

    def max_seq(
        self, kind: EventKind, keys: Sequence[tuple[str, int]], since_us: int, *, own_key: bool
    ) -> dict[tuple[str, int], int]:
        return {key: max((seq for name, seq in self.rows if name == key[0]), default=-1) for key in keys}


class RealConsumer:
    """One partition of the consumer, without its threads."""

    def __init__(self, script: Part) -> None:
        self.messages = [message_of(event) for event in script]
        self.clock = FakeClock()
        self.book = SchemaBook(catalogue.by_id(), None, self.clock, 1.0)
        self.settings = ConsumeSettings(kafka={}, horizon_s=HORIZON_S)
        self.join(0, None)

    def join(self, log: int, committed: int | None) -> None:
        start = committed or 0
        self.intake = PartitionIntake(
            KIND, 0, "", start, log,
            settings=self.settings, book=self.book, clock=self.clock, sick=set(), decodes=decodes,
        )  # fmt: skip
        self.horizon = CommitHorizon(HORIZON_S, start, committed)
        self.watch = BootWatch()
        self.batch: Batch | None = None
        self.plan: Part | None = None
        self.learned: dict[tuple[str, int], int] = {}
        self.cleared: int | None = None

    def take(self, step: Step, before: State, after: State) -> None:
        """Do what the model did between two states."""
        match step.do:
            case Do.READ:
                offset = self.intake.next_offset
                self.intake.take([FakeMessage(self.messages[offset], offset)])
            case Do.LOOK_UP:
                self.look_up(RowsOf(before))
            case Do.ACKNOWLEDGED:
                self.delivered()
            case Do.FAILS | Do.UNHEARD | Do.GIVEN_UP:
                assert self.batch is not None
                self.batch.check_all, self.plan = True, None
                if not self.counts(self.batch):
                    self.batch = None  # as Deliveries does
            case Do.BOOKS:
                self.books(Boot("store", f"start-{before.boot}", 0, 0))
            case Do.COMMIT:
                assert self.cleared is not None
                self.horizon.was_committed(self.cleared)
                self.cleared = None
            case Do.COMMIT_UNHEARD:
                self.cleared = None
            case Do.TAKE_OVER:
                self.join(after.log, None if after.committed < 0 else after.committed)
            case Do.GROW_OLD:
                self.clock.now += HORIZON_S + 1
            case _:
                pass  # it happens to the log or the store alone

    def look_up(self, store: RowsOf) -> None:
        if self.batch is None:
            self.batch = pack(KIND, [self.intake.take_chunk()], NO_LIMITS)
        self.learned = identity_filter.learn(self.batch, store)
        kept = identity_filter.survivors(self.batch, store)
        self.plan = tuple(sorted(self.event(m) for messages in kept.values() for m in messages))

    def delivered(self) -> None:
        """As Consumer._delivered."""
        assert self.batch is not None
        for chunk in self.batch.chunks if self.counts(self.batch) else ():
            self.horizon.delivered(chunk.next_offset)
            self.intake.watermarks.learn((key, self.learned[key]) for key in chunk.unknown)
        self.batch = None

    def books(self, boot: Boot) -> None:
        """As Progress: what may be committed is decided first, then the ledger is written, then the store asked."""
        offset, upto = self.horizon.committable(self.clock.now), self.horizon.stored_next
        if self.watch.restarted(boot):
            self.intake.rewind(self.horizon.rewind())
            self.cleared = None
        else:
            self.horizon.recorded(upto, self.clock.now)
            self.cleared = offset

    def counts(self, batch: Batch) -> bool:
        return all(chunk.reading is self.intake.reading for chunk in batch.chunks)

    @staticmethod
    def event(message: Any) -> str:
        who = identity_filter.identity_of(message)
        return f"{who.producer_id}{who.seq}"

    def view(self) -> dict[str, object]:
        """What is to be the same as in the model."""
        runs = {
            (run.key[0], 99 if run.watermark == UNKNOWN else run.watermark, run.highest)
            for run in self.intake.watermarks.runs.values()
        }
        waiting = [m for chunk in self.intake.waiting for group in chunk.groups.values() for m in group.messages]
        suspects = sum(len(g.suspects) for chunk in self.intake.waiting for g in chunk.groups.values())
        return {
            "next": self.intake.next_offset,
            "filter_until": self.intake.filter_until,
            "stored": self.horizon.stored_next,
            "committed": self.horizon.resume,
            "runs": runs,
            "waiting": told([self.event(m) for m in waiting]),
            "suspects waiting": suspects,
            "plan": self.plan if self.batch is not None else "",
            "under way": self.batch is not None,
            "may be committed": self.cleared or 0,
        }


def view_of(state: State, script: Part) -> dict[str, object]:
    """The same of a state of the model."""
    c = state.consumer
    batch = c.batches[0] if c.batches else None
    return {
        "next": c.next,
        "filter_until": c.filter_until,
        "stored": c.stored,
        "committed": c.committed,
        "runs": set(c.runs),
        "waiting": told([identity(script[offset]) for offset, _ in c.waiting]),
        "suspects waiting": sum(suspect for _, suspect in c.waiting),
        "plan": batch.plan if batch is not None else "",
        "under way": batch is not None,
        "may be committed": c.cleared if c.cleared > c.committed else 0,
    }
