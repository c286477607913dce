"""When batches are flushed, who is quarantined, and what the store's errors mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from consumers import errors, flush, store
from consumers.flush import FlushPolicy
from consumers.intake import PartitionIntake
from consumers.quarantine import Ward
from consumers.settings import ConsumeSettings
from tests.consumers.fakes import FakeClock, FakeMessage
from tests.consumers.fleet import Node
from tests.consumers.test_units import TOPIC, TS, intake


def test_flush_is_early_within_the_budget_late_without_and_at_once_when_full() -> None:
    clock = FakeClock()
    options = ConsumeSettings(kafka={}, inserts_per_second=1.0, flush_age_s=5.0, flush_min_age_s=0.2, flush_messages=4)
    policy = FlushPolicy(options, clock.now)
    node = Node("n", "s")

    def waiting(count: int) -> PartitionIntake:
        one = intake(clock=clock, flush_messages=4)
        one.take([FakeMessage(node.event(TOPIC, ts=TS), i) for i in range(count)])
        return one

    one = waiting(1)
    assert policy.choose([one], set(), clock.now) is None, "younger than the minimum age"
    clock.now += 0.3
    assert policy.choose([one], set(), clock.now) is not None
    policy.choose([late := waiting(1)], set(), clock.now + 0.3)  # the burst is used up
    rest = waiting(1)
    assert not late.waiting
    assert policy.choose([rest], set(), clock.now + 0.31) is None, "over the budget"
    assert policy.choose([rest], {rest_key(rest)}, clock.now + 6) is None, "a batch of it is in flight"
    assert policy.choose([rest], set(), clock.now + 5.0) is not None, "old enough, budget or not"
    assert policy.choose([waiting(4)], set(), clock.now + 5.0) is not None, "full"


def test_an_insert_that_took_long_makes_the_next_ones_wait_for_their_age() -> None:
    clock = FakeClock()
    options = ConsumeSettings(kafka={}, inserts_per_second=1.0, flush_age_s=60.0, flush_min_age_s=0.2)
    policy = FlushPolicy(options, clock.now)

    def early(after: float) -> bool:
        clock.now += after
        one = intake(clock=clock)
        one.take([FakeMessage(Node("n", "s").event(TOPIC, ts=TS), 0)])
        clock.now += 0.3
        return policy.choose([one], set(), clock.now) is not None

    assert early(2.0)
    policy.took(0.01)
    assert early(1.0), "a quick one is charged once"
    policy.took(0.6)  # ten times the price
    assert not early(5.0)
    assert early(5.0)
    policy.took(3_600.0)
    assert early(25.0), "what one insert may spend ahead is bounded"


@pytest.mark.parametrize(("slow", "longer"), [("node-events", 3.0), ("node-counters", 6.0)])
def test_while_the_store_is_busy_a_small_batch_of_a_slow_topic_waits_for_longer(
    monkeypatch: pytest.MonkeyPatch, slow: str, longer: float
) -> None:
    monkeypatch.setattr(flush, "SMALL_BYTES", 5_000)
    clock, node = FakeClock(), Node("n", "s")
    policy = FlushPolicy(ConsumeSettings(kafka={}, inserts_per_second=0.01, flush_age_s=3.0), clock.now)

    def waiting(count: int, topic: str = slow) -> PartitionIntake:
        one = intake(topic, clock)
        one.take([FakeMessage(node.event(topic, ts=TS), i) for i in range(count)])
        assert (one.waiting_bytes < 5_000) == (count == 1)
        return one

    policy.took(3_600.0)
    fast, small, large = waiting(1, "node-telemetry"), waiting(1), waiting(50)
    clock.now += 3.1
    assert policy.choose([fast], set(), clock.now) is not None
    assert policy.choose([small], set(), clock.now) is None
    assert policy.choose([large], set(), clock.now) is not None
    clock.now += 3.0 * longer - 3.2
    assert policy.choose([small], set(), clock.now) is None
    clock.now += 0.2
    assert policy.choose([small], set(), clock.now) is not None


def rest_key(one: PartitionIntake) -> tuple[str, int]:
    return one.kind.topic, one.partition


def test_a_producer_is_let_out_of_quarantine_after_a_window() -> None:
    clock = FakeClock()
    ward = Ward(0.2, 2, 60.0, clock)
    one = intake()
    one.take([FakeMessage(replace(Node("n", "s").event(TOPIC, ts=TS), headers=[]), 0)])
    ward.admit(one.waiting[0].bad)
    assert ward.sick == {"n"}, "without a header the Kafka key tells who it was"
    ward.check(producers_known=1)
    clock.now += 61
    ward.discharge()
    assert ward.sick == set()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DatabaseError("Code: 117. DB::Exception: bad", code=117), errors.RefusedError),
        (DatabaseError("Code: 1001. DB::Exception: avro::Exception: EOF", code=1001), errors.RefusedError),
        (DatabaseError("Code: 1001. DB::Exception: std::bad_alloc", code=1001), errors.StoreUnavailableError),
        (DatabaseError("Code: 16. DB::Exception: no column", code=16), errors.TableBehindError),
        (DatabaseError("Code: 516. DB::Exception: password", code=516), errors.StoreCredentialsError),
        (DatabaseError("Code: 241. DB::Exception: memory", code=241), errors.StoreMemoryError),
        (DatabaseError("Code: 252. DB::Exception: too many parts", code=252), errors.StoreUnavailableError),
        (DatabaseError("Code: 159. DB::Exception: timeout", code=159), errors.StoreUnavailableError),
        (OperationalError("connection refused"), errors.StoreUnavailableError),
        (ConnectionResetError("reset"), errors.StoreUnavailableError),
    ],
)
def test_the_stores_errors_are_told_apart_by_what_can_be_done(error: Exception, kind: type[Exception]) -> None:
    assert type(store.explain(error, TOPIC)) is kind


def test_bugs_are_not_taken_for_a_store_that_is_away() -> None:
    assert store.explain(TypeError("a bug"), TOPIC) is None


def test_lookups_are_cut_to_what_the_server_parses() -> None:
    wanted = [store.Wanted("s", f"node-{i}", TS + i, f"node-{i}", 1, i) for i in range(9_000)]
    parts = list(store._parts(wanted))
    assert [one for part in parts for one in part] == wanted
    assert all(len(store._strings(w.key for w in p)) + len(store._times(w.ts for w in p)) < 250_000 for p in parts)
    assert len(parts) > 1


def test_text_is_quoted_for_the_store() -> None:
    assert store._string("it's a \\ trap") == "'it\\'s a \\\\ trap'"
