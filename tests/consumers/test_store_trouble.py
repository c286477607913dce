"""The store goes away, comes back, forgets, refuses: every event is stored once all the same."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from consumers.batch import MESSAGE_OVERHEAD_BYTES
from consumers.consumer import Consumer
from consumers.errors import RegistryUnavailableError, StoreCredentialsError
from consumers.store import EventStore
from infra.embedded.store.process import StoreProcess
from schemas import catalogue
from schemas.catalogue import Schema
from schemas.container import Container, ContainerWriter
from tests.consumers.fleet import Node, Sender, message
from tests.consumers.running import Running, client, counts, eventually, running, settings, stored_as_sent

pytestmark = pytest.mark.store
TOPIC = "node-telemetry"


def test_store_away_at_the_start_and_killed_in_the_middle(shared_broker: str, fresh_store: StoreProcess) -> None:
    site = "store-away"
    nodes = [Node(f"{site}-{i}", site) for i in range(20)]
    sender = Sender(shared_broker)
    fresh_store.kill()
    sent = [node.event(TOPIC) for node in nodes for _ in range(5)]
    sender.send(sent)
    with running(fresh_store, settings(shared_broker, group=site, store_down_limit_s=0.2)) as it:
        eventually(lambda: any("store away" in p for p in it.consumer.health.problems()))
        fresh_store.start()
        ch = client(fresh_store)
        eventually(lambda: stored_as_sent(ch, sent, site))
        eventually(lambda: it.consumer.health.problems() == [])
        for _ in range(3):
            late = [node.event(TOPIC) for node in nodes for _ in range(3)]
            sender.send(late)
            sent += late
            fresh_store.kill()
            more = [node.event(TOPIC) for node in nodes for _ in range(3)]
            sender.send(more)
            sent += more
            fresh_store.start()
        ch = client(fresh_store)
        eventually(lambda: stored_as_sent(ch, sent, site))
    assert counts(ch, TOPIC, site) == (len(sent), len(sent))


def test_rows_a_killed_store_forgot_are_inserted_again(shared_broker: str, fresh_store: StoreProcess) -> None:
    site = "store-forgot"
    nodes = [Node(f"{site}-{i}", site) for i in range(10)]
    sent = [node.event(TOPIC) for node in nodes for _ in range(20)]
    Sender(shared_broker).send(sent)
    ch = client(fresh_store)
    with running(fresh_store, settings(shared_broker, group=site, horizon_s=300)) as it:
        eventually(lambda: stored_as_sent(ch, sent, site))
        time.sleep(1.0)  # a few rounds of bookkeeping: the store was seen, the rows are acknowledged
        forgotten = f"DELETE WHERE site = '{site}' AND seq >= 13 SETTINGS mutations_sync = 1"
        ch.command(f"ALTER TABLE gpufleet.node_telemetry {forgotten}")
        assert counts(ch, TOPIC, site) == (130, 130)
        fresh_store.kill()
        fresh_store.start()
        ch = client(fresh_store)
        eventually(lambda: counts(ch, TOPIC, site)[1] == len(sent), why=str(it.consumer.health.problems()))
        time.sleep(0.5)
    assert counts(ch, TOPIC, site) == (len(sent), len(sent))


def test_a_wrong_password_ends_the_consumer_with_the_reason(shared_broker: str, migrated_store: StoreProcess) -> None:
    events = EventStore(lambda: client(migrated_store, password="wrong"), "gpufleet")
    with Running(Consumer(settings(shared_broker, group="wrong-password"), events), expect_error=True) as it:
        error = it.ended()
    assert isinstance(error, StoreCredentialsError)
    assert "refuses the user or password" in str(error)


def newer(topic: str, identifier: int) -> Schema:
    """A version of a kind's schema that nobody migrated to yet."""
    latest = catalogue.latest(topic)
    definition = {**latest.definition}
    definition["fields"] = [*latest.fields, {"name": "added_later", "type": "string", "default": "", "doc": "New."}]
    return replace(latest, version=99, id=identifier, definition=definition)


