"""Events as a test states them, and the way they take into the store: Avro, one container block, one insert."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fastavro
from clickhouse_connect.driver.client import Client

from schemas import catalogue
from schemas.container import ContainerWriter

MINUTE = 60_000_000
"""Microseconds."""
UUID = bytes(range(16))
UUID_TEXT = "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"


def minutes_ago(minutes: int) -> int:
    """Start of a minute that long ago, microseconds since 1970. Recent, since old telemetry ages out."""
    return (int(time.time()) // 60 - minutes) * MINUTE


def not_at_a_minutes_end(spare_s: float = 15.0) -> None:
    """Wait for the next minute when this one ends soon: for what looks at the minutes that are over now."""
    left_s = 60 - time.time() % 60
    if left_s < spare_s:
        time.sleep(left_s + 0.05)


@dataclass
class Database:
    """The store, with inserts the consumer's way."""

    client: Client
    numbers: Iterable[int] = field(default_factory=itertools.count)

    def insert(self, topic: str, *events: Mapping[str, Any]) -> None:
        """Insert events; what a test leaves out gets a plain value."""
        schema = catalogue.latest(topic)
        datums = []
        for event in events:
            record = {
                "producer_id": "p",
                "run_id": 1,
                "seq": next(iter(self.numbers)),
                **REQUIRED.get(topic, {}),
                **event,
            }
            datum = io.BytesIO()
            fastavro.schemaless_writer(datum, schema.parsed, record)
            datums.append(datum.getvalue())
        self.client.raw_insert(
            f"gpufleet.{schema.kind.table}",
            insert_block=io.BytesIO(ContainerWriter(schema).frame(datums)),
            fmt="Avro",
            settings={"input_format_avro_allow_missing_fields": 1, "optimize_on_insert": 0},
        )

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.client.query(query).result_rows]

    def value(self, query: str) -> Any:
        return self.rows(query)[0][0]

    def dicts(self, query: str) -> list[dict[str, Any]]:
        return list(self.client.query(query).named_results())

    def reload(self) -> None:
        """What the attribution does after a change to the leases."""
        for name in ("lease_by_node", "node_at", "usage_grant_at"):
            self.client.command(f"SYSTEM RELOAD DICTIONARY gpufleet.{name}")

    def project(self, start: int, minutes: int = 1) -> None:
        """What the projector makes of these minutes and of node_place; ``start`` in microseconds since 1970."""
        from consumers.projector import health_windows, places, sick_windows, spells
        from consumers.projector.recompute import Recomputer
        from consumers.projector.windows import HEALTH_1M, SICK_1M, Range

        places.refresh(self.client)
        window = Range(start // 1_000_000, start // 1_000_000 + 60 * minutes)
        held, recomputer = spells.load(self.client, window), Recomputer(self.client)
        recomputer.write(
            SICK_1M, window, sick_windows.sick_1m_sql(window, held, sick_windows.look(self.client, window))
        )
        recomputer.write(HEALTH_1M, window, health_windows.health_1m_sql(window, held))

    def gpu_minute(self, site: str, ts: int, node: str, gpu: int = 0, **measures: float) -> None:
        """A row of gpu_1m as the projector writes it; the rest is zero."""
        values = {"seconds": 60.0, "active_s": 0.0, "throttle_slowdown_s": 0.0, **measures}
        names = ", ".join(values)
        self.client.command(
            f"INSERT INTO gpufleet.gpu_1m (site, ts, node_id, gpu_index, tenant, rack, gpu_model, version, {names})"
            f" VALUES ('{site}', {ts // 1_000_000}, '{node}', {gpu}, '', 'r1', 'H100', 1,"
            f" {', '.join(str(v) for v in values.values())})"
        )


REQUIRED: dict[str, dict[str, Any]] = {
    "node-telemetry": {"node_id": "n", "interval_ms": 1000, "ticks": 1, "clock_offset_s": 0.0},
    "node-counters": {"node_id": "n", "interval_ms": 10_000, "ticks": 1},
    "node-events": {"node_id": "n", "event": "xid"},
    "inventory": {"node_id": "n"},
    "allocations": {"job_id": "j", "state": "started"},
    "leases": {"lease_id": "l", "revision": 1, "action": "granted", "tenant": "t"},
    "tenant-usage": {"tenant": "t", "window_s": 60},
    "tenant-limits": {"tenant": "t", "limit_name": "requests", "limit_value": 1.0},
    "facility-telemetry": {"asset_id": "a", "asset_kind": "cdu"},
    "dead-letters": {
        "source_topic": "leases",
        "source_partition": 0,
        "source_offset": 0,
        "reason": "decode",
        "key": b"",
        "value": b"",
        "identity": b"",
    },
}


def lease(
    site: str, lease_id: str, nodes: list[str], start: int, end: int | None = None, **more: Any
) -> dict[str, Any]:
    """A lease event of revision 1, granted."""
    return {
        "site": site,
        "ts": start,
        "lease_id": lease_id,
        "nodes": nodes,
        "valid_from": start,
        "valid_to": end,
        **more,
    }


def inventory(site: str, node: str, ts: int, gpus: int = 1, **more: Any) -> dict[str, Any]:
    """An inventory event of a node with ``gpus`` GPUs in rack r1."""
    return {
        "site": site,
        "ts": ts,
        "node_id": node,
        "rack": "r1",
        "gpu_model": "H100",
        "gpu_index": list(range(gpus)),
        "gpu_uuid": [UUID] * gpus,
        **more,
    }
