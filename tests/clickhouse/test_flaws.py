from __future__ import annotations

import math
from typing import Any

import pytest

from schemas import catalogue, flaws
from schemas.flaws import MEANING, Flaw
from tests.clickhouse.support import MINUTE, UUID, Database, minutes_ago

pytestmark = pytest.mark.store
T = minutes_ago(5)
GPUS: dict[str, Any] = {"gpu_index": [0, 1], "ticks": 2, "gpu_uuid": [UUID, UUID], "driver_epoch": [7]}

SOUND: list[tuple[str, dict[str, Any]]] = [
    ("node-telemetry", {**GPUS, "power_w": [1.0, math.nan, math.inf, -math.inf]}),
    ("node-telemetry", {}),
    (
        "node-telemetry",
        {**GPUS, "power_w": [1.0, 2.0, 3.0, math.nan], "host_load1": [1.0], "host_cpu_util": [1.0, 2.0]},
    ),
    ("node-telemetry", {**GPUS, "driver_epoch": [7, 8], "gpu_uuid": []}),
    ("node-telemetry", {"ts": T + 59_000_000}),
    ("node-telemetry", {"ts": T, "ticks": 60}),
    ("node-telemetry", {"ts": T, "interval_ms": 60_000}),
    ("node-telemetry", {"gpu_index": list(range(128)), "power_w": [1.0] * 128}),
    ("node-counters", {"nic_name": ["a", "b"], "ticks": 3, "nic_link_up": [1] * 6, "nic_rate_gbps": []}),
    ("node-events", {"gpu_index": 3, "ended_at": T}),
    ("inventory", {"gpu_index": [0], "gpu_serial": ["x"], "nic_name": ["a"], "nic_firmware": ["1"]}),
    ("allocations", {"started_at": T, "ended_at": T, "nodes": ["a"], "gpu_mask": [255]}),
    ("allocations", {"started_at": T, "nodes": ["a"]}),
    ("leases", {"valid_from": T, "valid_to": T + MINUTE, "sla_target": 0.99}),
    ("leases", {"valid_from": T}),
    ("tenant-usage", {"latency_bounds_ms": [1, 2], "ttft_counts": [1, 2, 3], "requests": 5}),
    ("tenant-limits", {"valid_from": T, "previous_value": 3.0}),
    ("facility-telemetry", {"power_w": math.nan, "flow_lpm": 3.0}),
    ("dead-letters", {"append_ts": T}),
]

FLAWED: list[tuple[str, dict[str, Any], Flaw]] = [
    ("node-telemetry", {**GPUS, "power_w": [1.0, 2.0, 3.0]}, Flaw.RAGGED_GPU),
    ("node-telemetry", {**GPUS, "temp_gpu_c": [1]}, Flaw.RAGGED_GPU),
    ("node-telemetry", {**GPUS, "gpu_uuid": [UUID]}, Flaw.RAGGED_GPU),
    ("node-telemetry", {**GPUS, "driver_epoch": [1, 2, 3]}, Flaw.RAGGED_GPU),
    ("node-telemetry", {"power_w": [1.0]}, Flaw.RAGGED_GPU),
    ("node-telemetry", {"ticks": 3, "host_load1": [1.0, 2.0]}, Flaw.RAGGED_TICK),
    ("node-counters", {"nic_name": ["a", "b"], "ticks": 2, "nic_link_up": [1, 1]}, Flaw.RAGGED_NIC),
    ("inventory", {"nic_name": ["a", "b"], "nic_firmware": ["1"]}, Flaw.RAGGED_LIST),
    ("allocations", {"started_at": T, "nodes": ["a", "b"], "gpu_mask": [1]}, Flaw.RAGGED_LIST),
    ("tenant-usage", {"latency_bounds_ms": [1, 2], "latency_counts": [1, 2]}, Flaw.RAGGED_LIST),
    ("node-telemetry", {"gpu_index": list(range(129))}, Flaw.GPU_COUNT),
    ("inventory", {"gpu_index": list(range(129))}, Flaw.GPU_COUNT),
    ("node-telemetry", {"ticks": 0}, Flaw.TICK_COUNT),
    ("node-telemetry", {"ts": T, "ticks": 61, "interval_ms": 1}, Flaw.TICK_COUNT),
    ("node-telemetry", {"interval_ms": 0}, Flaw.INTERVAL),
    ("node-telemetry", {"interval_ms": -1000}, Flaw.INTERVAL),
    ("node-telemetry", {"interval_ms": 60_001}, Flaw.INTERVAL),
    ("facility-telemetry", {"interval_ms": 0}, Flaw.INTERVAL),
    ("tenant-usage", {"window_s": 0}, Flaw.INTERVAL),
    ("node-telemetry", {"ts": T + 58_000_000, "ticks": 3}, Flaw.CROSSES_MINUTE),
    ("node-counters", {"ts": T + 10_000_000, "ticks": 6}, Flaw.CROSSES_MINUTE),
    ("node-telemetry", {"clock_offset_s": -math.inf}, Flaw.NOT_FINITE),
    ("leases", {"valid_from": T, "price_per_gpu_hour": math.nan}, Flaw.NOT_FINITE),
    ("tenant-limits", {"valid_from": T, "limit_value": math.nan}, Flaw.NOT_FINITE),
    ("facility-telemetry", {"power_w": math.inf}, Flaw.NOT_FINITE),
    ("node-telemetry", {"gpu_index": [0, 0]}, Flaw.GPU_INDEX),
    ("node-telemetry", {"gpu_index": [-1]}, Flaw.GPU_INDEX),
    ("node-telemetry", {"gpu_index": [1024]}, Flaw.GPU_INDEX),
    ("node-events", {"gpu_index": -2}, Flaw.GPU_INDEX),
    ("node-events", {"ts": T, "ended_at": T - 1}, Flaw.VALIDITY),
    ("allocations", {"started_at": T, "ended_at": T - 1}, Flaw.VALIDITY),
    ("leases", {"valid_from": T + 1}, Flaw.VALIDITY),
    ("leases", {"valid_from": T, "valid_to": T + 90_000_000}, Flaw.VALIDITY),
    ("leases", {"valid_from": T, "valid_to": T}, Flaw.VALIDITY),
    ("leases", {"valid_from": T, "revision": 0}, Flaw.NEGATIVE_COUNT),
    ("leases", {"valid_from": T, "sla_target": 1.5}, Flaw.NEGATIVE_COUNT),
    ("tenant-usage", {"output_tokens": -1}, Flaw.NEGATIVE_COUNT),
    ("tenant-usage", {"latency_bounds_ms": [1], "ttft_counts": [1, -1]}, Flaw.NEGATIVE_COUNT),
    ("tenant-limits", {"valid_from": T, "limit_value": -1.0}, Flaw.NEGATIVE_COUNT),
    ("node-events", {"occurrences": 0}, Flaw.NEGATIVE_COUNT),
    ("inventory", {"gpu_index": [0], "gpu_memory_bytes": [-1]}, Flaw.NEGATIVE_COUNT),
    ("dead-letters", {"append_ts": T, "source_offset": -1}, Flaw.NEGATIVE_COUNT),
    ("node-counters", {"nic_name": [str(i) for i in range(257)]}, Flaw.NIC_COUNT),
    ("inventory", {"nic_name": [str(i) for i in range(257)]}, Flaw.NIC_COUNT),
    ("node-telemetry", {"node_id": ""}, Flaw.IDENTITY),
    ("leases", {"valid_from": T, "tenant": ""}, Flaw.IDENTITY),
    ("tenant-usage", {"run_id": 0}, Flaw.IDENTITY),
]


