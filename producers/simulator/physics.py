"""From load to power, temperature, clocks and traffic of a slice, tick by tick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.simulator.models import MIB, GpuModel
from producers.simulator.state import SliceState
from producers.simulator.workload import METRICS, Loads

Array = NDArray[Any]

IDLE, SW_POWER_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, POWER_BRAKE = 0x1, 0x4, 0x8, 0x20, 0x40, 0x80
_CLOCK_STEP_MHZ = 15
_THERMAL_TAU_S = 18.0
_CLOCK_EXPONENT = 0.42
"""Clock goes with power to about this exponent when a limit holds it down (power ~ f * V^2, V rising with f)."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What plant and feeds give each node of the slice."""

    supply_c: Array
    """Coolant supply temperature, (n, 1)."""
    resistance: Array
    """Factor on the thermal resistance, 1 at design flow, (n, g)."""
    brake: Array
    """Share of the power limit that the feed allows, (n,)."""


@dataclass(slots=True)
class Samples:
    """GPU metrics of a batch by field name, each (n, g, ticks)."""

    values: dict[str, Array]


def step(
    state: SliceState, loads: Loads, environment: Environment, ticks: int, tick_s: float, rng: np.random.Generator
) -> Samples:
    """Move the slice on by ``ticks`` ticks of ``tick_s`` seconds and return what its sensors say at each."""
    model, row = state.shape.model, state.row
    shape = (*row.shape, ticks)
    noise = loads.steady[row][..., None]
    values: dict[str, Array] = {}
    common = rng.standard_normal(shape, np.float32) * noise
    for name in METRICS:
        value = loads.mean[name][row]
        if name != "gr_engine_active":
            value = value * (1 + common + rng.standard_normal(shape, np.float32) * (noise * 0.5))
        np.clip(value, 0, 1, out=value)
        values[name] = np.rint(value * 1000) / np.float32(1000)
    power = _power(state, loads, environment, values, shape, tick_s, common, rng)
    _thermal(state, environment, power, values, tick_s)
    _clocks(state, loads, power, values)
    values["fb_used_bytes"] = np.broadcast_to(_memory(state, loads, model)[..., None], shape)
    _traffic(state, loads, values, shape, noise, rng)
    _blank_lost(state, values)
    return Samples(values)


def _power(
    state: SliceState,
    loads: Loads,
    environment: Environment,
    values: dict[str, Array],
    shape: tuple[int, ...],
    tick_s: float,
    common: Array,
    rng: np.random.Generator,
) -> Array:
    """Board power as a mean over each tick; fills power, instant power and energy, and the reasons that limit it."""
    model = state.shape.model
    dynamic = (model.tdp_w - model.idle_w) * state.efficiency[..., None]
    wanted = model.idle_w * state.efficiency[..., None] + dynamic * (loads.mean["power"][state.row] + common)
    limit = (state.limit_w * environment.brake[:, None])[..., None]
    power = np.minimum(wanted, limit)
    power = np.minimum(power, _thermal_allowance(state, environment)[..., None])
    # What the sensor adds: about a watt at full power, less at idle.
    power += rng.standard_normal(shape, np.float32) * (0.0012 * power)
    instant = np.minimum(wanted + dynamic * (loads.instant_power - loads.mean["power"])[state.row], limit * 1.04)
    instant += rng.standard_normal(shape, np.float32) * (0.004 * instant)
    energy = state.energy[..., None] + np.cumsum(power, axis=2, dtype=np.float64) * tick_s
    state.energy = energy[..., -1].copy()
    state.gpu_power_w = power.mean(axis=2)
    values["power_w"], values["power_instant_w"] = power, instant
    values["energy_j"] = energy.astype(np.int64)
    reasons = np.where(wanted > limit, np.where(environment.brake < 1, POWER_BRAKE, SW_POWER_CAP)[:, None, None], 0)
    values["clock_event_reasons"] = reasons.astype(np.int32)
    return power


