"""How precisely a float gauge is sent: 11 significant bits.

That is 0.05 % of the value, some ten times finer than the sensors behind it (NVML states +-5 W or 5 % for power,
ratios come in steps of 0.001), and it leaves the low mantissa bits zero, which the store compresses away.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIGNIFICANT_BITS = 11
_DROPPED_BITS = 24 - SIGNIFICANT_BITS


def significant(value: float) -> float:
    """The value rounded to 11 significant bits; NaN and infinities unchanged."""
    if not math.isfinite(value):
        return value
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(mantissa, SIGNIFICANT_BITS)), exponent - SIGNIFICANT_BITS)


def significant_array(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy of a float32 array of any shape, rounded the same way (halves away from zero); NaN stays NaN."""
    import numpy as np

    bits = values.view(np.uint32)
    finite = np.isfinite(values)
    half = np.uint32(1 << (_DROPPED_BITS - 1))
    mask = np.uint32(0xFFFFFFFF << _DROPPED_BITS & 0xFFFFFFFF)
    rounded: NDArray[np.float32] = np.where(finite, (bits + half) & mask, bits).view(np.float32)
    return rounded
