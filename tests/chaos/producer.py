"""A producer process: some nodes, a meter and leases, through journal, spool and outbox as the agent does it.

Its clock is told: a second of wall time is many of event time, so that a schedule of seconds fills whole minutes.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
import types
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from producers import journal as journals
from producers.encode import EventEncoder
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from producers.spool.outbox import SpoolOutbox
from producers.spool.settings import SpoolSettings
from tests.chaos.process import Where, settle_in

TOPICS = ("node-telemetry", "node-counters", "node-events", "tenant-usage", "leases")
RATIOS = ("gr_engine_active", "sm_active", "tensor_active", "dram_active")
US = 1_000_000
MINUTE_US = 60 * US


@dataclass(frozen=True)
class Lease:
    """A revision of a lease, sent once that much of the schedule has passed."""

    after_s: float
    lease_id: str
    revision: int
    action: str
    tenant: str
    nodes: tuple[str, ...]
    valid_from: int
    valid_to: int | None


@dataclass(frozen=True)
class Produce:
    """What one producer process sends."""

    name: str
    site: str
    nodes: tuple[str, ...]
    seed: int
    base_us: int
    """Event time at the beginning of the schedule."""
    span_s: float
    """Event time stands still so long after ``base_us``: every minute of the schedule is over when it is checked."""
    speed: float
    """Seconds of event time in one of wall time."""
    every_s: float
    started: float
    """Wall time of the beginning, the same for a restarted process."""
    leases: tuple[Lease, ...]

    @property
    def meter(self) -> str:
        """The producer of usage and leases."""
        return f"{self.name}-meter"


def produce(where: Where, given: Produce, skew_s: float, orders: Connection) -> None:
    """Send until told to finish, then until the broker has acknowledged everything. Ends with exit code 0."""
    settle_in(where, given.name)
    folder = where.folder / given.name
    stepped = types.SimpleNamespace(time_ns=lambda: time.time_ns() + int(skew_s * 1e9))
    vars(journals)["time"] = stepped  # the machine's own clock cannot be stepped by a test
    descriptor = journals.lock(folder)
    journal = Journal.start(folder, given.site, [*given.nodes, given.meter], TOPICS)
    kafka = {
        "bootstrap.servers": where.bootstrap,
        "linger.ms": 5,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 500,
    }
    settings = SpoolSettings(fsync="never", drain_bytes_per_s=0, drain_jitter_s=0.0, link_timeout_s=1.0)
    outbox = SpoolOutbox(folder / "spool", journal, folder, lambda told: KafkaOutbox(kafka, told, 16 << 20), settings)
    sender = _Sender(given, journal, outbox, folder, skew_s, orders)
    orders.send("ready")
    sender.run()
    while outbox.waiting:
        time.sleep(0.01)
    outbox.close()
    journal.close()
    os.close(descriptor)
    os._exit(0)


class _Sender:
    """The loop of one process."""

    def __init__(
        self, given: Produce, journal: Journal, outbox: SpoolOutbox, folder: Path, skew_s: float, orders: Connection
    ) -> None:
        self._given, self._outbox, self._folder, self._skew_s = given, outbox, folder, skew_s
        self._run_id = journal.run_id
        # Readings are arbitrary: what matters is that the log and the store hold the same.
        self._pick = random.Random(f"{given.seed}/{given.name}/{journal.run_id}")
        self._encoders = {name: EventEncoder(journal, name) for name in (*given.nodes, given.meter)}
        self._finish = threading.Event()
        threading.Thread(target=self._obey, args=(orders,), daemon=True).start()

    def _obey(self, orders: Connection) -> None:
        while True:
            try:
                order, *rest = orders.recv()
            except (EOFError, OSError):
                return
            if order == "finish":
                self._finish.set()
            elif order == "step":
                self._skew_s += rest[0]

    def run(self) -> None:
        begun = self._elapsed()
        for node in self._given.nodes:
            self._say(node, "node-events", self._now(), self._agent_start(node))
        leases = [lease for lease in self._given.leases if lease.after_s >= begun]
        number = 0
        while not self._finish.wait(self._given.every_s):
            now = self._now()
            for node in self._given.nodes:
                self._say(node, "node-telemetry", now, self._telemetry(now))
                if self._pick.random() < 0.15:
                    self._say(node, "node-counters", now, self._counters())
                if self._pick.random() < 0.1:
                    self._say(node, "node-events", now, self._event())
            if self._pick.random() < 0.5:
                self._say(self._given.meter, "tenant-usage", now // MINUTE_US * MINUTE_US, self._usage(number))
            for lease in [one for one in leases if one.after_s <= self._elapsed()]:
                leases.remove(lease)
                self._say(self._given.meter, "leases", now, _lease_fields(lease))
            number += 1

    def _say(self, who: str, topic: str, ts: int, fields: dict[str, Any]) -> None:
        keyed = {"node_id": who} if topic.startswith("node-") else {}
        message = self._encoders[who].encode(topic, ts, {**keyed, **fields}, give=False)
        while not self._outbox.offer(message):
            time.sleep(0.01)
        self._encoders[who].give(message)

    def _elapsed(self) -> float:
        return time.time() - self._given.started

    def _now(self) -> int:
        """Event time: a whole second."""
        passed = min(self._elapsed() * self._given.speed + self._skew_s, self._given.span_s)
        return (self._given.base_us + int(passed * US)) // US * US

    def _common(self) -> dict[str, Any]:
        return {"rack": f"rack-{self._given.name}", "gpu_model": "H100", "interval_ms": 1000, "gpu_index": [0]}

    def _telemetry(self, now: int) -> dict[str, Any]:
        pick, left = self._pick, 60 - now // US % 60
        ticks = min(pick.randint(1, 5), left)  # an agent's event never reaches into the next minute
        joules = int(self._elapsed() * 1000)

        def some(blank: Any, low: int, high: int) -> list[Any]:
            return [blank if pick.random() < 0.1 else type(blank)(pick.randint(low, high)) for _ in range(ticks)]

        return {
            **self._common(),
            "ticks": ticks,
            "gpu_uuid": [b"0123456789abcdef"],
            "driver_epoch": [1],
            "clock_offset_s": 0.0,
            **{
                name: [math.nan if pick.random() < 0.1 else pick.randint(0, 8) / 8 for _ in range(ticks)]
                for name in RATIOS
            },
            "power_w": some(math.nan, 80, 700),
            "energy_j": [-1 if pick.random() < 0.1 else joules + tick for tick in range(ticks)],
            "temp_gpu_c": some(-1, 30, 95),
            "temp_mem_c": some(-1, 30, 105),
            "clock_sm_mhz": some(-1, 1200, 1980),
            "clock_event_reasons": [pick.choice([-1, 0, 1, 4, 8, 0x24, 0x40, 0x80]) for _ in range(ticks)],
            "fb_used_bytes": some(-1, 0, 1 << 36),
            "nvlink_tx_bytes_per_s": some(math.nan, 0, 1 << 20),
            "nvlink_rx_bytes_per_s": some(math.nan, 0, 1 << 20),
        }

    def _counters(self) -> dict[str, Any]:
        pick = self._pick
        return {
            **self._common(),
            "ticks": 1,
            "driver_epoch": [1],
            "ecc_sbe_volatile": [pick.randint(0, 99)],
            "power_limit_w": [700.0],
            "recovery_action": [0],
            "nic_name": ["mlx5_0/1"],
            "nic_rate_gbps": [400.0],
        }

    def _event(self) -> dict[str, Any]:
        name = self._pick.choice(["throttle_begin", "throttle_end", "xid", "link_down"])
        return {"event": name, "source": "nvml", "gpu_index": 0, "code": 31, "occurrences": 1, "message": "chaos"}

    def _agent_start(self, node: str) -> dict[str, Any]:
        before = journals.previous(self._folder, node, self._run_id)
        return {
            "event": "agent_start",
            "source": "agent",
            "occurrences": 1,
            "previous_run_id": before[0].run_id if before else None,
            "previous_last_seq": {given.topic: given.given - 1 for given in before},
        }

    def _usage(self, number: int) -> dict[str, Any]:
        pick = self._pick
        requests = pick.randint(0, 50)
        return {
            "tenant": f"tenant-{self._given.site}",
            "window_s": 60,
            "revision": 1 + int(self._elapsed() * 10),
            "product": pick.choice(["api", "max"]),
            "model": "m",
            "tier": "standard",
            "requests": requests,
            "throttled_requests": pick.randint(0, 5),
            "failed_requests": pick.randint(0, 5),
            "input_tokens": requests * 100 + number,
            "cached_tokens": requests * 10,
            "output_tokens": requests * 20,
            "latency_bounds_ms": [100, 1000],
            "ttft_counts": [requests, 1, 2],
            "latency_counts": [0, requests, 3],
            "source": "gateway",
        }


def _lease_fields(lease: Lease) -> dict[str, Any]:
    return {
        "lease_id": lease.lease_id,
        "revision": lease.revision,
        "action": lease.action,
        "tenant": lease.tenant,
        "nodes": list(lease.nodes),
        "valid_from": lease.valid_from,
        "valid_to": lease.valid_to,
    }
