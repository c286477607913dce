"""A ledger that could not be written for longer than the horizon does not make the commit early."""

from __future__ import annotations

from typing import Any

from consumers.assignment import Partition
from consumers.bookkeeping import Bookkeeper
from consumers.commit import CommitHorizon
from consumers.health import Health
from consumers.ledger import Entry, Ledger
from consumers.metrics import Metrics
from consumers.progress import Progress
from consumers.settings import ConsumeSettings
from consumers.stall import StallGuard
from consumers.store_state import StoreState
from tests.consumers.fakes import FakeClock, FakeStore, away
from tests.consumers.test_units import TOPIC, intake

HORIZON_S = 60.0


class FakeKafka:
    """Remembers what was committed."""

    def __init__(self) -> None:
        self.committed: list[int] = []

    def commit(self, *, offsets: list[Any], asynchronous: bool) -> list[Any]:
        self.committed += [one.offset for one in offsets]
        return offsets


class Books:
    """The consumer's bookkeeping over one partition, a store and a clock in memory."""

    def __init__(self) -> None:
        self.clock, self.store, self.kafka = FakeClock(), FakeStore(), FakeKafka()
        self.horizon = CommitHorizon(HORIZON_S, 0, 0)
        partition = Partition(TOPIC, 0, intake(clock=self.clock), self.horizon)
        settings, metrics = ConsumeSettings(kafka={}, backoff_first_s=0.0), Metrics()
        state = StoreState(settings, self.clock, lambda: 0.0, Health(self.clock, 30, 30, 60), metrics)
        books = Bookkeeper(self.store, Ledger(self.store, "test", self.clock))
        guard = StallGuard(1e9, self.clock)
        self.progress = Progress({partition.key: partition}, books, guard, metrics, self.clock, 0.0, state)
        self.progress.kafka = self.kafka  # type: ignore[assignment]

    def round(self) -> None:
        """One round of bookkeeping, to its end."""
        self.progress.turn(store_waiting=False)
        report = self.progress.bookkeeper.ended(10.0)
        assert report is not None
        self.progress._close(report)


def entry_of(offsets: int) -> Entry:
    return Entry(
        TOPIC, "", 0, 0, offsets - 1, offsets, offsets, 0, 0, 100, 1.0, "steady", 1, 1, 1, (0,), ()
    )  # fmt: skip


def test_the_horizon_begins_when_the_ledger_is_written() -> None:
    """Found by the model: stored a minute ago, written to the ledger now, committed now; a store killed in the next
    second may have forgotten the ledger's row, and nobody would compute the minutes of these events again."""
    books = Books()
    books.round()
    books.horizon.delivered(10)
    books.progress.bookkeeper.record([entry_of(10)])
    for _ in range(3):  # the events are stored; the ledger cannot be written for a while
        books.store.fail = [(False, away())]
        books.round()
        books.clock.now += HORIZON_S
    books.round()
    assert len(books.store.appended) == 1
    books.round()
    assert books.kafka.committed == [], "stored long ago, but the ledger's row is new"
    books.clock.now += HORIZON_S
    books.round()
    assert books.kafka.committed == [10]
    books.progress.bookkeeper.close()
