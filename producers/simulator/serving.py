"""How busy serving is: the arrivals of a real request trace, repeated, shaped by the time of day and the limits."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from producers.simulator.randomness import stable_hash
from producers.simulator.scenario import Tenant

_TRACE = "AzureLLMInferenceTrace_conv.csv"
_MEAN_LEVEL = 0.55
"""Load of the serving pools at the trace's mean rate."""
_DAILY_SWING = 0.35
_DAY_S = 86_400
_PEAK_S = 20 * 3600
"""UTC second of the day of the highest demand: afternoon in the Americas, evening in Europe."""
_SMOOTH_S = 60
HEADROOM = 1.15
"""Default limit of input tokens a minute, over the mean demand."""


class Trace:
    """The trace by second: cumulative requests, context tokens and generated tokens, whole minutes only."""

    def __init__(self) -> None:
        first: datetime | None = None
        seconds, context, generated = [], [], []
        with (files("producers.simulator") / "data" / _TRACE).open() as lines:
            for row in csv.DictReader(lines):
                at = datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=UTC)
                first = first or at
                seconds.append(int((at - first).total_seconds()))
                context.append(int(row["ContextTokens"]))
                generated.append(int(row["GeneratedTokens"]))
        self.length_s = (seconds[-1] + 1) // 60 * 60
        where = np.array(seconds)
        keep = where < self.length_s
        counts = [
            np.bincount(where[keep], weights=weights, minlength=self.length_s)
            for weights in (np.ones(keep.sum()), np.array(context)[keep], np.array(generated)[keep])
        ]
        self._cumulative = np.concatenate([np.zeros((3, 1)), np.cumsum(counts, axis=1)], axis=1)

    def between(self, start_s: float, end_s: float) -> NDArray[np.float64]:
        """(requests, context tokens, generated tokens) from ``start_s`` to ``end_s`` of the trace repeated for ever."""
        return self._upto(end_s) - self._upto(start_s)

    def per_second(self) -> NDArray[np.float64]:
        """Mean of the three over the trace."""
        rate: NDArray[np.float64] = self._cumulative[:, -1] / self.length_s
        return rate

    def _upto(self, second: float) -> NDArray[np.float64]:
        rounds, rest = divmod(second, self.length_s)
        whole = int(rest)
        part = self._cumulative[:, whole]
        if rest > whole:
            part = part + (self._cumulative[:, whole + 1] - part) * (rest - whole)
        total: NDArray[np.float64] = rounds * self._cumulative[:, -1] + part
        return total


class Demand:
    """What a tenant's users ask for, and what its limits let through. Each tenant has its own place in the trace."""

    def __init__(self, trace: Trace, tenant: Tenant) -> None:
        self.trace, self.tenant = trace, tenant
        self._offset_s = stable_hash(tenant.name) % trace.length_s
        mean = trace.per_second()[1] * 60 * tenant.usage_scale
        self.input_limit = tenant.tokens_per_minute or math.ceil(mean * HEADROOM)
        """Input tokens a minute."""

    def asked(self, start_us: int, seconds: float) -> NDArray[np.float64]:
        """(requests, input tokens, output tokens) asked for in that time."""
        start = start_us / 1e6 + self._offset_s
        return (
            self.trace.between(start, start + seconds)
            * self.tenant.usage_scale
            * _time_of_day(start_us / 1e6 + seconds / 2)
        )

    def served_share(self, start_us: int) -> float:
        """Share of the minute's demand that the limit of input tokens lets through."""
        asked = float(self.asked(start_us // 60_000_000 * 60_000_000, 60)[1])
        return min(1.0, self.input_limit / asked) if asked else 1.0

    def level(self, start_us: int, ticks: int, tick_s: float) -> NDArray[np.float32]:
        """Load of the serving pools at each tick, 0 to 1."""
        window = max(_SMOOTH_S, tick_s)
        mean = float(self.trace.per_second().sum() - self.trace.per_second()[0]) * self.tenant.usage_scale
        levels = []
        for tick in range(ticks):
            at = start_us + int((tick * tick_s - window) * 1e6)
            rate = float(self.asked(at, window)[1:].sum()) / window
            levels.append(_MEAN_LEVEL * rate / mean)
        return np.clip(np.array(levels) * self.served_share(start_us), 0, 1).astype(np.float32)


def demands(tenants: Mapping[str, Tenant]) -> dict[str, Demand]:
    """A demand for each tenant, all from one reading of the trace."""
    trace = Trace()
    return {name: Demand(trace, tenant) for name, tenant in tenants.items()}


def _time_of_day(second: float) -> float:
    return 1 + _DAILY_SWING * math.cos((second - _PEAK_S) / _DAY_S * 2 * math.pi)
