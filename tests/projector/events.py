"""Events for tests, encoded as producers encode them and inserted as the consumer inserts them."""

from __future__ import annotations

import io
import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import fastavro

from schemas import catalogue
from schemas.container import ContainerWriter

US = 1_000_000
DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
"""Within retention.raw_days, for the store drops older events; before what a first projector looks at by itself."""
T0 = int(DAY.timestamp()) + 10 * 3600
"""A whole minute and hour, seconds since 1970."""
RUN = T0 * US - 5 * US


def gpu_uuid(node: str, gpu: int) -> bytes:
    return uuid.uuid5(uuid.NAMESPACE_DNS, f"{node}/{gpu}").bytes


@dataclass
class Events:
    """Gives out identities and inserts events; keeps what it inserted, as Python values."""

    client: Any
    site: str = "test"
    sequences: dict[tuple[str, int, str], Iterator[int]] = field(default_factory=dict)
    inserted: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)

    def event(
        self, topic: str, ts: float, producer: str, run: int = RUN, seq: int | None = None, **fields: Any
    ) -> dict[str, Any]:
        """One event; ts in seconds since 1970."""
        numbers = self.sequences.setdefault((producer, run, topic), itertools.count())
        number = next(numbers) if seq is None else seq
        return {
            "site": self.site,
            "producer_id": producer,
            "run_id": run,
            "seq": number,
            "ts": round(ts * US),
            **fields,
        }

    def telemetry(
        self, node: str, ts: float, ticks: int = 5, interval_ms: int = 1000, gpus: Sequence[int] = (0, 1), **fields: Any
    ) -> dict[str, Any]:
        """A fast-lane event. Metrics as keyword arguments; those not given are absent."""
        return self.event(
            "node-telemetry",
            ts,
            node,
            fields.pop("run", RUN),
            fields.pop("seq", None),
            **{
                "node_id": node,
                "rack": "r1",
                "gpu_model": "H100",
                "interval_ms": interval_ms,
                "ticks": ticks,
                "gpu_index": list(gpus),
                "gpu_uuid": [gpu_uuid(node, g) for g in gpus],
                "driver_epoch": [1],
                "clock_offset_s": 0.0,
                **fields,
            },
        )

    def insert(self, topic: str, events: Sequence[Mapping[str, Any]], *, ledger: bool = True, **entry: Any) -> None:
        """Insert as one block, and write the ledger's row."""
        schema = catalogue.latest(topic)
        datums = []
        for event in events:
            out = io.BytesIO()
            fastavro.schemaless_writer(out, schema.parsed, dict(event))
            datums.append(out.getvalue())
        self.client.raw_insert(
            f"gpufleet.{schema.kind.table}",
            column_names=[f["name"] for f in schema.fields],
            insert_block=ContainerWriter(schema).frame(datums),
            fmt="Avro",
            settings={"async_insert": 0, "optimize_on_insert": 0, "input_format_avro_allow_missing_fields": 1},
        )
        self.inserted.setdefault(topic, []).extend(dict(e) for e in events)
        if ledger:
            self.ledger(topic, events, **entry)

    def ledger(self, topic: str, events: Sequence[Mapping[str, Any]], partition: int = 0, **entry: Any) -> None:
        """The row that the consumer writes for such an insert."""
        first = self.offsets.get((topic, partition), 0)
        self.offsets[topic, partition] = first + len(events)
        minutes = sorted({e["ts"] // US // 60 * 60 for e in events})
        now = datetime.now(UTC)
        row = {
            "at": now,
            "consumer": "c1",
            "topic": topic,
            "topic_id": f"id-{topic}",
            "partition": partition,
            "first_offset": first,
            "last_offset": first + len(events) - 1,
            "messages": len(events),
            "rows": len(events),
            "duplicates": 0,
            "dead_letters": 0,
            "bytes": 1,
            "insert_ms": 1.0,
            "path": "steady",
            "event_ts_min": _at(min(e["ts"] for e in events)),
            "event_ts_max": _at(max(e["ts"] for e in events)),
            "append_ts_max": _at(max(e["ts"] for e in events)),
            "minutes": [datetime.fromtimestamp(m, UTC) for m in minutes],
            "late_producers": [],
            **entry,
        }
        self.client.insert("gpufleet.ingest_ledger", [list(row.values())], column_names=list(row))


def _at(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / US, UTC)