def test_a_table_behind_its_schema_pauses_that_topic_until_it_is_migrated(
    shared_broker: str, migrated_store: StoreProcess
) -> None:
    site, topic = "behind", "tenant-limits"
    schema = newer(topic, 9_001)
    node = Node(f"{site}-node", site)
    known = catalogue.by_id()
    held = [node.event(topic, schema=schema, added_later="yes") for _ in range(4)]
    other = [node.event("leases") for _ in range(4)]
    Sender(shared_broker).send(held + other)
    ch = client(migrated_store)

    def ask(identifier: int) -> Schema | None:
        return schema if identifier == 9_001 else known.get(identifier)

    with running(migrated_store, settings(shared_broker, group=site), ask_registry=ask) as it:
        eventually(lambda: any("added_later" in p and "migrate" in p for p in it.consumer.health.problems()))
        eventually(lambda: stored_as_sent(ch, other, site))
        assert counts(ch, topic, site) == (0, 0)
        ch.command("ALTER TABLE gpufleet.tenant_limits ADD COLUMN added_later String")
        try:
            eventually(lambda: stored_as_sent(ch, held, site))
            eventually(lambda: it.consumer.health.problems() == [])
            rows = ch.query(f"SELECT DISTINCT added_later FROM gpufleet.tenant_limits WHERE site = '{site}'")
            assert rows.result_rows == [("yes",)]
        finally:
            ch.command("ALTER TABLE gpufleet.tenant_limits DROP COLUMN added_later")


def test_an_unknown_schema_waits_while_the_registry_is_away(shared_broker: str, migrated_store: StoreProcess) -> None:
    site, topic = "registry-away", "facility-telemetry"
    schema = replace(catalogue.latest(topic), id=9_002)
    node = Node(f"{site}-node", site)
    sent = [message(schema, node.event(topic).record) for _ in range(4)]
    Sender(shared_broker).send(sent)
    ch = client(migrated_store)
    back = threading.Event()

    def ask(identifier: int) -> Schema | None:
        if identifier == 9_002 and not back.is_set():
            raise RegistryUnavailableError("no answer")
        return schema if identifier == 9_002 else catalogue.by_id().get(identifier)

    with running(migrated_store, settings(shared_broker, group=site), ask_registry=ask) as it:
        eventually(lambda: any(p.blocked_until for p in it.consumer._partitions.values()))
        assert counts(ch, topic, site) == (0, 0)
        back.set()
        eventually(lambda: stored_as_sent(ch, sent, site))


class StalledStore(EventStore):
    """A store whose inserts hang until they are let go."""

    def __init__(self, store: StoreProcess) -> None:
        super().__init__(lambda: client(store), "gpufleet")
        self.go = threading.Event()
        self.tried = 0

    def insert(self, schema: Schema, body: Container) -> None:
        self.tried += 1
        self.go.wait(30)
        super().insert(schema, body)


def test_memory_stays_within_its_bound_while_the_store_hangs(shared_broker: str, migrated_store: StoreProcess) -> None:
    site = "memory"
    nodes = [Node(f"{site}-{i}", site) for i in range(10)]
    wide: dict[str, Any] = {"gpu_index": list(range(2_000)), "energy_j": [0.5] * 2_000}
    sent = [node.event(TOPIC, **wide) for node in nodes for _ in range(50)]
    size = sum(len(one.value) for one in sent)
    Sender(shared_broker).send(sent)
    bound, poll = 1_000_000, 20
    assert size > 2 * bound
    most = poll * (max(len(one.value) for one in sent) + MESSAGE_OVERHEAD_BYTES)
    given = settings(
        shared_broker,
        group=site,
        topics=(TOPIC,),
        memory_bytes=bound,
        flush_bytes=100_000,
        poll_messages=poll,
    )
    store = StalledStore(migrated_store)
    held: list[int] = []
    with Running(Consumer(given, store)) as it:
        try:
            eventually(lambda: any(p.paused for p in it.consumer._partitions.values()), why="the partitions are paused")
            for _ in range(20):
                held.append(it.consumer._held_bytes())
                time.sleep(0.05)
        finally:
            store.go.set()
        assert bound <= max(held) <= bound + most
        ch = client(migrated_store)
        eventually(lambda: stored_as_sent(ch, sent, site))


def test_a_store_out_of_memory_gets_smaller_inserts_and_no_dead_letter(
    shared_broker: str, migrated_store: StoreProcess
) -> None:
    site = "out-of-memory"
    node = Node(f"{site}-node", site)
    sent = [node.event("node-events") for _ in range(40)]
    Sender(shared_broker).send(sent)
    sizes: list[int] = []
    limit = ContainerWriter(catalogue.latest("node-events")).open([]).size + 1_000  # each insert bears its schema

    class Small(EventStore):
        def insert(self, schema: Schema, body: Container) -> None:
            sizes.append(body.size)
            if body.size > limit:
                self.fail()
            super().insert(schema, body)

        def fail(self) -> None:
            self._rows("SELECT groupArray(number) FROM numbers(1e8) SETTINGS max_memory_usage = 1000000", "a test")

    events = Small(lambda: client(migrated_store), "gpufleet")
    with Running(Consumer(settings(shared_broker, group=site, topics=("node-events",)), events)):
        ch = client(migrated_store)
        eventually(lambda: stored_as_sent(ch, sent, site))
    assert max(sizes) > limit
    assert counts(ch, "dead-letters", site) == (0, 0)