def _thermal_allowance(state: SliceState, environment: Environment) -> Array:
    """Power at which a hot GPU just holds its throttle temperature; no bound for one that is not hot."""
    model = state.shape.model
    hold = (model.throttle_c - environment.supply_c) / (model.thermal_resistance * environment.resistance)
    hold = np.maximum(hold, model.idle_w)
    allowance: Array = np.where(state.temperature >= model.throttle_c - 1.0, hold, np.inf).astype(np.float32)
    return allowance


def _thermal(
    state: SliceState, environment: Environment, power: Array, values: dict[str, Array], tick_s: float
) -> None:
    model = state.shape.model
    supply = environment.supply_c
    resistance = model.thermal_resistance * environment.resistance
    follow = 1 - np.exp(-tick_s / _THERMAL_TAU_S)
    temperature = state.temperature
    core = np.empty(power.shape, np.int32)
    memory = np.empty(power.shape, np.int32)
    for tick in range(power.shape[2]):
        temperature = temperature + (supply + resistance * power[..., tick] - temperature) * follow
        core[..., tick] = np.rint(temperature)
        memory[..., tick] = np.rint(temperature + (temperature - supply) * model.memory_rise + 3)
    state.temperature = temperature
    values["temp_gpu_c"], values["temp_mem_c"] = core, memory


def _clocks(state: SliceState, loads: Loads, power: Array, values: dict[str, Array]) -> None:
    model = state.shape.model
    reasons, core = values["clock_event_reasons"], values["temp_gpu_c"]
    reasons |= np.where(core >= model.throttle_c - 1, SW_THERMAL, 0)
    hardware = core >= model.slowdown_c
    reasons |= np.where(hardware, HW_SLOWDOWN | HW_THERMAL, 0)
    idle = (state.row == 0)[..., None]
    reasons[np.broadcast_to(idle, reasons.shape)] = IDLE
    limited = reasons & (SW_POWER_CAP | POWER_BRAKE | SW_THERMAL) > 0
    wanted = model.idle_w + (model.tdp_w - model.idle_w) * np.float32(1.18)
    held = np.power(np.maximum(power, model.idle_w) / wanted, np.float32(_CLOCK_EXPONENT))
    clock = np.where(limited, model.clock_max_mhz * held, model.clock_max_mhz)
    clock = np.where(hardware, clock * 0.5, clock) / state.slow[..., None]
    clock = np.where(idle, model.clock_idle_mhz, clock)
    values["clock_sm_mhz"] = (np.rint(clock / _CLOCK_STEP_MHZ) * _CLOCK_STEP_MHZ).astype(np.int32)
    state.reasons = reasons[..., -1].copy()


def _memory(state: SliceState, loads: Loads, model: GpuModel) -> Array:
    """Device memory in use: reserved by the driver when idle, else the job's static reservation."""
    used = (loads.memory[state.row] * model.memory_bytes).astype(np.int64) // (2 * MIB) * (2 * MIB)
    bytes_used: Array = np.where(state.row == 0, 614 * MIB, used + state.memory_offset)
    return bytes_used


def _traffic(
    state: SliceState, loads: Loads, values: dict[str, Array], shape: tuple[int, ...], noise: Array, rng: Any
) -> None:
    model = state.shape.model
    pcie = np.float32(4e9 * 2**model.pcie_gen / 2)  # x16, one direction: 64 GB/s at generation 5
    for name, speed in (("nvlink", np.float32(model.nvlink_bytes_per_s)), ("pcie", pcie)):
        mean = loads.mean[name][state.row] * speed
        for direction in ("tx", "rx"):
            spread = rng.standard_normal(shape, np.float32) * noise
            values[f"{name}_{direction}_bytes_per_s"] = np.maximum(mean * (1 + spread), 0)


def _blank_lost(state: SliceState, values: dict[str, Array]) -> None:
    """A GPU that fell off the bus has no readings."""
    if not state.lost.any():
        return
    for name, value in values.items():
        blanked = value.copy()
        blanked[state.lost] = np.nan if value.dtype.kind == "f" else -1
        values[name] = blanked
