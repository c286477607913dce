"""The consumer's parts by themselves: clocks turned by hand, no server."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from consumers import errors
from consumers.backoff import Backoff
from consumers.batch import Batch, Limits, pack
from consumers.boot import BootWatch
from consumers.commit import CommitHorizon
from consumers.datum import begins_with_header, place, read_varint
from consumers.deliveries import Deliveries
from consumers.delivery import Delivery, Inserts
from consumers.intake import PartitionIntake
from consumers.ledger import Lateness, Ledger, entries
from consumers.metrics import Metrics
from consumers.quarantine import bisect, decodes
from consumers.schema_book import SchemaBook
from consumers.settings import ConsumeSettings
from consumers.stall import StallGuard
from consumers.store import Boot
from schemas import catalogue
from schemas.catalogue import KINDS, Schema
from schemas.container import Container, zigzag_varint
from tests.consumers.fakes import FakeClock, FakeLetters, FakeMessage, FakeStore, away
from tests.consumers.fleet import Node, Sent, message

TS = 1_800_000_000_000_000
TOPIC = "node-telemetry"


def intake(
    topic: str = TOPIC, clock: FakeClock | None = None, filter_until: int = 0, **changes: Any
) -> PartitionIntake:
    clock = clock or FakeClock()
    return PartitionIntake(
        KINDS[topic],
        0,
        "topic-id",
        0,
        filter_until,
        settings=ConsumeSettings(kafka={}, **changes),
        book=SchemaBook(catalogue.by_id(), None, clock, 1.0),
        clock=clock,
        sick=set(),
        decodes=decodes,
    )


def fed(sent: list[Sent], **changes: Any) -> PartitionIntake:
    one = intake(sent[0].topic, **changes)
    one.take([FakeMessage(each, offset) for offset, each in enumerate(sent)])
    return one


def batch_of(one: PartitionIntake) -> Batch:
    return pack(one.kind, [one.take_chunk()], Limits(1 << 30, 1 << 30, 1 << 30))


def delivery(fake: Inserts, letters: FakeLetters | None = None) -> Delivery:
    clock = FakeClock()
    guard = StallGuard(1e9, clock)
    return Delivery(fake, letters or FakeLetters(), guard, clock, Metrics(), Lateness(120_000_000, 2))


def test_a_delivery_that_had_not_begun_when_the_threads_were_let_go_is_forgotten() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(FakeStore):
        def insert(self, schema: Schema, body: Container) -> None:
            begun.set()
            assert go_on.wait(30)
            super().insert(schema, body)

    one, other = (batch_of(fed([Node(name, "s").event(TOPIC)])) for name in ("one", "other"))
    deliveries = Deliveries(delivery(Slow()), threads=1)
    deliveries.start(one, 0.0)
    deliveries.start(other, 1.0)
    assert begun.wait(30)
    deliveries.close()
    assert deliveries.collect() == []
    assert (deliveries.running, deliveries.since) == (1, 0.0)
    go_on.set()
    deliveries.wait(30)
    (done,) = deliveries.collect()
    assert done.batch is one
    assert deliveries.idle


# --- backoff, horizon, boot, stall -------------------------------------------------------------------------------


def test_backoff_doubles_to_its_limit_with_jitter_and_starts_over() -> None:
    low, high = Backoff(1.0, 8.0, lambda: 0.0), Backoff(1.0, 8.0, lambda: 1.0)
    assert [low.failed(0.0) for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert [high.failed(0.0) for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert high.waiting(7.9)
    assert not high.waiting(8.0)
    high.succeeded()
    assert not high.waiting(0.0)
    assert high.failed(0.0) == 1.0


def test_commits_trail_by_the_horizon_and_never_go_back() -> None:
    horizon = CommitHorizon(60.0, start=10, committed=None)
    horizon.stored(20, now=0.0)
    horizon.stored(30, now=50.0)
    assert horizon.committable(59.9) == 10, "the start alone"
    horizon.was_committed(10)
    assert horizon.committable(59.9) is None
    assert horizon.committable(60.0) == 20
    assert horizon.committable(61.0) == 20, "a commit that failed is tried again"
    horizon.was_committed(20)
    assert horizon.committable(61.0) is None
    assert horizon.rewind() == 20
    assert horizon.committable(1e9) is None, "what was not committed is forgotten"
    horizon.stored(25, now=200.0)
    assert horizon.committable(260.0) == 25


def test_where_reading_began_is_committed_though_nothing_comes() -> None:
    """Or a person who accepted a loss in a partition that stays empty would be asked again at every start."""
    anew, overtaken, usual = (CommitHorizon(60.0, 15, committed) for committed in (None, 10, 15))
    assert [one.committable(0.0) for one in (anew, overtaken, usual)] == [15, 15, None]
    for one in (anew, overtaken):
        one.was_committed(15)
        assert (one.committable(1e9), one.resume) == (None, 15)


def test_the_horizon_counts_from_the_ledgers_row() -> None:
    """A store that forgets its last seconds must not forget the ledger's row of what is committed either."""
    horizon = CommitHorizon(60.0, start=10, committed=10)
    horizon.delivered(20)
    assert horizon.stored_next == 20
    assert horizon.committable(1e6) is None, "stored long ago, and the ledger does not know"
    horizon.recorded(20, now=1e6)
    assert (horizon.committable(1e6 + 59.9), horizon.committable(1e6 + 60.0)) == (None, 20)
    horizon.delivered(30)
    horizon.rewind()
    horizon.recorded(30, now=2e6)  # a round of bookkeeping that began before the rewind
    assert horizon.committable(1e9) is None


