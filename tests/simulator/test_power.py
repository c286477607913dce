"""Utilisation to power to temperature to throttle, on events as others receive them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producers.simulator.incidents import INCIDENTS
from producers.simulator.scenario import Tenant
from producers.simulator.simulation import Simulation
from producers.simulator.story import fail_coolant, trip_feed
from tests.simulator.support import NOON_US, decoded, jobs, micros, quiet, simulate

MINUTE_US = 60_000_000
SW_POWER_CAP, SW_THERMAL, POWER_BRAKE = 0x4, 0x20, 0x80
ONE_JOB = (Tenant("t", 1.0, training=1.0, serving=0.0),)


def run(simulation: Simulation, start_us: int, seconds: int) -> list[dict[str, Any]]:
    return decoded(simulation.generate(start_us, start_us + seconds * 1_000_000), "node-telemetry")


def grid(event: dict[str, Any], field: str) -> np.ndarray[Any, Any]:
    """(gpus, ticks) of one field."""
    return np.array(event[field], float).reshape(len(event["gpu_index"]), event["ticks"])


def test_full_load_draws_what_the_site_is_built_for(tmp_path: Path) -> None:
    scenario = quiet("colossus1", nodes=120, full_load=True)
    simulation = simulate(scenario, tmp_path, ticks=5)
    readings = decoded(simulation.generate(NOON_US, NOON_US + 4 * MINUTE_US), "facility-telemetry")
    site = [event["power_w"] for event in readings if event["asset_kind"] == "site"][-1]
    hgx = sum(g.nodes * g.gpus_per_node for g in scenario.groups if g.model != "GB200")
    gb200 = sum(g.nodes * g.gpus_per_node for g in scenario.groups if g.model == "GB200")
    assert site == pytest.approx(hgx * 1275 + gb200 * 1830, rel=0.02)
    racks = sum(e["power_w"] for e in readings if e["asset_kind"] == "pdu" and e["ts"] == readings[-1]["ts"])
    assert racks == pytest.approx(site, rel=0.001)


def test_the_whole_fleet_at_full_load_is_about_292_megawatts() -> None:
    assert quiet("colossus1").full_load_w == pytest.approx(292e6, rel=0.005)


def test_synchronous_training_swings_the_whole_job_within_seconds(tmp_path: Path) -> None:
    scenario = quiet(tenants=ONE_JOB, jobs=jobs(training_nodes=(8,)))
    simulation = simulate(scenario, tmp_path, ticks=5)
    power = defaultdict(list)
    for event in run(simulation, NOON_US, 60):
        if event["gpu_model"] == "H100":
            power[micros(event)].append(grid(event, "power_instant_w"))
    swings = np.concatenate([np.concatenate(nodes) for nodes in power.values()], axis=1)
    assert swings.shape == (64, 60)
    together = swings.mean(axis=0)
    assert together.max() > 550
    assert together.min() < 300
    assert swings.std(axis=0).max() < 0.15 * (together.max() - together.min())


def test_training_and_decoding_draw_what_published_fleets_draw(tmp_path: Path) -> None:
    tenants = (Tenant("train", 0.5, 1.0, 0.0), Tenant("serve", 0.5, 0.0, 1.0))
    simulation = simulate(quiet(tenants=tenants), tmp_path, ticks=5)
    events = run(simulation, NOON_US, 120)
    jobs_now = simulation.world.scheduler.job_of
    nodes = {node.node_id: node for node in simulation.world.fleet.nodes}
    serving: list[float] = []
    training: list[float] = []
    for event in events:
        if event["gpu_model"] != "H100":
            continue
        job = jobs_now[nodes[event["node_id"]].index]
        (training if job.kind.value == "training" else serving).append(float(np.mean(event["power_w"])))
    assert 137 <= np.mean(serving) <= 300
    # A training node at 76 % of 10.2 kW leaves 7.75 kW for host and GPUs.
    node_w = 8 * np.mean(training) + 8 * 575 * (0.42 + 0.58 * (np.mean(training) - 71) / 629)
    assert node_w == pytest.approx(0.76 * 10_200, rel=0.08)


def test_peers_spin_while_they_wait_and_the_straggler_shows(tmp_path: Path) -> None:
    scenario = quiet(tenants=ONE_JOB, jobs=jobs(training_nodes=(8,)))
    simulation = simulate(scenario, tmp_path, ticks=5)
    before = [e for e in run(simulation, NOON_US, 60) if e["gpu_model"] == "H100"]
    world = simulation.world
    slow_node = world.fleet.nodes[3]
    INCIDENTS["straggler"].begin(world, simulation.now_us, slow_node, 2, 10 * MINUTE_US)
    after = [e for e in continue_run(simulation, 60) if e["gpu_model"] == "H100"]

    def mean(events: list[dict[str, Any]], field: str, straggling: bool) -> float:
        picked = [
            grid(event, field)[gpu].mean()
            for event in events
            for gpu in range(8)
            if (event["node_id"] == slow_node.node_id and gpu == 2) == straggling
        ]
        return float(np.mean(picked))

    assert mean(after, "gr_engine_active", False) > 0.98
    assert mean(after, "tensor_active", False) < 0.85 * mean(before, "tensor_active", False)
    assert mean(after, "power_w", False) < 0.92 * mean(before, "power_w", False)
    assert mean(after, "clock_sm_mhz", True) < 0.85 * mean(after, "clock_sm_mhz", False)
    # Peers have their bursts and wait; the straggler works evenly below them.
    peak_peer = np.mean([grid(e, "tensor_active").max(axis=1) for e in after if e["node_id"] != slow_node.node_id])
    slow = [grid(e, "tensor_active")[2].max() for e in after if e["node_id"] == slow_node.node_id]
    assert np.mean(slow) < 0.85 * peak_peer


def continue_run(simulation: Simulation, seconds: int) -> list[dict[str, Any]]:
    return run(simulation, simulation.now_us, seconds)


def test_a_hung_job_is_busy_without_work(tmp_path: Path) -> None:
    simulation = simulate(quiet(tenants=ONE_JOB, jobs=jobs(training_nodes=(8,))), tmp_path, ticks=5)
    run(simulation, NOON_US, 5)
    INCIDENTS["hang"].begin(simulation.world, simulation.now_us, simulation.world.fleet.nodes[0], 0, 5 * MINUTE_US)
    events = [e for e in continue_run(simulation, 20) if e["gpu_model"] == "H100"]
    assert min(min(e["gr_engine_active"]) for e in events) > 0.99
    assert max(max(e["tensor_active"]) for e in events) == 0
    assert max(max(e["power_w"]) for e in events) < 230


def test_coolant_failure_heats_and_throttles(tmp_path: Path) -> None:
    simulation = simulate(quiet(full_load=True), tmp_path, ticks=5)
    warm = [e for e in run(simulation, NOON_US, 120) if e["gpu_model"] == "H100"][-1]
    assert max(warm["temp_gpu_c"]) < 75
    assert not any(reason & SW_THERMAL for reason in warm["clock_event_reasons"])
    fail_coolant(simulation.world, simulation.now_us, 0, simulation.now_us + 20 * MINUTE_US)
    messages = list(simulation.generate(simulation.now_us, simulation.now_us + 10 * MINUTE_US))
    hot = [e for e in decoded(messages, "node-telemetry") if e["gpu_model"] == "H100"][-1]
    assert min(hot["temp_gpu_c"]) >= 84
    assert max(hot["temp_gpu_c"]) <= 90
    assert max(hot["power_w"]) < 0.9 * min(warm["power_w"])
    assert max(hot["clock_sm_mhz"]) < min(warm["clock_sm_mhz"])
    assert sum(bool(reason & SW_THERMAL) for reason in hot["clock_event_reasons"]) > 30
    begun = [e for e in decoded(messages, "node-events") if e["event"] == "throttle_begin"]
    assert len(begun) == 64
    assert {e["value"] for e in begun} <= {"sw_thermal", "hw_thermal"}
    cdu = [e for e in decoded(messages, "facility-telemetry") if e["asset_id"] == "cdu-001"][-1]
    assert cdu["state"] == "degraded"
    assert cdu["return_temp_c"] - cdu["supply_temp_c"] > 15


def test_a_tripped_feed_moves_its_load_and_brakes_both(tmp_path: Path) -> None:
    simulation = simulate(quiet(full_load=True), tmp_path, ticks=5)
    list(simulation.generate(NOON_US, NOON_US + 2 * MINUTE_US))
    trip_feed(simulation.world, simulation.now_us, 0, simulation.now_us + 5 * MINUTE_US)
    messages = list(simulation.generate(simulation.now_us, simulation.now_us + 5 * MINUTE_US))
    facility = decoded(messages, "facility-telemetry")
    last = [e for e in facility if e["ts"] == facility[-1]["ts"]]
    feeds = {e["asset_id"]: e for e in last if e["asset_kind"] == "feed"}
    assert feeds["feed-01"]["state"] == "tripped"
    assert feeds["feed-01"]["power_w"] == 0
    assert 0.7 * feeds["feed-02"]["power_cap_w"] < feeds["feed-02"]["power_w"] <= feeds["feed-02"]["power_cap_w"]
    assert {e["parent_id"] for e in last if e["asset_kind"] == "pdu"} == {"feed-02"}
    braked = decoded(messages, "node-telemetry")[-26:]
    assert all(reason & POWER_BRAKE for e in braked for reason in e["clock_event_reasons"])
    released = continue_run(simulation, 300)[-26:]
    assert not any(reason & POWER_BRAKE for e in released for reason in e["clock_event_reasons"])


def test_energy_is_the_integral_of_power_and_never_falls(tmp_path: Path) -> None:
    simulation = simulate(quiet(), tmp_path, ticks=5)
    series: dict[str, list[np.ndarray[Any, Any]]] = defaultdict(list)
    power: dict[str, list[np.ndarray[Any, Any]]] = defaultdict(list)
    for event in run(simulation, NOON_US, 300):
        series[event["node_id"]].append(grid(event, "energy_j"))
        power[event["node_id"]].append(grid(event, "power_w"))
    assert len(series) == 26
    for node, parts in series.items():
        energy = np.concatenate(parts, axis=1)
        assert (np.diff(energy, axis=1) >= 0).all()
        used = energy[:, -1] - energy[:, 0]
        expected = np.concatenate(power[node], axis=1)[:, 1:].sum(axis=1)
        assert used == pytest.approx(expected, rel=0.001)


def test_readings_have_their_sensors_grain_and_blanks_only_where_a_gpu_is_lost(tmp_path: Path) -> None:
    simulation = simulate(quiet(), tmp_path, ticks=5)
    for event in run(simulation, NOON_US, 60):
        n, ticks = len(event["gpu_index"]), event["ticks"]
        for field, values in event.items():
            if isinstance(values, list) and field not in ("gpu_index", "gpu_uuid", "driver_epoch"):
                assert len(values) in ((n * ticks,) if not field.startswith(("host", "nic")) else (ticks, 1)), field
                assert np.isfinite(np.array(values, float)).all(), field
                assert min(values) >= 0, field
        assert all(clock % 15 == 0 for clock in event["clock_sm_mhz"])
        assert max(event["gr_engine_active"] + event["tensor_active"] + event["dram_active"]) <= 1
    node = simulation.world.fleet.nodes[1]
    INCIDENTS["gpu_lost"].begin(simulation.world, simulation.now_us, node, 5, 30 * MINUTE_US)
    (event,) = [e for e in continue_run(simulation, 5) if e["node_id"] == node.node_id]
    for field in ("power_w", "gr_engine_active", "nvlink_tx_bytes_per_s"):
        assert np.isnan(grid(event, field)[5]).all()
        assert np.isfinite(np.delete(grid(event, field), 5, axis=0)).all()
    for field in ("energy_j", "temp_gpu_c", "clock_sm_mhz", "clock_event_reasons", "fb_used_bytes"):
        assert (grid(event, field)[5] == -1).all()
        assert (np.delete(grid(event, field), 5, axis=0) >= 0).all()


def test_an_idle_gpu_is_steady(tmp_path: Path) -> None:
    simulation = simulate(quiet(tenants=(Tenant("t", 1.0, 0.0, 0.0),)), tmp_path, ticks=5)
    for event in run(simulation, NOON_US, 10):
        assert set(event["gr_engine_active"]) == {0.0}
        assert set(event["clock_event_reasons"]) == {1}
        assert len(set(event["clock_sm_mhz"])) == len(set(event["fb_used_bytes"])) == 1
        watts = grid(event, "power_w")
        assert (watts.max(axis=1) - watts.min(axis=1) < 0.02 * watts.mean(axis=1)).all()
