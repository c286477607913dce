"""kill -9 of the whole `up`: its children end by themselves, and the next start accounts for everything."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.up import verdict
from producers.journal import Given
from tests.e2e.support import KEYS, Up, gpufleet, query, until

SHORT = ("--no-backfill", "--nodes", "6", "--json")
Place = tuple[str, int, str]


def kill(up: Up) -> None:
    """SIGKILL to `up` alone; its broker, store, consumer and projector must be gone within seconds."""
    children = up.kill()
    assert len(children) >= 4, "broker, store, consumer, projector"
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, [child.cmdline() for child in alive]
    assert (up.data / "runtime.toml").exists(), "nobody was left to remove it"


def given(data: Path) -> dict[Place, Given]:
    return {(e.producer_id, e.run_id, e.topic): e for e in verdict.everything(data / "journals")}


def stored_seqs(up: Up, topic: str, run: int) -> dict[str, set[int]]:
    """Producer -> numbers stored."""
    with up.client() as client:
        table = topic.replace("-", "_")
        rows = query(
            client, f"SELECT producer_id, groupUniqArray(seq) AS seqs FROM {table} WHERE run_id = {run} GROUP BY 1"
        )
    return {row["producer_id"]: set(row["seqs"]) for row in rows}


def named_lost(findings: list[dict[str, Any]]) -> dict[Place, set[int]]:
    """The events that findings name as lost."""
    named: dict[Place, set[int]] = defaultdict(set)
    for finding in findings:
        assert finding["kind"] in ("gap", "tail"), finding
        numbers = set(range(finding["first"], finding["last"] + 1))
        assert len(numbers) == finding["count"]
        place = finding["producer_id"], finding["run_id"], finding["topic"]
        assert not named[place] & numbers
        named[place] |= numbers
    return dict(named)


def really_lost(up: Up, dead: dict[Place, Given]) -> dict[Place, set[int]]:
    """What the journals gave out and the store does not hold, number by number."""
    lost = {}
    for topic in {topic for _, _, topic in dead}:
        for run in {run for _, run, of in dead if of == topic}:
            stored = stored_seqs(up, topic, run)
            for (producer, of_run, of_topic), entry in dead.items():
                if (of_run, of_topic) == (run, topic):
                    missing = set(range(entry.given)) - stored.get(producer, set())
                    if missing:
                        lost[producer, run, topic] = missing
    return lost


def stored_of(up: Up, dead: dict[Place, Given], run: int) -> int:
    """Events of a run that are stored."""
    topics = {topic for _, _, topic in dead}
    return sum(len(seqs) for topic in topics for seqs in stored_seqs(up, topic, run).values())


def in_the_middle(up: Up) -> None:
    """Wait until it has stored for some seconds, so that a kill hits it at work."""
    with up.client() as client:
        until(lambda: client.command("SELECT count() > 30 FROM node_telemetry"), 60)


def test_on_the_embedded_broker_the_audit_names_what_died(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Up(data, *SHORT) as up:
        in_the_middle(up.ready())
        # The consumer stops first: then the broker's memory surely holds events that nobody stored.
        [consumer] = [c for c in psutil.Process(up.process.pid).children() if "consume" in c.cmdline()]
        consumer.suspend()
        time.sleep(2.0)
        kill(up)
    dead = given(data)
    [run] = {run for _, run, _ in dead}

    with Up(data, *SHORT) as up:
        up.ready()
        lost = really_lost(up, dead)
        assert any(topic == "node-telemetry" for _, _, topic in lost)
        audit = gpufleet(tmp_path, "audit", "--data", data, "--journals", data / "journals", "--json")
        assert audit.returncode == 1
        report = json.loads(audit.stdout)
        assert named_lost([f for f in report["findings"] if f["kind"] != "in_flight"]) == lost
        assert report["lost"] == sum(map(len, lost.values()))
        told = gpufleet(tmp_path, "audit", "--data", data)
        assert told.returncode == 1
        assert f"run {run}" in told.stdout
        assert "NOT exact" in told.stdout
        up.interrupt()
        assert up.end() == 0, "this run lost nothing"
        answer = up.result()
    check_answer(answer, run, lost)


def check_answer(answer: dict[str, Any], run: int, lost: dict[Place, set[int]]) -> None:
    """The counts are of the later run alone; the audit part names the earlier losses and nothing else."""
    assert answer.keys() == KEYS | {"audit"}
    assert answer["produced"] == answer["stored"]
    assert (answer["lost"], answer["duplicated"]) == (0, 0)
    assert answer["audit"]["ok"] is True
    assert answer["audit"]["findings"] == []
    assert named_lost(answer["audit"]["earlier_losses"]) == lost
    assert {place[1] for place in lost} == {run}


@pytest.mark.kafka
def test_on_apache_kafka_everything_acknowledged_is_stored(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Up(data, *SHORT, "--broker", "kafka") as up:
        in_the_middle(up.ready())
        [consumer] = [c for c in psutil.Process(up.process.pid).children() if "consume" in c.cmdline()]
        consumer.suspend()
        time.sleep(2.0)
        kill(up)
    dead = given(data)
    [run] = {run for _, run, _ in dead}
    acknowledged = sum(entry.acknowledged for entry in dead.values())
    assert acknowledged > 30

    with Up(data, *SHORT, "--broker", "kafka") as up:
        up.ready()
        until(lambda: stored_of(up, dead, run) >= acknowledged, 60)
        # What was delivered but not yet acknowledged at the kill may come in while the audit looks.
        for _ in range(10):
            lost = really_lost(up, dead)
            audit = gpufleet(tmp_path, "audit", "--data", data, "--json")
            findings = [f for f in json.loads(audit.stdout)["findings"] if f["run_id"] == run]
            if really_lost(up, dead) == lost:
                break
        assert named_lost(findings) == lost
        assert audit.returncode == (1 if lost else 0)
        up.interrupt()
        assert up.end() == 0, up.stderr
        answer = up.result()
    for place, numbers in lost.items():
        entry = dead[place]
        assert len(numbers) <= entry.given - entry.acknowledged, "only what was never delivered may be missing"
        assert max(numbers) == entry.given - 1
    if lost:
        check_answer(answer, run, lost)
    else:
        assert answer.keys() == KEYS
