"""How precisely a float gauge is sent: as many significant bits as its field's ``bits`` attribute says.

Power has 10 (0.1 % of the value: half a watt at 700 W, where NVML itself states +-5 W or 5 %), ratios 9 (0.002 at 1;
profiling ratios come in steps of 0.001 at best), rates 8 (0.4 %). What the sensor cannot tell is noise; dropping it
leaves the low mantissa bits zero, which the store compresses away. A field without ``bits`` is sent as it is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from schemas.catalogue import Schema

SIGNIFICANT_BITS = 11
"""For a gauge whose schema does not say."""
FLOAT32_BITS = 24


def bits_of(schema: Schema) -> dict[str, int]:
    """Significant bits of each field of the schema that names them."""
    return {field["name"]: int(field["bits"]) for field in schema.fields if "bits" in field}


def significant(value: float, bits: int = SIGNIFICANT_BITS) -> float:
    """The value rounded to ``bits`` significant bits, halves away from zero; NaN and infinities unchanged."""
    if not math.isfinite(value):
        return value
    mantissa, exponent = math.frexp(value)
    scaled = math.ldexp(mantissa, bits)
    return math.ldexp(math.copysign(math.floor(abs(scaled) + 0.5), scaled), exponent - bits)


def significant_array(values: NDArray[np.float32], bits: int = SIGNIFICANT_BITS) -> NDArray[Any]:
    """A copy of a float32 array of any shape with each value rounded by ``significant``; NaN stays NaN."""
    import numpy as np

    dropped = FLOAT32_BITS - bits
    if dropped <= 0:
        return values.copy()
    raw = values.view(np.uint32)
    half = np.uint32(1 << (dropped - 1))
    mask = np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    rounded = (raw + half) & mask
    finite = np.isfinite(values)
    if not finite.all():
        rounded = np.where(finite, rounded, raw)
    return rounded.view(np.float32)
