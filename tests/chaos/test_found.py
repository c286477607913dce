"""What the chaos suite found, each as a test of its own that needs no chance. docs/reliability.md tells the stories."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from consumers import watchdog
from consumers.assignment import starts
from consumers.errors import OffsetsOutOfRangeError, StoreUnavailableError
from consumers.ledger import Entry, Ledger
from consumers.projector.ledger import LedgerReader
from consumers.projector.projector import ProjectorSettings
from consumers.topic_watch import TopicWatch

NOW = 1_795_382_000.0


class Answer:
    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self.result_rows = rows


class EmptyLedger:
    """A store whose ledger holds nothing."""

    def __init__(self) -> None:
        self.asked = 0

    def query(self, query: str | None = None, *, settings: dict[str, Any] | None = None) -> Answer:
        self.asked += 1
        return Answer([(0, 0)] if "count()" in str(query) else [])

    def command(self, cmd: str, *, settings: dict[str, Any] | None = None) -> Any:
        raise AssertionError(cmd)

    def close(self) -> None: ...


def test_a_projector_that_starts_before_anything_is_stored_does_not_read_on_from_1970() -> None:
    store = EmptyLedger()
    reader = LedgerReader(0.0)
    assert list(reader.read(store, NOW)) == []
    assert store.asked < 10


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def monotonic(self) -> float:
        return self.now

    def now_us(self) -> int:
        return int(self.now * 1e6)

    def sleep(self, seconds: float) -> None: ...


class LedgerStore:
    """Takes rows, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.rows: list[dict[str, Any]] = []

    def append(self, table: str, columns: Sequence[str], lines: str) -> None:
        if self.away:
            raise StoreUnavailableError("away")
        self.rows += [json.loads(line) for line in lines.splitlines()]

    def ledger_count(self, consumer: str, times: Sequence[int]) -> int:
        return 0


def test_a_ledger_row_that_waited_for_the_store_bears_the_time_at_which_it_was_written() -> None:
    entry = Entry("node-telemetry", "id", 0, 5, 9, 5, 5, 0, 0, 1, 1.0, "steady", 0, 0, 0, (1,), ())
    store, clock = LedgerStore(), Clock()
    ledger = Ledger(store, "c", clock)
    store.away = True
    with pytest.raises(StoreUnavailableError):
        ledger.write([entry])
    store.away, clock.now = False, NOW + 600
    ledger.write([])
    assert [row["first_offset"] for row in store.rows] == [5]
    assert store.rows[0]["at"] == "2026-11-22 21:23:20.000000"


class Committed:
    """A group that committed offset 5 of a topic, and a log of [0, 12)."""

    def __init__(self, metadata: str) -> None:
        self._metadata = metadata

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        return [TopicPartition(one.topic, one.partition, 5, self._metadata) for one in partitions]

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        return 0, 12


def start(metadata: str, now: str, *, accept_lost: bool = False) -> tuple[int, int | None]:
    group: Any = Committed(metadata)
    [found] = starts(group, [TopicPartition("leases", 0)], accept_lost=accept_lost, ids={"leases": now})
    return found.offset, found.committed


def test_offsets_of_a_topic_that_was_made_anew_count_for_nothing() -> None:
    """They lie within the new log: reading on there would skip its first events without a word."""
    assert start("id-1", "id-1") == (5, 5)
    assert start("", "id-1") == (5, 5), "committed before ids were kept"
    assert start("id-1", "") == (5, 5), "a broker without ids"
    with pytest.raises(OffsetsOutOfRangeError, match=r"leases.*made anew.*--accept-lost"):
        start("id-1", "id-2")
    assert start("id-1", "id-2", accept_lost=True) == (0, None)


def test_a_topic_that_is_made_anew_while_it_is_read_is_an_error() -> None:
    clock, ids = Clock(), {"leases": "id-1"}
    watch = TopicWatch(lambda topics: {topic: ids[topic] for topic in topics}, 30.0, clock)

    def look() -> None:
        clock.now += 31
        watch.turn({"leases": "id-1"})
        for _ in range(100):
            if watch._thread is None:
                return
            watch._thread.join()
            watch.turn({"leases": "id-1"})

    look()
    ids["leases"] = "id-2"
    watch.turn({"leases": "id-1"})  # not yet time
    with pytest.raises(OffsetsOutOfRangeError, match=r"leases.*made anew"):
        look()


def test_a_main_loop_that_hangs_is_ended_and_one_that_moves_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "TICK_S", 0.01)
    ended, beats = threading.Event(), itertools.count()
    with watchdog.Watchdog(lambda: next(beats), 0.02, ended.set):
        assert not ended.wait(0.3)
    with watchdog.Watchdog(lambda: 7.0, 0.02, ended.set):
        assert ended.wait(20)


def test_a_statement_of_the_projector_ends_before_its_claim_runs_out() -> None:
    """A claim is renewed ahead of a statement when a quarter of it is over."""
    given = ProjectorSettings(owner="p")
    assert given.lock_ttl_s / 4 + given.limits.statement_timeout_s < given.lock_ttl_s
