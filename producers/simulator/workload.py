"""What a job makes its GPUs do: activity, power and traffic over time, as a function of time alone.

A synchronous training step computes, then exchanges gradients; all GPUs of the job do so together. A slow member
(straggler) computes longer while the others spin in their collective: busy to the scheduler's eye, idle to the tensor
cores and the power meter. Serving follows a load between 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

METRICS = ("gr_engine_active", "sm_active", "sm_occupancy", "tensor_active", "dram_active", "fp16_active")
TRAFFIC = ("nvlink", "pcie", "nic")
COLUMNS = (*METRICS, "power", *TRAFFIC)
"""Ratios; power as the share of the range from idle to limit, traffic as the share of the link's speed."""

#           gr    sm    occ   tensor dram  fp16  power nvl   pcie   nic
_COMPUTE = (1.00, 0.94, 0.42, 0.615, 0.48, 0.040, 0.93, 0.16, 0.012, 0.05)
_EXCHANGE = (1.00, 0.24, 0.09, 0.000, 0.17, 0.006, 0.26, 0.52, 0.018, 0.78)
_SPIN = (1.00, 0.17, 0.05, 0.000, 0.02, 0.000, 0.17, 0.00, 0.001, 0.00)
_BURN = (1.00, 0.99, 0.50, 0.920, 0.62, 0.050, 1.06, 0.20, 0.020, 0.10)
_SERVE_LOW = (0.30, 0.18, 0.08, 0.015, 0.12, 0.010, 0.09, 0.01, 0.002, 0.002)
_SERVE_HIGH = (0.97, 0.72, 0.28, 0.210, 0.71, 0.035, 0.42, 0.11, 0.011, 0.030)


class JobKind(Enum):
    TRAINING = "training"
    SERVING = "serving"
    BURN = "other"


@dataclass(slots=True)
class Job:
    """An allocation of whole nodes. Times in microseconds since 1970."""

    job_id: str
    kind: JobKind
    tenant: str
    nodes: list[int]
    started_us: int
    ends_us: int | None
    step_s: float = 4.0
    compute: float = 0.75
    """Share of an undisturbed step that computes."""
    intensity: float = 1.0
    """How hard its compute phase works the GPU, near 1."""
    memory: float = 0.85
    """Share of device memory in use."""
    phase: float = 0.0
    slowdown: float = 1.0
    """Of its slowest member, at least 1."""
    hung: bool = False
    """Every member spins in a collective that never ends."""
    row: int = field(default=0)
    """Its first row of the load table: members; the next row is for its stragglers."""


@dataclass(frozen=True, slots=True)
class Loads:
    """Per job row and tick: ``mean`` over the tick and power at its end. Row 0 is idle."""

    mean: dict[str, Floats]
    """Each (rows, ticks)."""
    instant_power: Floats
    steady: Floats
    """(rows,) 0 for rows that never vary (idle), else how much noise the row's metrics carry, relative."""
    memory: Floats
    """(rows,) share of device memory in use."""


def loads(jobs: list[Job], rows: int, start_us: int, ticks: int, tick_s: float, demand: dict[str, Floats]) -> Loads:
    """The load table for ticks at ``start_us`` + i * ``tick_s``; a tick's mean covers the tick's length up to it.

    ``demand`` is the serving load per tenant and tick, 0 to 1.
    """
    table = np.zeros((len(COLUMNS), rows, ticks), np.float32)
    instant = np.zeros((rows, ticks), np.float32)
    steady = np.zeros(rows, np.float32)
    memory = np.zeros(rows, np.float32)
    training = [job for job in jobs if job.kind is JobKind.TRAINING]
    if training:
        _fill_training(training, table, instant, start_us, ticks, tick_s)
    for job in jobs:
        members = slice(job.row, job.row + 2)
        steady[members] = 0.006 if job.kind is JobKind.TRAINING else 0.02
        memory[members] = job.memory
        if job.kind is JobKind.SERVING:
            level = np.clip(demand[job.tenant] * job.intensity, 0, 1)
            values = np.outer(_SERVE_LOW, 1 - level) + np.outer(_SERVE_HIGH, level)
            table[:, members] = values[:, None, :]
            instant[members] = values[6]
        elif job.kind is JobKind.BURN:
            table[:, members] = np.array(_BURN, np.float32)[:, None, None]
            instant[members] = _BURN[6]
    return Loads(dict(zip(COLUMNS, table, strict=True)), instant, steady, memory)


def _fill_training(jobs: list[Job], table: Floats, instant: Floats, start_us: int, ticks: int, tick_s: float) -> None:
    rows = np.array([job.row for job in jobs])
    step = np.array([job.step_s for job in jobs])[:, None]
    share = np.array([job.compute for job in jobs])[:, None]
    slow = np.array([job.slowdown for job in jobs])[:, None]
    hung = np.array([job.hung for job in jobs])[:, None]
    phase = np.array([job.phase for job in jobs])[:, None]
    intensity = np.array([job.intensity for job in jobs])[:, None]
    origin = np.array([job.started_us for job in jobs])[:, None]
    length = step * (share * slow + 1 - share)
    member, straggler = share * step / length, share * slow * step / length
    end = (start_us - origin + np.arange(ticks) * tick_s * 1e6) / 1e6 / length + phase
    begin = end - tick_s / length
    for extra, edge in ((0, member), (1, straggler)):
        work = np.where(hung, 0.0, _mean_below(begin, end, edge))
        busy = np.where(hung, 0.0, _mean_below(begin, end, straggler))
        spin = np.where(hung, 1.0, busy - work)
        exchange = np.where(hung, 0.0, 1 - busy)
        # A straggler does the same arithmetic in more time, so its tensor cores and power run lower.
        effort = intensity / (slow if extra else 1.0)
        position = end % 1
        now = np.where(hung | ((position >= edge) & (position < straggler)), _SPIN[6], _EXCHANGE[6])
        instant[rows + extra] = np.where(~hung & (position < edge), _COMPUTE[6] * effort, now)
        for column, name in enumerate(COLUMNS):
            compute = _COMPUTE[column] * (effort if name in ("tensor_active", "dram_active", "power") else 1.0)
            table[column, rows + extra] = work * compute + spin * _SPIN[column] + exchange * _EXCHANGE[column]


def _mean_below(begin: NDArray[np.float64], end: NDArray[np.float64], edge: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of [begin, end), counted in steps, in which the position within the step is below ``edge``."""

    def integral(x: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = np.floor(x)
        return whole * edge + np.minimum(x - whole, edge)

    share: NDArray[np.float64] = (integral(end) - integral(begin)) / (end - begin)
    return share
