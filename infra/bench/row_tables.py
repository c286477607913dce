"""The tables that a straightforward pipeline would have: a row for every GPU (host, NIC) and tick, a column a metric.

Together they hold the metrics that gpufleet's event tables hold: both lanes, GPUs, hosts and NICs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from clickhouse_connect.driver.client import Client

from schemas import catalogue

_CLICKHOUSE = {"double": "Float64", "float": "Float32", "int": "Int32", "long": "Int64"}
_NUMPY = {"double": "float64", "float": "float32", "int": "int32", "long": "int64"}
_BLANK: Mapping[str, float] = {"double": float("nan"), "float": float("nan"), "int": -1, "long": -1}
_THING = {"gpu_tick": "gpu Int32, gpu_uuid FixedString(16), ", "nic_tick": "nic LowCardinality(String), ", "tick": ""}


@dataclass(frozen=True, slots=True)
class Column:
    """One metric as a column."""

    name: str
    avro: str


@dataclass(frozen=True, slots=True)
class RowTable:
    """The metrics of one shape of one topic."""

    name: str
    topic: str
    shape: str
    """gpu_tick, nic_tick, or tick for what a host has one of."""

    @property
    def metrics(self) -> list[Column]:
        """Its metrics, as the newest schema has them."""
        schema = catalogue.latest(self.topic)
        return [Column(f["name"], f["type"]["items"]) for f in catalogue.fields_of_shape(schema, self.shape)]

    def create(self, client: Client) -> None:
        """Make it anew, sorted the way it is asked."""
        metrics = ", ".join(f"{c.name} {_CLICKHOUSE[c.avro]} CODEC(Delta, ZSTD(1))" for c in self.metrics)
        thing = _THING[self.shape]
        within = thing.split(" ")[0] + ", " if thing else ""
        client.command(f"DROP TABLE IF EXISTS {self.name}")
        client.command(
            f"CREATE TABLE {self.name} (site LowCardinality(String), node_id String, {thing}"
            f"ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)), {metrics}) "
            f"ENGINE = MergeTree PARTITION BY toYYYYMMDD(ts) ORDER BY (site, node_id, {within}ts)"
        )


GPU_SAMPLES = RowTable("bench_gpu_samples", "node-telemetry", "gpu_tick")
TABLES = (
    GPU_SAMPLES,
    RowTable("bench_host_samples", "node-telemetry", "tick"),
    RowTable("bench_gpu_counters", "node-counters", "gpu_tick"),
    RowTable("bench_nic_counters", "node-counters", "nic_tick"),
)


class Rows:
    """Rows of one table, collected by column until they are inserted."""

    def __init__(self, table: RowTable) -> None:
        self._table, self._metrics = table, table.metrics
        self._clear()

    def _clear(self) -> None:
        self.count = 0
        self._site: list[str] = []
        self._node: list[str] = []
        self._thing: list[Any] = []
        self._uuid: list[bytes] = []
        self._ts: list[int] = []
        self._values: list[list[float]] = [[] for _ in self._metrics]

    def add(self, event: Mapping[str, Any]) -> None:
        """Unroll a decoded event of the table's topic."""
        ticks, step = event["ticks"], event["interval_ms"] * 1000
        first = int(event["ts"].timestamp() * 1_000_000)
        times = [first + step * tick for tick in range(ticks)]
        things = 1
        if self._table.shape == "gpu_tick":
            things = len(event["gpu_index"])
            for gpu, uuid in zip(event["gpu_index"], event["gpu_uuid"], strict=True):
                self._thing += [gpu] * ticks
                self._uuid += [uuid] * ticks
        elif self._table.shape == "nic_tick":
            things = len(event["nic_name"])
            for name in event["nic_name"]:
                self._thing += [name] * ticks
        count = things * ticks
        self.count += count
        self._site += [event["site"]] * count
        self._node += [event["node_id"]] * count
        self._ts += times * things
        for metric, column in zip(self._metrics, self._values, strict=True):
            values = event[metric.name]
            # Most arrays are whole; an empty one is a metric the node lacks, a single value holds for all.
            column += values if len(values) == count else (values or [_BLANK[metric.avro]]) * count

    def insert(self, client: Client) -> int:
        """Store what was collected; the number of rows."""
        if not self.count:
            return 0
        names, data = ["site", "node_id"], [self._site, self._node]
        if self._table.shape == "gpu_tick":
            names += ["gpu", "gpu_uuid"]
            data += [np.array(self._thing, "int32"), self._uuid]  # type: ignore[list-item]
        elif self._table.shape == "nic_tick":
            names.append("nic")
            data.append(self._thing)
        names += ["ts", *(c.name for c in self._metrics)]
        data.append(self._ts)  # type: ignore[arg-type]
        data += [np.array(v, _NUMPY[c.avro]) for c, v in zip(self._metrics, self._values, strict=True)]  # type: ignore[misc]
        client.insert(self._table.name, data, column_names=names, column_oriented=True, settings={"async_insert": 0})
        rows = self.count
        self._clear()
        return rows
