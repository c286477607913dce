"""Fills the topics with a fleet's events at full speed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from producers.publisher import KafkaOutbox
from producers.simulator.simulation import Simulation

FAST_LANE = "node-telemetry"


@dataclass(slots=True)
class Filled:
    """What went into the topics."""

    gpu_samples: int = 0
    """(GPU, tick) samples of the fast lane."""
    events: Counter[str] = field(default_factory=Counter)
    """Messages by topic."""
    value_bytes: int = 0
    """Keys, values and headers, uncompressed."""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    """CPU of the filling process: simulation, encoding, librdkafka."""
    capped: str = ""
    """Why the fill ended early; empty = it did not."""


def fill(
    simulation: Simulation,
    outbox: KafkaOutbox,
    start_us: int,
    end_us: int,
    gpus_per_event: Callable[[bytes], int],
    cap_bytes: int | None = None,
    progress: Callable[[float], None] = lambda _share: None,
) -> Filled:
    """Send the simulation's events of [start_us, end_us); stops at ``cap_bytes`` and says so.

    ``gpus_per_event`` gives the (GPU, tick) samples of a fast-lane message by its key.
    """
    filled = Filled()
    wall, cpu = time.monotonic(), time.process_time()
    told = 0.0
    for message in simulation.generate(start_us, end_us):
        while not outbox.offer(message):
            time.sleep(0.01)
        filled.events[message.topic] += 1
        filled.value_bytes += len(message.key) + len(message.value) + len(message.header)
        if message.topic == FAST_LANE:
            filled.gpu_samples += gpus_per_event(message.key)
        if cap_bytes is not None and filled.value_bytes >= cap_bytes:
            filled.capped = f"the broker keeps its log in memory: filled {cap_bytes >> 20} MiB and no more"
            break
        if time.monotonic() - told > 2:
            told = time.monotonic()
            progress((simulation.now_us - start_us) / (end_us - start_us))
    left = outbox.flush(600)
    if left:
        raise RuntimeError(f"the broker did not take {left} messages within 600 s: {outbox.counters.last_error}")
    filled.wall_s, filled.cpu_s = time.monotonic() - wall, time.process_time() - cpu
    return filled
