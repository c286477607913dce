"""The unrolling views against the same events unrolled in Python."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas import catalogue
from tests.clickhouse.support import UUID, UUID_TEXT, Database, minutes_ago

pytestmark = pytest.mark.store
T = minutes_ago(6)


def at(micros: int) -> datetime:
    """As clickhouse-connect gives times in UTC: without a zone."""
    return datetime.fromtimestamp(micros / 1e6, UTC).replace(tzinfo=None)


def reading(field: dict[str, Any], value: Any) -> Any:
    """What a person should see of a stored value."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return None if value == field.get("blank") else value


def unrolled(event: dict[str, Any], topic: str, shape: str, lead: str) -> list[dict[str, Any]]:
    """One dict per (GPU or NIC, tick) in stored order, straight from the definition of the arrays."""
    rows = []
    ticks = event["ticks"]
    for place, name in enumerate(event.get(lead, [])):
        for tick in range(ticks):
            row: dict[str, Any] = {lead: name, "sample_ts": at(event["ts"] + tick * event["interval_ms"] * 1000)}
            for field in catalogue.latest(topic).fields:
                values = event.get(field["name"], [])
                if field.get("shape") == f"{shape}_tick":
                    row[field["name"]] = reading(field, values[place * ticks + tick]) if values else None
            rows.append(row)
    return rows


def random_event(topic: str, shape: str, lead: str, names: list[Any], ticks: int, rng: random.Random) -> dict[str, Any]:
    event: dict[str, Any] = {"node_id": "n", "ticks": ticks, "interval_ms": 1000, lead: names}
    for field in catalogue.latest(topic).fields:
        if field.get("shape") != f"{shape}_tick" or rng.random() < 0.2:
            continue
        size = len(names) * ticks
        if field["type"]["items"] in ("float", "double"):
            event[field["name"]] = [math.nan if rng.random() < 0.2 else float(rng.randrange(1000)) for _ in range(size)]
        else:
            event[field["name"]] = [
                field.get("blank", 0) if rng.random() < 0.2 else rng.randrange(1000) for _ in range(size)
            ]
    return event


@pytest.mark.parametrize(
    ("view", "topic", "shape", "lead", "names", "ticks"),
    [
        ("gpu_samples", "node-telemetry", "gpu", "gpu_index", [0, 1, 2, 3, 4, 5, 6, 7], 5),
        ("gpu_samples", "node-telemetry", "gpu", "gpu_index", [2, 5], 1),
        ("gpu_samples", "node-telemetry", "gpu", "gpu_index", [], 5),
        ("gpu_counters", "node-counters", "gpu", "gpu_index", [0, 1, 2, 3], 6),
        ("nic_samples", "node-counters", "nic", "nic_name", ["mlx5_0/1", "mlx5_1/1"], 6),
        ("nic_samples", "node-counters", "nic", "nic_name", [], 6),
    ],
)
def test_a_view_shows_what_the_arrays_mean(
    db: Database,
    request: pytest.FixtureRequest,
    view: str,
    topic: str,
    shape: str,
    lead: str,
    names: list[Any],
    ticks: int,
) -> None:
    site = request.node.name
    event = random_event(topic, shape, lead, names, ticks, random.Random(site))
    db.insert(topic, {"site": site, "ts": T, **event})
    expected = unrolled({**event, "ts": T}, topic, shape, lead)
    found = db.dicts(f"SELECT * FROM gpufleet.{view} WHERE site = '{site}'")
    found.sort(key=lambda row: (names.index(row[lead]), row["sample_ts"]))
    assert len(found) == len(expected)
    for row, want in zip(found, expected, strict=True):
        assert {name: row[name] for name in want} == want
        assert row["event_ts"] == at(T)


def test_what_holds_for_all_ticks_or_gpus_is_shown_for_each(db: Database) -> None:
    db.insert(
        "node-telemetry",
        {
            "site": "broadcast",
            "ts": T,
            "ticks": 2,
            "gpu_index": [0, 1],
            "gpu_uuid": [UUID, bytes(16)],
            "driver_epoch": [42],
            "host_cpu_util": [0.5],
            "host_load1": [1.0, 2.0],
            "host_processes": [-1],
            "clock_offset_s": math.nan,
            "clock_synced": True,
        },
    )
    gpus = db.rows(
        "SELECT gpu_index, gpu_uuid, driver_epoch FROM gpufleet.gpu_samples WHERE site = 'broadcast'"
        " ORDER BY 1, sample_ts"
    )
    assert gpus == [(0, UUID_TEXT, 42)] * 2 + [(1, "", 42)] * 2
    hosts = db.rows(
        "SELECT host_cpu_util, host_load1, host_processes, host_mem_used_bytes, clock_offset_s, clock_synced"
        " FROM gpufleet.host_samples WHERE site = 'broadcast' ORDER BY sample_ts"
    )
    assert hosts == [(0.5, 1.0, None, None, None, True), (0.5, 2.0, None, None, None, True)]


def test_ragged_rows_are_left_out_and_harm_nobody(db: Database) -> None:
    sound = {"site": "ragged", "ts": T, "node_id": "a", "ticks": 2, "gpu_index": [0], "power_w": [1.0, 2.0]}
    ragged = [
        {**sound, "node_id": "b", "power_w": [1.0]},
        {**sound, "node_id": "c", "power_w": [1.0] * 99},
        {**sound, "node_id": "d", "temp_gpu_c": [1, 2, 3]},
        {**sound, "node_id": "e", "host_load1": [1.0, 2.0, 3.0]},
    ]
    db.insert("node-telemetry", *ragged, sound)
    assert db.rows("SELECT node_id, power_w FROM gpufleet.gpu_samples WHERE site = 'ragged' ORDER BY sample_ts") == [
        ("a", 1.0),
        ("a", 2.0),
    ]


def test_a_query_reads_only_the_arrays_it_names_and_only_the_rows_it_asks_for(db: Database) -> None:
    db.insert("node-telemetry", *({"site": "prune", "ts": T, "node_id": f"n{i}", "gpu_index": [0]} for i in range(3)))
    plan = "\n".join(
        row[0]
        for row in db.rows(
            "EXPLAIN indexes = 1, header = 1 SELECT avg(power_w) FROM gpufleet.gpu_samples"
            " WHERE site = 'prune' AND node_id = 'n1' AND event_ts > now() - 3600"
        )
    )
    read = plan[plan.index("ReadFromMergeTree") :]
    assert "tensor_active" not in plan
    assert "node_id in ['n1', 'n1']" in read
    assert "toYYYYMMDD(ts)" in read
