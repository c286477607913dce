"""A day in the life of a small fleet, told through the real pipeline, and everything needed to check what it says.

The scenario ``small`` (8 H100 nodes, one GB200 rack, three tenants) is back-filled for 24 hours with its story: a
straggler, a feed trip, a hand-over of nodes, a raised limit, a coolant loop that fails, and random faults. Its events
go through the embedded broker, the real consumer and the real projector into the embedded store; the events
themselves stay here too, so that a test can add up what was sent without asking SQL.

The day is always the same one, ``START`` to ``END``: everything that happens in it is fixed by the scenario's seed
and the time, so figures and empty panels do not change from run to run. Retention is stretched to keep it.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import fastavro

from infra.grafana.expand.timerange import TimeRange
from schemas.catalogue import by_id
from schemas.framing import PREFIX_BYTES, schema_id

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from infra.config import Settings
    from infra.up.stack import Stack
    from producers.encode import Message
    from producers.publisher import KafkaOutbox
    from producers.simulator.scenario import Scenario
    from producers.simulator.truth import Truth

START: Final = datetime(2026, 3, 10, 6, tzinfo=UTC)
END: Final = START + timedelta(hours=24)
"""Crosses a midnight, so that days differ from the range."""
KEPT: Final = (
    "node-telemetry", "facility-telemetry", "node-events", "tenant-usage", "tenant-limits", "leases", "allocations"
)  # fmt: skip
"""Topics whose events stay in memory (about 40 MB)."""
NEWCOMER: Final = "newcomer"
"""A tenant with a user and without anything else."""
REPLAYED_TENANT: Final = "anthropic"
REPLAYED_WORKSPACE: Final = "replayed"
REPLAYED_AT: Final = START + timedelta(hours=20)
"""The replay's first window."""
REPLAYED_REQUESTS: Final = 600


@dataclass(frozen=True, slots=True)
class Replayed:
    """Sums over the file of requests that `gpufleet usage replay` was given."""

    tenant: str
    product: str
    workspace: str
    start: datetime
    requests: int
    input_tokens: int
    output_tokens: int
    events: int
    """Windows it made."""


class Story:
    """What the fixture gives. Ask ``operator`` or ``tenant(name)``; compare with ``truth`` and ``events``."""

    def __init__(
        self, stack: Stack, scenario: Scenario, truth: Truth, kept: Kept, replayed: Replayed, told_at: TimeRange
    ) -> None:
        self.stack = stack
        """Its store runs; broker, consumer and projector have ended."""
        self.scenario = scenario
        self.truth = truth
        """What the simulator did, in order: truth.of("feed_trip") ..."""
        self.replayed = replayed
        self.told_at = told_at
        """When the events came in and were stored, by the wall clock: the ledger's time."""
        self._kept = kept
        self._clients: dict[str, Client] = {}

    @property
    def settings(self) -> Settings:
        """With which every gpufleet command finds this store."""
        return self.stack.settings

    @property
    def range(self) -> TimeRange:
        """The whole day, as Grafana would send it."""
        return TimeRange(int(START.timestamp() * 1000), int(END.timestamp() * 1000))

    @property
    def start_us(self) -> int:
        return self.range.from_ms * 1000

    @property
    def end_us(self) -> int:
        return self.range.to_ms * 1000

    @property
    def tenants(self) -> list[str]:
        return [tenant.name for tenant in self.scenario.tenants]

    @property
    def operator(self) -> Client:
        """A client as people on the operator's side: everything but usage that no lease opens."""
        return self.client("")

    @property
    def admin(self) -> Client:
        """A client that reads everything, as the pipeline does."""
        if "(admin)" not in self._clients:
            self._clients["(admin)"] = self.stack.client()
        return self._clients["(admin)"]

    def tenant(self, name: str) -> Client:
        """A client as that tenant's own user; also for ``NEWCOMER``."""
        return self.client(name)

    def client(self, tenant: str = "") -> Client:
        """One client a user, shared by all tests: SELECT only."""
        from infra.connections import connect_store

        if tenant not in self._clients:
            self._clients[tenant] = connect_store(self.settings, database="gpufleet", tenant=tenant)
        return self._clients[tenant]

    def events(self, topic: str) -> Sequence[dict[str, Any]]:
        """Every event sent on a topic of ``KEPT`` by the simulator, decoded by fastavro; times are datetimes."""
        return self._kept.decoded(topic)

    @cached_property
    def fact(self) -> dict[str, dict[str, Any]]:
        """The parts of the story by name: straggler, feed_trip, coolant, lease_handover, limit_raise."""
        [straggler] = self.truth.of("story", part="straggler")
        parts = {"straggler": dict(straggler)}
        for what in ("feed_trip", "coolant", "lease_handover", "limit_raise"):
            [found] = self.truth.of(what)
            parts[what] = dict(found)
        return parts

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


class Kept:
    """A sink that keeps the messages of some topics on their way to the broker."""

    def __init__(self, outbox: KafkaOutbox) -> None:
        self._outbox = outbox
        self._values: dict[str, list[bytes]] = {topic: [] for topic in KEPT}
        self._decoded: dict[str, list[dict[str, Any]]] = {}

    def offer(self, message: Message) -> bool:
        return bool(self.offer_many([message]))

    def flush(self, timeout_s: float) -> int:
        return self._outbox.flush(timeout_s)

    def offer_many(self, messages: Sequence[Message]) -> int:
        taken = self._outbox.offer_many(messages)
        for message in messages[:taken]:
            if message.topic in self._values:
                self._values[message.topic].append(message.value)
        return taken

    def decoded(self, topic: str) -> list[dict[str, Any]]:
        if topic not in self._decoded:
            schemas = by_id()
            self._decoded[topic] = [_decoded(value, schemas) for value in self._values.pop(topic)]
        return self._decoded[topic]


