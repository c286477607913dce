"""A disk that is full, or never was there: sampling goes on in memory, it is told once, and nothing is lost."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from producers import journal as journals
from tests.spool.support import MINUTE_US, NOON_US, Bench, key, until


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: the kernel writes what fits and refuses the rest, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def told(bench: Bench) -> list[tuple[str, str]]:
    return [(notice.event, notice.value) for notice, _ in bench.spool.notices()]


def test_on_a_full_disk_events_go_on_in_memory_and_return_to_disk(tmp_path: Path) -> None:
    bench = Bench(tmp_path, retry_s=0.05)
    events = []
    with files_end_at(10_000):
        for minute in range(4):
            events += bench.minutes(1, NOON_US + minute * MINUTE_US)
        assert not bench.spool.health().writable
        assert told(bench) == [("source_down", "spool")], "once, not at every event"
        on_disk = bench.spool.spooled
        assert 20 < on_disk < 48
        assert bench.spool.waiting == 48
        assert [key(m) for m in bench.publisher.taken] == [key(m) for m in events]
    while not bench.spool.health().writable:
        events.append(bench.fact())
    assert told(bench) == [("source_up", "spool")]
    bench.publisher.acknowledge()
    assert bench.spool.waiting == 0
    assert all(g.acknowledged == g.given for g in journals.read(tmp_path / "journal"))
    bench.close()
    assert {key(m) for m in bench.publisher.taken} == {key(m) for m in events}


def test_what_was_on_the_full_disk_is_whole_for_the_next_process(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    with files_end_at(10_000):
        events = first.minutes(4)
    on_disk = first.spool.spooled
    first.die()
    second = Bench(tmp_path)
    until(lambda: len(second.publisher.taken) == on_disk)
    assert [key(m) for m in second.publisher.taken] == [key(m) for m in events[:on_disk]]
    assert [event for event, _ in told(second)] == ["spool_backlog"], "nothing is damaged"
    second.close()


def test_while_neither_disk_nor_memory_takes_an_event_the_producer_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publisher.full = True
    with files_end_at(100):
        message = bench.encoder.encode("node-events", NOON_US, {"node_id": "node-7", "event": "xid"})
        assert not bench.spool.offer(message)
    bench.close()


def test_a_folder_that_cannot_be_made_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    bench = Bench(tmp_path, retry_s=0.02)
    bench.fact()
    assert told(bench) == [("source_down", "spool")]
    assert bench.spool.spooled == 0
    assert len(bench.publisher.taken) == 1
    (tmp_path / "spool").unlink()
    until(lambda: bool(bench.fact()) and bench.spool.health().writable)
    assert told(bench) == [("source_up", "spool")]
    assert bench.spool.spooled > 0
    bench.close()


def test_a_file_that_rotted_is_told_and_the_rest_is_sent(tmp_path: Path) -> None:
    first = Bench(tmp_path, contact=lambda: False)
    first.minutes(2)
    first.die()
    path = tmp_path / "spool" / "samples-000000001.log"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(bytes(data))
    second = Bench(tmp_path)
    until(lambda: len(second.publisher.taken) == 23)
    assert ("events_dropped", "") in told(second)
    second.close()


def test_a_file_that_rots_under_a_running_process_does_not_hold_the_rest_back(tmp_path: Path) -> None:
    contact = False
    bench = Bench(tmp_path, contact=lambda: contact, segment_bytes=3_000)
    bench.minutes(3)
    until(lambda: len(list((tmp_path / "spool").glob("samples-*.z"))) > 2)
    victim = sorted((tmp_path / "spool").glob("samples-*.z"))[0]
    data = bytearray(victim.read_bytes())
    data[-5] ^= 1
    victim.write_bytes(bytes(data))
    contact, bench.publisher.answers = True, True
    until(lambda: bench.spool.spooled == 0)
    sent = len(bench.publisher.taken)
    assert 15 < sent < 36
    assert [each for each in bench.spool.notices() if each[0].event == "events_dropped"]
    bench.close()
