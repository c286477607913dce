"""Measures the straightforward pipeline beside the real one: same machine, same store, same topic."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from typing import Any

from infra.bench import straightforward
from infra.bench.cpu import CpuMeter
from infra.clickhouse.client import ClickHouse, connect
from infra.connections import clickhouse
from infra.kafka.client import librdkafka
from infra.up.stack import Stack

BASELINE_SAMPLES = 1_600_000


@dataclass(slots=True)
class Baseline:
    """The straightforward pipeline on the first messages of the topic."""

    gpu_samples: int
    client_cpu_s: float
    store_cpu_s: float
    """Inserts, and one merge of what was inserted."""

    @property
    def per_cpu_s(self) -> float:
        return self.gpu_samples / (self.client_cpu_s + self.store_cpu_s)

    @property
    def void(self) -> bool:
        """Whether the machine was too slow or noisy for a ratio to mean anything."""
        return self.per_cpu_s < straightforward.VOID_BELOW

    def as_dict(self) -> dict[str, Any]:
        return {
            "gpu_samples": self.gpu_samples,
            "client_cpu_s": round(self.client_cpu_s, 1),
            "store_cpu_s": round(self.store_cpu_s, 1),
            "gpu_samples_per_cpu_s": round(self.per_cpu_s),
        }


def measure_baseline(stack: Stack) -> Baseline:
    """Run the pipeline of ``straightforward`` on the first messages of the stack's topic."""
    assert stack.store is not None
    meter = CpuMeter({"store": stack.store.pid})
    where = clickhouse(stack.settings.store, database=stack.settings.store.database)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rows, cpu_s = pool.apply(run_baseline, (where, librdkafka(stack.settings.kafka)))
    return Baseline(rows, cpu_s, meter.read()["store"].cpu_s)


def run_baseline(where: ClickHouse, kafka: dict[str, Any]) -> tuple[int, float]:
    """In a process of its own, so that its CPU clock is its own: rows and CPU seconds."""
    client = connect(where)
    straightforward.create_table(client)
    try:
        return straightforward.run(client, straightforward.messages(kafka), BASELINE_SAMPLES)
    finally:
        client.command(f"DROP TABLE IF EXISTS {straightforward.TABLE}")
