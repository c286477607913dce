"""From stored to committed: a ledger that could not be written, a store that was restarted while partitions go."""

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
    """Remembers what was committed and sought."""

    def __init__(self) -> None:
        self.committed: list[int] = []
        self.sought: list[tuple[int, int]] = []

    def commit(self, *, offsets: list[Any], asynchronous: bool) -> list[Any]:
        self.committed += [one.offset for one in offsets]
        return offsets

    def seek(self, partition: Any) -> None:
        self.sought.append((partition.partition, partition.offset))


class Books:
    """The consumer's bookkeeping over a partition, a store and a clock in memory."""

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


def test_a_restart_that_shows_while_partitions_go_counts_for_those_that_stay() -> None:
    """Found by the chaos suite, seeds 2252 and 2275: the round before partitions are given back saw the restart and
    forgot it, so what the store had forgotten was committed a moment later."""
    books = Books()
    books.round()
    books.horizon.delivered(10)
    books.progress.bookkeeper.record([entry_of(10)])
    books.round()
    books.store.starts += 1  # and what was inserted last is gone
    books.clock.now += HORIZON_S + 1
    books.progress.finish(10.0)
    books.progress.finish(10.0)
    assert books.kafka.committed == []
    assert books.kafka.sought == [], "the client hands over messages of before when it is told in a callback"
    books.round()
    assert books.kafka.sought == [(0, 0)], "the partition is still ours: read again"
    books.clock.now += HORIZON_S + 1
    books.round()
    assert books.kafka.committed == [], "nothing is stored for sure until it was read again"
    books.progress.bookkeeper.close()


def test_a_restart_in_the_round_under_way_when_partitions_go_keeps_the_last_round_from_committing() -> None:
    books = Books()
    books.round()
    books.horizon.delivered(10)
    books.progress.bookkeeper.record([entry_of(10)])
    books.round()
    books.store.starts += 1
    books.clock.now += HORIZON_S + 1
    books.progress.turn(store_waiting=False)
    books.progress.finish(10.0)
    assert books.kafka.committed == []
    books.progress.bookkeeper.close()


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
