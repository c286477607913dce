"""The brokers we start ourselves: the embedded one, and a real Apache Kafka without a container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, Message, Producer, TopicPartition

from infra.config import load
from infra.embedded.apache_kafka import ApacheKafka, KafkaUnavailable, java_program, kafka_jars
from infra.embedded.broker import EmbeddedBroker
from infra.embedded.child import Child, free_port
from infra.errors import ConfigError, UnreachableError
from infra.kafka.client import admin
from infra.kafka.topics import Topics, Wanted


def create(bootstrap: str, name: str) -> None:
    kafka = load(
        environ={}, cwd=Path("/nonexistent"), flags={"kafka.bootstrap": bootstrap, "kafka.timeout_s": 20}
    ).kafka
    topics = Topics(admin(kafka), kafka)
    topics.apply(topics.plan([Wanted(name, 1, 1, {"message.timestamp.type": "LogAppendTime"})]))


def write(bootstrap: str, topic: str, values: list[bytes]) -> list[Message]:
    delivered: list[Message] = []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    for value in values:
        producer.produce(
            topic, value, headers=[("h", b"x")], on_delivery=lambda error, message: delivered.append(message)
        )
    assert producer.flush(20) == 0
    assert all(message.error() is None for message in delivered)
    return delivered


def read(bootstrap: str, topic: str, count: int) -> list[Message]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages: list[Message] = []
    deadline = time.monotonic() + 20
    while len(messages) < count and time.monotonic() < deadline:
        messages += [message for message in consumer.consume(count, timeout=0.5) if message.error() is None]
    consumer.close()
    return messages


def test_the_embedded_broker_keeps_messages_and_headers(embedded_broker: EmbeddedBroker) -> None:
    create(embedded_broker.bootstrap, "t")
    write(embedded_broker.bootstrap, "t", [b"a", b"b"])
    found = read(embedded_broker.bootstrap, "t", 2)
    assert [(message.value(), message.headers()) for message in found] == [
        (b"a", [("h", b"x")]),
        (b"b", [("h", b"x")]),
    ]


def test_two_embedded_brokers_do_not_get_in_each_other_s_way(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "a") as first, EmbeddedBroker(tmp_path / "b") as second:
        assert first.port != second.port
        assert first.alive()
        assert second.alive()
    assert not first.alive()


def test_a_port_in_use_is_told(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=f"cannot listen on port {embedded_broker.port}: it is in use"):
        EmbeddedBroker(tmp_path, port=embedded_broker.port).start()


def test_a_child_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from infra.embedded.child import Child\n"
        "child = Child(['sleep', '600'], Path(sys.argv[1])); print(child.process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while running(orphan) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(orphan)


def test_a_child_that_ignores_sigterm_is_ended(tmp_path: Path) -> None:
    child = Child(["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"], tmp_path / "log")
    while "ready" not in child.tail():
        time.sleep(0.01)
    child.stop(timeout_s=0.2)
    assert not child.alive()


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.kafka
def test_apache_kafka_keeps_its_log_and_port_over_stop_and_kill(tmp_path: Path) -> None:
    try:
        kafka = ApacheKafka(tmp_path / "kafka", heap_mb=256, properties={"num.partitions": "2"}).start()
    except KafkaUnavailable as error:
        from tests.conftest import missing

        missing("kafka", str(error))
    try:
        address = kafka.bootstrap
        create(address, "t")
        (message,) = write(address, "t", [b"before stop"])
        assert message.timestamp()[0] == TIMESTAMP_LOG_APPEND_TIME
        kafka.stop()
        assert not kafka.alive()
        kafka.start()
        assert kafka.bootstrap == address
        with pytest.raises(UnreachableError, match="cannot listen on port"):
            ApacheKafka(tmp_path / "second", port=int(address.rpartition(":")[2])).start()
        write(address, "t", [b"before kill"])
        kafka.kill()
        kafka.start()
        assert [message.value() for message in read(address, "t", 2)] == [b"before stop", b"before kill"]
        assert "num.partitions=2" in (tmp_path / "kafka" / "server.properties").read_text()
    finally:
        kafka.kill()


def test_a_missing_or_old_java_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KafkaUnavailable, match="needs Java 17 or newer, found none on the PATH"):
        java_program()
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    with pytest.raises(KafkaUnavailable, match="needs Java 17 or newer, found 11"):
        java_program()
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\"' >&2\n")
    assert java_program() == str(java)


def test_kafka_s_jars_come_from_kafka_home_when_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(KafkaUnavailable, match=r"\$KAFKA_HOME/libs"):
        kafka_jars()
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "kafka_2.13-4.1.0.jar").touch()
    assert kafka_jars() == tmp_path / "libs"


def test_a_missing_maven_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KafkaUnavailable, match="found no mvn on the PATH"):
        kafka_jars(tmp_path / "cache")


def test_an_option_that_librdkafka_does_not_know_is_told() -> None:
    kafka = load(environ={}, cwd=Path("/nonexistent"), flags={"kafka.librdkafka": {"socket.timeot.ms": "1"}}).kafka
    with pytest.raises(ConfigError, match=r"librdkafka refuses the settings.*socket\.timeot\.ms"):
        admin(kafka)


def test_free_ports_differ() -> None:
    assert len({free_port() for _ in range(5)}) > 1
