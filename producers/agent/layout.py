"""Which metrics a lane carries and what may stand in their arrays, read off the Avro schemas."""

from __future__ import annotations

import math
from dataclasses import dataclass

from producers.precision import bits_of, significant
from schemas import catalogue

NO_READING = -1
"""In integer arrays; NaN in float arrays."""
_RANGE = {"int": 1 << 31, "long": 1 << 63}


@dataclass(frozen=True, slots=True)
class Metric:
    """One array field of a lane."""

    name: str
    bound: int
    """Integers lie in [-bound, bound); 0 = a float field."""
    kind: str
    """gauge, counter or state."""
    bits: int = 0
    """Significant bits a float gauge is sent with; 0 = as it is."""

    @property
    def blank(self) -> float | int:
        return NO_READING if self.bound else math.nan

    def clean(self, value: float | int | None) -> float | int:
        """The value as the event carries it; the blank for one that the field cannot hold."""
        if value is None or not math.isfinite(value):
            return self.blank
        if not self.bound:
            return significant(value, self.bits) if self.bits else float(value)
        whole = round(value)
        return whole if -self.bound <= whole < self.bound else NO_READING


def metrics(topic: str, shape: str) -> tuple[Metric, ...]:
    """The array fields of the newest schema of ``topic`` with ``shape`` gpu_tick, tick or nic_tick."""
    schema = catalogue.latest(topic)
    bits = bits_of(schema)
    return tuple(
        Metric(field["name"], _RANGE.get(field["type"]["items"], 0), field["kind"], bits.get(field["name"], 0))
        for field in catalogue.fields_of_shape(schema, shape)
    )
