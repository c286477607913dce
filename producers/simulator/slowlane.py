"""The slow lane: a slice's counters as node-counters events, every minute and at once when a discrete state changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
LoadsOf = Callable[[int, int], Loads]
"""Loads of so many slow ticks from a time (us) on."""
TOPIC = "node-counters"
SLOW_TICK_US = 10_000_000
MINUTE_US = 60_000_000
_GROWING = ("violation_power_ns", "violation_thermal_ns")
"""Counters that move between the samples of one event; the others change with an incident and are as they are."""
WATCHED = (
    "ecc_dbe_volatile",
    "ecc_dbe_aggregate",
    "remapped_rows_uncorrectable",
    "remapped_rows_correctable",
    "row_remap_failure",
    "row_remap_pending",
    "ecc_sram_threshold",
    "recovery_action",
    "pcie_link_gen",
    "pcie_link_width",
    "nvlink_links_active",
)
"""GPU states whose change is sent at once, as a node agent does; so are a NIC's link and a power limit."""


@dataclass(slots=True)
class _Seen:
    """What the last slow tick showed."""

    gpu: dict[str, Array]
    """(n, g) by field."""
    link_up: Array
    """(n, m)."""
    limit_w: Array
    epoch: Array
    lost: Array


class CountersEncoder:
    """node-counters of one slice, from ``start_us`` on. Remembers what it sent: no tick twice, and growing counters
    rise from sample to sample."""

    def __init__(
        self,
        journal: Journal,
        fleet: Fleet,
        state: SliceState,
        counters: Counters,
        boots: Sequence[str],
        start_us: int,
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
        self._sent = np.full(len(names), -(-start_us // SLOW_TICK_US) * SLOW_TICK_US, np.int64)
        """Up to when each node's ticks are sent (n,)."""
        self._seen = self._look()

    def coarse(self, minute: int, speaking: Array, loads: Loads, rng: np.random.Generator) -> list[Message]:
        """One sample for a whole minute, of the nodes that speak (n,)."""
        self._seen = self._look()
        self._sent[:] = minute + MINUTE_US
        return self._encode(speaking, minute, 1, MINUTE_US, loads, rng)

    def minute(self, end: int, speaking: Array, loads_of: LoadsOf, rng: np.random.Generator) -> list[Message]:
        """The ticks before ``end``, a whole minute, that are not sent yet. Those of silent nodes are never sent."""
        messages = self._rest(end, speaking, loads_of, rng)
        self._sent = np.maximum(self._sent, end)
        return messages

    def changes(self, tick: int, speaking: Array, loads_of: LoadsOf, rng: np.random.Generator) -> list[Message]:
        """Compare with the slow tick before: nodes on which a discrete state changed send what they have, with this
        tick. A driver that was loaded anew ends an event before this tick, since counters begin again."""
        state, seen = self._state, self._seen
        reloaded = (state.agent_epoch != seen.epoch).any(axis=1) & speaking
        changed = self._changed() & speaking & (self._sent <= tick)
        messages: list[Message] = []
        if changed.any():
            messages += self._rest(tick // MINUTE_US * MINUTE_US, changed | reloaded, loads_of, rng)
        messages += self._rest(tick, reloaded, loads_of, rng)
        for start in np.unique(self._sent[changed]).tolist():
            these, ticks = changed & (self._sent == start), (tick - start) // SLOW_TICK_US + 1
            loads = loads_of(start, ticks)
            messages += self._encode(these, start, ticks, SLOW_TICK_US, loads, rng, ends_now=True)
        self._sent[changed] = tick + SLOW_TICK_US
        self._seen = self._look()
        return messages

    def _rest(self, end: int, these: Array, loads_of: LoadsOf, rng: np.random.Generator) -> list[Message]:
        """The ticks of these nodes before ``end`` that are not sent yet, each node's in one event a minute."""
        messages: list[Message] = []
        while (late := these & (self._sent < end)).any():
            start = int(self._sent[late].min())
            until = min(end, start // MINUTE_US * MINUTE_US + MINUTE_US)
            group, ticks = late & (self._sent == start), (until - start) // SLOW_TICK_US
            messages += self._encode(group, start, ticks, SLOW_TICK_US, loads_of(start, ticks), rng)
            self._sent[group] = until
        return messages

    def _look(self) -> _Seen:
        state, counters = self._state, self._counters
        return _Seen(
            {name: values.copy() for name, values in counters.gpu.items()},
            counters.nic["nic_link_up"].copy(),
            state.limit_w.copy(),
            state.agent_epoch.copy(),
            state.lost.copy(),
        )

    def _changed(self) -> Array:
        """Whether a discrete state is another than at the tick before (n,); a lost GPU has no readings to compare."""
        state, seen, now = self._state, self._seen, self._counters
        differs = state.limit_w != seen.limit_w
        for name in WATCHED:
            differs |= now.gpu[name] != seen.gpu[name]
        changed: Array = (differs & ~state.lost).any(axis=1) | (now.nic["nic_link_up"] != seen.link_up).any(axis=1)
        return changed

    def _encode(
        self,
        these: Array,
        ts: int,
        ticks: int,
        interval_us: int,
        loads: Loads,
        rng: np.random.Generator,
        ends_now: bool = False,
    ) -> list[Message]:
        """Messages of these nodes (n,) for samples at ``ts`` + i * interval; ``loads`` are those of these samples.

        States are as the last slow tick showed them; ``ends_now``: but for the last sample, which is of now.
        """
        rows = np.flatnonzero(these)
        if not len(rows):
            return []
        sample = _Sample(self._state, self._counters, self._seen, rows, ticks, ends_now)
        epoch = self._state.agent_epoch if ends_now else self._seen.epoch
        columns: dict[str, Column] = {
            "interval_ms": Scalars(np.full(len(rows), interval_us // 1000)),
            "ticks": Scalars(np.full(len(rows), ticks)),
            "driver_epoch": Arrays(epoch[rows]),
        }
        values = {**self._gpu_counters(sample), **_gauges(sample, loads, rng)}
        values = {**sample.blanked(values), **self._nics(sample)}
        for name, array in values.items():
            flat = array.reshape(len(rows), -1)
            bits = self._bits.get(name)
            if bits is not None:
                flat = significant_array(np.ascontiguousarray(flat, np.float32), bits)
            columns[name] = Arrays(flat)
        return self._encoder.encode(rows, ts, ticks, columns, picked=True)

    def _gpu_counters(self, sample: _Sample) -> dict[str, Array]:
        values: dict[str, Array] = {}
        for name in self._counters.gpu:
            if name in _GROWING:
                values[name] = self._between(name, sample.counter(name), sample)
            elif name in WATCHED:
                values[name] = sample.spread(self._seen.gpu[name], self._counters.gpu[name])
            else:
                values[name] = sample.repeat(sample.counter(name))
        return values

    def _nics(self, sample: _Sample) -> dict[str, Array]:
        nic, model = self._counters.nic, self._state.shape.model
        values = {name: self._between(name, nic[name][sample.rows], sample) for name in NIC_COUNTERS}
        up = sample.spread(self._seen.link_up, nic["nic_link_up"])
        values["nic_link_up"] = up
        values["nic_rate_gbps"] = np.where(up > 0, np.float32(model.nic_gbps), np.float32(0))
        return values

    def _between(self, name: str, now: Array, sample: _Sample) -> Array:
        """The counter at each sample, rising evenly from the last event's end to now; a restarted one starts at 0."""
        before = np.minimum(self._before[name][sample.rows], now)
        steps = (now - before)[..., None] * np.arange(1, sample.ticks + 1) // sample.ticks
        self._before[name][sample.rows] = now
        values: Array = before[..., None] + steps
        return values


@dataclass(slots=True)
class _Sample:
    """Some nodes of the slice (``rows``) at consecutive slow ticks; arrays of it are (len(rows), g, ticks)."""

    state: SliceState
    counters: Counters
    seen: _Seen
    rows: Array
    ticks: int
    ends_now: bool

    def counter(self, name: str) -> Array:
        """A counter of now; of a GPU whose driver was loaded anew since the last tick, what it had counted before."""
        now, before = self.counters.gpu[name][self.rows], self.seen.gpu[name][self.rows]
        same = self.state.agent_epoch[self.rows] == self.seen.epoch[self.rows]
        return now if self.ends_now else np.where(same, now, before)

    def repeat(self, values: Array) -> Array:
        """The same at every tick; ``values`` are of these rows."""
        return np.broadcast_to(values[..., None], (*values.shape, self.ticks))

    def spread(self, before: Array, now: Array) -> Array:
        """``before`` at every tick, but ``now`` at the last one when it is of now; both of all nodes."""
        values = self.repeat(before[self.rows])
        if self.ends_now:
            values = values.copy()
            values[..., -1] = now[self.rows]
        return values

    def blanked(self, values: dict[str, Array]) -> dict[str, Array]:
        """A GPU that fell off the bus has no readings."""
        lost = self.spread(self.seen.lost, self.state.lost)
        if not lost.any():
            return values
        blank = {name: np.nan if value.dtype.kind == "f" else -1 for name, value in values.items()}
        return {name: np.where(lost, np.array(blank[name], value.dtype), value) for name, value in values.items()}


def _gauges(sample: _Sample, loads: Loads, rng: np.random.Generator) -> dict[str, Array]:
    state, model = sample.state, sample.state.shape.model
    row = state.row[sample.rows]
    shape, repeat = (*row.shape, sample.ticks), sample.repeat
    noise = loads.steady[row][..., None]
    used = loads.memory[row] * model.memory_bytes
    offset = state.memory_offset[sample.rows]
    free = model.memory_bytes - np.where(row == 0, 614 * MIB, used.astype(np.int64) + offset)
    c2c = np.float32(np.nan if not model.grace else 450e9)
    tensor, dram = loads.mean["tensor_active"][row], loads.mean["dram_active"][row]
    return {
        "pcie_link_gen_max": repeat(np.full(row.shape, model.pcie_gen)),
        "pcie_link_width_max": repeat(np.full(row.shape, 16)),
        "clock_mem_mhz": repeat(np.full(row.shape, model.clock_mem_mhz)),
        "fb_total_bytes": repeat(np.full(row.shape, model.memory_bytes)),
        "fb_reserved_bytes": repeat(np.full(row.shape, 614 * MIB)),
        "fabric_state": repeat(np.full(row.shape, 3)),
        "compute_processes": repeat((row > 0).astype(np.int64)),
        "power_limit_w": sample.spread(sample.seen.limit_w, state.limit_w),
        "power_limit_default_w": repeat(np.full(row.shape, model.tdp_w, np.float32)),
        "temp_margin_c": repeat(np.rint(model.throttle_c - state.temperature[sample.rows]).astype(np.float32)),
        "gpu_util": np.rint(loads.mean["gr_engine_active"][row] * 100) / np.float32(100),
        "mem_copy_util": np.rint(dram * np.float32(85)) / np.float32(100),
        "fb_free_bytes": repeat(free),
        "fp64_active": np.zeros(shape, np.float32),
        "fp32_active": np.clip(
            np.rint(tensor * (60 + 900 * noise * rng.standard_normal(shape, np.float32))) / 1000, 0, 1
        ),
        "c2c_tx_bytes_per_s": c2c * 0.01 * tensor * (1 + noise * rng.standard_normal(shape, np.float32)),
        "c2c_rx_bytes_per_s": c2c * 0.02 * tensor * (1 + noise * rng.standard_normal(shape, np.float32)),
        "nvlink_symbol_ber": np.full(shape, 1.5e-15 if model.grace else np.nan),
    }
