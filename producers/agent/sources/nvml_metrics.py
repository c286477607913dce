"""Every metric of the two lanes that plain NVML offers, one reader a call.

Deliberately absent: nvmlDeviceGetPcieThroughput, which blocks for 20 ms a call (GPM has the rates).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from producers.agent.sources.base import Number
from producers.agent.sources.nvml_library import FUNCTION_NOT_FOUND, NVML_SUCCESS, UNSUPPORTED

Values = dict[str, Number]
ALL_LINKS = 18
"""NVLinks of a Hopper or Blackwell GPU; fewer are found by their answers."""


@dataclass(frozen=True, slots=True)
class Reader:
    """One NVML call, or a few that belong together."""

    name: str
    read: Callable[[Any, Any], Values]
    """(pynvml, device handle) -> readings in the schema's units. May raise NVMLError."""


def _watts(milliwatts: float) -> float:
    return milliwatts / 1000.0


def field_values(pynvml: Any, handle: Any, fields: Iterable[tuple[int, int]]) -> list[Number | None]:
    """Field values for (field id, scope) pairs; None where the driver gives none."""
    found: list[Number | None] = []
    for value in pynvml.nvmlDeviceGetFieldValues(handle, list(fields)):
        if value.nvmlReturn != NVML_SUCCESS:
            found.append(None)
        else:
            found.append(_UNION[value.valueType](value.value))
    return found


_UNION: tuple[Callable[[Any], Number], ...] = (
    lambda v: float(v.dVal),
    lambda v: int(v.uiVal),
    lambda v: int(v.ulVal),
    lambda v: int(v.ullVal),
    lambda v: int(v.sllVal),
    lambda v: int(v.siVal),
    lambda v: int(v.usVal),
)
"""By nvmlValueType_t: double, unsigned int, unsigned long, unsigned long long, signed long long, int, short."""


def _power_energy(pynvml: Any, handle: Any) -> Values:
    instant, energy, memory = field_values(
        pynvml,
        handle,
        (
            (pynvml.NVML_FI_DEV_POWER_INSTANT, 0),
            (pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, 0),
            (pynvml.NVML_FI_DEV_MEMORY_TEMP, 0),
        ),
    )
    values: Values = {}
    if instant is not None:
        values["power_instant_w"] = _watts(instant)
    if energy is not None:
        values["energy_j"] = int(energy) // 1000
    if memory is not None:
        values["temp_mem_c"] = memory
    return values


def _power(pynvml: Any, handle: Any) -> Values:
    return {"power_w": _watts(pynvml.nvmlDeviceGetPowerUsage(handle))}


def _temperature(pynvml: Any, handle: Any) -> Values:
    return {"temp_gpu_c": pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)}


def _clock_sm(pynvml: Any, handle: Any) -> Values:
    return {"clock_sm_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)}


def _reasons(pynvml: Any, handle: Any) -> Values:
    try:
        mask = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except pynvml.NVMLError as error:
        if error.value != FUNCTION_NOT_FOUND:
            raise
        mask = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)  # the name before driver 535
    return {"clock_event_reasons": mask & 0x7FFF_FFFF}


def memory_info(pynvml: Any, handle: Any) -> Any:
    """Memory with the driver's reservation apart; without, from drivers that know only the old call."""
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
    except pynvml.NVMLError as error:
        if error.value not in UNSUPPORTED:
            raise
        return pynvml.nvmlDeviceGetMemoryInfo(handle)


def _memory_used(pynvml: Any, handle: Any) -> Values:
    return {"fb_used_bytes": memory_info(pynvml, handle).used}


def _memory(pynvml: Any, handle: Any) -> Values:
    memory = memory_info(pynvml, handle)
    values: Values = {"fb_total_bytes": memory.total, "fb_free_bytes": memory.free}
    if hasattr(memory, "reserved"):
        values["fb_reserved_bytes"] = memory.reserved
    return values


