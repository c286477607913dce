"""Plans for Kafka's topics, and carrying them out on real brokers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka.admin import NewTopic

from infra.cli.topics import command
from infra.config import Settings, load
from infra.embedded.apache_kafka import ApacheKafka, KafkaUnavailable
from infra.embedded.broker import EmbeddedBroker
from infra.embedded.child import free_port
from infra.errors import UnreachableError
from infra.kafka.client import admin
from infra.kafka.topics import Found, Status, Topics, Wanted, compare, wanted
from schemas.catalogue import KINDS
from tests.conftest import missing


def settings(bootstrap: str = "127.0.0.1:9092", **flags: Any) -> Settings:
    given = {"kafka.bootstrap": bootstrap, "kafka.timeout_s": 20} | {k.replace("__", "."): v for k, v in flags.items()}
    return load(environ={}, cwd=Path("/nonexistent"), flags=given)


def topics_of(found: Settings) -> Topics:
    return Topics(admin(found.kafka), found.kafka)


def test_every_kind_has_a_topic_and_histories_are_kept_for_ever() -> None:
    found = settings(retention__topic_days=2.5, kafka__partitions=7, kafka__history_partitions=2)
    by_name = {topic.name: topic for topic in wanted(found.kafka, found.retention)}
    assert set(by_name) == set(KINDS)
    telemetry, history = by_name["node-telemetry"], by_name["leases"]
    assert (telemetry.partitions, history.partitions) == (7, 2)
    assert telemetry.config["retention.ms"] == "216000000"  # 2.5 days
    assert history.config["retention.ms"] == "-1"
    for topic in by_name.values():
        assert topic.config["message.timestamp.type"] == "LogAppendTime"
        assert topic.config["cleanup.policy"] == "delete"
        assert "min.insync.replicas" not in topic.config


WANTED = Wanted("t", 4, -1, {"retention.ms": "5", "cleanup.policy": "delete"})


@pytest.mark.parametrize(
    ("found", "status", "differences"),
    [
        (None, Status.CREATE, ()),
        (Found("t", 4, 3, {"retention.ms": "5", "cleanup.policy": "delete", "other": "x"}), Status.OK, ()),
        (Found("t", 4, 3, {}), Status.OK, ()),
        (
            Found("t", 4, 3, {"retention.ms": "6", "cleanup.policy": "compact"}),
            Status.ALTER,
            ("retention.ms: expected 5, found 6", "cleanup.policy: expected delete, found compact"),
        ),
        (
            Found("t", 3, 3, {"retention.ms": "6"}),
            Status.CONFLICT,
            ("partitions: expected 4, found 3", "retention.ms: expected 5, found 6"),
        ),
    ],
)
def test_a_plan_says_what_differs(found: Found | None, status: Status, differences: tuple[str, ...]) -> None:
    step = compare(WANTED, found)
    assert (step.status, step.differences) == (status, differences)


def test_copies_are_compared_only_when_asked_for() -> None:
    three = Wanted("t", 1, 3, {})
    assert compare(three, Found("t", 1, 2, {})).differences == ("replication: expected 3, found 2",)


def create_and_settle(bootstrap: str) -> None:
    found = settings(bootstrap, kafka__partitions=2, kafka__history_partitions=1)
    topics = topics_of(found)
    plan = topics.plan(wanted(found.kafka, found.retention))
    assert {step.status for step in plan} == {Status.CREATE}
    topics.apply(plan)
    after = topics.plan(wanted(found.kafka, found.retention))
    assert {step.status for step in after} == {Status.OK}, [step.differences for step in after]
    assert topics.found(["node-telemetry"])["node-telemetry"].partitions == 2


def test_the_embedded_broker_gets_its_topics(embedded_broker: EmbeddedBroker) -> None:
    create_and_settle(embedded_broker.bootstrap)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """An Apache Kafka without any topics: the session's has those of other tests."""
    server = ApacheKafka(tmp_path_factory.mktemp("kafka-topics"), heap_mb=256)
    try:
        server.start()
    except KafkaUnavailable as error:
        missing("kafka", str(error))
    yield server
    server.stop()


@pytest.mark.kafka
def test_apache_kafka_gets_its_topics_and_drift_is_set_right(kafka: ApacheKafka) -> None:
    create_and_settle(kafka.bootstrap)
    drifted = settings(kafka.bootstrap, kafka__partitions=2, kafka__history_partitions=1, retention__topic_days=1)
    topics = topics_of(drifted)
    plan = topics.plan(wanted(drifted.kafka, drifted.retention))
    changed = {step.wanted.name: step.differences for step in plan if step.status is Status.ALTER}
    assert changed == dict.fromkeys(
        ("node-telemetry", "node-counters", "facility-telemetry"), ("retention.ms: expected 86400000, found 259200000",)
    )
    topics.apply(plan)
    assert {step.status for step in topics.plan(wanted(drifted.kafka, drifted.retention))} == {Status.OK}


@pytest.mark.kafka
def test_partitions_of_an_existing_topic_are_refused_and_left_alone(kafka: ApacheKafka) -> None:
    client = admin(settings(kafka.bootstrap).kafka)
    if "allocations" not in client.list_topics(timeout=20).topics:
        client.create_topics([NewTopic("allocations", 1)])["allocations"].result()
    run = runner(kafka.bootstrap, "--set", "kafka.history_partitions=3")
    code, output = run("apply")
    assert code == 1
    assert "partitions: expected 3, found 1" in output
    assert "producers stopped, lag zero" in output
    assert client.list_topics(timeout=20).topics["allocations"].partitions.keys() == {0}


@pytest.mark.kafka
def test_a_dry_run_changes_nothing(kafka: ApacheKafka) -> None:
    client = admin(settings(kafka.bootstrap).kafka)
    before = set(client.list_topics(timeout=20).topics)
    code, output = runner(kafka.bootstrap)("apply", "--dry-run", "--json")
    assert {step["topic"] for step in json.loads(output[: output.rindex("]") + 1])} == set(KINDS)
    assert code in (0, 1)
    assert set(client.list_topics(timeout=20).topics) == before


def test_a_broker_that_is_away_is_told_in_one_line() -> None:
    away = settings(f"127.0.0.1:{free_port()}", kafka__timeout_s=1)
    with pytest.raises(UnreachableError, match=r"Kafka at 127.0.0.1:\d+ \(plaintext\) does not answer"):
        topics_of(away).found()
    code, output = runner(away.kafka.bootstrap, "--set", "kafka.timeout_s=1")("list")
    assert code == 3
    assert len(output.strip().splitlines()) == 1


def runner(bootstrap: str, *options: str) -> Callable[..., tuple[int, str]]:
    def run(name: str, *arguments: str) -> tuple[int, str]:
        common = ["--set", f"kafka.bootstrap={bootstrap}", *options]
        result = CliRunner().invoke(command, [name, *arguments, *common])
        return result.exit_code, result.output

    return run
