"""What leaves the agent: an event that cannot be one is given up, told and no more."""

from __future__ import annotations

from pathlib import Path

from producers.agent.facts import Fact
from producers.agent.outgoing import Outgoing
from producers.agent.process import MemoryOutbox
from producers.encode import EventEncoder
from producers.journal import Journal


def test_an_event_that_does_not_fit_its_schema_is_told_and_uses_up_no_number(tmp_path: Path) -> None:
    journal = Journal.start(tmp_path, "lab", ["n"], ("node-events", "inventory", "node-telemetry", "node-counters"))
    outbox = MemoryOutbox()
    outgoing = Outgoing(EventEncoder(journal, "n"), outbox, {"node_id": "n", "rack": "", "host_boot_id": ""}, 10, 10)
    outgoing.fact(Fact("xid", "kmsg", 1_000_000, code=1 << 40))
    outgoing.fact(Fact("xid", "kmsg", 2_000_000, code=79))
    outgoing.report_dropped(3_000_000)
    said = [event for _, event in outbox.events()]
    assert [(event["event"], event["seq"], event["value"]) for event in said] == [
        ("xid", 0, ""),
        ("events_dropped", 1, "node-events"),
    ]
    assert "field 'code' holds 1099511627776" in said[1]["message"]
    assert outgoing.dropped == 1
    journal.close()
