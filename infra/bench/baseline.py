"""Measures the straightforward pipeline beside the real one: same machine, same store, same topic."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.client import Client

from infra.bench import straightforward
from infra.bench.cpu import CpuMeter
from infra.bench.row_tables import TABLES
from infra.clickhouse.client import ClickHouse, connect
from infra.connections import as_admin, clickhouse
from infra.kafka.client import librdkafka
from infra.up.stack import Stack

BASELINE_SAMPLES = 1_600_000
"""GPU samples of the fast lane that the pipeline stores, with the slow lane that belongs to them."""
QUIET_S = 120.0


@dataclass(slots=True)
class Baseline:
    """The straightforward pipeline on the first messages of both lanes."""

    gpu_samples: int
    client_cpu_s: float
    insert_cpu_s: float
    """The store's, for the inserts."""
    merge_cpu_s: float
    """The store's, for one merge of what was inserted."""

    @property
    def per_cpu_s(self) -> float:
        """GPU samples per CPU-second, inserts only."""
        return self.gpu_samples / (self.client_cpu_s + self.insert_cpu_s)

    @property
    def merged_per_cpu_s(self) -> float:
        """GPU samples per CPU-second, with one merge."""
        return self.gpu_samples / (self.client_cpu_s + self.insert_cpu_s + self.merge_cpu_s)

    @property
    def void(self) -> bool:
        """Whether the machine was too slow or noisy for a ratio to mean anything."""
        return self.per_cpu_s < straightforward.VOID_BELOW

    def as_dict(self) -> dict[str, Any]:
        return {
            "gpu_samples": self.gpu_samples,
            "client_cpu_s": round(self.client_cpu_s, 1),
            "insert_cpu_s": round(self.insert_cpu_s, 1),
            "merge_cpu_s": round(self.merge_cpu_s, 1),
            "gpu_samples_per_cpu_s": round(self.per_cpu_s),
            "gpu_samples_per_cpu_s_merged": round(self.merged_per_cpu_s),
        }


def measure_baseline(stack: Stack, gpu_samples: int) -> Baseline:
    """Run the pipeline of ``straightforward`` on the first messages of the stack's topics, then merge its tables.

    ``gpu_samples`` is what the fast lane's topic holds. The store does nothing else meanwhile.
    """
    assert stack.store is not None
    where = clickhouse(as_admin(stack.settings.store), database=stack.settings.store.database)
    client = connect(where)
    straightforward.create_tables(client)
    share = min(1.0, BASELINE_SAMPLES / gpu_samples)
    try:
        client.command("SYSTEM STOP MERGES")
        _settle(client)
        meter = CpuMeter({"store": stack.store.pid})
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows, cpu_s = pool.apply(run_baseline, (where, librdkafka(stack.settings.kafka, "consumer"), share))
        insert_cpu_s = meter.read()["store"].cpu_s
        meter = CpuMeter({"store": stack.store.pid})
        for table in TABLES:
            client.command(f"SYSTEM START MERGES {table.name}")
            client.command(f"OPTIMIZE TABLE {table.name} FINAL")
        return Baseline(rows, cpu_s, insert_cpu_s, meter.read()["store"].cpu_s)
    finally:
        for table in TABLES:
            client.command(f"DROP TABLE IF EXISTS {table.name}")
        client.command("SYSTEM START MERGES")
        client.close()


def _settle(client: Client) -> None:
    """Until no merge runs any more: it would be charged to the pipeline."""
    deadline = time.monotonic() + QUIET_S
    while time.monotonic() < deadline and client.query("SELECT count() FROM system.merges").result_rows[0][0]:
        time.sleep(0.2)


def run_baseline(where: ClickHouse, kafka: dict[str, Any], share: float) -> tuple[int, float]:
    """In a process of its own, so that its CPU clock is its own: GPU samples and CPU seconds."""
    return straightforward.run(connect(where), straightforward.messages(kafka, share))
