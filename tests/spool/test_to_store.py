"""From the spool to the store: an outage, a kill in it and a full disk's thinning; nothing lost, nothing doubled."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from consumers.audit import AuditReport, Expected, audit
from infra.embedded.broker import EmbeddedBroker
from infra.embedded.store.process import StoreProcess
from producers import journal as journals
from producers.publisher import Acknowledgements, KafkaOutbox
from producers.spool.look import look
from tests.consumers.fleet import create_topics
from tests.consumers.running import client, eventually, running, settings
from tests.spool.support import MINUTE_US, TOPICS, Bench, until

pytestmark = pytest.mark.store
SITE_NODE = "spool-to-store"


class Real(Bench):
    """A bench with the real publisher, which tells what the spool wants told as an agent does."""

    def __init__(self, folder: Path, bootstrap: str, **more: Any) -> None:
        self._bootstrap = bootstrap
        super().__init__(folder, **more)
        self.wall_us = time.time_ns() // 1000

    def _publisher(self, told: Acknowledgements) -> Any:
        self.kafka = KafkaOutbox({"bootstrap.servers": self._bootstrap, "linger.ms": 5}, told)
        return self.kafka

    def tell(self) -> None:
        """Send the notices as node events."""
        for notice, account in self.spool.notices():
            fields: dict[str, Any] = {"node_id": "node-7", "event": notice.event, "value": notice.value}
            fields |= {"occurrences": notice.occurrences, "attributes": dict(notice.attributes)}
            now = time.time_ns() // 1000
            assert self.spool.offer(self.encoder.encode("node-events", now, fields))
            if account is not None:
                self.spool.settle(account)

    def die(self) -> None:
        super().die()
        self.kafka.close(0.0)


def report(store: StoreProcess, folder: Path) -> AuditReport:
    given = [Expected(g.producer_id, g.run_id, g.topic, g.given, ended=True) for g in journals.read(folder / "journal")]
    return audit(client(store), given, node="node-7", compare_windows="none")


def _arrived(store: StoreProcess, run_id: int) -> bool:
    """Whether the spool's last word is stored: from then on nothing counts as late any more."""
    told = f"SELECT count() FROM gpufleet.node_events WHERE run_id = {run_id} AND event = 'spool_drained'"
    return bool(client(store).command(told))


def test_an_outage_with_a_kill_and_a_full_disk_loses_and_doubles_nothing(
    embedded_broker: EmbeddedBroker, fresh_store: StoreProcess, tmp_path: Path
) -> None:
    create_topics(embedded_broker.bootstrap, partitions=1)
    base = time.time_ns() // 1000 // MINUTE_US * MINUTE_US - 90 * MINUTE_US
    pid = embedded_broker.pid
    assert pid is not None
    quick = {"link_timeout_s": 0.3, "segment_bytes": 8_000}
    with running(fresh_store, settings(embedded_broker.bootstrap, topics=TOPICS)):
        first = Real(tmp_path, embedded_broker.bootstrap, max_bytes=30_000, **quick)
        first.minutes(2, base)
        until(lambda: first.spool.spooled == 0)
        os.kill(pid, signal.SIGSTOP)
        try:
            for minute in range(2, 42):
                first.minutes(1, base + minute * MINUTE_US)
                first.fact(ts=base + minute * MINUTE_US)
                if minute == 3:
                    until(lambda: not first.spool.health().link_up)
            until(lambda: first.spool.health().thinned > 50)
            first.die()
        finally:
            os.kill(pid, signal.SIGCONT)

        # The backlog trickles behind the live events, and the audit knows that it is on its way.
        second = Real(tmp_path, embedded_broker.bootstrap, drain_bytes_per_s=100.0, **quick)
        second.minutes(1, base + 60 * MINUTE_US)
        second.tell()
        stored = f"SELECT count() FROM gpufleet.node_telemetry WHERE run_id = {second.journal.run_id}"
        eventually(lambda: client(fresh_store).command(stored) == 12)
        assert second.spool.spooled > 30
        under_way = report(fresh_store, tmp_path)
        assert under_way.ok, under_way.findings
        assert under_way.late > 30
        second.close()

        third = Real(tmp_path, embedded_broker.bootstrap, **quick)
        until(lambda: third.spool.spooled == 0, timeout_s=60)
        third.tidy()
        third.tell()
        until(lambda: third.spool.spooled == 0)
        third.close()
        eventually(lambda: _arrived(fresh_store, third.journal.run_id))
        eventually(lambda: report(fresh_store, tmp_path).ok)  # topics are read one beside the other
    assert look(tmp_path / "spool") == []
    final = report(fresh_store, tmp_path)
    assert final.ok, final.findings
    assert (final.lost, final.duplicated, final.late, final.dead_letters) == (0, 0, 0, 0)
    assert final.thinned > 50
    # Every second of the fast lane is told once: 42 minutes of the first run, one of the second, two GPUs.
    told = client(fresh_store).query(
        "SELECT sum(ticks * interval_ms * length(gpu_index)) / 1000 FROM gpufleet.node_telemetry FINAL"
        " WHERE producer_id = 'node-7' AND flaws = 0"
    )
    assert told.result_rows[0][0] == 43 * 60 * 2
