"""The journal: what a run gave out is on disk whatever ends the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from producers import journal as journals
from producers.journal import Journal, JournalError, JournalInUseError

TOPICS = ["leases", "tenant-usage", "tenant-limits"]


def given_of(folder: Path) -> dict[tuple[str, str], tuple[int, int]]:
    return {(g.producer_id, g.topic): (g.given, g.acknowledged) for g in journals.read(folder)}


def test_rows_are_apart_and_counted(tmp_path: Path) -> None:
    journal = Journal.start(tmp_path, "s", ["a", "b"], TOPICS)
    for seq in range(3):
        journal.give(journal.row("a", "leases"), seq)
    journal.give(journal.row("b", "tenant-limits"), 0)
    journal.acknowledge(journal.row("a", "leases"))
    assert journal.next(journal.row("a", "leases")) == 3
    assert journal.next(journal.row("b", "leases")) == 0
    assert given_of(tmp_path) == {("a", "leases"): (3, 1), ("b", "tenant-limits"): (1, 0)}
    journal.close()
    journal.close()
    assert given_of(tmp_path) == {("a", "leases"): (3, 1), ("b", "tenant-limits"): (1, 0)}


def test_unknown_rows_and_repeated_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="distinct"):
        Journal.start(tmp_path, "s", ["a", "a"], TOPICS)
    with pytest.raises(ValueError, match="distinct"):
        Journal.start(tmp_path, "s", ["a"], ["leases", "leases"])
    with pytest.raises(ValueError, match="at least one"):
        Journal.start(tmp_path, "s", [], TOPICS)
    journal = Journal.start(tmp_path, "s", ["a"], TOPICS)
    with pytest.raises(KeyError):
        journal.row("b", "leases")
    journal.close()


def test_a_later_start_has_a_later_run_id_even_if_the_clock_went_back(tmp_path: Path) -> None:
    future = 9_000_000_000_000_000
    Journal(tmp_path, "s", future, ["a"], TOPICS).close()
    second = Journal.start(tmp_path, "s", ["a"], TOPICS)
    assert second.run_id == future + 1
    second.close()


def test_many_rows_at_once_equal_one_by_one(tmp_path: Path) -> None:
    names = [f"n{i}" for i in range(50)]
    journal = Journal.start(tmp_path, "s", names, TOPICS)
    rows = np.array(journal.rows("tenant-usage"))
    assert rows.tolist() == [journal.row(name, "tenant-usage") for name in names]
    assert journal.give_many(rows).tolist() == [0] * 50
    assert journal.give_many(rows[::2]).tolist() == [1] * 25
    assert [journal.next(int(row)) for row in rows] == [2 if i % 2 == 0 else 1 for i in range(50)]
    view = journal.given("leases")
    view[3] += 7
    assert journal.next(journal.row("n3", "leases")) == 7
    assert journal.next(journal.row("n2", "leases")) == 0
    journal.close()  # although an array still views the table
    assert given_of(tmp_path)["n3", "leases"] == (7, 0)


def test_previous_names_the_newest_run_that_gave_something_out(tmp_path: Path) -> None:
    for run_id, producer, count in [(10, "a", 2), (20, "b", 5), (30, "a", 0), (40, "a", 9)]:
        journal = Journal(tmp_path, "s", run_id, ["a", "b"], TOPICS)
        for seq in range(count):
            journal.give(journal.row(producer, "leases"), seq)
        journal.close()
    [last] = journals.previous(tmp_path, "a", before=40)
    assert (last.run_id, last.topic, last.given) == (10, "leases", 2)
    [last] = journals.previous(tmp_path, "a", before=41)
    assert (last.run_id, last.given) == (40, 9)
    assert journals.previous(tmp_path, "a", before=10) == []
    assert journals.previous(tmp_path, "nobody", before=99) == []
    of_both = journals.previous_of(tmp_path, ["a", "b", "nobody"], before=41)
    assert {name: found[0].run_id for name, found in of_both.items()} == {"a": 40, "b": 20}


def test_a_torn_description_is_named_and_said_what_to_do(tmp_path: Path) -> None:
    Journal(tmp_path, "s", 7, ["a"], TOPICS).close()
    whole = (tmp_path / "7.json").read_text()
    for torn in (whole[: len(whole) // 2], "", "[]", "null", json.dumps({"run_id": 7}), whole.replace("7", "8", 1)):
        (tmp_path / "7.json").write_text(torn)
        with pytest.raises(JournalError, match=r"7\.json is not a journal.*move 7\.\* away"):
            list(journals.read(tmp_path))


def test_a_cut_table_is_named_with_both_sizes(tmp_path: Path) -> None:
    Journal(tmp_path, "s", 7, ["a"], TOPICS).close()
    os.truncate(tmp_path / "7.seq", 17)
    with pytest.raises(JournalError, match=r"7\.seq has 17 bytes, expected 48"):
        list(journals.read(tmp_path))


def test_a_run_that_died_before_its_table_gave_out_nothing(tmp_path: Path) -> None:
    Journal(tmp_path, "s", 7, ["a"], TOPICS).close()
    (tmp_path / "7.seq").rename(tmp_path / "7.seq.partial")
    (tmp_path / "notes.json").write_text("not ours")
    assert list(journals.read(tmp_path)) == []


def test_an_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JournalError, match="cannot make the journal folder"):
        Journal.start(tmp_path / "file" / "below", "s", ["a"], TOPICS)
    with pytest.raises(JournalError, match="cannot write the journal folder"):
        journals.lock(tmp_path / "file")
    with pytest.raises(JournalError, match="it needs 48 bytes there"):
        Journal(tmp_path / "missing", "s", 1, ["a"], TOPICS)


def test_one_process_holds_the_folder(tmp_path: Path) -> None:
    held = journals.lock(tmp_path)
    with pytest.raises(JournalInUseError, match="in use by another process"):
        journals.lock(tmp_path)
    os.close(held)
    os.close(journals.lock(tmp_path))


def test_prune_keeps_what_the_audit_and_the_next_start_need(tmp_path: Path) -> None:
    def run(run_id: int, given: int, acknowledged: int, producer: str = "a") -> None:
        journal = Journal(tmp_path, "s", run_id, [producer], TOPICS)
        for seq in range(given):
            journal.give(0, seq)
        for _ in range(acknowledged):
            journal.acknowledge(0)
        journal.close()

    run(10, 5, 5)  # all acknowledged, and a later run exists: may go
    run(20, 5, 4)  # one event unaccounted for: the audit needs it
    run(25, 0, 0)  # gave out nothing: may go
    run(30, 3, 3, "b")  # b's newest: its next start names it
    run(40, 6, 6)  # a's newest
    before = given_of(tmp_path)
    assert journals.prune(tmp_path, before=40, dry_run=True) == [10, 25]
    assert given_of(tmp_path) == before
    assert journals.prune(tmp_path, before=40) == [10, 25]
    assert sorted(path.name for path in tmp_path.glob("*.seq")) == ["20.seq", "30.seq", "40.seq"]
    assert journals.prune(tmp_path, before=40) == []


def test_giving_and_acknowledging_in_two_threads_lose_nothing(tmp_path: Path) -> None:
    journal = Journal.start(tmp_path, "s", ["a"], TOPICS)

    def give() -> None:
        for seq in range(20_000):
            journal.give(1, seq)

    def acknowledge() -> None:
        for _ in range(20_000):
            journal.acknowledge(1)

    threads = [threading.Thread(target=give), threading.Thread(target=acknowledge)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    assert given_of(tmp_path) == {("a", "tenant-usage"): (20_000, 20_000)}


KILLED = """
import sys
from pathlib import Path
from producers.journal import Journal
journal = Journal.start(Path(sys.argv[1]), "s", ["a"], ["leases"])
seq = 0
while True:
    journal.give(0, seq)
    seq += 1
    if seq % 1000 == 0:
        print(seq, flush=True)
"""


def test_what_was_given_out_survives_kill_9(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(20)]
    child.send_signal(signal.SIGKILL)
    said += [int(line) for line in child.stdout.read().split()]
    child.wait()
    child.stdout.close()
    [given] = journals.read(tmp_path)
    assert said[-1] <= given.given <= said[-1] + 1000


def test_the_module_needs_no_numpy() -> None:
    code = "import sys, producers.journal, producers.encode, producers.publisher; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