@pytest.mark.parametrize(
    ("looks", "restarted"),
    [
        ([(100.0, 40), (101.4, 41), (160.2, 100)], [False, False, False]),
        ([(100.0, 40), (130.0, 1)], [False, True]),
        ([(100.0, 40), (200.0, 99)], [False, True]),
        ([(100.0, 0), (103.0, 0)], [False, True]),
    ],
)
def test_a_restart_shows_in_the_uptime(looks: list[tuple[float, int]], restarted: list[bool]) -> None:
    watch = BootWatch()
    seen = []
    for now, uptime in looks:
        us = int(now * 1e6)
        seen.append(watch.restarted(Boot("a", "", us - (uptime + 1) * 1_000_000, us - uptime * 1_000_000)))
    assert seen == restarted


def test_a_named_start_is_taken_at_its_word_and_each_server_has_its_own() -> None:
    watch = BootWatch()
    assert not watch.restarted(Boot("a", "x", 0, 0))
    assert not watch.restarted(Boot("b", "y", 0, 0))
    assert not watch.restarted(Boot("a", "x", 9_000_000, 9_000_000))
    assert watch.restarted(Boot("a", "z", 0, 0))
    assert not watch.restarted(Boot("a", "z", 0, 0))


def test_nothing_is_inserted_after_a_stall_until_the_group_confirms() -> None:
    clock = FakeClock()
    guard = StallGuard(10.0, clock)
    clock.now += 9
    guard.check()
    assert not guard.beat()
    clock.now += 11
    with pytest.raises(errors.StalledError):
        guard.check()
    assert guard.beat()
    with pytest.raises(errors.StalledError):
        guard.check()
    guard.confirm()
    guard.check()


# --- intake ------------------------------------------------------------------------------------------------------


def test_every_published_schema_begins_with_the_header_and_its_key() -> None:
    assert all(begins_with_header(schema) for schema in catalogue.published())


@pytest.mark.parametrize("value", [0, 1, -1, 63, 64, 8191, 8192, -(1 << 63), (1 << 63) - 1, TS])
def test_varints_are_read_as_they_are_written(value: int) -> None:
    data = b"xx" + zigzag_varint(value) + b"yy"
    assert read_varint(data, 2) == (value, len(data) - 2)


def test_place_is_found_without_decoding() -> None:
    one = Node("n-1", "site-ü").event("tenant-limits", ts=TS)
    assert place(one.value) == ("site-ü", one.record["tenant"])


