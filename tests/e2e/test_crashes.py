"""SIGKILL to consumer, store and projector while a fleet streams through a real Apache Kafka."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import Error
from urllib3.exceptions import HTTPError

from consumers.audit import audit
from infra.config import load
from infra.up import verdict
from infra.up.stack import PROJECTOR, Stack
from tests.conftest import missing
from tests.e2e.support import gpufleet, until

pytestmark = pytest.mark.kafka


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    from infra.embedded.apache_kafka import KafkaUnavailable

    settings = load(environ={}, cwd=tmp_path).with_flags({"site.name": "crashes"})
    # A small trail and a busy consumer: each kill meets batches that are stored and not committed.
    overrides = {"kafka.partitions": 4, "kafka.history_partitions": 1, "consume.flush_age_s": 0.3}
    made = Stack(tmp_path / "data", settings, "kafka", overrides)
    try:
        made.__enter__()
    except KafkaUnavailable as error:
        missing("kafka", str(error))
    try:
        made.start_consumer()
        made.start_projector()
        yield made
    finally:
        made.stop()


def stored(client: Client) -> int:
    """Events of the fast lane; 0 while the store is away."""
    try:
        return int(client.command("SELECT count() FROM node_telemetry"))  # type: ignore[arg-type]
    except (Error, HTTPError, OSError):
        return 0


def test_what_dies_comes_back_and_nothing_is_lost_or_doubled(stack: Stack, tmp_path: Path) -> None:
    client = stack.client()
    simulator = stack.start_child("simulator", "simulate", "--nodes", "12")
    store = stack.store
    assert store is not None
    until(lambda: stored(client) > 20, 60)

    for _ in range(2):
        stack.children.pop("consumer").kill()
        stack.start_consumer()
        time.sleep(1.0)
    more_than(client, stored(client))

    store.kill()
    time.sleep(2.0)
    said = gpufleet(tmp_path, "doctor", "--json", "--data", stack.data)
    assert said.returncode == 1
    failed = [f for f in json.loads(said.stdout)["findings"] if f["status"] == "fail"]
    assert failed
    assert {finding["area"] for finding in failed} == {"store"}
    asked = gpufleet(tmp_path, "sql", "SELECT 1", "--data", stack.data)
    assert asked.returncode == 3
    assert str(store.port) in asked.stderr
    store.start()
    more_than(client, stored(client))

    stack.children.pop("projector").kill()
    stack.start_projector()
    stack.children.pop("consumer").kill()
    store.kill()
    store.start()
    stack.start_consumer()

    more_than(client, stored(client))
    stack.stop_child("simulator")
    assert simulator.process.returncode == 0, simulator.tail()
    given = list(verdict.everything(stack.journals))
    assert all(entry.given == entry.acknowledged for entry in given)
    wanted = sum(entry.given for entry in given if entry.topic == "node-telemetry")
    until(lambda: stored(client) >= wanted, 60)
    stack.check()
    stack.stop_child("consumer")
    stack.stop_child("projector")
    done = gpufleet(tmp_path, "project", "--once", "--owner", PROJECTOR, "--data", stack.data)
    assert done.returncode == 0, done.stderr
    report = audit(client, verdict.expected(given), compare_windows="all")
    assert [str(finding) for finding in report.findings] == []
    assert (report.ok, report.lost, report.duplicated, report.dead_letters) == (True, 0, 0, 0)
    assert report.stored == {**report.stored, **report.produced}
    client.close()


def more_than(client: Client, before: int) -> None:
    """Wait until the table grows again."""
    until(lambda: stored(client) > before + 12, 60)
