"""One run of `gpufleet up`, as a newcomer sees it: one JSON object, and every event stored as it was sent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clickhouse_connect.driver.client import Client

from infra.clickhouse.client import ClickHouse
from infra.clickhouse.client import connect as connect_clickhouse
from infra.embedded.store.process import StoreProcess
from schemas.catalogue import KINDS
from tests.e2e.support import KEYS, comparable, decoded, gpufleet, query, read_log

if TYPE_CHECKING:
    from schemas.identity import Identity

Log = dict[tuple[str, str, int, int], dict[str, Any]]


def truth(data: Path) -> tuple[dict[str, int], int]:
    """(events by topic, GPU samples) by the simulator's own word."""
    last = json.loads((data / "truth.jsonl").read_text().splitlines()[-1])
    assert last["what"] == "sent"
    return {topic: count for topic, count in last["events"].items() if count}, last["gpu_samples"]


def run_once(data: Path, *options: str) -> dict[str, Any]:
    """Run `up` for some seconds, and check everything that its answer alone can show."""
    done = gpufleet(data.parent, "up", "--no-backfill", "--for", "8s", "--json", "--data", data, *options)
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    answer: dict[str, Any] = json.loads(line)
    assert answer.keys() == KEYS
    assert answer["produced"] == answer["stored"]
    assert (answer["lost"], answer["duplicated"], answer["dead_letters"]) == (0, 0, 0)
    assert 0 < answer["freshness_p50_s"] <= answer["freshness_p99_s"] < answer["wall_s"]
    sent, samples = truth(data)
    assert answer["produced"] == sent
    assert answer["gpu_samples"] == samples > 0
    assert not (data / "runtime.toml").exists(), "it has stopped"
    assert "SQL endpoint" in done.stderr
    return answer


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Client]:
    """The store that the run in ``tmp_path/data`` left, started again. Ask for it after the run."""
    process = StoreProcess(tmp_path / "data" / "store")
    clients: list[Client] = []

    class Late:
        def __getattr__(self, name: str) -> Any:
            if not clients:
                process.start()
                clients.append(
                    connect_clickhouse(
                        ClickHouse(process.host, process.port, process.username, process.password, "gpufleet")
                    )
                )
            return getattr(clients[0], name)

    yield Late()  # type: ignore[misc]  # the client, but the store starts at the first question
    process.stop()


def test_on_the_embedded_broker(tmp_path: Path, stored: Client) -> None:
    answer = run_once(tmp_path / "data")
    for topic, count in answer["produced"].items():
        table = KINDS[topic].table
        [found] = query(stored, f"SELECT count() AS rows, uniqExact(producer_id, run_id, seq) AS events FROM {table}")
        assert (found["rows"], found["events"]) == (count, count), topic


@pytest.mark.kafka
def test_on_apache_kafka_the_store_equals_the_log(tmp_path: Path, stored: Client) -> None:
    from infra.embedded.apache_kafka import ApacheKafka

    answer = run_once(tmp_path / "data", "--broker", "kafka")
    with ApacheKafka(tmp_path / "data" / "kafka") as kafka:
        log: Log = {}
        for topic, identity, value in read_log(kafka.bootstrap, list(KINDS)):
            event = decoded(value)
            check_header(identity, event)
            log[topic, identity.producer_id, identity.run_id, identity.seq] = event
    assert Counter(topic for topic, *_ in log) == Counter(answer["produced"])
    assert gpu_samples(log) == answer["gpu_samples"]
    for topic in answer["produced"]:
        rows = query(stored, f"SELECT * FROM {KINDS[topic].table}")
        assert len(rows) == answer["produced"][topic]
        for row in rows:
            sent = log.pop((topic, row["producer_id"], row["run_id"], row["seq"]))
            kept = {name: comparable(row[name]) for name in sent}
            assert kept == sent, (topic, sent["producer_id"], sent["seq"])
    assert not log, "sent and not stored"


def check_header(identity: Identity, event: dict[str, Any]) -> None:
    """The Kafka header names the event inside."""
    inside = tuple(event[name] for name in ("producer_id", "run_id", "seq", "ts"))
    assert inside == identity[:4]
    assert identity.ticks == event.get("ticks", 1)


def gpu_samples(log: Log) -> int:
    """GPUs times ticks of the fast lane's events."""
    return sum(
        len(event["gpu_index"]) * event["ticks"] for (topic, *_), event in log.items() if topic == "node-telemetry"
    )
