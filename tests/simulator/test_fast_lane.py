"""The fast lane as others read it: decodable, identified, deterministic."""

from __future__ import annotations

from pathlib import Path

import pytest

from producers.simulator.scenario import load
from schemas import identity
from tests.simulator.support import NOON_US, decode, decoded, simulate


def test_every_node_sends_each_batch_once_with_dense_sequence_numbers(tmp_path: Path) -> None:
    scenario = load("small")
    simulation = simulate(scenario, tmp_path, ticks=5)
    messages = [m for m in simulation.generate(NOON_US, NOON_US + 20_000_000) if m.topic == "node-telemetry"]
    assert len(messages) == 26 * 4
    by_node: dict[str, list[int]] = {}
    for message in messages:
        event, who = decode(message), identity.unpack(message.header)
        assert (event["producer_id"], event["run_id"], event["seq"]) == (who.producer_id, who.run_id, who.seq)
        assert message.key.decode() == event["node_id"] == who.producer_id
        assert event["ts"].timestamp() * 1e6 == who.ts
        assert who.ticks == event["ticks"] == 5
        by_node.setdefault(event["node_id"], []).append(who.seq)
    assert all(seqs == [0, 1, 2, 3] for seqs in by_node.values())


def test_events_never_cross_a_minute(tmp_path: Path) -> None:
    simulation = simulate(load("small"), tmp_path, ticks=10)
    for event in decoded(simulation.generate(NOON_US, NOON_US + 120_000_000), "node-telemetry"):
        assert event["ts"].second + event["ticks"] * event["interval_ms"] / 1000 <= 60


def test_same_seed_and_times_give_the_same_bytes_except_the_run(tmp_path: Path) -> None:
    def run(name: str, seed: int) -> list[dict[str, object]]:
        simulation = simulate(load("small", seed=seed), tmp_path / name, ticks=5)
        events = [decode(message) for message in simulation.generate(NOON_US, NOON_US + 60_000_000)]
        return [{key: repr(value) for key, value in event.items() if key != "run_id"} for event in events]

    first = run("a", 3)
    assert first == run("b", 3)
    assert first != run("c", 4)


def test_ticks_that_do_not_divide_a_minute_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="divide a minute"):
        simulate(load("small"), tmp_path, ticks=7)
