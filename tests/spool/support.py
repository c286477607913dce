"""What the spool's tests share: a publisher that does as told, events of every kind, and a spool on a folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from producers.encode import EventEncoder, Message
from producers.journal import Journal
from producers.publisher import Acknowledgements, Counters
from producers.spool.outbox import SpoolOutbox
from producers.spool.settings import SpoolSettings
from schemas import identity
from schemas.identity import Identity

TOPICS = ("node-telemetry", "node-counters", "node-events", "inventory")
NODE = "node-7"
MINUTE_US = 60_000_000
NOON_US = 497_500 * 60 * MINUTE_US
"""A whole hour, in October 2026."""
UUIDS = [bytes([gpu]) * 16 for gpu in range(2)]


class FakePublisher:
    """Stands for ``KafkaOutbox``: takes messages, and acknowledges them when the test says so."""

    def __init__(self, told: Acknowledgements) -> None:
        self._told = told
        self.taken: list[Message] = []
        """Everything ever taken, in order."""
        self.open: list[Message] = []
        self.full = False
        self.answers = False
        """Acknowledges at once."""
        self.counters = Counters()
        self.closed = False

    @property
    def waiting(self) -> int:
        return len(self.open)

    def offer(self, message: Message) -> bool:
        if self.full or self.closed:
            return False
        self.taken.append(message)
        self.open.append(message)
        if self.answers:
            self.acknowledge()
        return True

    def offer_many(self, messages: Sequence[Message]) -> int:
        return sum(self.offer(message) for message in messages)

    def acknowledge(self, count: int | None = None) -> None:
        """The broker has the oldest ``count`` open messages; all of them without a number."""
        ready, self.open = self.open[:count], self.open[len(self.open) if count is None else count :]
        for message in ready:
            self._told.acknowledge(message.row)

    def flush(self, timeout_s: float) -> int:
        return len(self.open)

    def close(self, timeout_s: float = 10.0) -> int:
        self.closed = True
        return len(self.open)


class Bench:
    """One process's life with a spool: journal, encoder, fake publisher. Leave with ``close`` or ``die``."""

    publisher: FakePublisher

    def __init__(self, folder: Path, contact: Callable[[], bool] = lambda: True, **settings: Any) -> None:
        self.folder = folder
        self.journal = Journal.start(folder / "journal", "lab", [NODE], TOPICS)
        self.encoder = EventEncoder(self.journal, NODE)
        told = SpoolSettings(**{"drain_bytes_per_s": 0.0, "drain_jitter_s": 0.0, "fsync": "never", **settings})
        self.wall_us = NOON_US + 60 * MINUTE_US
        self.spool = SpoolOutbox(
            folder / "spool",
            self.journal,
            folder / "journal",
            self._publisher,
            told,
            contact=contact,
            wall_us=lambda: self.wall_us,
        )

    def _publisher(self, told: Acknowledgements) -> Any:
        self.publisher = FakePublisher(told)
        return self.publisher

    def fact(self, event: str = "xid", ts: int = NOON_US) -> Message:
        """Offer a discrete fact."""
        message = self.encoder.encode("node-events", ts, {"node_id": NODE, "event": event})
        assert self.spool.offer(message)
        return message

    def telemetry(self, ts: int = NOON_US, ticks: int = 5, **more: Any) -> Message:
        """Offer a fast-lane event of two GPUs."""
        message = self.encoder.encode("node-telemetry", ts, telemetry(ts, ticks, **more))
        assert self.spool.offer(message)
        return message

    def minutes(self, count: int, ts: int = NOON_US, ticks: int = 5) -> list[Message]:
        """Offer the fast lane of some minutes."""
        step = ticks * 1_000_000
        return [self.telemetry(at, ticks) for at in range(ts, ts + count * MINUTE_US, step)]

    def tidy(self) -> None:
        """Wait until the spool's thread has gone round once from now."""
        before = self.spool.rounds
        while self.spool.rounds < before + 2:
            self.spool._wake.set()
            time.sleep(0.01)

    def close(self) -> None:
        self.spool.close(0.0)
        self.journal.close()

    def die(self) -> None:
        """What a kill leaves: the threads end, nothing more is written."""
        self.spool._stop.set()
        self.spool._wake.set()
        self.spool._thread.join()


def telemetry(ts: int, ticks: int = 5, interval_ms: int = 1000, gpus: int = 2, **more: Any) -> dict[str, Any]:
    """Fields of a fast-lane event whose values tell GPU and time of each reading."""
    times = [ts // 1_000_000 + i * interval_ms // 1000 for i in range(ticks)]
    return {
        "node_id": NODE,
        "rack": "r1",
        "interval_ms": interval_ms,
        "ticks": ticks,
        "gpu_model": "H100",
        "gpu_index": list(range(gpus)),
        "gpu_uuid": UUIDS[:gpus],
        "driver_epoch": [1],
        "clock_offset_s": math.nan,
        "power_w": [float(gpu * 1000 + at % 600) for gpu in range(gpus) for at in times],
        "energy_j": [gpu * 10**9 + at % 100_000 for gpu in range(gpus) for at in times],
        "host_load1": [float(at % 600) for at in times],
        "host_uptime_s": list(times),
        **more,
    }


def who(message: Message) -> Identity:
    return identity.unpack(message.header)


def key(message: Message) -> tuple[str, int, int]:
    """(topic, run, seq)"""
    each = who(message)
    return message.topic, each.run_id, each.seq


def until(condition: Callable[[], Any], what: str = "", timeout_s: float = 60.0) -> None:
    """Wait for a condition; a failure names it."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for: {what or condition}"
        time.sleep(0.01)
