"""Thinning: which ticks survive, under which identity, and that every number is accounted for."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from producers.agent.process import decode
from producers.encode import EventEncoder, Message
from producers.journal import Journal
from producers.spool.accounts import GIVEN_UP, THINNED, Account, count
from producers.spool.record import Record
from producers.spool.thin import schema_of, thin
from schemas.identity import Identity
from tests.spool.support import MINUTE_US, NODE, NOON_US, TOPICS, Bench, telemetry, who

Tick = tuple[int, int]
"""(GPU, time in microseconds)"""


class Maker:
    """Encodes events without a journal of their own folder each."""

    def __init__(self, folder: Path) -> None:
        journal = Journal.start(folder, "lab", [NODE], TOPICS)
        self._encoder = EventEncoder(journal, NODE)
        self.records: list[Record] = []

    def add(self, ts: int, ticks: int, *, offered: bool = False, topic: str = "node-telemetry", **more: Any) -> Record:
        fields = telemetry(ts, ticks, **more) if topic == "node-telemetry" else {"node_id": NODE, "event": "xid"}
        message = self._encoder.encode(topic, ts, fields)._replace(row=-1)
        self.records.append(Record(len(self.records), offered, message))
        return self.records[-1]

    def minute(self, ticks: int = 5, ts: int = NOON_US) -> None:
        for at in range(ts, ts + MINUTE_US, ticks * 1_000_000):
            self.add(at, ticks)


def thinned(records: list[Record], interval_ms: int = 10_000) -> tuple[list[Record], list[int]]:
    result = thin(records, interval_ms, lambda record: not record.offered, schema_of({}))
    return result.records, sorted(seq for numbers in result.gone.values() for seq in numbers)


def readings(message: Message) -> dict[Tick, float]:
    """power_w by GPU and tick."""
    event, ts = decode(message), who(message).ts
    k = event["ticks"]
    return {
        (gpu, ts + tick * event["interval_ms"] * 1000): event["power_w"][gpu * k + tick]
        for gpu in range(len(event["gpu_index"]))
        for tick in range(k)
    }


def seconds(message: Message) -> float:
    event = decode(message)
    return float(event["ticks"] * event["interval_ms"] / 1000)


def test_a_minute_of_twelve_events_becomes_one_of_six_ticks(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.minute()
    (kept,), gone = thinned(maker.records)
    first = who(maker.records[0].message)
    assert who(kept.message) == Identity(NODE, first.run_id, 0, NOON_US, 6)
    assert gone == list(range(1, 12))
    event = decode(kept.message)
    assert (event["seq"], event["ticks"], event["interval_ms"]) == (0, 6, 10_000)
    assert event["power_w"] == [
        float(g * 1000 + (NOON_US // 1_000_000 + t) % 600) for g in (0, 1) for t in range(0, 60, 10)
    ]
    assert event["host_uptime_s"] == [NOON_US // 1_000_000 + t for t in range(0, 60, 10)]
    assert event["gpu_uuid"] == decode(maker.records[0].message)["gpu_uuid"]
    assert kept.message[:2] == maker.records[0].message[:2]
    assert kept.message.value[:5] == maker.records[0].message.value[:5]


def test_what_is_no_whole_interval_stays_as_it_is(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for second in (5, 10, 15, 20, 25, 30):
        maker.add(NOON_US + second * 1_000_000, 5)
    kept, gone = thinned(maker.records)
    assert [(who(r.message).seq, seconds(r.message)) for r in kept] == [(0, 5.0), (1, 20.0), (5, 5.0)]
    assert gone == [2, 3, 4]
    assert who(kept[1].message).ts == NOON_US + 10_000_000
    assert kept[0] == maker.records[0]
    assert kept[2] == maker.records[5]


def test_what_somebody_may_have_seen_is_never_changed(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for number, at in enumerate(range(NOON_US, NOON_US + MINUTE_US, 5_000_000)):
        maker.add(at, 5, offered=number == 6)
    kept, gone = thinned(maker.records)
    assert maker.records[6] in kept
    assert [(who(r.message).seq, seconds(r.message)) for r in kept] == [(0, 30.0), (6, 5.0), (7, 5.0), (8, 20.0)]
    assert gone == [1, 2, 3, 4, 5, 9, 10, 11]


def test_another_shape_an_unknown_schema_and_other_topics_are_kept_apart(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.minute()
    maker.add(NOON_US, 1, topic="node-events")
    maker.minute(ts=NOON_US + MINUTE_US)
    for at in range(NOON_US + 2 * MINUTE_US, NOON_US + 3 * MINUTE_US, 5_000_000):
        maker.add(at, 5, gpus=1 if at % MINUTE_US < 30_000_000 else 2)
    kept, gone = thinned(maker.records)
    assert [who(r.message).seq for r in kept] == [0, 0, 12, 24, 30]
    assert [seconds(r.message) for r in kept if r.message.topic == "node-telemetry"] == [60, 60, 30, 30]
    assert len(gone) == 36 - 4
    foreign = thin(maker.records, 10_000, lambda _record: True, schema_of({"node-telemetry": 4711}))
    assert (foreign.records, foreign.gone) == (maker.records, {})


def test_a_second_pass_makes_minutes_and_a_third_changes_nothing(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.minute()
    once, _ = thinned(maker.records)
    (twice,), gone = thinned(once, 60_000)
    assert (decode(twice.message)["ticks"], decode(twice.message)["interval_ms"], gone) == (1, 60_000, [])
    assert readings(twice.message).items() <= readings(maker.records[0].message).items()
    assert thinned([twice], 60_000) == ([twice], [])


def test_one_event_of_sixty_ticks_is_thinned_on_its_own(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.add(NOON_US, 60)
    (kept,), gone = thinned(maker.records)
    assert (decode(kept.message)["ticks"], gone) == (6, [])


def test_the_newest_known_clock_offset_is_kept(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for at, offset in ((0, 0.25), (5, 0.5), (10, math.nan), (15, math.nan)):
        maker.add(NOON_US + at * 1_000_000, 5, clock_offset_s=offset)
    (kept,), _ = thinned(maker.records)
    assert decode(kept.message)["clock_offset_s"] == 0.5


@given(
    ticks=st.sampled_from([1, 2, 5, 10, 12, 20, 30, 60]),
    missing=st.sets(st.integers(0, 119), max_size=6),
    seen=st.sets(st.integers(0, 119), max_size=4),
    interval_ms=st.sampled_from([10_000, 30_000, 60_000]),
)
@settings(max_examples=60, deadline=None)
def test_seconds_readings_and_numbers_are_conserved(
    tmp_path_factory: Any, ticks: int, missing: set[int], seen: set[int], interval_ms: int
) -> None:
    maker = Maker(tmp_path_factory.mktemp("journal"))
    step = ticks * 1_000_000
    for number, at in enumerate(range(NOON_US, NOON_US + 2 * MINUTE_US, step)):
        if number not in missing:
            maker.add(at, ticks, offered=number in seen)
    kept, gone = thinned(maker.records, interval_ms)
    before, after = [r.message for r in maker.records], [r.message for r in kept]
    assert sum(map(seconds, after)) == sum(map(seconds, before))
    assert sorted([*gone, *(who(m).seq for m in after)]) == [who(m).seq for m in before]
    original: dict[Tick, float] = {}
    for message in before:
        original |= readings(message)
    for message in after:
        assert readings(message).items() <= original.items()
        event, ts = decode(message), who(message).ts
        assert ts // MINUTE_US == (ts + (event["ticks"] - 1) * event["interval_ms"] * 1000) // MINUTE_US
    assert [who(m).ts for m in after] == sorted(who(m).ts for m in after)
    for record in maker.records:
        assert not record.offered or record in kept
    covered = [(who(m).ts, who(m).ts + int(seconds(m) * 1e6)) for m in after]
    assert all(a[1] <= b[0] for a, b in pairwise(covered)), "no second twice"


def test_a_full_spool_thins_the_oldest_first_and_accounts_for_every_number(tmp_path: Path) -> None:
    bench = Bench(tmp_path, contact=lambda: False, segment_bytes=20_000, max_bytes=40_000)
    events = []
    for minute in range(40):
        events += bench.minutes(1, NOON_US + minute * MINUTE_US)
        bench.fact(ts=NOON_US + minute * MINUTE_US)
    bench.tidy()
    health = bench.spool.health()
    assert health.bytes <= 40_000 + 20_000, "the file being written comes on top"
    assert (health.thinned > 100, health.given_up) == (True, 0)
    accounts = [account for _, account in bench.spool.notices() if account is not None]
    assert {account.event for account in accounts} == {THINNED}
    bench.close()

    last = Bench(tmp_path)
    last.publisher.answers = True
    last.spool.flush(20.0)
    sent = [m for m in last.publisher.taken if m.topic == "node-telemetry"]
    gone = numbers(accounts)
    assert sorted([*gone, *(who(m).seq for m in sent)]) == list(range(480))
    assert sum(map(seconds, sent)) == sum(map(seconds, events))
    intervals = [decode(m)["interval_ms"] for m in sent]
    thinned_until = max(i for i, interval in enumerate(intervals) if interval > 1000)
    assert set(intervals[thinned_until + 1 :]) == {1000}, "the newest are whole"
    # What stays fine among the old: an interval cut in two by the end of a file.
    assert intervals[:thinned_until].count(1000) < thinned_until / 3
    assert sum(m.topic == "node-events" for m in last.publisher.taken) == 40, "facts are never dropped"
    last.close()


def test_a_spool_that_is_full_of_minutes_gives_up_the_oldest_by_name_and_keeps_facts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, contact=lambda: False, segment_bytes=4_000, max_bytes=12_000)
    for minute in range(400):
        bench.minutes(1, NOON_US + minute * MINUTE_US, ticks=60)
        if minute % 20 == 0:
            bench.fact(ts=NOON_US + minute * MINUTE_US)
    bench.tidy()
    assert bench.spool.health().given_up > 0
    accounts = [account for _, account in bench.spool.notices() if account is not None]
    bench.close()
    last = Bench(tmp_path)
    last.publisher.answers = True
    last.spool.flush(20.0)
    sent = sorted(who(m).seq for m in last.publisher.taken if m.topic == "node-telemetry")
    assert sorted({*numbers(accounts), *sent}) == list(range(400))
    assert not set(numbers(accounts)) & set(sent)
    assert sent == list(range(sent[0], 400)), "the oldest went"
    assert sum(m.topic == "node-events" for m in last.publisher.taken) == 20
    last.close()


def test_what_was_thinned_and_then_given_up_counts_as_given_up_with_all_that_was_merged_into_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, contact=lambda: False, segment_bytes=8_000, max_bytes=12_000)
    for minute in range(200):
        bench.minutes(1, NOON_US + minute * MINUTE_US)
    bench.tidy()
    accounts = [account for _, account in bench.spool.notices() if account is not None]
    assert {account.event for account in accounts} == {THINNED, GIVEN_UP}
    given_up = numbers([account for account in accounts if account.event == GIVEN_UP])
    assert len(given_up) == len(set(given_up)) == bench.spool.health().given_up
    bench.close()
    last = Bench(tmp_path)
    last.publisher.answers = True
    last.spool.flush(20.0)
    told: set[int] = set()
    """Numbers whose seconds are told, by their own event or as a part of another: five seconds each."""
    for message in last.publisher.taken:
        if message.topic == "node-telemetry":
            first = (who(message).ts - NOON_US) // 5_000_000
            told |= set(range(first, first + round(seconds(message) / 5)))
    assert told & set(given_up) == set()
    assert told | set(given_up) == set(range(200 * 12))
    last.close()


def test_telemetry_older_than_the_store_takes_is_given_up_and_facts_are_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path, contact=lambda: False, max_age_s=3600.0, segment_bytes=3_000)
    bench.minutes(3)
    bench.fact()
    bench.close()
    later = Bench(tmp_path, contact=lambda: False, max_age_s=3600.0)
    later.wall_us = NOON_US + 2 * 3600 * 1_000_000
    later.tidy()
    assert later.spool.spooled == 1
    accounts = [account for _, account in later.spool.notices() if account is not None]
    assert sorted(numbers(accounts)) == list(range(36))
    assert {account.reason for account in accounts} == {"they had grown older than the store takes"}
    later.close()


def test_an_account_is_on_disk_before_the_file_changes_and_told_after_a_crash(tmp_path: Path) -> None:
    bench = Bench(tmp_path, contact=lambda: False, segment_bytes=8_000, max_bytes=10_000)
    bench.minutes(12)
    bench.tidy()
    told = [account for _, account in bench.spool.notices() if account is not None]
    assert told
    bench.die()
    again = Bench(tmp_path, contact=lambda: False)
    assert [account for _, account in again.spool.notices() if account is not None] == told
    for account in told:
        again.spool.settle(account)
    again.close()
    assert not (tmp_path / "spool" / "accounts.jsonl").exists()
    last = Bench(tmp_path, contact=lambda: False)
    assert [account for _, account in last.spool.notices() if account is not None] == []
    last.close()


def numbers(accounts: list[Account]) -> list[int]:
    found: list[int] = []
    for account in accounts:
        for part in account.gone.split(",") if account.gone else ():
            low, _, high = part.partition("-")
            found += range(int(low), int(high or low) + 1)
        assert count(account.gone) == account.events
    return found