def _stored(db: Database, topic: str, site: str, event: dict[str, Any]) -> int:
    db.insert(topic, {"site": site, "ts": T, **event})
    return int(db.value(f"SELECT flaws FROM gpufleet.{catalogue.KINDS[topic].table} WHERE site = '{site}'"))


@pytest.mark.parametrize(("topic", "event"), SOUND, ids=lambda v: v if isinstance(v, str) else "")
def test_sound_events_have_no_flaw(
    db: Database, topic: str, event: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    assert Flaw(_stored(db, topic, request.node.name, event)) == Flaw(0)


@pytest.mark.parametrize(("topic", "event", "flaw"), FLAWED, ids=lambda v: v.name if isinstance(v, Flaw) else "")
def test_each_flaw_sets_its_bit_and_no_other(
    db: Database, topic: str, event: dict[str, Any], flaw: Flaw, request: pytest.FixtureRequest
) -> None:
    site = request.node.name
    assert Flaw(_stored(db, topic, site, event)) == flaw
    if topic != "dead-letters":
        assert db.value(f"SELECT flaw FROM gpufleet.flawed_events WHERE site = '{site}'") == [str(flaw.name).lower()]


def test_flaws_add_up(db: Database) -> None:
    event = {
        **GPUS,
        "ts": T + 59_500_000,
        "clock_offset_s": math.inf,
        "power_w": [1.0],
        "host_load1": [1.0] * 5,
        "run_id": -1,
    }
    expected = Flaw.RAGGED_GPU | Flaw.RAGGED_TICK | Flaw.CROSSES_MINUTE | Flaw.NOT_FINITE | Flaw.IDENTITY
    assert Flaw(_stored(db, "node-telemetry", "flaws-add-up", event)) == expected


def test_absurd_counts_do_no_harm_to_those_who_read_the_rest(db: Database) -> None:
    site = "absurd"
    db.insert(
        "node-telemetry",
        {"site": site, "ts": T, "node_id": "a", "ticks": 2_000_000_000, "gpu_index": list(range(10_000))},
        {"site": site, "ts": T, "node_id": "b", "ticks": -5, "gpu_index": [0]},
        {"site": site, "ts": T, "node_id": "c", "ticks": 0, "gpu_index": [0], "power_w": [1.0]},
        {"site": site, "ts": T, "node_id": "d", "ticks": 1, "gpu_index": [0], "power_w": [4.0]},
    )
    assert db.rows(f"SELECT node_id, power_w FROM gpufleet.gpu_samples WHERE site = '{site}'") == [("d", 4.0)]
    assert db.rows(f"SELECT DISTINCT node_id FROM gpufleet.host_samples WHERE site = '{site}'") == [("d",)]


def test_the_view_names_every_bit(db: Database) -> None:
    rows = db.rows("SELECT bit, flaw, meaning FROM gpufleet.flaw_bits ORDER BY bit")
    assert rows == [(int(flaw), str(flaw.name).lower(), MEANING[flaw]) for flaw in Flaw]


def test_every_bit_is_told_by_some_kind_and_tested_here() -> None:
    told = {flaw for schema in catalogue.published() for flaw in flaws.tests(schema)}
    assert told == set(Flaw) == {flaw for _, _, flaw in FLAWED}