def _named_fields(names: dict[str, str]) -> Callable[[Any, Any], Values]:
    """A reader of one field-value call: metric -> name of the NVML field."""

    def read(pynvml: Any, handle: Any) -> Values:
        ids = [(getattr(pynvml, field), 0) for field in names.values()]
        found = zip(names, field_values(pynvml, handle, ids), strict=True)
        return {metric: value for metric, value in found if value is not None}

    return read


def _sram(pynvml: Any, handle: Any) -> Values:
    status = pynvml.c_nvmlEccSramErrorStatus_v1_t()
    pynvml.nvmlDeviceGetSramEccErrorStatus(handle, ctypes.byref(status))
    return {"ecc_sram_threshold": int(bool(status.bThresholdExceeded))}


def _remapped(pynvml: Any, handle: Any) -> Values:
    correctable, uncorrectable, pending, failure = pynvml.nvmlDeviceGetRemappedRows(handle)
    return {
        "remapped_rows_correctable": correctable,
        "remapped_rows_uncorrectable": uncorrectable,
        "row_remap_pending": int(bool(pending)),
        "row_remap_failure": int(bool(failure)),
    }


def _one(metric: str, call: str, *arguments: Any, scale: float = 1) -> Reader:
    """A reader of a call that returns one number."""

    def read(pynvml: Any, handle: Any) -> Values:
        value = getattr(pynvml, call)(handle, *arguments)
        return {metric: value if scale == 1 else value * scale}

    return Reader(metric, read)


def _violation(metric: str, policy: int) -> Reader:
    def read(pynvml: Any, handle: Any) -> Values:
        return {metric: pynvml.nvmlDeviceGetViolationStatus(handle, policy).violationTime}

    return Reader(metric, read)


def _utilisation(pynvml: Any, handle: Any) -> Values:
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return {"gpu_util": rates.gpu / 100.0, "mem_copy_util": rates.memory / 100.0}


def _processes(pynvml: Any, handle: Any) -> Values:
    return {"compute_processes": len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))}


def nvlink_count(pynvml: Any, handle: Any) -> int:
    """NVLinks of the GPU; 0 when it has none."""
    (count,) = field_values(pynvml, handle, ((pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT, 0),))
    return int(count or 0)


def _nvlink_state(pynvml: Any, handle: Any) -> Values:
    links = nvlink_count(pynvml, handle)
    if not links:
        return {}
    active = 0
    for link in range(links):
        try:
            active += int(pynvml.nvmlDeviceGetNvLinkState(handle, link) == 1)
        except pynvml.NVMLError as error:
            if error.value not in UNSUPPORTED:
                raise
    return {"nvlink_links_active": active}


def _nvlink_errors(pynvml: Any, handle: Any) -> Values:
    """Totals over all links; Blackwell has no totals, but the data link layer's counts of every link."""
    totals = {
        "nvlink_crc_flit_errors": pynvml.NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL,
        "nvlink_crc_data_errors": pynvml.NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL,
        "nvlink_replay_errors": pynvml.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL,
        "nvlink_recovery_errors": pynvml.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL,
    }
    found = zip(totals, field_values(pynvml, handle, ((field, 0) for field in totals.values())), strict=True)
    values: Values = {metric: value for metric, value in found if value is not None}
    for metric, field in (
        ("nvlink_replay_errors", pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY),
        ("nvlink_recovery_errors", pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY),
    ):
        if metric not in values:
            each = field_values(pynvml, handle, ((field, link) for link in range(ALL_LINKS)))
            counts = [count for count in each if count is not None]
            if counts:
                values[metric] = sum(counts)
    return values


def decode_ber(raw: int) -> float:
    """NVML's packed bit error rate: mantissa in bits 8 to 11, negative decimal exponent in bits 0 to 7."""
    return float((raw >> 8 & 0xF) * 10.0 ** -(raw & 0xFF))


