"""``gpufleet simulate`` and ``gpufleet inject`` as a person uses them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, TopicPartition

from infra.cli import inject, simulate
from infra.embedded.broker import EmbeddedBroker
from producers import journal as journals
from producers.simulator import topology
from producers.simulator.memory import Memory
from producers.simulator.scenario import load
from producers.simulator.simulation import TOPICS
from schemas import identity
from tests import topics


def invoke(command: Any, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def test_a_dry_run_counts_without_a_broker() -> None:
    result = invoke(simulate.command, "--dry-run", "--for", "2m", "--ticks", "5", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["events"]["node-telemetry"] == 26 * 24
    assert told["gpu_samples"] == 136 * 120


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--scenario", "smal"), "did you mean 'small'"),
        (("--ticks", "7"), "must divide a minute"),
        (("--for", "soon"), "expected a duration"),
        (("--nodes", "1"), "at least 2"),
    ],
)
def test_mistakes_are_explained(arguments: tuple[str, ...], says: str) -> None:
    result = invoke(simulate.command, "--dry-run", *arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_a_live_simulation_reaches_the_broker_whole(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    topics.create(embedded_broker.bootstrap, TOPICS)
    state = tmp_path / "state"
    settings = ("--set", f"kafka.bootstrap={embedded_broker.bootstrap}", "--set", f"simulate.state_dir={state}")
    result = invoke(simulate.command, "--for", "3s", "--json", *settings)
    assert result.exit_code == 0, (result.output, result.exception)
    told = json.loads(result.stdout)
    assert told["unacknowledged"] == 0
    assert told["events"]["node-telemetry"] >= 26
    given = Counter[str]()
    for row in journals.read(state / simulate.FOLDER):
        given[row.topic] += row.given
        assert row.acknowledged == row.given
    assert given == told["events"]
    assert read_all(embedded_broker.bootstrap, sum(given.values())) == given


def read_all(bootstrap: str, expected: int) -> Counter[str]:
    """Distinct identities by topic, of the first ``expected`` messages of all topics."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0) for topic in TOPICS])
    seen: set[tuple[str, str, int, int]] = set()
    total, idle = 0, 0
    while total < expected and idle < 20:
        batch = consumer.consume(500, 0.5)
        idle = 0 if batch else idle + 1
        for message in batch:
            who = identity.of_message(message.headers())  # type: ignore[arg-type]
            seen.add((str(message.topic()), who.producer_id, who.run_id, who.seq))
            total += 1
    consumer.close()
    assert total == expected
    return Counter(topic for topic, *_ in seen)


def test_inject_leaves_a_request_for_the_running_simulation(tmp_path: Path) -> None:
    here = ("--set", f"simulate.state_dir={tmp_path}")
    nothing = invoke(inject.command, "gpu_lost", "--node", "h100-r0001-n01", *here)
    assert nothing.exit_code == 2
    assert "no simulation ever ran" in nothing.output
    memory = Memory(tmp_path / simulate.FOLDER)
    memory.announce(topology.build(load("small")))
    wrong = invoke(inject.command, "gpu_lost", "--node", "h100-r0001-n1", *here)
    assert "did you mean 'h100-r0001-n0" in wrong.output
    right = invoke(inject.command, "gpu_lost", "--node", "h100-r0001-n01", "--gpu", "3", "--for", "60s", *here)
    assert right.exit_code == 0, right.exception
    (request,) = memory.requests()
    assert request == {"fault": "gpu_lost", "node": "h100-r0001-n01", "gpu": 3, "asset": None, "duration_s": 60.0}
    assert "coolant" in invoke(inject.command, "--list").stdout
