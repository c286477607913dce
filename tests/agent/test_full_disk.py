"""A node whose disk is full: the agent starts, says so, samples, and its journal is on disk once there is room."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from producers import journal as journals
from producers.agent.agent import TOPICS, Agent, journal_folder
from producers.agent.process import MemoryOutbox
from producers.encode import EventEncoder
from producers.journal import Journal, JournalError
from tests.agent.support import MINUTE_US, ManualClock, settings


@contextmanager
def full_disk() -> Iterator[None]:
    """No file takes a byte: the kernel refuses what goes beyond the limit, as a full disk does (EFBIG for ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_agent_on_a_full_disk_samples_and_its_journal_is_whole_once_there_is_room(tmp_path: Path) -> None:
    told = settings(tmp_path)
    folder = journal_folder(told.state_dir)
    clock = ManualClock(29_454_000 * MINUTE_US)
    outbox = MemoryOutbox()
    with full_disk():
        journal = Journal.start(folder, told.site, [told.node_id], TOPICS, in_memory=True)
        assert "needs" in journal.unsaved
        agent = Agent(told, clock, journal, EventEncoder(journal, told.node_id), outbox, lambda _post: ([], []))
        for _ in range(30):
            agent._turn(None)
        events = [event for _, event in outbox.events() if event.get("event") == "source_down"]
        assert [(e["value"], e["source"]) for e in events] == [("journal", "agent")], "told, once"
        assert list(folder.glob("*.partial")) == []
        given = journal.next(journal.row(told.node_id, "node-events"))
        assert given > 0
    journal.acknowledge(journal.row(told.node_id, "node-events"))
    for _ in range(30):
        agent._turn(None)
    assert journal.unsaved == ""
    assert [e["event"] for t, e in outbox.events() if e.get("value") == "journal"] == ["source_down", "source_up"]
    journal.acknowledge(journal.row(told.node_id, "node-events"))
    agent._finish("over")
    journal.close()
    rows = {row.topic: row for row in journals.read(folder)}
    offered = [message for message in outbox.messages if message.topic == "node-events"]
    assert (rows["node-events"].given, rows["node-events"].acknowledged) == (len(offered), 2)


def test_others_still_refuse_to_begin_without_a_journal(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(JournalError, match="needs"):
        Journal.start(tmp_path, "lab", ["n"], TOPICS)
