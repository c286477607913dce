"""Several consumers, a stopped one, a broker that restarts, offsets that are gone: on a real Apache Kafka."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.errors import OffsetsOutOfRangeError
from infra.embedded.apache_kafka import ApacheKafka
from infra.embedded.child import free_port
from infra.embedded.store.process import StoreProcess
from tests.consumers.fleet import Node, Sender, Sent
from tests.consumers.running import KAFKA, client, counts, eventually, running, settings, stored_as_sent

pytestmark = [pytest.mark.store, pytest.mark.kafka]
TOPIC = "node-telemetry"


@contextmanager
def load(bootstrap: str, site: str, per_second: int = 400) -> Iterator[list[Sent]]:
    """Events of 20 nodes, sent all the time; the list of those sent."""
    nodes = [Node(f"{site}-{i}", site) for i in range(20)]
    sent: list[Sent] = []
    stop = threading.Event()

    def run() -> None:
        sender = Sender(bootstrap)
        while not stop.wait(len(nodes) / per_second):
            some = [node.event(TOPIC) for node in nodes]
            sender.send(some)
            sent.extend(some)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


def test_consumers_come_and_go_under_load(kafka_with_topics: ApacheKafka, migrated_store: StoreProcess) -> None:
    site = "rebalance"
    bootstrap, ch = kafka_with_topics.bootstrap, client(migrated_store)
    given = settings(bootstrap, group=site, topics=(TOPIC,), kafka=KAFKA)
    with load(bootstrap, site) as sent, running(migrated_store, given) as first:
        eventually(lambda: counts(ch, TOPIC, site)[0] > 200)
        with running(migrated_store, given) as second:
            eventually(lambda: len(second.consumer._partitions) == 2)
            assert len(first.consumer._partitions) == 2
            time.sleep(1.0)
        eventually(lambda: len(first.consumer._partitions) == 4)
        with running(migrated_store, given) as third:
            eventually(lambda: len(third.consumer._partitions) == 2)
            time.sleep(0.5)
            first.consumer.stop()
            eventually(lambda: len(third.consumer._partitions) == 4)
    with running(migrated_store, given):
        eventually(lambda: stored_as_sent(ch, sent, site))
    assert counts(ch, TOPIC, site) == (len(sent), len(sent))


def test_a_broker_killed_and_restarted(kafka_with_topics: ApacheKafka, migrated_store: StoreProcess) -> None:
    site = "broker-restart"
    bootstrap, ch = kafka_with_topics.bootstrap, client(migrated_store)
    nodes = [Node(f"{site}-{i}", site) for i in range(10)]
    sent = [node.event(TOPIC) for node in nodes for _ in range(10)]
    Sender(bootstrap).send(sent)
    kafka_with_topics.kill()
    with running(migrated_store, settings(bootstrap, group=site, topics=(TOPIC,), kafka=KAFKA)) as it:
        eventually(lambda: bool(it.consumer.health.kafka_error), why="the broker is away and nobody says so")
        kafka_with_topics.start()
        eventually(lambda: stored_as_sent(ch, sent, site))
        kafka_with_topics.kill()
        time.sleep(0.5)
        kafka_with_topics.start()
        late = [node.event(TOPIC) for node in nodes for _ in range(10)]
        Sender(bootstrap).send(late)
        eventually(lambda: stored_as_sent(ch, sent + late, site))


def test_offsets_lost_to_retention_are_an_error_with_their_range(
    kafka_with_topics: ApacheKafka, migrated_store: StoreProcess
) -> None:
    site, topic = "out-of-range", "inventory"
    bootstrap, ch = kafka_with_topics.bootstrap, client(migrated_store)
    node, sender = Node(f"{site}-node", site), Sender(bootstrap)
    first = [node.event(topic) for _ in range(10)]
    sender.send(first)
    given = settings(bootstrap, group=site, topics=(topic,), horizon_s=0.0, kafka=KAFKA)
    with running(migrated_store, given) as it:
        eventually(lambda: stored_as_sent(ch, first, site))
        eventually(lambda: any((p.horizon.committed or 0) >= 10 for p in it.consumer._partitions.values()))
        partition, committed = next(
            (p.number, p.horizon.committed or 0) for p in it.consumer._partitions.values() if p.horizon.committed
        )
    sender.send([node.event(topic) for _ in range(10)])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_records([TopicPartition(topic, partition, committed + 5)]).values():
        future.result(10)
    with running(migrated_store, given, expect_error=True) as it:
        error = it.ended()
    assert isinstance(error, OffsetsOutOfRangeError)
    assert f"{topic}[{partition}]: offsets {committed} to {committed + 4} are gone" in str(error)
    with running(migrated_store, settings(bootstrap, group=site, topics=(topic,), accept_lost=True, kafka=KAFKA)):
        eventually(lambda: counts(ch, topic, site) == (15, 15))


@contextmanager
def process(
    bootstrap: str, store: StoreProcess, group: str, folder: Path, port: int = 0
) -> Iterator[subprocess.Popen[bytes]]:
    """``gpufleet consume`` as a process of its own."""
    password = folder / "password"
    password.write_text(store.password)
    given = {
        "kafka.bootstrap": bootstrap, "store.url": store.url, "store.user": store.username,
        "store.password_file": str(password), "consume.horizon_s": "1", "consume.flush_age_s": "0.3",
        "consume.projector": "false", "kafka.librdkafka": '{"session.timeout.ms": 6000}',
    }  # fmt: skip
    command = [sys.executable, "-m", "infra.cli.main", "consume", "--topics", TOPIC, "--group", group]
    command += ["--metrics-port", str(port)]
    for name, value in given.items():
        command += ["--set", f"{name}={value}"]
    log = (folder / f"consume-{os.urandom(2).hex()}.log").open("wb")
    child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        log.close()


def test_a_consumer_stopped_and_continued_after_another_took_over(
    kafka_with_topics: ApacheKafka, migrated_store: StoreProcess, tmp_path: Path
) -> None:
    site = "zombie"
    bootstrap, ch = kafka_with_topics.bootstrap, client(migrated_store)
    port = free_port("127.0.0.1")
    with load(bootstrap, site) as sent, process(bootstrap, migrated_store, site, tmp_path, port) as zombie:
        eventually(lambda: counts(ch, TOPIC, site)[0] > 100)
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
        os.kill(zombie.pid, signal.SIGSTOP)
        with running(migrated_store, settings(bootstrap, group=site, topics=(TOPIC,), kafka=KAFKA)) as heir:
            eventually(lambda: len(heir.consumer._partitions) == 4)
            before = counts(ch, TOPIC, site)[0]
            eventually(lambda: counts(ch, TOPIC, site)[0] > before + 200)
            os.kill(zombie.pid, signal.SIGCONT)
            eventually(lambda: len(heir.consumer._partitions) == 2, why="the stopped one joins again")
            time.sleep(1.0)
        zombie.send_signal(signal.SIGTERM)
        assert zombie.wait(40) == 0
    with running(migrated_store, settings(bootstrap, group=site, topics=(TOPIC,), kafka=KAFKA)):
        eventually(lambda: counts(ch, TOPIC, site)[1] == len(sent))
    # Only an insert that was on its way when the process was stopped may double, and the engine collapses that.
    ch.command("OPTIMIZE TABLE gpufleet.node_telemetry FINAL")
    assert stored_as_sent(ch, sent, site)


def test_metrics_and_health_are_served(
    kafka_with_topics: ApacheKafka, migrated_store: StoreProcess, tmp_path: Path
) -> None:
    site = "served"
    bootstrap, ch = kafka_with_topics.bootstrap, client(migrated_store)
    sent = [Node(f"{site}-{i}", site).event(TOPIC) for i in range(10)]
    Sender(bootstrap).send(sent)
    port = free_port("127.0.0.1")
    with process(bootstrap, migrated_store, site, tmp_path, port) as child:
        eventually(lambda: stored_as_sent(ch, sent, site))

        def rows() -> float:
            text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
            lines = [ln for ln in text.splitlines() if ln.startswith('gpufleet_consumer_rows_total{topic="' + TOPIC)]
            return float(lines[0].split()[-1]) if lines else 0.0

        eventually(lambda: rows() >= len(sent))
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
        child.send_signal(signal.SIGINT)
        assert child.wait(40) == 0
