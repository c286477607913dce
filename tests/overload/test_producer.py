"""A producer whose broker is slow: what it may hold is bounded, the caller is told, and all of it arrives."""

from __future__ import annotations

import time
from pathlib import Path

from producers.encode import EventEncoder
from producers.journal import Journal
from producers.publisher import OVERHEAD_BYTES, KafkaOutbox
from producers.spool.outbox import SpoolOutbox
from producers.spool.settings import SpoolSettings

NODE = "node-1"
BOUND = 256 << 10
SLOW = {"test.mock.num.brokers": 1, "test.mock.broker.rtt": 200, "batch.num.messages": 100, "linger.ms": 5}
"""librdkafka's own stand-in for a broker, which takes 0.2 s for each answer."""


def test_the_outbox_refuses_beyond_its_bound_and_delivers_what_it_took(tmp_path: Path) -> None:
    journal = Journal.start(tmp_path, "lab", [NODE], ["node-events"])
    encoder = EventEncoder(journal, NODE)
    outbox = KafkaOutbox(SLOW, journal, BOUND)
    taken = refused = held = 0
    message = encoder.encode("node-events", 1_700_000_000_000_000, {"node_id": NODE, "event": "xid"})
    cost = len(message.key) + len(message.value) + len(message.header) + OVERHEAD_BYTES
    for _ in range(20_000):
        if outbox.offer(message):
            taken += 1
        else:
            refused += 1
        held = max(held, outbox.waiting * cost)
    assert refused > taken, "ten times what the broker takes"
    assert held <= BOUND
    deadline = time.monotonic() + 60
    while outbox.flush(1.0):
        assert time.monotonic() < deadline, outbox.counters
    assert outbox.counters.acknowledged == taken
    assert outbox.counters.refused == refused
    assert outbox.close() == 0
    journal.close()


def test_with_a_spool_nothing_is_refused_and_memory_holds_a_window(tmp_path: Path) -> None:
    journal = Journal.start(tmp_path / "journal", "lab", [NODE], ["node-events"])
    encoder = EventEncoder(journal, NODE)
    told = SpoolSettings(live_window_bytes=32 << 10, drain_window_bytes=32 << 10, drain_bytes_per_s=0.0, fsync="never")
    spool = SpoolOutbox(
        tmp_path / "spool", journal, tmp_path / "journal", lambda to: KafkaOutbox(SLOW, to, BOUND), told
    )
    flying = 0
    for number in range(800):
        fields = {"node_id": NODE, "event": "xid", "code": number}
        assert spool.offer(encoder.encode("node-events", 1_700_000_000_000_000 + number, fields))
        flying = max(flying, sum(spool._flights.bytes.values()))
    assert spool.spooled > 300, "the rest waits on disk"
    assert flying <= (64 << 10)
    deadline = time.monotonic() + 90
    while spool.flush(1.0):
        assert time.monotonic() < deadline, spool.health()
    assert spool.close() == 0
    assert journal.table[1] == 800, "each acknowledged once"
    journal.close()
