"""An event sent again is stored once, whoever sends it again and whoever reads it."""

from __future__ import annotations

import pytest

from infra.embedded.store.process import StoreProcess
from schemas.catalogue import KINDS
from tests.consumers.fleet import Node, Sender
from tests.consumers.running import KAFKA, client, counts, eventually, running, settings, stored_as_sent

pytestmark = pytest.mark.store
TOPIC = "node-telemetry"


def read(consumer: object, topic: str) -> int:
    """Messages of a topic read and delivered by a consumer so far."""
    partitions = consumer._partitions.values()  # type: ignore[attr-defined]
    return sum(p.horizon.stored_next - p.horizon.start for p in partitions if p.topic == topic)


def test_events_sent_again_are_stored_once(shared_broker: str, migrated_store: StoreProcess) -> None:
    site = "resends"
    nodes = [Node(f"{site}-{i}", site) for i in range(5)]
    events = {topic: [node.event(topic) for node in nodes for _ in range(8)] for topic in KINDS}
    sent = [one for some in events.values() for one in some]
    sender, ch = Sender(shared_broker), client(migrated_store)
    sender.send([*sent[:100], *sent[:100]])  # twice in the same batch
    given = settings(shared_broker, group=site, topics=tuple(KINDS))
    with running(migrated_store, given) as it:
        eventually(lambda: stored_as_sent(ch, sent[:100], site))
        sender.send(sent)  # a part of it known by the watermark alone
        sender.send(sent[50:])
        total = 200 + len(sent) + len(sent[50:])
        eventually(lambda: sum(read(it.consumer, topic) for topic in KINDS) >= total)
    assert stored_as_sent(ch, sent, site)


def test_a_run_sent_again_after_the_consumer_was_replaced_is_stored_once(
    shared_broker: str, migrated_store: StoreProcess
) -> None:
    """The new consumer meets the run in the middle: a watermark from the first seq it sees would double the rest."""
    site = "resend-later"
    nodes = [Node(f"{site}-{i}", site) for i in range(5)]
    sent = [node.event(TOPIC) for node in nodes for _ in range(30)]
    sender, ch = Sender(shared_broker), client(migrated_store)
    sender.send(sent)
    given = settings(shared_broker, group=site, topics=(TOPIC,), horizon_s=0.0)
    with running(migrated_store, given):
        eventually(lambda: stored_as_sent(ch, sent, site))
    with running(migrated_store, given) as it:
        eventually(lambda: len(it.consumer._partitions) == 2)
        again = [one for one in sent if one.record["seq"] >= 10]
        first = [one for one in again if one.record["seq"] == 10]
        sender.send(first)
        eventually(lambda: read(it.consumer, TOPIC) >= len(first))
        new = [node.event(TOPIC) for node in nodes]
        sender.send([*again[1:], *new])
        eventually(lambda: stored_as_sent(ch, [*sent, *new], site))
        eventually(lambda: read(it.consumer, TOPIC) >= len(first) + len(again) - 1 + len(new))
    assert stored_as_sent(ch, [*sent, *new], site)


@pytest.mark.kafka
def test_a_store_that_acknowledges_nothing_it_stored_is_asked(
    kafka_with_topics: object, migrated_store: StoreProcess
) -> None:
    """An insert is stored but its answer is lost: what is tried again is what is missing."""
    from consumers.consumer import Consumer
    from consumers.errors import StoreUnavailableError
    from consumers.store import EventStore
    from schemas.catalogue import Schema
    from schemas.container import Container
    from tests.consumers.running import Running

    site = "answer-lost"
    bootstrap = kafka_with_topics.bootstrap  # type: ignore[attr-defined]
    sent = [node.event(TOPIC) for node in [Node(f"{site}-{i}", site) for i in range(5)] for _ in range(30)]
    Sender(bootstrap).send(sent)

    class Deaf(EventStore):
        lost = 0

        def insert(self, schema: Schema, body: Container) -> None:
            super().insert(schema, body)
            if self.lost < 4:
                self.lost += 1
                raise StoreUnavailableError("the connection was reset")

    store = Deaf(lambda: client(migrated_store), "gpufleet")
    ch = client(migrated_store)
    with Running(
        Consumer(settings(bootstrap, group=site, topics=(TOPIC,), flush_messages=20, kafka=KAFKA), store)
    ) as it:
        eventually(lambda: stored_as_sent(ch, sent, site))
        eventually(lambda: read(it.consumer, TOPIC) >= len(sent))
    assert store.lost == 4
    assert counts(ch, TOPIC, site) == (len(sent), len(sent))
