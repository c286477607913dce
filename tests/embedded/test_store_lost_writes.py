"""A write that the system refuses, which chDB passes over in silence: nothing that the store answered for is lost, what
was not answered for is not half there, and the store is well again without a hand.

Most tests bound the size of the store's files (RLIMIT_FSIZE), so that writes fail when a test wants them to, and a
start finds no room until it lifts the bound. The last one fills a disk.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from infra.embedded.store.errors import Refusal
from infra.embedded.store.leftovers import Leftovers
from infra.embedded.store.process import StoreProcess
from infra.embedded.store.room import RESERVE
from infra.embedded.store.writes import LOOK_S, Writes
from tests.chaos.disk import Disk

resource = pytest.importorskip("resource")
pytestmark = [pytest.mark.store, pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")]

FILE = 1 << 20
"""The bound on a file, in bytes."""
ROW = 100_000
"""Bytes of a row, which do not compress."""
TABLE = """CREATE TABLE kept (x UInt64, s String) ENGINE = MergeTree ORDER BY x
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"""
ALL = "SELECT count(), sum(x), sum(cityHash64(x, s)) FROM kept"


def connect(store: StoreProcess) -> Client:
    return clickhouse_connect.get_client(
        host=store.host, port=store.port, username=store.username, password=store.password
    )


def until(what: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.05)


def ask(store: StoreProcess, query: str) -> list[tuple[Any, ...]]:
    with connect(store) as client:
        return [tuple(row) for row in client.query(query).result_rows]


def boot(store: StoreProcess) -> str:
    return str(ask(store, "SELECT getMacro('gpufleet_boot')")[0][0])


def healed(store: StoreProcess, before: str) -> bool:
    """Whether another start of the store answers."""
    try:
        return boot(store) != before
    except (ClickHouseError, OSError):
        return False


def insert(store: StoreProcess, first: int, rows: int) -> None:
    with connect(store) as client:
        client.command(f"INSERT INTO kept SELECT number + {first}, randomString({ROW}) FROM numbers({rows})")


def set_aside(store: StoreProcess) -> list[tuple[Any, ...]]:
    return ask(store, "SELECT table, name FROM system.detached_parts")


def bound(store: StoreProcess, most: int) -> None:
    hard = resource.prlimit(store.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(store.pid, resource.RLIMIT_FSIZE, (most, hard))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreProcess]:
    with StoreProcess(tmp_path) as process:
        with connect(process) as client:
            client.command(TABLE)
            client.command("SYSTEM STOP MERGES kept")
        yield process


def test_an_insert_whose_write_was_refused_is_not_answered_as_stored(store: StoreProcess) -> None:
    insert(store, 0, 5)
    [kept], before, pid = ask(store, ALL), boot(store), store.pid
    bound(store, FILE)
    with pytest.raises(ClickHouseError, match=r"NOT_ENOUGH_SPACE"):
        insert(store, 5, 30)
    bound(store, resource.RLIM_INFINITY)
    until(lambda: healed(store, before))
    assert store.pid == pid
    assert store.alive()
    assert ask(store, ALL) == [kept], "what was answered for is there, and nothing of what was not"
    assert not set_aside(store)
    insert(store, 5, 30)
    assert ask(store, "SELECT count(), uniqExact(x) FROM kept") == [(35, 35)]


def test_a_merge_whose_write_was_refused_costs_none_of_the_rows_that_it_replaced(store: StoreProcess) -> None:
    for first in range(0, 20, 5):
        insert(store, first, 5)
    [kept], before = ask(store, ALL), boot(store)
    bound(store, FILE)
    with connect(store) as client:
        client.command("SYSTEM START MERGES kept")
        with pytest.raises(ClickHouseError, match=r"NOT_ENOUGH_SPACE"):
            client.command("OPTIMIZE TABLE kept FINAL")
    bound(store, resource.RLIM_INFINITY)
    until(lambda: healed(store, before))
    assert ask(store, ALL) == [kept]
    assert not set_aside(store), "what a merge left would keep the disk full"


def test_a_merge_in_the_background_is_noticed_although_nobody_writes(store: StoreProcess) -> None:
    with connect(store) as client:
        client.command("ALTER TABLE kept MODIFY SETTING merge_selector_base = 1.1, min_parts_to_merge_at_once = 2")
    for first in range(0, 60, 5):
        insert(store, first, 5)
    [kept], before = ask(store, ALL), boot(store)
    bound(store, FILE)
    with connect(store) as client:
        client.command("SYSTEM START MERGES kept")
    until(lambda: _waits(store))
    bound(store, resource.RLIM_INFINITY)
    until(lambda: healed(store, before))
    assert ask(store, ALL) == [kept]


def _waits(store: StoreProcess) -> bool:
    """Whether it tells everybody that it waits for room."""
    try:
        urllib.request.urlopen(f"{store.url}/?query=SELECT+1").close()
    except urllib.error.HTTPError as error:
        with error:
            return error.headers["X-ClickHouse-Exception-Code"] == "243" and b"starts when" in error.read()
    except OSError:
        return False
    return False


def test_a_store_that_waits_for_room_ends_when_it_is_told_to(store: StoreProcess) -> None:
    bound(store, FILE)
    with pytest.raises(ClickHouseError, match=r"NOT_ENOUGH_SPACE"):
        insert(store, 0, 30)
    until(lambda: _waits(store))
    process = store._process
    assert process is not None
    store.stop()
    assert process.returncode == 0
    assert store.start().ping()
    assert ask(store, ALL) == [(0, 0, 0)]


def test_only_what_was_broken_since_the_last_start_is_removed(tmp_path: Path) -> None:
    aside = tmp_path / "store" / "abc" / "abcdef" / "detached"

    def part(name: str, written: float) -> Path:
        folder = aside / name
        folder.mkdir(parents=True)
        (folder / "data.bin").write_bytes(b"x")
        os.utime(folder / "data.bin", (written, written))
        return folder

    there = part("broken-on-start_all_1_1_0", 2000.0)
    leftovers = Leftovers(tmp_path, since=1000.0)
    lost, old = part("broken-on-start_all_2_9_1", 1000.0), part("broken-on-start_all_3_3_0", 999.0)
    by_hand = part("all_4_4_0", 2000.0)
    assert leftovers.remove() == [lost.name]
    assert [folder.exists() for folder in (there, lost, old, by_hand)] == [True, False, True, True]


def test_the_look_of_a_statement_that_wrote_counts_for_the_merges_too(tmp_path: Path) -> None:
    class Engine:
        refused = 0

        def refused_writes(self) -> int:
            return self.refused

    writes = Writes(Engine(), tmp_path)
    before = writes.next_look_s()
    assert 0 < before <= LOOK_S
    time.sleep(0.05)
    assert writes.next_look_s() < before - 0.04
    writes.after()
    assert LOOK_S - 0.04 < writes.next_look_s() <= LOOK_S


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the writes of a process")
def test_the_engine_is_asked_again_only_when_something_was_written_even_in_vain(tmp_path: Path) -> None:
    class Engine:
        asked = 0

        def refused_writes(self) -> int:
            self.asked += 1
            return 0

    engine = Engine()
    writes = Writes(engine, tmp_path)
    writes.look_again()
    for _ in range(3):
        writes.look_again()
    assert engine.asked == 1
    assert writes.next_look_s() > LOOK_S - 1
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space"):
        os.write(full, b"x")
    os.close(full)
    writes.look_again()
    assert engine.asked == 2


def test_the_sources_of_a_merge_are_kept_until_a_lost_write_has_been_noticed(store: StoreProcess) -> None:
    query = "SELECT toFloat64(value) FROM system.merge_tree_settings WHERE name = 'old_parts_lifetime'"
    assert ask(store, query)[0][0] >= 30 * LOOK_S


def test_a_broken_part_of_any_size_keeps_no_store_from_starting(store: StoreProcess) -> None:
    query = "SELECT toUInt64(value) FROM system.merge_tree_settings WHERE name = 'max_suspicious_broken_parts_bytes'"
    assert ask(store, query)[0][0] > 100 << 40


@pytest.mark.parametrize("where", ["etc", "ready.json.new"])
def test_a_start_that_runs_out_of_the_room_it_waited_for_tries_again(store: StoreProcess, where: str) -> None:
    before, blocked = boot(store), store.data / where
    if where == "etc":
        (blocked / "config.xml").unlink()
        (blocked / "config.xml").symlink_to("/dev/full")
    else:
        blocked.symlink_to("/dev/full")
    bound(store, FILE)
    with pytest.raises(ClickHouseError, match=r"NOT_ENOUGH_SPACE"):
        insert(store, 0, 30)
    until(lambda: _waits(store))
    bound(store, resource.RLIM_INFINITY)
    until(lambda: "is gone again" in store.log.read_text())
    (blocked / "config.xml" if where == "etc" else blocked).unlink()
    until(lambda: healed(store, before))
    assert store.alive()


class Engine:
    """Counts refused writes as a test has it."""

    refused = 0

    def refused_writes(self) -> int:
        return self.refused


def test_with_little_room_left_reads_and_drops_go_on_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes(Engine(), tmp_path)
    monkeypatch.setattr("infra.embedded.store.room.free", lambda folder: RESERVE - 1)
    for keyword in ("SELECT", "WITH", "SHOW", "DROP", "TRUNCATE", "KILL", "SYSTEM", "SET"):
        writes.before(keyword)
    for keyword in ("INSERT", "CREATE", "ALTER", "OPTIMIZE", "DELETE"):
        with pytest.raises(Refusal, match="NOT_ENOUGH_SPACE"):
            writes.before(keyword)
    monkeypatch.setattr("infra.embedded.store.room.free", lambda folder: RESERVE)
    writes.before("INSERT")


def test_after_a_lost_write_nothing_is_answered_and_it_is_told_once(tmp_path: Path) -> None:
    engine, told = Engine(), []
    writes = Writes(engine, tmp_path)
    writes.when_lost(lambda: told.append(1))
    writes.after()
    assert not told
    engine.refused = 1
    for _ in range(2):
        with pytest.raises(Refusal, match="NOT_ENOUGH_SPACE"):
            writes.after()
    with pytest.raises(Refusal, match="NOT_ENOUGH_SPACE"):
        writes.before("SELECT")
    assert told == [1]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk.mount(tmp_path, 1000)
    if made is None:
        pytest.skip("needs root on Linux, to mount a file system")
    yield made
    made.unmount()


def test_a_disk_that_fills_up_in_the_middle_of_a_merge_heals_without_a_hand(disk: Disk) -> None:
    with StoreProcess(disk.folder) as store:
        with connect(store) as client:
            client.command(TABLE)
            client.command("SYSTEM STOP MERGES kept")
        for part in range(6):
            insert(store, part * 200, 200)
        [kept], before = ask(store, ALL), boot(store)
        lost = []

        def merge() -> None:
            with connect(store) as client:
                try:
                    client.command("OPTIMIZE TABLE kept FINAL")
                except (ClickHouseError, OSError) as error:
                    lost.append(str(error))

        with connect(store) as client:
            client.command("SYSTEM START MERGES kept")
        thread = threading.Thread(target=merge)
        thread.start()
        until(lambda: ask(store, "SELECT count() FROM system.merges WHERE progress > 0") != [(0,)])
        disk.fill()
        thread.join(120)
        assert lost, "the merge was over before the disk was full"
        until(lambda: _waits(store))
        with pytest.raises(ClickHouseError, match=r"NOT_ENOUGH_SPACE"):
            insert(store, 10_000, 1)
        disk.make_room()
        until(lambda: healed(store, before))
        assert ask(store, ALL) == [kept]
        assert not set_aside(store)
        insert(store, 10_000, 1)
        with connect(store) as client:
            client.command("OPTIMIZE TABLE kept FINAL")
        assert ask(store, "SELECT count(), uniqExact(x) FROM kept") == [(kept[0] + 1, kept[0] + 1)]
