"""Flaws in words say what the table's bits say, for every kind and every bit."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import Any

import pytest

from consumers.letters import absurd
from consumers.store import EventStore
from infra.embedded.store.process import StoreProcess
from schemas import catalogue, flaws
from schemas.catalogue import KINDS
from schemas.container import ContainerWriter
from schemas.flaws import Flaw
from schemas.framing import PREFIX_BYTES
from tests.consumers.fleet import Node
from tests.consumers.running import client
from tests.consumers.test_bad_messages import shaped

pytestmark = pytest.mark.store
SITE = "dlq-flaws"
INF = math.inf
MINUTE = 60_000_000


def minute() -> int:
    """The beginning of a minute a while ago."""
    return (time.time_ns() // 1000 // MINUTE - 5) * MINUTE


def absurdities() -> dict[str, list[dict[str, Any]]]:
    """Per topic, fields of events: each absurd in a way of its own, and one sound."""
    at = minute()
    good = {**shaped(gpus=2, ticks=3), "ts": at}
    node: list[dict[str, Any]] = [
        {},
        {"power_w": [1.0] * 5},
        {"power_w": [1.0] * 7, "temp_gpu_c": [1]},
        {"gpu_index": [1, 1]},
        {"gpu_index": [0, 5000]},
        {"gpu_index": [-1, 0]},
        {"gpu_index": list(range(200))},
        {"ticks": 0},
        {"ticks": 61},
        {"interval_ms": 0},
        {"interval_ms": 90_000},
        {"ts": at + 59_000_000},
        {"run_id": 0},
    ]
    tick = next(iter(catalogue.fields_of_shape(catalogue.latest("node-telemetry"), "tick")))["name"]
    node += [{tick: [1.0, 2.0]}]
    scalar = [f["name"] for f in catalogue.latest("node-telemetry").fields if f["type"] in ("float", "double")]
    node += [{name: INF} for name in scalar[:1]]
    day = {"ts": at, "valid_from": at, "valid_to": at + 60 * MINUTE, "revision": 1, "price_per_gpu_hour": 2.0,
           "sla_target": 0.99}  # fmt: skip
    usage = {"ts": at, "window_s": 60, "revision": 1, "latency_bounds_ms": [1.0, 2.0], "ttft_counts": [1, 2, 3],
             "latency_counts": []}  # fmt: skip
    ports = {**sized("node-counters", gpus=1, ticks=2, nics=2), "ts": at}
    nic = next(f for f in catalogue.fields_of_shape(catalogue.latest("node-counters"), "nic_tick"))["name"]
    return {
        "node-telemetry": [good | one for one in node],
        "node-counters": [ports, ports | {nic: [1] * 3}, ports | {"nic_name": ["n"] * 300}],
        "inventory": [
            {"ts": at, "nic_name": ["a", "b"], "nic_firmware": ["1"], "gpu_index": [0], **single("inventory")},
            {"ts": at, "nic_name": ["a"] * 300, "nic_firmware": [], "gpu_index": [0, 0], **single("inventory")},
            {
                "ts": at,
                "nic_name": [],
                "nic_firmware": [],
                "gpu_index": [0],
                **single("inventory"),
                "gpu_memory_bytes": [-1],
            },
        ],
        "node-events": [
            {"ts": at, "occurrences": 0, "gpu_index": 3, "ended_at": at + 1},
            {"ts": at, "occurrences": 1, "gpu_index": 5000, "ended_at": at - 1},
            {"ts": at, "occurrences": 1, "gpu_index": None, "ended_at": None},
        ],
        "allocations": [
            {"ts": at, "nodes": ["a", "b"], "gpu_mask": [1], "started_at": at, "ended_at": at - 1},
            {"ts": at, "nodes": ["a"], "gpu_mask": [], "started_at": at, "ended_at": None, "site": ""},
        ],
        "leases": [
            day,
            day | {"valid_from": at + 1},
            day | {"valid_to": at},
            day | {"valid_to": None, "revision": 0},
            day | {"price_per_gpu_hour": -1.0, "sla_target": 1.5},
            day | {"price_per_gpu_hour": math.nan, "sla_target": INF, "tenant": ""},
        ],
        "tenant-usage": [
            usage,
            usage | {"window_s": 0, "ttft_counts": [1]},
            usage | {"requests": -1, "output_tokens": -5, "latency_counts": [-1, 1, 1]},
        ],
        "tenant-limits": [
            {"ts": at, "limit_value": INF, "previous_value": None, "window_s": 1},
            {"ts": at, "limit_value": -1.0, "previous_value": -INF, "window_s": -1},
        ],
        "facility-telemetry": [
            {"ts": at, "interval_ms": 0},
            {"ts": at, "interval_ms": 1, **dict.fromkeys(doubles("facility-telemetry")[:1], INF)},
        ],
    }


def sized(topic: str, gpus: int, ticks: int, nics: int) -> dict[str, Any]:
    """Every array of a kind in its right length."""
    lengths = {"gpu": gpus, "gpu_tick": gpus * ticks, "tick": ticks, "nic": nics, "nic_tick": nics * ticks}
    fields: dict[str, Any] = {"ticks": ticks, "interval_ms": 1000}
    for field in catalogue.latest(topic).fields:
        if field.get("shape") in lengths:
            items = field["type"]["items"]
            one: Any = bytes(16) if isinstance(items, dict) else "n" if items == "string" else 1
            fields[field["name"]] = [one] * lengths[field["shape"]]
    return {**fields, "gpu_index": list(range(gpus))}


def doubles(topic: str) -> list[str]:
    fields = catalogue.latest(topic).fields
    return [f["name"] for f in fields if isinstance(f["type"], list) and "double" in f["type"]]


def single(topic: str) -> dict[str, Any]:
    """Per-GPU arrays left empty."""
    return {
        f["name"]: [] for f in catalogue.fields_of_shape(catalogue.latest(topic), "gpu") if f["name"] != "gpu_index"
    }


def test_words_and_bits_agree_for_every_kind(migrated_store: StoreProcess) -> None:
    ch: Any = client(migrated_store)
    events = EventStore(lambda: client(migrated_store), "gpufleet")
    sent: dict[str, int] = {}
    for topic, rows in absurdities().items():
        node = Node(f"{SITE}-{topic}", SITE)
        made = [node.event(topic, **fields) for fields in rows]
        sent[topic] = len(made)
        schema = catalogue.latest(topic)
        body = ContainerWriter(schema).open([memoryview(one.value)[PREFIX_BYTES:] for one in made])
        events.insert(schema, body)
    seen = Flaw(0)
    for topic, count in sent.items():
        rows = ch.query(
            f"SELECT *, flaws FROM gpufleet.{KINDS[topic].table} WHERE producer_id = '{SITE}-{topic}' ORDER BY seq"
        ).named_results()
        found = 0
        for row in rows:
            found += 1
            points = absurd.explain(catalogue.latest(topic), row)
            bits = reduce(or_, (point.flaw for point in points), Flaw(0))
            assert bits == Flaw(row["flaws"]), (topic, row["seq"], [str(point) for point in points])
            seen |= bits
        assert found == count
    assert seen == reduce(or_, flaws.MEANING), "every bit was on trial"


def test_the_newest_flawed_events_are_found_and_explained(migrated_store: StoreProcess) -> None:
    ch: Any = client(migrated_store)
    node = Node("dlq-flaws-found", "dlq-flaws-found")
    at = minute()
    sound = node.event("node-telemetry", **{**shaped(gpus=2, ticks=3), "ts": at})
    ragged = node.event("node-telemetry", **{**shaped(gpus=2, ticks=3), "ts": at + 10_000_000, "power_w": [1.0] * 5})
    twice = node.event("node-telemetry", **{**shaped(gpus=2, ticks=3), "ts": at + 20_000_000, "gpu_index": [4, 4]})
    schema = catalogue.latest("node-telemetry")
    body = ContainerWriter(schema).open([memoryview(one.value)[PREFIX_BYTES:] for one in (sound, ragged, twice)])
    EventStore(lambda: client(migrated_store), "gpufleet").insert(schema, body)
    found, total = absurd.find(ch, producer=node.name)
    assert (total, [one.seq for one in found]) == (2, [2, 1]), "the newest first, the sound one not at all"
    assert [str(point) for point in found[0].points] == [
        "gpu_index: gpu_index: expected each number once, found twice: 4"
    ]
    assert [str(point) for point in found[1].points] == [
        "ragged_gpu: power_w: expected 0 or 6 values (2 GPUs times 3 ticks), found 5"
    ]
    assert found[1].ts == datetime.fromtimestamp(at / 1e6 + 10, tz=UTC)
    only, _ = absurd.find(ch, producer=node.name, flaw=Flaw.RAGGED_GPU)
    assert [one.seq for one in only] == [1]
    newest, total = absurd.find(ch, producer=node.name, limit=1)
    assert ([one.seq for one in newest], total) == ([2], 2)
