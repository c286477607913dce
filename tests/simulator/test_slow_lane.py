"""The slow lane: every node's ticks once, every minute, and at once when a discrete state changes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producers.simulator.incidents import INCIDENTS
from producers.simulator.simulation import Simulation
from tests.simulator.support import NOON_US, decode, micros, quiet, simulate

SECOND_US, MINUTE_US, TICK_US = 1_000_000, 60_000_000, 10_000_000
Lane = dict[str, list[tuple[int, dict[str, Any]]]]
"""Node -> (event time that the simulation had come to when it sent, event)."""


def run(simulation: Simulation, until_us: int, start_us: int = NOON_US) -> Lane:
    """Live through the time; the slow lane's events by node."""
    lane: Lane = defaultdict(list)
    begin = simulation.now_us or start_us
    for message in simulation.generate(begin, until_us):
        if message.topic == "node-counters":
            event = decode(message)
            lane[event["node_id"]].append((simulation.world.now_us, event))
    return lane


def ticks(events: list[tuple[int, dict[str, Any]]]) -> list[int]:
    """The times of all samples, in the order they were sent."""
    return [micros(e) + i * e["interval_ms"] * 1000 for _, e in events for i in range(e["ticks"])]


def of_gpu(event: dict[str, Any], field: str, gpu: int) -> list[Any]:
    """A metric's samples of one GPU."""
    values: list[Any] = event[field][gpu * event["ticks"] : (gpu + 1) * event["ticks"]]
    return values


def test_a_changed_state_is_sent_at_the_next_slow_tick_and_the_rest_of_the_minute_after_it(tmp_path: Path) -> None:
    simulation = simulate(quiet(), tmp_path, ticks=1)
    before = run(simulation, NOON_US + 84 * SECOND_US)
    node = simulation.world.fleet.nodes[4]
    INCIDENTS["hbm_dbe"].begin(simulation.world, simulation.now_us, node, 3, 3600 * SECOND_US)
    after = run(simulation, NOON_US + 3 * MINUTE_US)

    mine = before[node.node_id] + after[node.node_id]
    assert ticks(mine) == list(range(NOON_US, micros(mine[-1][1]) + 6 * TICK_US, TICK_US)), "each tick once, in order"
    [(sent, at_once)] = [(sent, e) for sent, e in mine if e["ticks"] == 4]
    assert micros(at_once) == NOON_US + MINUTE_US
    assert sent <= NOON_US + 91 * SECOND_US, "with the tick at 90 s, and not when its minute is over"
    assert of_gpu(at_once, "ecc_dbe_volatile", 3) == [0, 0, 0, 1], "the ticks before it are as they were"
    assert of_gpu(at_once, "ecc_dbe_volatile", 2) == [0, 0, 0, 0]
    [rest] = [e for _, e in mine if e["ticks"] == 2]
    assert micros(rest) == NOON_US + 100 * SECOND_US
    assert of_gpu(rest, "ecc_dbe_volatile", 3) == [1, 1]
    assert [e["seq"] for _, e in mine] == list(range(len(mine)))
    for other, events in after.items():
        if other != node.node_id:
            assert {e["ticks"] for _, e in events} == {6}, "nobody else sends more often"


def test_what_is_open_of_the_minute_before_goes_first_and_as_it_was(tmp_path: Path) -> None:
    simulation = simulate(quiet(), tmp_path, ticks=5)
    run(simulation, NOON_US + 65 * SECOND_US)
    last = simulation.world.states[-1]  # its turn is the last in a minute
    node = simulation.world.fleet.nodes[int(last.nodes[0])]
    INCIDENTS["link_flap"].begin(simulation.world, simulation.now_us, node, 1, 30 * SECOND_US)
    mine = run(simulation, NOON_US + 130 * SECOND_US)[node.node_id]
    assert ticks(mine) == list(range(NOON_US, NOON_US + 2 * MINUTE_US, TICK_US))[: len(ticks(mine))]
    assert [e["ticks"] for _, e in mine] == [6, 2, 3], "the minute before; down; up again"
    sent = [at for at, _ in mine]
    assert max(sent[:2]) <= NOON_US + 75 * SECOND_US
    up = [np.array(e["nic_link_up"]).reshape(-1, e["ticks"])[1].tolist() for _, e in mine]
    assert up == [[1] * 6, [1, 0], [0, 0, 1]]


def test_a_driver_that_is_loaded_anew_never_shares_an_event_with_the_one_before(tmp_path: Path) -> None:
    simulation = simulate(quiet(), tmp_path, ticks=5)
    run(simulation, NOON_US + MINUTE_US)
    node = simulation.world.fleet.nodes[4]
    INCIDENTS["hbm_dbe"].begin(simulation.world, simulation.now_us, node, 3, 95 * SECOND_US)
    mine = run(simulation, NOON_US + 6 * MINUTE_US)[node.node_id]
    assert ticks(mine) == list(range(ticks(mine)[0], ticks(mine)[-1] + 1, TICK_US))
    by_epoch: dict[int, list[int]] = {}
    for _, event in mine:
        by_epoch.setdefault(event["driver_epoch"][3], []).extend(of_gpu(event, "ecc_dbe_volatile", 3))
    [old, new] = [values for _, values in sorted(by_epoch.items())]
    assert old == sorted(old)
    assert old[-1] == 1
    assert set(new) == {0}, "counters of the new load"
    for name in ("violation_power_ns", "violation_thermal_ns", "ecc_sbe_volatile"):
        grown: dict[int, int] = {}
        for _, event in mine:
            for value in of_gpu(event, name, 3):
                epoch = event["driver_epoch"][3]
                assert value >= grown.get(epoch, 0), name
                grown[epoch] = value


@pytest.mark.parametrize("offset_s", [0, 17])
def test_a_run_that_begins_within_a_minute_sends_what_there_is_of_it(tmp_path: Path, offset_s: int) -> None:
    simulation = simulate(quiet(), tmp_path, ticks=5)
    start = NOON_US + offset_s * SECOND_US
    lane = run(simulation, NOON_US + 3 * MINUTE_US, start)
    assert len(lane) == 26
    first = -(-start // TICK_US) * TICK_US
    for events in lane.values():
        assert ticks(events)[0] == first
        assert ticks(events) == list(range(first, ticks(events)[-1] + 1, TICK_US))


def test_the_same_run_sends_the_same_at_once(tmp_path: Path) -> None:
    def told(folder: str) -> list[dict[str, Any]]:
        simulation = simulate(quiet(), tmp_path / folder, ticks=5)
        run(simulation, NOON_US + 40 * SECOND_US)
        INCIDENTS["nvlink"].begin(simulation.world, simulation.now_us, simulation.world.fleet.nodes[7], 2, None)
        lane = run(simulation, NOON_US + 3 * MINUTE_US)
        return [{**e, "run_id": 0} for events in lane.values() for _, e in events]

    first, second = told("a"), told("b")
    assert len(first) > 26 * 2
    assert [repr(e) for e in first] == [repr(e) for e in second]