def _symbol_ber(pynvml: Any, handle: Any) -> Values:
    field = pynvml.NVML_FI_DEV_NVLINK_COUNT_SYMBOL_BER
    rates = field_values(pynvml, handle, ((field, link) for link in range(ALL_LINKS)))
    decoded = [decode_ber(int(rate)) for rate in rates if rate is not None]
    return {"nvlink_symbol_ber": max(decoded)} if decoded else {}


def recovery_action(pynvml: Any, handle: Any) -> int | None:
    """The driver's verdict on the GPU: 0 none, 1 reset, 2 reboot, 3 drain P2P, 4 drain and reset, ..."""
    (action,) = field_values(pynvml, handle, ((pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, 0),))
    return None if action is None else int(action)


def _recovery(pynvml: Any, handle: Any) -> Values:
    action = recovery_action(pynvml, handle)
    return {} if action is None else {"recovery_action": action}


def fabric_info(pynvml: Any, handle: Any) -> Any:
    """State, cluster UUID and clique of the GPU in its NVLink fabric, from the newest call the driver knows."""
    try:
        info = pynvml.c_nvmlGpuFabricInfo_v2_t()
        pynvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info))
    except pynvml.NVMLError as error:
        if error.value not in UNSUPPORTED:
            raise
        info = pynvml.c_nvmlGpuFabricInfo_t()
        pynvml.nvmlDeviceGetGpuFabricInfo(handle, ctypes.byref(info))
    return info


def _fabric(pynvml: Any, handle: Any) -> Values:
    return {"fabric_state": fabric_info(pynvml, handle).state}


FAST = (
    Reader("power_w", _power),
    Reader("power_energy", _power_energy),
    Reader("temp_gpu_c", _temperature),
    Reader("clock_sm_mhz", _clock_sm),
    Reader("clock_event_reasons", _reasons),
    Reader("fb_used_bytes", _memory_used),
)
SLOW = (
    Reader(
        "ecc",
        _named_fields(
            {
                "ecc_sbe_volatile": "NVML_FI_DEV_ECC_SBE_VOL_TOTAL",
                "ecc_dbe_volatile": "NVML_FI_DEV_ECC_DBE_VOL_TOTAL",
                "ecc_sbe_aggregate": "NVML_FI_DEV_ECC_SBE_AGG_TOTAL",
                "ecc_dbe_aggregate": "NVML_FI_DEV_ECC_DBE_AGG_TOTAL",
            }
        ),
    ),
    Reader("ecc_sram_threshold", _sram),
    Reader("remapped_rows", _remapped),
    _one("pcie_replay", "nvmlDeviceGetPcieReplayCounter"),
    _one("pcie_link_gen", "nvmlDeviceGetCurrPcieLinkGeneration"),
    _one("pcie_link_gen_max", "nvmlDeviceGetMaxPcieLinkGeneration"),
    _one("pcie_link_width", "nvmlDeviceGetCurrPcieLinkWidth"),
    _one("pcie_link_width_max", "nvmlDeviceGetMaxPcieLinkWidth"),
    Reader("nvlink_links_active", _nvlink_state),
    Reader("nvlink_errors", _nvlink_errors),
    Reader("nvlink_symbol_ber", _symbol_ber),
    _violation("violation_power_ns", 0),
    _violation("violation_thermal_ns", 1),
    _violation("violation_sync_boost_ns", 2),
    _violation("violation_board_limit_ns", 3),
    _violation("violation_low_util_ns", 4),
    _violation("violation_reliability_ns", 5),
    _one("power_limit_w", "nvmlDeviceGetPowerManagementLimit", scale=1e-3),
    _one("power_limit_default_w", "nvmlDeviceGetPowerManagementDefaultLimit", scale=1e-3),
    _one("clock_mem_mhz", "nvmlDeviceGetClockInfo", 2),
    _one("temp_margin_c", "nvmlDeviceGetMarginTemperature"),
    Reader("utilisation", _utilisation),
    Reader("memory", _memory),
    Reader("recovery_action", _recovery),
    Reader("fabric_state", _fabric),
    Reader("compute_processes", _processes),
)
