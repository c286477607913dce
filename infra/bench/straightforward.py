"""The baseline: a well-written straightforward pipeline over the same events.

Messages come from the same Kafka topic, fastavro decodes each event, its arrays are unrolled into one row per GPU and
tick, columns are collected until a batch holds 100,000 rows or more, and clickhouse-connect inserts the batch in its
native columnar form. It keeps the same GPU metrics as the event table, no host metrics, no other kinds of events, and
does nothing about exactness.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fastavro
import numpy as np
from clickhouse_connect.driver.client import Client
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from schemas import catalogue, framing

BATCH_ROWS = 100_000
VOID_BELOW = 25_000
"""Samples per CPU-second under which the machine is too slow or noisy for the ratio to mean anything."""
_CLICKHOUSE = {"float": "Float32", "int": "Int32", "long": "Int64"}
_NUMPY = {"float": "float32", "int": "int32", "long": "int64"}
TABLE = "bench_row_per_gpu"


@dataclass(frozen=True, slots=True)
class Column:
    """One GPU metric as a column of the row-per-GPU table."""

    name: str
    avro: str


def gpu_columns() -> list[Column]:
    """The fast lane's metrics of shape (gpu, tick)."""
    schema = catalogue.latest("node-telemetry")
    return [Column(f["name"], f["type"]["items"]) for f in catalogue.fields_of_shape(schema, "gpu_tick")]


def create_table(client: Client) -> None:
    """The table such a pipeline would have: a row per GPU and tick, sorted the way it is asked."""
    metrics = ", ".join(f"{c.name} {_CLICKHOUSE[c.avro]} CODEC(Delta, ZSTD(1))" for c in gpu_columns())
    client.command(f"DROP TABLE IF EXISTS {TABLE}")
    client.command(
        f"CREATE TABLE {TABLE} (site LowCardinality(String), node_id String, gpu Int32, gpu_uuid FixedString(16), "
        f"ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)), {metrics}) "
        "ENGINE = MergeTree PARTITION BY toYYYYMMDD(ts) ORDER BY (site, node_id, gpu, ts)"
    )


def messages(kafka: Mapping[str, Any]) -> Iterator[bytes]:
    """Framed node-telemetry values, from the beginning of the topic to its end."""
    consumer = Consumer(
        {**kafka, "group.id": "gpufleet-bench-baseline", "enable.auto.commit": False, "enable.partition.eof": True}
    )
    topic = consumer.list_topics("node-telemetry", timeout=10).topics["node-telemetry"]
    consumer.assign([TopicPartition("node-telemetry", partition, OFFSET_BEGINNING) for partition in topic.partitions])
    ended = 0
    while ended < len(topic.partitions):
        for message in consumer.consume(500, timeout=1.0):
            value = message.value()
            if message.error() is not None:
                ended += 1
            elif value is not None:
                yield value
    consumer.close()


def run(client: Client, values: Iterable[bytes], enough: int) -> tuple[int, float]:
    """Decode and insert framed node-telemetry values; rows stored and CPU seconds of this process."""
    started = time.process_time()
    schema = catalogue.latest("node-telemetry").parsed
    batch = _Batch(gpu_columns())
    rows = 0
    for value in values:
        event: dict[str, Any] = fastavro.schemaless_reader(  # type: ignore[assignment]
            io.BytesIO(memoryview(value)[framing.PREFIX_BYTES :]), schema
        )
        batch.add(event)
        if batch.rows >= BATCH_ROWS:
            rows += batch.insert(client)
            if rows >= enough:
                break
    rows += batch.insert(client)
    return rows, time.process_time() - started


class _Batch:
    def __init__(self, metrics: list[Column]) -> None:
        self._metrics = metrics
        self._clear()

    def _clear(self) -> None:
        self.rows = 0
        self._site: list[str] = []
        self._node: list[str] = []
        self._uuid: list[bytes] = []
        self._gpu: list[int] = []
        self._ts: list[int] = []
        self._values: list[list[float]] = [[] for _ in self._metrics]

    def add(self, event: dict[str, Any]) -> None:
        gpus, ticks = event["gpu_index"], event["ticks"]
        count = len(gpus) * ticks
        step = event["interval_ms"] * 1000
        first = int(event["ts"].timestamp() * 1_000_000)
        times = [first + step * tick for tick in range(ticks)]
        self.rows += count
        self._site += [event["site"]] * count
        self._node += [event["node_id"]] * count
        for gpu, uuid in zip(gpus, event["gpu_uuid"], strict=True):
            self._gpu += [gpu] * ticks
            self._uuid += [uuid] * ticks
            self._ts += times
        for metric, column in zip(self._metrics, self._values, strict=True):
            values = event[metric.name]
            column += values if values else [float("nan") if metric.avro == "float" else -1] * count

    def insert(self, client: Client) -> int:
        if not self.rows:
            return 0
        data: list[Any] = [
            self._site,
            self._node,
            np.array(self._gpu, "int32"),
            self._uuid,
            self._ts,
        ]
        data += [np.array(v, _NUMPY[c.avro]) for c, v in zip(self._metrics, self._values, strict=True)]
        names = ["site", "node_id", "gpu", "gpu_uuid", "ts", *(c.name for c in self._metrics)]
        client.insert(TABLE, data, column_names=names, column_oriented=True, settings={"async_insert": 0})
        rows = self.rows
        self._clear()
        return rows
