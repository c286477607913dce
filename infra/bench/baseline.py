"""Measures the straightforward pipeline beside the real one: same machine, same time, same topics, same engine."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

from infra.bench import straightforward
from infra.bench.cpu import CpuMeter
from infra.bench.row_tables import TABLES
from infra.clickhouse.client import ClickHouse, connect
from infra.embedded.store.process import StoreProcess
from infra.kafka.client import librdkafka
from infra.up.stack import Stack

BASELINE_SAMPLES = 1_600_000
"""GPU samples of the fast lane that the pipeline stores, with the slow lane that belongs to them."""
BURSTS = 3
"""In so many parts."""


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


class Beside:
    """The straightforward pipeline at work while the real one is, on a store of its own: between ``with`` and its end.

    Processors do not keep their speed for minutes, least of all shared ones: what is compared has to run at the same
    time. It works in bursts, so that the store's idling is not charged to it, spread over ``seconds``; each takes the
    first messages of the topics, whose fast lane holds ``gpu_samples``, and no more than the share ``most`` of them:
    less than all while producers go on, since the topics have no end then. ``result`` waits for the last burst, and for
    one merge of what was inserted.
    """

    def __init__(self, stack: Stack, gpu_samples: int, seconds: float = 0.0, most: float = 1.0) -> None:
        self._kafka = librdkafka(stack.settings.kafka, "consumer")
        self._store = StoreProcess(stack.data / "baseline")
        self._share = min(most, BASELINE_SAMPLES / BURSTS / gpu_samples)
        self._bursts = BURSTS if self._share < most else 1
        self._pause_s = seconds / (self._bursts + 1)
        self._stop, self._worked = threading.Event(), threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="baseline")

    def __enter__(self) -> Self:
        self._store.start()
        self._running = self._thread.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.shutdown()
        self._store.stop()

    def done(self) -> bool:
        """Whether the last burst is over."""
        return self._worked.is_set()

    def result(self) -> Baseline:
        """The sum of all bursts."""
        return self._running.result()

    def _run(self) -> Baseline:
        store = self._store
        where = ClickHouse(store.host, store.port, store.username, store.password)
        client = connect(where)
        straightforward.create_tables(client)
        client.command("SYSTEM STOP MERGES")
        total = Baseline(0, 0.0, 0.0, 0.0)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            for _ in range(self._bursts):
                if self._stop.wait(self._pause_s):
                    break
                meter = CpuMeter({"store": store.pid})
                samples, cpu_s = pool.apply(run_baseline, (where, self._kafka, self._share))
                total.gpu_samples += samples
                total.client_cpu_s += cpu_s
                total.insert_cpu_s += meter.read()["store"].cpu_s
        self._worked.set()
        meter = CpuMeter({"store": store.pid})
        for table in TABLES:
            client.command(f"SYSTEM START MERGES {table.name}")
            client.command(f"OPTIMIZE TABLE {table.name} FINAL")
        total.merge_cpu_s = meter.read()["store"].cpu_s
        client.close()
        return total


def run_baseline(where: ClickHouse, kafka: dict[str, Any], share: float) -> tuple[int, float]:
    """In a process of its own, so that its CPU clock is its own: GPU samples and CPU seconds."""
    return straightforward.run(connect(where), straightforward.messages(kafka, share))
