"""Host and NIC metrics of a slice, from what its GPUs do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.simulator.state import SliceState
from producers.simulator.workload import Loads

Array = NDArray[Any]


def host_metrics(
    state: SliceState, loads: Loads, start_us: int, ticks: int, tick_s: float, rng: np.random.Generator
) -> dict[str, Array]:
    """Fields host_* and nic_* of node-telemetry: (n, ticks), or (n, 1) for what does not move within an event."""
    model, n = state.shape.model, len(state.nodes)
    first = state.row[:, 0]
    busy = loads.mean["gr_engine_active"][first]
    noise = np.where(first > 0, 1.0, 0.25).astype(np.float32)[:, None]
    own = state.host_character[:, None]

    def vary(mean: Array, relative: float) -> Array:
        spread = rng.standard_normal((n, ticks), np.float32) * (relative * noise)
        return np.asarray(np.maximum(mean * (1 + spread), 0), np.float32)

    cpu = np.rint(vary((0.012 + 0.11 * busy) * own, 0.06) * 1000) / 1000
    cores = 144 if model.grace else 224
    used = (0.035 + 0.16 * busy[:, :1]) * own * model.host_memory_bytes
    nic_speed = state.shape.nics * model.nic_gbps * 1e9 / 8
    nic = loads.mean["nic"][first] * nic_speed
    seconds = (start_us - state.host_started_us)[:, None] / 1e6 + np.arange(ticks) * tick_s
    working = busy > 0.01
    page = 1 << 20
    memory = (np.asarray(used, np.float64) / page).astype(np.int64)
    return {
        "host_cpu_util": cpu,
        "host_load1": np.rint(cpu.mean(axis=1, keepdims=True) * cores * 20) / np.float32(20) + 0 * cpu,
        "host_mem_used_bytes": memory * page + rng.integers(0, 24, (n, ticks)) * page,
        "host_mem_total_bytes": np.full((n, 1), model.host_memory_bytes, np.int64),
        "host_swap_used_bytes": np.zeros((n, 1), np.int64),
        "host_disk_read_bytes_per_s": np.where(working, vary(np.float32(2.4e8) * busy, 0.3), 0),
        "host_disk_write_bytes_per_s": vary(np.float32(4e5) + np.float32(6e7) * busy, 0.2),
        "host_disk_used": np.rint(0.31 * own * 1000) / np.float32(1000),
        "host_net_rx_bytes_per_s": vary(np.float32(2.1e5) + np.float32(4e7) * busy, 0.1),
        "host_net_tx_bytes_per_s": vary(np.float32(1.6e5) + np.float32(2e7) * busy, 0.1),
        "host_cpu_temp_c": np.rint(vary(41 + 14 * busy, 0.01)),
        "host_psi_cpu": np.rint(vary(0.004 * busy, 0.5) * 100) / 100,
        "host_psi_mem": np.zeros((n, 1), np.float32),
        "host_psi_io": np.rint(vary(0.01 * busy, 0.5) * 100) / 100,
        "host_processes": (1460 * own).astype(np.int64) + rng.integers(0, 6, (n, ticks)),
        "host_uptime_s": np.floor(seconds).astype(np.int64),
        "nic_rx_bytes_per_s": vary(nic, 0.02),
        "nic_tx_bytes_per_s": vary(nic, 0.02),
    }
