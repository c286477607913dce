"""The slow lane: a slice's counters of a minute as node-counters events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.encode import Message
from producers.journal import Journal
from producers.precision import bits_of, significant_array
from producers.simulator import varint
from producers.simulator.columns import Arrays, Column, Scalars, text
from producers.simulator.counters import NIC_COUNTERS, Counters
from producers.simulator.events import SliceEncoder
from producers.simulator.models import MIB
from producers.simulator.state import SliceState
from producers.simulator.telemetry import fixed_fields
from producers.simulator.topology import Fleet
from producers.simulator.workload import Loads
from schemas import catalogue

Array = NDArray[Any]
TOPIC = "node-counters"
_GROWING = ("violation_power_ns", "violation_thermal_ns")
"""Counters that move between the samples of one event; the others change with an incident and are as they are."""


class CountersEncoder:
    """node-counters of one slice. Remembers what it sent, so that growing counters rise from sample to sample."""

    def __init__(
        self,
        journal: Journal,
        fleet: Fleet,
        state: SliceState,
        counters: Counters,
        boots: Sequence[str],
        schema_id: int | None = None,
    ) -> None:
        names = [fleet.nodes[i].node_id for i in state.nodes.tolist()]
        ports = b"".join(text(f"mlx5_{i}/1") for i in range(state.shape.nics))
        port_names = varint.encode(state.shape.nics) + ports + b"\x00"
        fixed = {**fixed_fields(fleet, state, boots), "nic_name": [port_names] * len(names)}
        self._encoder = SliceEncoder(journal, TOPIC, names, fixed, schema_id)
        self._state, self._counters = state, counters
        self._bits = bits_of(catalogue.latest(TOPIC))
        self._before = {name: counters.gpu[name].copy() for name in _GROWING}
        self._before |= {name: counters.nic[name].copy() for name in NIC_COUNTERS}

    def encode(
        self, chosen: Array | None, ts: int, ticks: int, interval_ms: int, loads: Loads, rng: np.random.Generator
    ) -> list[Message]:
        """Messages of the chosen nodes for samples at ``ts`` + i * interval; ``loads`` are those of these samples."""
        state, n = self._state, len(self._state.nodes)
        columns: dict[str, Column] = {
            "interval_ms": Scalars(np.full(n, interval_ms)),
            "ticks": Scalars(np.full(n, ticks)),
            "driver_epoch": Arrays(state.agent_epoch),
        }
        values = {**self._gpu_counters(ticks), **self._gauges(ticks, loads, rng), **self._nics(ticks)}
        for name, array in values.items():
            flat = array.reshape(n, -1)
            bits = self._bits.get(name)
            if bits is not None:
                flat = significant_array(np.ascontiguousarray(flat, np.float32), bits)
            columns[name] = Arrays(flat)
        return self._encoder.encode(chosen, ts, ticks, columns)

    def _gpu_counters(self, ticks: int) -> dict[str, Array]:
        state, model = self._state, self._state.shape.model
        values: dict[str, Array] = {}
        for name, now in self._counters.gpu.items():
            if name in _GROWING:
                values[name] = self._between(name, now, ticks)
            else:
                values[name] = _repeat(now, ticks)
        shape = state.row.shape
        values["pcie_link_gen_max"] = _repeat(np.full(shape, model.pcie_gen), ticks)
        values["pcie_link_width_max"] = _repeat(np.full(shape, 16), ticks)
        values["clock_mem_mhz"] = _repeat(np.full(shape, model.clock_mem_mhz), ticks)
        values["fb_total_bytes"] = _repeat(np.full(shape, model.memory_bytes), ticks)
        values["fb_reserved_bytes"] = _repeat(np.full(shape, 614 * MIB), ticks)
        values["fabric_state"] = _repeat(np.full(shape, 3), ticks)
        values["compute_processes"] = _repeat((state.row > 0).astype(np.int64), ticks)
        return self._blank(values)

    def _gauges(self, ticks: int, loads: Loads, rng: np.random.Generator) -> dict[str, Array]:
        state, model = self._state, self._state.shape.model
        row, shape = state.row, (*state.row.shape, ticks)
        noise = loads.steady[row][..., None]
        used = loads.memory[row] * model.memory_bytes
        free = model.memory_bytes - np.where(row == 0, 614 * MIB, used.astype(np.int64) + state.memory_offset)
        c2c = np.float32(np.nan if not model.grace else 450e9)
        tensor, dram = loads.mean["tensor_active"][row], loads.mean["dram_active"][row]
        values: dict[str, Array] = {
            "power_limit_w": _repeat(state.limit_w, ticks),
            "power_limit_default_w": _repeat(np.full(row.shape, model.tdp_w, np.float32), ticks),
            "temp_margin_c": _repeat(np.rint(model.throttle_c - state.temperature).astype(np.float32), ticks),
            "gpu_util": np.rint(loads.mean["gr_engine_active"][row] * 100) / np.float32(100),
            "mem_copy_util": np.rint(dram * np.float32(85)) / np.float32(100),
            "fb_free_bytes": _repeat(free, ticks),
            "fp64_active": np.zeros(shape, np.float32),
            "fp32_active": np.rint(tensor * (60 + 900 * noise * rng.standard_normal(shape, np.float32))) / 1000,
            "c2c_tx_bytes_per_s": c2c * 0.01 * tensor * (1 + noise * rng.standard_normal(shape, np.float32)),
            "c2c_rx_bytes_per_s": c2c * 0.02 * tensor * (1 + noise * rng.standard_normal(shape, np.float32)),
            "nvlink_symbol_ber": np.full(shape, 1.5e-15 if model.grace else np.nan),
        }
        values["fp32_active"] = np.clip(values["fp32_active"], 0, 1)
        return self._blank(values)

    def _nics(self, ticks: int) -> dict[str, Array]:
        nic, model = self._counters.nic, self._state.shape.model
        values = {name: self._between(name, nic[name], ticks) for name in NIC_COUNTERS}
        up = _repeat(nic["nic_link_up"], ticks)
        values["nic_link_up"] = up
        values["nic_rate_gbps"] = np.where(up > 0, np.float32(model.nic_gbps), np.float32(0))
        return values

    def _between(self, name: str, now: Array, ticks: int) -> Array:
        """The counter at each sample, rising evenly from the last event's end to now; a restarted one starts at 0."""
        before = np.minimum(self._before[name], now)
        steps = (now - before)[..., None] * np.arange(1, ticks + 1) // ticks
        self._before[name] = now.copy()
        values: Array = before[..., None] + steps
        return values

    def _blank(self, values: dict[str, Array]) -> dict[str, Array]:
        """A GPU that fell off the bus has no readings."""
        lost = self._state.lost
        if not lost.any():
            return values
        for name, value in values.items():
            blanked = value.copy()
            blanked[lost] = np.nan if value.dtype.kind == "f" else -1
            values[name] = blanked
        return values


def _repeat(values: Array, ticks: int) -> Array:
    return np.broadcast_to(values[..., None], (*values.shape, ticks))
