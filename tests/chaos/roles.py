"""Consumers and projectors, as they run in processes of their own."""

from __future__ import annotations

import logging
import os
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from consumers.consumer import Consumer
from consumers.errors import ConsumerError
from consumers.projector.projector import Projector, ProjectorSettings, Step
from consumers.projector.recompute import Limits
from consumers.projector.worklist import Pace
from consumers.settings import ConsumeSettings
from consumers.store import EventStore
from consumers.watchdog import Watchdog
from infra.clickhouse.client import connect
from tests.chaos.process import Where, obey, settle_in

log = logging.getLogger(__name__)
GROUP = "chaos"
SESSION_MS = 2_000
HORIZON_S = 3.0
HANGS_S = 20.0
FATAL = 3
"""Exit code of a consumer that says a person must decide; what it said is the last line of its log."""
TOPICS = (
    "node-telemetry",
    "node-counters",
    "node-events",
    "tenant-usage",
    "leases",
    "dead-letters",
)
KAFKA = {
    "session.timeout.ms": SESSION_MS,
    "heartbeat.interval.ms": 300,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 500,
    "topic.metadata.refresh.interval.ms": 2_000,
    "socket.timeout.ms": 10_000,
}


def consume_settings(where: Where, name: str, **changes: Any) -> ConsumeSettings:
    """Quick to flush, to commit and to try again; otherwise as in production."""
    return ConsumeSettings(
        **{
            "kafka": {"bootstrap.servers": where.bootstrap, **KAFKA},
            "kafka_writing": {"bootstrap.servers": where.bootstrap, "reconnect.backoff.max.ms": 500},
            "topics": TOPICS,
            "group": GROUP,
            "consumer_id": name,
            "site": "chaos",
            "flush_age_s": 0.5,
            "flush_min_age_s": 0.1,
            "inserts_per_second": 3.0,
            "horizon_s": HORIZON_S,
            "bookkeeping_s": 0.3,
            "drain_s": 3.0,
            "topics_check_s": 2.0,
            "stop_s": 5.0,
            "backoff_first_s": 0.05,
            "backoff_max_s": 0.5,
            "schema_recheck_s": 0.3,
            "quarantine_share_limit": 1.0,
            **changes,
        }
    )


def consumer(where: Where, name: str, changes: dict[str, Any], orders: Connection) -> None:
    """A consumer until it is told to stop. Exit code ``FATAL`` when a person must decide."""
    settle_in(where, name)
    events = EventStore(lambda: connect(where.store), "gpufleet")
    made = Consumer(consume_settings(where, f"{name}/{os.getpid()}", **changes), events)
    obey(orders, made.stop)
    try:
        with Watchdog(lambda: made.health.last_poll, HANGS_S):
            made.run()
    except ConsumerError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(FATAL)
    os._exit(0)  # librdkafka's threads need not be waited for: the group was left


def projector(where: Where, name: str, owner: str, orders: Connection) -> None:
    """A projector until it is told to stop."""
    settle_in(where, name)
    stop = threading.Event()
    obey(orders, stop.set)
    given = ProjectorSettings(
        owner=owner,
        every_s=0.5,
        rest=0.1,
        most_s=1.0,
        ledger_overlap_s=20.0,
        late_inserts_s=1.5,
        pace=Pace(grace_s=1.0, live_s=60.0, quiet_s=0.5, patience_s=3.0),
        limits=Limits(statement_timeout_s=8),
        lock_ttl_s=12.0,
        lock_settle_s=0.3,
    )

    def say(step: Step) -> None:
        if step.windows or step.entries:
            log.info(
                "%.2f s: %d statements for %d ledger rows: %s",
                step.seconds,
                step.statements,
                step.entries,
                step.windows,
            )

    Projector(lambda: connect(where.store), given, on_step=say).run(stop)
    os._exit(0)
