"""GPM: activity ratios and link rates of Hopper and later, from the difference of two samples."""

from __future__ import annotations

from typing import Any

from producers.agent.sources.base import Number
from producers.agent.sources.nvml_library import NVML_SUCCESS, UNSUPPORTED

_RATIO = 0.01
_MIB = 1024.0 * 1024.0
FAST: dict[int, tuple[str, float]] = {
    1: ("gr_engine_active", _RATIO),
    2: ("sm_active", _RATIO),
    3: ("sm_occupancy", _RATIO),
    5: ("tensor_active", _RATIO),
    10: ("dram_active", _RATIO),
    13: ("fp16_active", _RATIO),
    20: ("pcie_tx_bytes_per_s", _MIB),
    21: ("pcie_rx_bytes_per_s", _MIB),
    61: ("nvlink_tx_bytes_per_s", _MIB),
    60: ("nvlink_rx_bytes_per_s", _MIB),
}
"""GPM metric id -> (field, factor): percent to ratio, MiB/s to bytes per second."""
SLOW: dict[int, tuple[str, float]] = {
    11: ("fp64_active", _RATIO),
    12: ("fp32_active", _RATIO),
    100: ("c2c_tx_bytes_per_s", _MIB),
    101: ("c2c_rx_bytes_per_s", _MIB),
}


class GpmPair:
    """One GPU's two samples: the one of the tick before, and the one of now. ``request`` is shared by all GPUs."""

    def __init__(self, pynvml: Any, handle: Any, request: Any) -> None:
        self._pynvml = pynvml
        self._handle = handle
        self._request = request
        self._samples = [pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()]
        self._taken = 0
        self._missing: set[int] = set()
        """Metrics that this GPU does not have."""

    @classmethod
    def open(cls, pynvml: Any, handle: Any, request: Any) -> GpmPair | None:
        """None when the GPU has no GPM. NVMLError for anything but that."""
        try:
            if not pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
                return None
            return cls(pynvml, handle, request)
        except pynvml.NVMLError as error:
            if error.value in UNSUPPORTED:
                return None
            raise

    def read(self, slow: bool) -> dict[str, Number]:
        """The averages since the read before; nothing at the first. NVMLError when the driver refuses."""
        before, now = self._samples
        try:
            self._pynvml.nvmlGpmSampleGet(self._handle, now)
        except self._pynvml.NVMLError:
            self._taken = 0
            raise
        self._samples = [now, before]
        self._taken += 1
        if self._taken < 2:
            return {}
        wanted = {**FAST, **SLOW} if slow else FAST
        ids = [metric for metric in wanted if metric not in self._missing]
        request = self._request
        request.version = self._pynvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(ids)
        request.sample1, request.sample2 = before, now
        for place, metric in enumerate(ids):
            request.metrics[place].metricId = metric
        self._pynvml.nvmlGpmMetricsGet(request)
        values: dict[str, Number] = {}
        for place, metric in enumerate(ids):
            answer = request.metrics[place]
            if answer.nvmlReturn == NVML_SUCCESS:
                name, factor = wanted[metric]
                values[name] = answer.value * factor
            elif answer.nvmlReturn in UNSUPPORTED:
                self._missing.add(metric)
        return values

    def close(self) -> None:
        """Free both samples; never raises."""
        for sample in self._samples:
            try:
                self._pynvml.nvmlGpmSampleFree(sample)
            except self._pynvml.NVMLError:
                continue  # the driver they belonged to is gone
