"""Watermark, filter and trailing commit, driven at random against a log and a store that misbehave.

The model is a partition's log and a store. Rules: producers append, repeat and restart; the consumer reads some,
delivers; inserts fail with or without being stored; the store forgets its newest rows and names a new start; the
consumer is replaced by one that knows nothing. In the end every event of the log must be stored exactly once.
"""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from consumers.batch import Limits, pack
from consumers.boot import BootWatch
from consumers.commit import CommitHorizon
from consumers.delivery import Delivery
from consumers.errors import TransientError
from consumers.intake import PartitionIntake
from consumers.ledger import Lateness
from consumers.metrics import Metrics
from consumers.quarantine import decodes
from consumers.schema_book import SchemaBook
from consumers.settings import ConsumeSettings
from consumers.stall import StallGuard
from schemas import catalogue
from schemas.catalogue import KINDS
from tests.consumers.fakes import FakeClock, FakeLetters, FakeMessage, FakeStore, away
from tests.consumers.fleet import Node, Sent

KIND = KINDS["node-events"]
HORIZON_S = 10.0
TS = 1_800_000_000_000_000


class OnePartition(RuleBasedStateMachine):
    """A consumer of one partition, its store, its log."""

    @initialize()
    def begin(self) -> None:
        self.clock = FakeClock()
        self.store = FakeStore()
        self.log: list[Sent] = []
        self.nodes = [Node(f"n{i}", "s") for i in range(3)]
        self.runs = itertools.count(2_000_000_000_000_000)
        self.committed: int | None = None
        self.acknowledged: list[tuple[float, int]] = []
        """(time, number of rows) after each insert: what the store may forget is younger than the horizon."""
        self.replace_consumer()

    @rule()
    def replace_consumer(self) -> None:
        """The consumer dies; another begins at the committed offset and knows nothing."""
        options = ConsumeSettings(kafka={}, horizon_s=HORIZON_S)
        start = self.committed or 0
        self.intake = PartitionIntake(
            KIND,
            0,
            "",
            start,
            len(self.log),
            settings=options,
            book=SchemaBook(catalogue.by_id(), None, self.clock, 1.0),
            clock=self.clock,
            sick=set(),
            decodes=decodes,
        )
        self.horizon = CommitHorizon(HORIZON_S, start, self.committed)
        self.watch = BootWatch()
        self.watch.restarted(self.store.boot())
        guard = StallGuard(1e9, self.clock)
        self.letters = FakeLetters()
        self.delivery = Delivery(self.store, self.letters, guard, self.clock, Metrics(), Lateness(10**12, 10))

    @rule(node=st.integers(0, 2), count=st.integers(1, 4))
    def append(self, node: int, count: int) -> None:
        """A producer sends new events."""
        self.log += [self.nodes[node].event(KIND.topic, ts=TS + len(self.log)) for _ in range(count)]

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """A producer sends a stretch of what it sent, again."""
        if self.log:
            first = data.draw(st.integers(0, len(self.log) - 1))
            self.log += self.log[first : first + data.draw(st.integers(1, 5))]

    @rule(node=st.integers(0, 2))
    def restart_producer(self, node: int) -> None:
        self.nodes[node] = Node(self.nodes[node].name, "s", run_id=next(self.runs))

    @rule(count=st.integers(1, 8))
    def read(self, count: int) -> None:
        at = self.intake.next_offset
        self.intake.take([FakeMessage(one, at + i) for i, one in enumerate(self.log[at : at + count])])

    @rule(failures=st.lists(st.booleans(), max_size=2))
    def deliver(self, failures: list[bool]) -> None:
        """One batch, through as many failures (stored all the same, or not) as are drawn."""
        if not (self.intake.waiting and self.intake.waiting[0].count):
            return
        batch = pack(KIND, [self.intake.waiting[0]], Limits(1 << 30, 1 << 30, 1 << 30))
        self.intake.take_chunk()
        self.store.fail = [(stored, away()) for stored in failures]
        for _ in range(len(failures) + 1):
            try:
                done = self.delivery.deliver(batch)
                break
            except TransientError:
                batch.check_all = True
        self.store.fail = []
        self.acknowledged.append((self.clock.now, len(self.store.rows)))
        for chunk in batch.chunks:
            self.horizon.stored(chunk.next_offset, self.clock.now)
            self.intake.watermarks.learn((key, done.learned[key]) for key in chunk.unknown)

    @rule(seconds=st.sampled_from([0.1, 4.0, 11.0]))
    def wait_and_commit(self, seconds: float) -> None:
        """A round of bookkeeping: commit what is old enough, unless the store was restarted."""
        self.clock.now += seconds
        offset = self.horizon.committable(self.clock.now)
        if self.watch.restarted(self.store.boot()):
            self.intake.rewind(self.horizon.rewind())
        elif offset is not None:
            self.horizon.was_committed(offset)
            self.committed = offset

    @rule(share=st.floats(0, 1))
    def store_is_killed(self, share: float) -> None:
        """The store restarts without some of the rows it acknowledged within the horizon."""
        durable = max((rows for at, rows in self.acknowledged if at + HORIZON_S <= self.clock.now), default=0)
        keep = durable + int((len(self.store.rows) - durable) * share)
        self.store.rows = self.store.rows[:keep]
        self.acknowledged = [(at, min(rows, keep)) for at, rows in self.acknowledged]
        self.store.starts += 1

    @invariant()
    def nothing_is_stored_twice(self) -> None:
        if hasattr(self, "store"):
            assert len(self.store.rows) == len(set(self.store.rows))
            assert self.letters.written == []

    def teardown(self) -> None:
        """Let everything be read, delivered and committed: then every event is stored, once."""
        if not hasattr(self, "store"):
            return
        while self.committed != len(self.log) and self.log:
            self.read(100)
            self.deliver([])
            self.wait_and_commit(HORIZON_S + 1)
        assert sorted(self.store.rows) == sorted({one.identity for one in self.log})


OnePartition.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOnePartition: Any = OnePartition.TestCase
