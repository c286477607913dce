"""Every projected value against a plain-Python recomputation of the same events."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from consumers.projector.measures import NAMES
from consumers.projector.projector import Projector
from consumers.projector.recompute import Limits
from tests.projector import model
from tests.projector.conftest import Bench
from tests.projector.events import T0, US, gpu_uuid

EXTREMES = ("power_w_min", "power_w_max", "temp_gpu_c_max", "temp_mem_c_max", "fb_used_bytes_max")


def assert_measures(row: dict[str, Any], bucket: model.Bucket) -> None:
    for name in NAMES:
        if name in EXTREMES:
            assert row[name] == pytest.approx(bucket.extremes[name]), name
        else:
            assert row[name] == pytest.approx(bucket.sums[name], rel=1e-9, abs=1e-9), name


def assert_all_windows(bench: Bench, events: list[dict[str, Any]], tenant_of: model.TenantOf = model.nobody) -> None:
    """rack_10s, fleet_10s, rack_1m, gpu_1m and gpu_1h hold what the model says, and nothing else."""
    stored: dict[tuple[Any, ...], dict[str, Any]]
    slots = model.slots(events, tenant_of)
    stored = {(r["start"], r["rack"], r["gpu_model"], r["tenant"]): r for r in bench.windows("rack_10s")}
    assert stored.keys() == slots.keys()
    for place, bucket in slots.items():
        assert_measures(stored[place], bucket)
        assert stored[place]["gpus"] == len(bucket.gpus)
        assert stored[place]["nodes"] == len({node for node, _ in bucket.gpus})

    fleet = model.merged(slots, lambda p: (p[0], p[2], p[3]))
    stored = {(r["start"], r["gpu_model"], r["tenant"]): r for r in bench.windows("fleet_10s")}
    assert stored.keys() == fleet.keys()
    for place, (bucket, gpus) in fleet.items():
        assert_measures(stored[place], bucket)
        assert stored[place]["gpus"] == gpus

    joules = model.energy(events)
    minutes = model.gpu_minutes(events, tenant_of)
    stored = {(r["start"], r["node_id"], r["gpu_index"], r["tenant"]): r for r in bench.windows("gpu_1m")}
    assert stored.keys() == minutes.keys()
    for place, bucket in minutes.items():
        assert_measures(stored[place], bucket)
        assert stored[place]["energy_j"] == joules.get(place[:3], 0), place
        assert bytes(stored[place]["gpu_uuid"]) == gpu_uuid(place[1], place[2])

    racks = model.merged(slots, lambda p: (p[0] // 60 * 60, *p[1:]))
    stored = {(r["start"], r["rack"], r["gpu_model"], r["tenant"]): r for r in bench.windows("rack_1m")}
    assert stored.keys() == racks.keys()
    stands = {e["node_id"]: (e["rack"], e["gpu_model"]) for e in events}
    for place, (bucket, gpus) in racks.items():
        assert_measures(stored[place], bucket)
        assert stored[place]["gpus"] == gpus
        mine = [p for p in minutes if (p[0], *stands[p[1]], p[3]) == place]
        assert stored[place]["energy_j"] == sum(joules.get(p[:3], 0) for p in mine)

    hours = model.gpu_minutes(events, tenant_of, window_s=3600)
    stored = {(r["start"], r["node_id"], r["gpu_index"], r["tenant"]): r for r in bench.windows("gpu_1h")}
    assert stored.keys() == hours.keys()
    for place, bucket in hours.items():
        assert_measures(stored[place], bucket)
        mine = [p for p in minutes if p[0] // 3600 * 3600 == place[0] and p[1:] == place[1:]]
        assert stored[place]["minutes"] == len(mine)
        assert stored[place]["energy_j"] == sum(joules.get(p[:3], 0) for p in mine)


def metrics(pick: random.Random, n: int, counter: int, step: int) -> dict[str, Any]:
    """Readings of n samples, some missing, every array there."""
    ratios = {
        name: [pick.choice([math.nan, 0.0, 0.04, 0.05, pick.random()]) for _ in range(n)]
        for name in ("gr_engine_active", "sm_active", "tensor_active", "dram_active")
    }
    floats = {k: [float(f"{v:.3g}") if v == v else v for v in vs] for k, vs in ratios.items()}
    return {
        **{k: [_float32(v) for v in vs] for k, vs in floats.items()},
        "power_w": [pick.choice([math.nan, float(pick.randrange(80, 700))]) for _ in range(n)],
        "energy_j": [pick.choice([-1, counter + i * step]) for i in range(n)],
        "temp_gpu_c": [pick.choice([-1, pick.randrange(30, 95)]) for _ in range(n)],
        "temp_mem_c": [pick.choice([-1, pick.randrange(30, 105)]) for _ in range(n)],
        "clock_sm_mhz": [pick.choice([-1, 1980, 1200]) for _ in range(n)],
        "clock_event_reasons": [pick.choice([-1, 0, 1, 0x4, 0x8, 0x24, 0x40, 0x80, 0xEC]) for _ in range(n)],
        "fb_used_bytes": [pick.choice([-1, pick.randrange(1 << 36)]) for _ in range(n)],
        "nvlink_tx_bytes_per_s": [pick.choice([math.nan, float(pick.randrange(1 << 20))]) for _ in range(n)],
        "nvlink_rx_bytes_per_s": [float(pick.randrange(1 << 20)) for _ in range(n)],
    }


def _float32(value: float) -> float:
    import struct

    return float(struct.unpack("f", struct.pack("f", value))[0])


def fleet(bench: Bench, pick: random.Random, minutes: int, nodes: int = 3) -> list[dict[str, Any]]:
    """Five-tick events of a few nodes in two racks."""
    found = []
    for number in range(nodes):
        node, gpus = f"n{number}", range(2 + number % 2)
        for at in range(0, minutes * 60, 5):
            readings = metrics(pick, len(gpus) * 5, 10_000 + at * 700, 40)
            model_name = "H100" if number % 2 else "GB200"
            found.append(
                bench.events.telemetry(
                    node, T0 + at, gpus=list(gpus), rack=f"r{number // 2}", gpu_model=model_name, **readings
                )
            )
    return found


def test_all_windows_say_what_the_events_say(bench: Bench, projector: Projector) -> None:
    events = fleet(bench, random.Random(1), minutes=3)
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    assert_all_windows(bench, events)


def test_small_statements_give_the_same_windows(bench: Bench) -> None:
    projector = bench.projector(limits=Limits(node_minutes=4, max_minutes=2))
    events = fleet(bench, random.Random(2), minutes=5)
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    projector.close()
    assert_all_windows(bench, events)


def test_events_across_slots_and_coarse_ticks(bench: Bench, projector: Projector) -> None:
    pick = random.Random(3)
    shapes = [
        (T0 + 7.25, 5, 1000),  # two slots
        (T0 + 12, 30, 1500),  # five slots
        (T0 + 60, 1, 60_000),  # the whole minute
        (T0 + 150, 1, 45_000),  # starts within a minute and reaches beyond it
        (T0 + 180, 4, 15_000),  # ticks that end inside slots
        (T0 + 243, 3, 10_000),  # exactly a slot long, not aligned
        (T0 + 300, 60, 1000),
        (T0 + 365, 1, 250),
    ]
    events = [
        bench.events.telemetry("n1", at, ticks, interval, **metrics(pick, 2 * ticks, 1000 + round(at - T0) * 90, 7))
        for at, ticks, interval in shapes
    ]
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    assert_all_windows(bench, events)


def test_absent_metrics_leave_no_trace(bench: Bench, projector: Projector) -> None:
    events = [
        bench.events.telemetry("n1", T0, power_w=[100.0] * 10),
        bench.events.telemetry("n1", T0 + 5, power_w=[]),
        bench.events.telemetry("n1", T0 + 10, power_w=[math.inf, -math.inf, *[100.0] * 8]),
        bench.events.telemetry("n2", T0, power_w=[math.nan] * 10, temp_gpu_c=[-1] * 10),
        bench.events.telemetry("n3", T0, gpus=()),
    ]
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    assert_all_windows(bench, events)
    by_node = {r["node_id"]: r for r in bench.windows("gpu_1m")}
    assert by_node["n1"]["seconds"] == 15
    assert by_node["n2"]["power_w_max"] is None
    assert by_node["n1"]["energy_last_j"] == -1
    assert "n3" not in by_node


def test_flawed_events_are_left_out(bench: Bench, projector: Projector) -> None:
    sound = [bench.events.telemetry("n1", T0 + 5 * i, power_w=[200.0] * 10) for i in range(3)]
    flawed = [
        bench.events.telemetry("n1", T0 + 20, power_w=[900.0] * 7),
        bench.events.telemetry("n1", T0 + 25, gpus=(0, 0), power_w=[900.0] * 10),
        bench.events.telemetry("n1", T0 + 58, power_w=[900.0] * 10),
    ]
    bench.events.insert("node-telemetry", [*sound, *flawed])
    bench.project(projector)
    assert_all_windows(bench, sound)


def test_doubles_not_merged_yet_count_once(bench: Bench, projector: Projector) -> None:
    bench.client.command("SYSTEM STOP MERGES gpufleet.node_telemetry")
    try:
        events = fleet(bench, random.Random(4), minutes=1)
        bench.events.insert("node-telemetry", events)
        bench.events.insert("node-telemetry", events[3:9])
        assert bench.rows(f"SELECT count() AS n FROM gpufleet.node_telemetry WHERE site = '{bench.events.site}'") == [
            {"n": len(events) + 6}
        ]
        bench.project(projector)
        assert_all_windows(bench, events)
    finally:
        bench.client.command("SYSTEM START MERGES gpufleet.node_telemetry")


def test_energy_over_driver_reloads_silence_and_minutes(bench: Bench, projector: Projector) -> None:
    def event(at: int, counters: list[int], epochs: list[int]) -> dict[str, Any]:
        ticks = len(counters) // 2
        return bench.events.telemetry("n1", T0 + at, ticks, driver_epoch=epochs, energy_j=counters)

    events = [
        event(0, [100, 150, 1000, 1100], [1, 7]),
        event(55, [700, 750, 1900, -1], [1, 7]),
        event(60, [800, 850, 2000, 2100], [1, 7]),
        event(70, [5, 25, 2300, 2400], [2, 7]),  # GPU 0 reloaded within the minute
        event(90, [3, 9, 2600, 2700], [3, 7]),  # and again
        event(60 * 9, [59, 89, 4000, 4100], [3, 7]),  # minutes of silence: the step belongs to this minute
        event(60 * 10, [1, 11, 4200, 4300], [4, 8]),  # reloaded between minutes; GPU 1 has another counter, too
    ]
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    assert_all_windows(bench, events)
    stored = {(r["start"] - T0, r["gpu_index"]): r["energy_j"] for r in bench.windows("gpu_1m")}
    assert stored == {
        (0, 0): 650,
        (0, 1): 900,
        (60, 0): 100 + 20 + 6,
        (60, 1): 800,
        (540, 0): 80,
        (540, 1): 1400,
        (600, 0): 10,
        (600, 1): 100,
    }


def test_windows_of_neighbouring_days_stay_apart(bench: Bench, projector: Projector) -> None:
    midnight = (T0 // 86_400 + 1) * 86_400
    events = [
        bench.events.telemetry("n1", at, energy_j=[e + i for _ in range(2) for i in range(5)], power_w=[300.0] * 10)
        for at, e in ((midnight - 5, 1000), (midnight, 1010), (midnight + 55, 1090))
    ]
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    assert_all_windows(bench, events)
    assert {r["start"]: r["energy_j"] for r in bench.windows("gpu_1h", "AND gpu_index = 0")} == {
        midnight - 3600: 4,
        midnight: 90,
    }


def test_a_node_that_changes_racks_within_a_minute(bench: Bench, projector: Projector) -> None:
    events = [
        bench.events.telemetry("n1", T0 + 5 * i, rack=f"r{i // 6}", power_w=[100.0] * 10, energy_j=_counter(i))
        for i in range(12)
    ]
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    rows = bench.windows("gpu_1m")
    assert [(r["gpu_index"], r["rack"], r["samples"], r["energy_j"]) for r in rows] == [
        (0, "r1", 60, 590),
        (1, "r1", 60, 590),
    ]
    assert {r["rack"]: r["samples"] for r in bench.windows("rack_1m")} == {"r0": 60, "r1": 60}


def _counter(event: int) -> list[int]:
    return [1000 + 50 * event + 10 * tick for _ in range(2) for tick in range(5)]


def test_ts_of_an_event_is_not_rounded(bench: Bench, projector: Projector) -> None:
    events = [bench.events.telemetry("n1", T0 + 9.999999, 1, power_w=[1.0, 2.0])]
    assert events[0]["ts"] == (T0 + 10) * US - 1
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    assert [r["start"] - T0 for r in bench.windows("rack_10s")] == [0]