def _decoded(value: bytes, schemas: Any) -> dict[str, Any]:
    event = fastavro.schemaless_reader(io.BytesIO(value[PREFIX_BYTES:]), schemas[schema_id(value)].parsed, None)
    assert isinstance(event, dict)
    return event


@contextmanager
def told(data: Path) -> Iterator[Story]:
    """Tell the story into a store of its own, and keep that store open."""
    from infra.config import load
    from infra.up.stack import Stack
    from producers.simulator import scenario as scenarios

    scenario = scenarios.load("small")
    settings = load(config=None, data=None, environ={}, cwd=data.parent)
    overrides = {
        "site.name": scenario.site,
        "kafka.partitions": 1,
        "kafka.history_partitions": 1,
        "consume.metrics_port": 0,
        "consume.flush_events": 20_000,
        "consume.flush_age_s": 1.0,
        "consume.inserts_per_second": 20.0,
        "consume.past_limit_days": 3649.0,
        "retention.raw_days": 3650,
        "retention.minute_days": 3650,
        "retention.hour_days": 3650,
    }
    tenants = [*(tenant.name for tenant in scenario.tenants), NEWCOMER]
    named = settings.with_flags({key: value for key, value in overrides.items() if not key.startswith("consume")})
    with Stack(data, named, "embedded", overrides, tenants) as stack:
        story = _tell(stack, scenario, data.parent)
        try:
            yield story
        finally:
            story.close()


def _tell(stack: Stack, scenario: Scenario, folder: Path) -> Story:
    from infra.kafka.client import librdkafka
    from producers.journal import Journal
    from producers.publisher import KafkaOutbox
    from producers.simulator.simulation import TOPICS, Simulation, producers

    client = stack.client()
    began_ms = time.time_ns() // 1_000_000
    journal = Journal.start(stack.journals, scenario.site, producers(scenario), TOPICS)
    stack.start_consumer()
    with KafkaOutbox(librdkafka(stack.settings.kafka, "producer"), journal) as outbox:
        kept = Kept(outbox)
        simulation = Simulation(scenario, journal, kept, ticks=1, state=stack.journals / "simulator")
        simulation.backfill(int(START.timestamp() * 1e6), int(END.timestamp() * 1e6), tick_s=60)
        replayed = _replay(stack, folder)
        simulation.close()
        assert not outbox.flush(30), "the broker did not take everything"
    _stored(stack, client, journal)
    journal.close()
    _projected(stack)
    client.close()
    stack.broker.stop()
    told_at = TimeRange(began_ms, time.time_ns() // 1_000_000 + 1000)
    return Story(stack, scenario, simulation.truth, kept, replayed, told_at)


def _stored(stack: Stack, client: Client, journal: Any) -> None:
    from tests.e2e.support import until

    backlog = stack.backlog(client, journal)
    stack.wait_for_consumer()
    until(lambda: not backlog.count(), timeout_s=300)
    stack.stop_child("consumer")


def _projected(stack: Stack) -> None:
    from consumers.projector import condition_passes
    from consumers.projector.projector import Projector
    from infra.cli.project import projector_settings

    settings = replace(projector_settings(stack.settings, owner="story"), late_inserts_s=0.0)
    projector = Projector(stack.client, settings)
    try:
        # A fleet that is silent since March is silent minute by minute until now: that is not part of the story.
        with patch.object(condition_passes, "FIRST_LOOK_S", 0):
            assert projector.catch_up(timeout_s=900), "the windows are not up to date"
    finally:
        projector.close()


def _replay(stack: Stack, folder: Path) -> Replayed:
    """The first requests of the real trace, sent by `gpufleet usage replay`."""
    trace = Path(__file__).parents[1] / "producers" / "simulator" / "data" / "AzureLLMInferenceTrace_conv.csv"
    with trace.open() as source:
        rows = [row for row, _ in zip(csv.reader(source), range(REPLAYED_REQUESTS + 1), strict=False)]
    part = folder / "requests.csv"
    with part.open("w", newline="") as target:
        csv.writer(target).writerows(rows)
    header, body = rows[0], rows[1:]
    asked, given = header.index("ContextTokens"), header.index("GeneratedTokens")
    child = stack.start_child(
        "replay", "usage", "replay", str(part), "--tenant", REPLAYED_TENANT, "--workspace", REPLAYED_WORKSPACE,
        "--product", "api", "--model", "claude", "--tier", "standard", "--shift-to", REPLAYED_AT.isoformat(),
    )  # fmt: skip
    assert child.process.wait(60) == 0, child.tail()
    stack.stop_child("replay")
    return Replayed(
        REPLAYED_TENANT,
        "api",
        REPLAYED_WORKSPACE,
        REPLAYED_AT,
        len(body),
        sum(int(row[asked]) for row in body),
        sum(int(row[given]) for row in body),
        len({row[0][:16] for row in body}),
    )
