"""What every GPU window holds: one list, from which the columns and their SQL in every window table follow.

The SQL works on one row per event and window, with the metric arrays cut to the samples that belong to the window,
``w`` = seconds that each of these samples stands for, and no arrays unrolled. A reading that is missing (NaN, or the
blank value -1) counts in neither sum nor seconds, so an average is always ``x_sum / x_s``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

ACTIVE_ABOVE = 0.05
"""gr_engine_active from which a GPU counts as in use."""

THROTTLE_BITS: dict[str, int] = {
    "power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "power_brake": 0x80,
    "slowdown": 0xE8,
}
"""Clock-event reasons (NVML nvmlClocksEventReasons); slowdown = any that is a fault, software power cap is normal."""


class Rollup(Enum):
    """How rows of a finer window become one of a coarser."""

    SUM = "sum"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Measure:
    """One column of the window tables."""

    name: str
    expression: str
    """Aggregate over rows of (event, window)."""
    rollup: Rollup


_FLOAT, _INTEGER = "isFinite(x)", "x >= 0"

_AVERAGED: dict[str, str] = {
    "gr_engine_active": _FLOAT,
    "sm_active": _FLOAT,
    "tensor_active": _FLOAT,
    "dram_active": _FLOAT,
    "power_w": _FLOAT,
    "clock_sm_mhz": _INTEGER,
    "fb_used_bytes": _INTEGER,
}
_EXTREMES: tuple[tuple[str, Rollup, str], ...] = (
    ("power_w", Rollup.MIN, _FLOAT),
    ("power_w", Rollup.MAX, _FLOAT),
    ("temp_gpu_c", Rollup.MAX, _INTEGER),
    ("temp_mem_c", Rollup.MAX, _INTEGER),
    ("fb_used_bytes", Rollup.MAX, _INTEGER),
)
_RATES: dict[str, str] = {"nvlink_tx_bytes": "nvlink_tx_bytes_per_s", "nvlink_rx_bytes": "nvlink_rx_bytes_per_s"}
_REASONS = "clock_event_reasons"


def _read(array: str, ok: str) -> str:
    """The readings of an array. Written alike everywhere, the store evaluates it once per event."""
    return f"arrayFilter(x -> {ok}, {array})"


def _weighed(name: str, array: str, ok: str) -> Measure:
    return Measure(name, f"sum(w * arraySum({_read(array, ok)}))", Rollup.SUM)


def _seconds(name: str, array: str, ok: str) -> Measure:
    return Measure(name, f"sum(w * length({_read(array, ok)}))", Rollup.SUM)


def _seconds_that(name: str, readings: str, condition: str) -> Measure:
    return Measure(name, f"sum(w * arrayCount(x -> {condition}, {readings}))", Rollup.SUM)


def _measures() -> tuple[Measure, ...]:
    found = [
        Measure("samples", "sum(started)", Rollup.SUM),
        Measure("seconds", "sum(w * covered)", Rollup.SUM),
    ]
    for metric, ok in _AVERAGED.items():
        found += [_weighed(f"{metric}_sum", metric, ok), _seconds(f"{metric}_s", metric, ok)]
    found.append(_seconds_that("active_s", _read("gr_engine_active", _FLOAT), f"x >= {ACTIVE_ABOVE}"))
    for metric, rollup, ok in _EXTREMES:
        found.append(Measure(f"{metric}_{rollup.value}", f"{rollup.value}OrNullArray({_read(metric, ok)})", rollup))
    found += [_weighed(name, array, _FLOAT) for name, array in _RATES.items()]
    for reason, bits in THROTTLE_BITS.items():
        # -1 (no reading) has every bit set; most ticks have none, so what is left after "> 0" is short.
        found.append(_seconds_that(f"throttle_{reason}_s", _read(_REASONS, "x > 0"), f"bitAnd(x, {bits}) != 0"))
    found.append(_seconds("throttle_known_s", _REASONS, "x >= 0"))
    return tuple(found)


MEASURES: tuple[Measure, ...] = _measures()
NAMES: tuple[str, ...] = tuple(m.name for m in MEASURES)
ARRAYS: tuple[str, ...] = tuple(
    dict.fromkeys([*_AVERAGED, *(metric for metric, _, _ in _EXTREMES), *_RATES.values(), _REASONS])
)
"""Event arrays, in (gpu, tick) order, that the measures read."""


def aggregates(indent: str) -> str:
    """``expression AS name`` of every measure."""
    return f",\n{indent}".join(f"{m.expression} AS {m.name}" for m in MEASURES)


def rolled_up(indent: str) -> str:
    """Aggregates of finer rows into coarser ones."""
    return f",\n{indent}".join(f"{m.rollup.value}({m.name}) AS {m.name}" for m in MEASURES)


def neutral(indent: str) -> str:
    """Values that change no roll-up."""
    return f",\n{indent}".join(f"{'0' if m.rollup is Rollup.SUM else 'NULL'} AS {m.name}" for m in MEASURES)
