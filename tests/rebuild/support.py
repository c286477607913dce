"""A store and a broker of the test's own, a rebuild on them, and ways to damage a table."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from consumers.clock import SystemClock
from consumers.rebuild.events import EventRebuild, Means
from consumers.rebuild.report import Report
from consumers.rebuild.throttle import Throttle
from consumers.schema_book import SchemaBook
from consumers.settings import ConsumeSettings
from infra.cli.rebuild import run
from infra.embedded.store.process import StoreProcess
from schemas import catalogue
from schemas.catalogue import KINDS
from tests.consumers.fleet import Node, Sender, Sent
from tests.consumers.running import Running, client, counts, eventually, running, settings, stored_as_sent

HOUR_US = 3_600_000_000
TOPIC = "node-telemetry"
TABLE = "node_telemetry"
MUTATION = {"mutations_sync": 2}


@dataclass
class Place:
    """One test's store, broker and site."""

    store: StoreProcess
    bootstrap: str
    site: str = "rebuild"
    kafka: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ch = client(self.store)
        self.said: list[str] = []
        self.sent: list[Sent] = []

    @property
    def given(self) -> ConsumeSettings:
        return settings(self.bootstrap, group=self.site, kafka=self.kafka, site=self.site)

    def consumer(self) -> Running:
        """The live consumer of every topic, in a thread."""
        return running(self.store, self.given)

    def send(self, events: list[Sent]) -> None:
        Sender(self.bootstrap).send(events)
        self.sent += events

    def ingest(self, events: list[Sent]) -> None:
        """Send, consume, stop."""
        self.send(events)
        with self.consumer():
            self.all_stored()

    def all_stored(self) -> None:
        eventually(lambda: stored_as_sent(self.ch, self.sent, self.site), 40.0)

    def rebuild(self, topic: str = TOPIC, rate: float | None = None) -> EventRebuild:
        clock = SystemClock()
        means = Means(
            self.ch,
            lambda: client(self.store),
            self.given,
            SchemaBook(catalogue.by_id(), None, clock, 30.0),
            Throttle(clock, rate),
            lambda statement: statement,
            self.said.append,
        )
        return EventRebuild(KINDS[topic], means)

    def run(self, topic: str = TOPIC, start: int | None = None, end: int | None = None, **how: Any) -> Report:
        """Build and compare; swap when told to."""
        return run(self.rebuild(topic), start, end, swap=how.get("swap", False))

    def exact(self, topic: str = TOPIC) -> bool:
        """Whether the live table holds each event sent, once."""
        wanted = sum(1 for one in self.sent if one.topic == topic)
        return counts(self.ch, topic, self.site) == (wanted, wanted)

    def tables_beside(self) -> list[str]:
        found = self.ch.query("SELECT name FROM system.tables WHERE database = 'gpufleet' AND name LIKE '%\\_\\_%'")
        return sorted(str(name) for (name,) in found.result_rows)


class Now:
    """The hour in which the test began: what is sent and what is expected later must mean the same hours."""

    hour = 0

    @classmethod
    def begin(cls) -> None:
        cls.hour = time.time_ns() // 1000 // HOUR_US


def hour_ago(hours: int) -> int:
    """A time ten minutes into the hour so many hours ago, microseconds since 1970."""
    return (Now.hour - hours) * HOUR_US + 600_000_000


def hours_of(node: Node, hours: list[int], each: int, topic: str = TOPIC) -> list[Sent]:
    """Events of a node, ``each`` in every hour, a second apart."""
    return [node.event(topic, ts=hour_ago(h) + i * 1_000_000) for h in hours for i in range(each)]
