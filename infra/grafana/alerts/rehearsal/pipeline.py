"""A rehearsal's events on the way that every event takes: producer, broker, consumer; the projector follows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import UnreachableError
from infra.grafana.alerts.rehearsal.day import Day, Plan, causes, scenario, simulate, slow_gpus
from infra.kafka.client import librdkafka
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from producers.simulator import simulation

if TYPE_CHECKING:
    from infra.up.stack import Stack

STORED_WITHIN_S = 1800.0


@contextmanager
def stack(folder: Path, plan: Plan) -> Iterator[Stack]:
    """A broker, a store and a consumer on that folder, for as long as the rehearsal takes."""
    from infra.config import load
    from infra.up.stack import Stack

    overrides = {
        "site.name": scenario(plan).site,
        "kafka.partitions": 1,
        "kafka.history_partitions": 1,
        "consume.metrics_port": 0,
        "consume.flush_events": 20_000,
        "consume.inserts_per_second": 20.0,
    }
    settings = load(config=None, data=None, environ={}, cwd=folder)
    named = settings.with_flags({key: value for key, value in overrides.items() if not key.startswith("consume")})
    with Stack(folder / "data", named, "embedded", overrides) as running:
        running.start_consumer()
        yield running


def tell(running: Stack, plan: Plan, end: datetime, timeout_s: float = STORED_WITHIN_S) -> Day:
    """Simulate the time before ``end``; returns when every event is stored. UnreachableError when one is not."""
    chosen = scenario(plan)
    journal = Journal.start(running.journals, chosen.site, simulation.producers(chosen), simulation.TOPICS)
    client = running.client()
    try:
        with KafkaOutbox(librdkafka(running.settings.kafka, "producer"), journal) as outbox:
            day = simulate(plan, end, journal, outbox, chosen, slow_gpus if plan.one_job else causes)
            if outbox.flush(60):
                raise UnreachableError("the broker did not take every event within a minute")
        waiting = running.backlog(client, journal)
        _until(lambda: not waiting.count(), running, timeout_s)
    finally:
        client.close()
        journal.close()
    running.stop_child("consumer")
    return day


def _until(done: Callable[[], bool], running: Stack, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        running.check()
        if time.monotonic() > deadline:
            raise UnreachableError(f"the consumer did not store every event within {timeout_s:.0f} s")
        time.sleep(0.5)
