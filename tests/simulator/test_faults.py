"""Faults arrive at their published rates and leave the events and counters that they leave in a real fleet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from producers.simulator import faults, topology
from producers.simulator.incidents import INCIDENTS, LLAMA3_GPU_HOURS
from producers.simulator.scenario import Scenario, load
from producers.simulator.truth import Truth
from producers.simulator.world import World
from tests.simulator.support import HOUR_US, NOON_US, decoded, quiet, simulate

DAYS = 30
PUBLISHED = {  # arXiv 2407.21783, table 5, with its seven smallest host causes in one
    "gpu_lost": 148,
    "hbm_dbe": 72,
    "software": 54,
    "network": 35,
    "host_maintenance": 32,
    "sram_dbe": 19,
    "gsp_timeout": 17,
    "host": 16,
    "nic": 7,
    "hang": 7,
    "sdc": 6,
    "thermal": 6,
}


def poisson_interval(mean: float, confidence: float) -> tuple[int, int]:
    """Central interval of a Poisson distribution: the counts outside have at most half the rest on each side."""
    tail, cumulative, count = (1 - confidence) / 2, 0.0, 0
    low = None
    term = math.exp(-mean)
    while True:
        cumulative += term
        if low is None and cumulative > tail:
            low = count
        if cumulative >= 1 - tail:
            return low or 0, count
        count += 1
        term *= mean / count


def thirty_days(scenario: Scenario) -> Counter[str]:
    """Faults by kind in thirty days, without a single sample computed."""
    truth = Truth()
    world = World(topology.build(scenario), NOON_US, lambda *_: None, truth, ["boot"] * scenario.nodes)
    world.start_jobs(NOON_US)
    faults.schedule(world)
    world.advance(NOON_US + DAYS * 24 * HOUR_US - 1)
    return Counter(fact["kind"] for fact in truth.of("fault"))


def fleet(seed: int) -> Scenario:
    """300 nodes at ten times the published rates."""
    scenario = load("colossus1", nodes=300, seed=seed)
    return replace(scenario, faults=replace(scenario.faults, rate_scale=10.0, repair_hours=1.0, bad_gpus=4))


def expected(scenario: Scenario) -> Mapping[str, float]:
    hours = scenario.gpus * DAYS * 24 * 10.0
    return {name: count / 21.23e6 * hours for name, count in PUBLISHED.items()}


def test_the_table_of_rates_is_the_published_one() -> None:
    assert {i.name: i.llama3_count for i in INCIDENTS.values() if i.llama3_count} == PUBLISHED
    assert sum(PUBLISHED.values()) == 419
    per_gpu_hour = 419 / LLAMA3_GPU_HOURS
    assert per_gpu_hour == pytest.approx(1.97e-5, rel=0.01)


def test_thirty_days_of_faults_lie_in_their_poisson_intervals() -> None:
    inside = total = 0
    for seed in range(1, 9):
        scenario = fleet(seed)
        counts, means = thirty_days(scenario), expected(scenario)
        low, high = poisson_interval(sum(means.values()), 0.95)
        total += 1
        inside += low <= sum(counts[name] for name in means) <= high
        for name, mean in means.items():
            low, high = poisson_interval(mean, 0.9999)
            assert low <= counts[name] <= high, (seed, name, counts[name], mean)
            low, high = poisson_interval(mean, 0.95)
            total += 1
            inside += low <= counts[name] <= high
    # Of 104 counts some five lie outside a 95 % interval; 14 or more would be a chance below one in a thousand.
    assert total == 104
    assert total - inside <= 13


def test_bad_gpus_cause_most_uncontained_errors() -> None:
    scenario = fleet(3)
    truth = Truth()
    world = World(topology.build(scenario), NOON_US, lambda *_: None, truth, ["boot"] * scenario.nodes)
    world.start_jobs(NOON_US)
    faults.schedule(world)
    world.advance(NOON_US + DAYS * 24 * HOUR_US)
    hit = Counter((f["node"], f["gpu"]) for f in truth.of("fault", kind="uncontained"))
    bad = {(node.node_id, gpu) for node, gpu in faults.bad_gpus(world.fleet)}
    assert set(hit) == bad
    low, high = poisson_interval(4 * scenario.faults.bad_gpu_errors_per_day * DAYS, 0.999)
    assert low <= sum(hit.values()) <= high
    sram = sum(1 for _ in truth.of("fault", kind="sram_dbe"))
    assert sum(hit.values()) > 0.5 * (sum(hit.values()) + sram)


@pytest.mark.parametrize("name", sorted(INCIDENTS))
def test_every_incident_sends_events_that_fit_and_ends(name: str, tmp_path: Path) -> None:
    simulation = simulate(quiet(), tmp_path, ticks=5)
    list(simulation.generate(NOON_US, NOON_US + 5_000_000))
    world = simulation.world
    for node in (world.fleet.nodes[2], world.fleet.nodes[20]):
        INCIDENTS[name].begin(world, simulation.now_us, node, 1, 600_000_000)
    list(simulation.generate(simulation.now_us, simulation.now_us + 60_000_000))
    world.advance(simulation.now_us + 24 * HOUR_US)
    assert not world.out
    assert not any(world.silences.values())
    for state in world.states:
        assert not state.lost.any()
        assert not state.silent.any()
        assert (state.slow == 1).all()
        assert (state.resistance == 1).all()
        assert state.clock_synced.all()
    assert all((counters.nic["nic_link_up"] == 1).all() for counters in world.counters)
    assert all(((c.gpu["nvlink_links_active"]) == 18).all() for c in world.counters)


def test_a_lost_gpu_from_xid_to_return(tmp_path: Path) -> None:
    simulation = simulate(quiet(), tmp_path, ticks=5)
    list(simulation.generate(NOON_US, NOON_US + 5_000_000))
    node = simulation.world.fleet.nodes[1]
    INCIDENTS["gpu_lost"].begin(simulation.world, simulation.now_us, node, 5, 300_000_000)
    messages = list(simulation.generate(simulation.now_us, simulation.now_us + 420_000_000))
    events = [e for e in decoded(messages, "node-events") if e["node_id"] == node.node_id]
    xid = next(e for e in events if e["event"] == "xid")
    assert (xid["code"], xid["gpu_index"], xid["recovery_action"]) == (79, 5, 2)
    assert xid["raw"] == (
        "NVRM: Xid (PCI:0000:6b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
    )
    assert xid["pci_address"] == "0000:6b:00.0"
    order = [e["event"] for e in events]
    assert order.index("gpu_lost") < order.index("maintenance_begin") < order.index("driver_reload")
    assert order.index("driver_reload") < order.index("gpu_found") < order.index("maintenance_end")
    assert [e["value"] for e in events if e["event"] == "lifecycle"] == ["draining", "maintenance", "accepted"]
    epochs = [set(e["driver_epoch"]) for e in decoded(messages, "node-telemetry") if e["node_id"] == node.node_id]
    assert epochs[0] != epochs[-1]
    energies = [e["energy_j"] for e in decoded(messages, "node-telemetry") if e["node_id"] == node.node_id]
    assert max(energies[-1]) < min(energy for energy in energies[0] if energy >= 0)


def test_memory_errors_count_and_wait_for_a_reset(tmp_path: Path) -> None:
    simulation = simulate(quiet(), tmp_path, ticks=5)
    list(simulation.generate(NOON_US, NOON_US + 60_000_000))
    node = simulation.world.fleet.nodes[4]
    INCIDENTS["hbm_dbe"].begin(simulation.world, simulation.now_us, node, 3, 240_000_000)
    messages = list(simulation.generate(simulation.now_us, simulation.now_us + 480_000_000))
    slow = [e for e in decoded(messages, "node-counters") if e["node_id"] == node.node_id]

    def gpu3(event: dict[str, Any], field: str) -> list[int]:
        ticks = event["ticks"]
        values: list[int] = event[field][3 * ticks : 4 * ticks]
        return values

    assert all(len(e["ecc_dbe_volatile"]) == 8 * e["ticks"] for e in slow)
    seen = [gpu3(e, "ecc_dbe_volatile")[-1] for e in slow]
    assert 1 in seen
    assert seen[-1] == 0, "the reset starts volatile counters anew"
    assert gpu3(slow[-1], "ecc_dbe_aggregate")[-1] == 1
    assert gpu3(slow[-1], "remapped_rows_uncorrectable")[-1] == 1
    assert 1 in [gpu3(e, "row_remap_pending")[-1] for e in slow]
    assert gpu3(slow[-1], "row_remap_pending")[-1] == 0
    codes = [e["code"] for e in decoded(messages, "node-events") if e["event"] == "xid"]
    assert codes[0] == 94
    assert set(codes[1:]) <= {63, 64}