def test_chunks_are_bounded_by_size_count_and_days() -> None:
    node = Node("n", "s")
    day = 86_400_000_000
    sent = [node.event(TOPIC, ts=TS - (i % 4) * day) for i in range(8)]
    assert [c.count for c in fed(sent).waiting] == [8]
    assert [c.count for c in fed(sent, flush_messages=3).waiting] == [3, 3, 2]
    assert [c.count for c in fed(sent, days_per_insert=3).waiting] == [3, 3, 2]
    size = len(sent[0].value)
    assert max(c.size for c in fed(sent, flush_bytes=2 * size + size // 2).waiting) <= 2 * size + size // 2
    for bounded in (fed(sent, flush_messages=3), fed(sent, days_per_insert=3)):
        ends = [(c.first_offset, c.next_offset) for c in bounded.waiting]
        assert ends == [(0, 3), (3, 6), (6, 8)], "no offset is left out or held twice"


def test_histories_count_months_and_may_be_old() -> None:
    node = Node("n", "s")
    long_ago = TS - 1_000 * 86_400_000_000
    sent = [node.event("leases", ts=long_ago), node.event("leases", ts=TS), node.event("leases", ts=1_000_000)]
    one = intake("leases")
    one.take([FakeMessage(each, i, append_us=TS) for i, each in enumerate(sent)])
    assert len(one.waiting[0].days) == 2
    assert [bad.reason.value for bad in one.waiting[0].bad] == ["too_old"]


def test_what_was_delivered_before_a_seek_took_effect_is_ignored() -> None:
    node = Node("n", "s")
    sent = [node.event(TOPIC, ts=TS) for _ in range(6)]
    one = fed(sent)
    one.rewind(2)
    assert not one.waiting
    one.take([FakeMessage(sent[i], i) for i in (0, 1, 2, 3)])
    chunk = one.waiting[0]
    assert (chunk.first_offset, chunk.next_offset, chunk.count) == (2, 4, 2)
    (group,) = chunk.groups.values()
    assert group.suspects == [0, 1], "what may be stored already takes the filter"


def test_known_runs_pass_unchecked_above_their_watermark_only() -> None:
    node = Node("n", "s")
    sent = [node.event(TOPIC, ts=TS + i) for i in range(6)]
    one = intake()
    one.take([FakeMessage(sent[0], 0)])
    chunk = one.take_chunk()
    assert chunk.unknown == {("n", node.run_id)}
    one.watermarks.learn([(("n", node.run_id), 2)])  # the store holds 0 to 2
    one.take([FakeMessage(sent[i], i) for i in range(1, 6)])
    (group,) = one.waiting[0].groups.values()
    assert group.suspects == [0, 1]  # seq 1 and 2
    assert not one.waiting[0].unknown


def test_up_to_the_log_end_at_assignment_everything_takes_the_filter() -> None:
    """Whoever had the partition before may have stored it, known run or not."""
    node = Node("n", "s")
    one = intake(filter_until=2)
    one.watermarks.meet(("n", node.run_id)).watermark = -1
    one.take([FakeMessage(node.event(TOPIC, ts=TS + i), i) for i in range(4)])
    (group,) = one.waiting[0].groups.values()
    assert group.suspects == [0, 1]
    one.rewind(1)
    assert one.filter_until == 4, "after a rewind, up to where it had been read"


def test_a_repeat_of_an_unchecked_event_in_the_same_batch_is_left_out() -> None:
    node = Node("n", "s")
    sent = [node.event(TOPIC, ts=TS + i) for i in range(3)]
    one = intake()
    one.watermarks.meet(("n", node.run_id)).watermark = -1
    one.take([FakeMessage(each, i) for i, each in enumerate([*sent, sent[1]])])
    fake = FakeStore()
    (entry,) = delivery(fake).deliver(batch_of(one)).entries
    assert fake.rows == [each.identity for each in sent]
    assert (entry.messages, entry.rows, entry.duplicates, entry.path) == (4, 3, 1, "filter")
    assert fake.lookups == 1


def test_in_the_steady_state_the_store_is_asked_nothing() -> None:
    node = Node("n", "s")
    one = intake()
    one.watermarks.meet(("n", node.run_id)).watermark = -1
    one.take([FakeMessage(node.event(TOPIC, ts=TS + i), i) for i in range(3)])
    fake = FakeStore()
    (entry,) = delivery(fake).deliver(batch_of(one)).entries
    assert (entry.rows, entry.path, fake.lookups) == (3, "steady", 0)


# --- filter, delivery, ledger ------------------------------------------------------------------------------------


def test_a_batch_is_deduplicated_within_itself_across_schema_versions() -> None:
    """The same event under two schema ids, as after an agent's upgrade and a resend."""
    old = catalogue.latest(TOPIC)
    new = replace(old, id=9_001)
    one = intake()
    one._book = SchemaBook({old.id: old, new.id: new}, None, FakeClock(), 1.0)
    node = Node("n", "s")
    events = [node.event(TOPIC, ts=TS + i) for i in range(3)]
    again = [message(new, each.record) for each in events[1:]]
    one.take([FakeMessage(each, i) for i, each in enumerate([*events, *again])])
    fake = FakeStore()
    batch = batch_of(one)
    done = delivery(fake).deliver(batch)
    assert sorted(fake.rows) == [each.identity for each in events]
    assert sum(entry.rows for entry in done.entries) == 3
    assert sum(entry.duplicates for entry in done.entries) == 2
    assert sum(entry.messages for entry in done.entries) == 5


def test_an_insert_without_an_answer_is_checked_before_it_is_repeated() -> None:
    fake = FakeStore()
    sent = [Node("n", "s").event(TOPIC, ts=TS)]
    batch = batch_of(fed(sent))
    fake.fail = [(True, away())]
    with pytest.raises(errors.StoreUnavailableError):
        delivery(fake).deliver(batch)
    batch.check_all = True
    done = delivery(fake).deliver(batch)
    assert fake.rows == [sent[0].identity]
    assert [(e.rows, e.duplicates, e.path) for e in done.entries] == [(0, 1, "filter")]


def test_sound_events_that_the_store_refuses_are_no_dead_letters() -> None:
    class Refusing(FakeStore):
        def insert(self, schema: Any, body: Container) -> None:
            raise errors.RefusedError("type mismatch")

    node = Node("n", "s")
    letters = FakeLetters()
    batch = batch_of(fed([node.event(TOPIC, ts=TS) for _ in range(4)]))
    with pytest.raises(errors.TableBehindError, match="refuses sound events"):
        delivery(Refusing(), letters).deliver(batch)
    assert letters.written == []


def test_memory_limits_are_no_dead_letters() -> None:
    letters = FakeLetters()
    fake = FakeStore()
    fake.fail = [(False, errors.StoreMemoryError("limit"))]
    batch = batch_of(fed([Node("n", "s").event(TOPIC, ts=TS)]))
    with pytest.raises(errors.StoreMemoryError):
        delivery(fake, letters).deliver(batch)
    assert letters.written == []


def test_bisect_finds_the_one_message_the_store_refuses() -> None:
    messages: list[Any] = [FakeMessage(Node("n", "s").event(TOPIC, ts=TS), i) for i in range(9)]
    tries: list[int] = []

    def refused(some: Any) -> str | None:
        tries.append(len(some))
        return "no" if any(m.offset() == 5 for m in some) else None

    stored, left = bisect(messages, refused)
    assert sorted(m.offset() or 0 for m in stored) == [0, 1, 2, 3, 4, 6, 7, 8]
    assert [(m.offset(), words) for m, words in left] == [(5, "no")]
    assert len(tries) < 12


def test_the_ledger_names_late_producers_unless_they_are_too_many() -> None:
    late = [Node(f"late-{i}", "s").event(TOPIC, ts=TS - 300_000_000) for i in range(3)]
    fresh = Node("fresh", "s").event(TOPIC, ts=TS)
    for sent, named in (([late[0], fresh], ("late-0",)), ([fresh], ()), ([*late, fresh], ())):
        one = intake()
        one.take([FakeMessage(each, i, append_us=TS) for i, each in enumerate(sent)])
        batch = batch_of(one)
        kept = {id(g): g.messages for i in batch.inserts for _, g in i.groups}
        (entry,) = entries(batch, kept, Lateness(120_000_000, 2))
        assert entry.late_producers == named
        assert entry.minutes == tuple(sorted({each.record["ts"] // 60_000_000 for each in sent}))


def test_a_ledger_row_whose_answer_was_lost_is_not_written_twice() -> None:
    one = fed([Node("n", "s").event(TOPIC, ts=TS)])
    batch = batch_of(one)
    rows = entries(batch, {id(g): g.messages for i in batch.inserts for _, g in i.groups}, Lateness(1, 1))
    for stored in (True, False):
        fake = FakeStore()
        ledger = Ledger(fake, "me", FakeClock())
        fake.fail = [(stored, away())]
        with pytest.raises(errors.StoreUnavailableError):
            ledger.write(rows)
        ledger.write([])
        assert [json.loads(line)["first_offset"] for line in fake.appended] == [0]
