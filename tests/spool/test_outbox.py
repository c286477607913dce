"""The spool as an outbox: nothing leaves the disk unacknowledged, live events go first, an outage is bridged."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from producers import journal as journals
from producers.spool.notices import BACKLOG, DRAINED
from tests.spool.support import MINUTE_US, NODE, NOON_US, Bench, key, until, who


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "spool").iterdir())


def test_an_acknowledged_event_leaves_the_disk(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fact()
    bench.minutes(1)
    assert bench.spool.spooled == 13
    assert [message.row for message in bench.publisher.taken] == list(range(1, 14))
    bench.publisher.acknowledge()
    assert bench.spool.spooled == 0
    bench.close()
    assert files(tmp_path) == []
    assert {g.topic: g.acknowledged for g in journals.read(tmp_path / "journal")} == {
        "node-telemetry": 12,
        "node-events": 1,
    }


def test_what_was_not_acknowledged_is_sent_by_the_next_process_as_it_was(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    events = [first.fact(), *first.minutes(2)]
    first.publisher.acknowledge(5)
    first.close()
    second = Bench(tmp_path)
    assert second.spool.spooled == 20
    until(lambda: len(second.publisher.taken) == 20)
    assert [m[:4] for m in second.publisher.taken] == [m[:4] for m in events[5:]]
    second.publisher.acknowledge()
    second.close()
    assert files(tmp_path) == []
    by_run = {(g.run_id, g.topic): (g.given, g.acknowledged) for g in journals.read(tmp_path / "journal")}
    assert by_run == {
        (first.journal.run_id, "node-telemetry"): (24, 24),
        (first.journal.run_id, "node-events"): (1, 1),
    }


def test_a_killed_process_loses_nothing_and_its_successor_names_its_last_numbers(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    events = [first.fact(), *first.minutes(1)]
    # A power cut may take the journal's newest pages, which nobody syncs; the spool holds the events themselves.
    first.journal.table[2 * first.journal.row(NODE, "node-telemetry")] = 3
    first.die()
    second = Bench(tmp_path)
    before = {g.topic: g.given for g in journals.previous(tmp_path / "journal", NODE, second.journal.run_id)}
    assert before == {"node-telemetry": 12, "node-events": 1}
    until(lambda: len(second.publisher.taken) == 13)
    assert sorted(map(key, second.publisher.taken)) == sorted(map(key, events))
    second.close()


def test_a_live_event_does_not_wait_for_the_backlog(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    backlog = first.minutes(10)
    first.close()
    second = Bench(tmp_path, drain_window_bytes=2_000)
    until(lambda: second.publisher.taken)
    sent = len(second.publisher.taken)
    assert sent < len(backlog) / 2, "the window holds the backlog back"
    live = second.fact()
    assert key(second.publisher.taken[-1]) == key(live)
    second.publisher.answers = True
    second.publisher.acknowledge()
    until(lambda: second.spool.spooled == 0)
    assert {key(m) for m in second.publisher.taken} == {key(m) for m in [*backlog, live]}
    second.close()


def test_a_backlog_is_sent_facts_first_and_each_log_oldest_first(tmp_path: Path) -> None:
    contact = threading.Event()
    bench = Bench(tmp_path, contact.is_set, segment_bytes=3_000)
    for minute in range(6):
        bench.minutes(1, NOON_US + minute * MINUTE_US)
        bench.fact(ts=NOON_US + minute * MINUTE_US)
    assert bench.publisher.taken == []
    bench.publisher.answers = True
    contact.set()
    until(lambda: bench.spool.spooled == 0)
    topics = [message.topic for message in bench.publisher.taken]
    assert topics == ["node-events"] * 6 + ["node-telemetry"] * 72
    assert [who(m).seq for m in bench.publisher.taken] == [*range(6), *range(72)]
    bench.close()


def test_while_the_broker_answers_nothing_events_wait_on_disk_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, link_timeout_s=0.05)
    bench.fact()
    until(lambda: not bench.spool.health().link_up)
    parked = bench.minutes(1)
    assert len(bench.publisher.taken) == 1, "the first one is the probe"
    assert bench.spool.spooled == 13
    bench.publisher.answers = True
    bench.publisher.acknowledge()
    until(lambda: bench.spool.spooled == 0)
    assert [key(m) for m in bench.publisher.taken[1:]] == [key(m) for m in parked]
    bench.close()


def test_what_the_publisher_does_not_take_is_sent_later(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publisher.full = True
    events = [bench.fact(), bench.telemetry()]
    assert bench.spool.spooled == 2
    bench.publisher.full, bench.publisher.answers = False, True
    until(lambda: bench.spool.spooled == 0)
    assert {key(m) for m in bench.publisher.taken} == {key(m) for m in events}
    bench.close()


def test_what_no_broker_will_take_is_given_up_by_name(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.telemetry()
    bench.telemetry(NOON_US + 5_000_000)
    bench.spool.reject(bench.publisher.open.pop().row)
    assert bench.spool.spooled == 1
    until(lambda: any(account for _, account in bench.spool.notices()))
    ((notice, account),) = [pair for pair in bench.spool.notices() if pair[1] is not None]
    assert (notice.event, notice.value, notice.attributes["gone"]) == ("events_dropped", "node-telemetry", "1")
    assert account is not None
    bench.spool.settle(account)
    assert [pair for pair in bench.spool.notices() if pair[1]] == []
    bench.close()


def test_a_backlog_is_announced_by_range_and_its_end_is_told(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    first.minutes(1)
    first.publisher.acknowledge(2)
    first.close()
    second = Bench(tmp_path)
    (notice,) = [notice for notice, _ in second.spool.notices()]
    assert (notice.event, notice.value, notice.occurrences) == (BACKLOG, "node-telemetry", 10)
    said = notice.attributes
    assert (said["run"], said["first_seq"], said["last_seq"]) == (str(first.journal.run_id), "2", "11")
    until(lambda: len(second.publisher.taken) == 10)
    assert second.spool.notices() == []
    second.publisher.acknowledge()
    until(lambda: [notice.event for notice, _ in second.spool.notices()] == [DRAINED])
    second.close()


def test_a_backlog_whose_last_acknowledgements_come_late_is_told_to_be_over_all_the_same(tmp_path: Path) -> None:
    """The link counts as down when they come, and nothing is left to be sent afterwards."""
    first = Bench(tmp_path)
    first.minutes(1)
    first.close()
    second = Bench(tmp_path, link_timeout_s=0.1)
    until(lambda: len(second.publisher.taken) == 12)
    until(lambda: not second.spool.health().link_up)
    second.tidy()
    second.publisher.acknowledge()
    until(lambda: [notice.event for notice, _ in second.spool.notices()][-1:] == [DRAINED])
    second.close()


def test_a_paced_backlog_keeps_to_its_rate(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    first.minutes(20)
    first.close()
    second = Bench(tmp_path, drain_bytes_per_s=16_000.0)
    second.publisher.answers = True
    until(lambda: second.publisher.taken)
    # One burst is out; the rest waits for its turn, as 16 kB/s begins with 1 kB/s.
    assert sum(len(m.value) for m in second.publisher.taken) < 3 * 4_096
    assert second.spool.spooled > 100
    second.close()


def test_two_processes_later_the_oldest_run_is_still_sent_first(tmp_path: Path) -> None:
    runs = []
    for start in range(3):
        bench = Bench(tmp_path, contact=lambda: False)
        runs.append(bench.journal.run_id)
        bench.minutes(1, NOON_US + start * MINUTE_US)
        bench.close()
    last = Bench(tmp_path)
    last.publisher.answers = True
    until(lambda: last.spool.spooled == 0)
    assert [(who(m).run_id, who(m).seq) for m in last.publisher.taken] == [(r, s) for r in runs for s in range(12)]
    last.close()


@pytest.mark.parametrize("policy", ["event", "interval", "never"])
def test_every_fsync_policy_keeps_every_event_over_a_kill(tmp_path: Path, policy: str) -> None:
    first = Bench(tmp_path, contact=lambda: False, fsync=policy, fsync_interval_s=0.01, segment_bytes=2_000)
    events = first.minutes(3)
    first.die()
    second = Bench(tmp_path)
    until(lambda: len(second.publisher.taken) == 36)
    assert [key(m) for m in second.publisher.taken] == [key(m) for m in events]
    second.close()
