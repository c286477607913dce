"""What dcgm-exporter's metrics are called, were called, and mean here; keyed by DCGM's numeric field id.

Names changed in DCGM 4.6 (POWER_USAGE became BOARD_POWER_WATTS; units did not change with them, so GPU_UTIL_RATIO
still is percent), and the exporter's 1.x compatibility file has a third set. The list holds every field of the
counter files that dcgm-exporter ships, enabled or commented out, and a few more that the schemas have a place for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache

_MIB = 1024.0 * 1024.0


class Type(Enum):
    """How DCGM marks "no value" in a field: by numbers at the end of the type's range."""

    NARROW = "int, small values"
    WIDE = "int, any value"
    DOUBLE = "double"
    LABEL = "text, a label on other metrics"


_INT32_BLANK = 0x7FFF_FFF0
_INT64_BLANK = 0x7FFF_FFFF_FFFF_FFF0
_FP64_BLANK = 140737488355328.0
_KINDS_OF_BLANK = 16
"""Blank, not found, not supported, not permissioned ...: each sentinel is the first number plus one of these."""


def is_blank(value: float, kind: Type) -> bool:
    """Whether a value is one of DCGM's sentinels for a field of this type.

    A wide integer is not judged by the 32-bit sentinel, which it can reach (2.1e9 mJ is an hour's energy), nor an
    integer by the floating-point one (1.4e14 ns is 39 hours).
    """
    if kind is Type.DOUBLE:
        return _FP64_BLANK <= value < _FP64_BLANK + _KINDS_OF_BLANK
    if value >= _INT64_BLANK - 1024:  # the exporter prints it exactly, a float cannot hold it exactly
        return True
    return kind is Type.NARROW and _INT32_BLANK <= value < _INT32_BLANK + _KINDS_OF_BLANK


@dataclass(frozen=True, slots=True)
class Field:
    """One DCGM field."""

    id: int
    """DCGM's number; 0 = counted by dcgm-exporter itself."""
    type: Type
    metric: str
    """Field of node-telemetry or node-counters; empty = recognised, but the schemas have no place for it."""
    factor: float
    names: tuple[str, ...]


XID = 230
_N, _W, _D, _L = Type.NARROW, Type.WIDE, Type.DOUBLE, Type.LABEL

# Names without their prefix: DCGM_FI_DEV_ unless they begin with PROF_ (DCGM_FI_PROF_), ! (as they are).
_TABLE: tuple[tuple[int, Type, str, float, str], ...] = (
    (1, _L, "", 1, "!DCGM_FI_DRIVER_VERSION !DCGM_FI_SYSTEM_DRIVER_VERSION"),
    (2, _L, "", 1, "!DCGM_FI_NVML_VERSION !DCGM_FI_SYSTEM_NVML_VERSION"),
    (51, _L, "", 1, "BRAND GPU_BRAND"),
    (53, _L, "", 1, "SERIAL BOARD_SERIAL"),
    (56, _L, "", 1, "OEM_INFOROM_VER INFOROM_OEM_VERSION"),
    (80, _L, "", 1, "ECC_INFOROM_VER INFOROM_ECC_VERSION"),
    (81, _L, "", 1, "POWER_INFOROM_VER INFOROM_POWER_VERSION"),
    (82, _L, "", 1, "INFOROM_IMAGE_VER INFOROM_IMAGE_VERSION"),
    (85, _L, "", 1, "VBIOS_VERSION"),
    (100, _N, "clock_sm_mhz", 1, "SM_CLOCK !dcgm_sm_clock"),
    (101, _N, "clock_mem_mhz", 1, "MEM_CLOCK !dcgm_memory_clock"),
    (112, _W, "clock_event_reasons", 1, "CLOCKS_EVENT_REASONS CLOCK_THROTTLE_REASONS"),
    (140, _N, "temp_mem_c", 1, "MEMORY_TEMP MEMORY_TEMP_CELSIUS !dcgm_memory_temp"),
    (150, _N, "temp_gpu_c", 1, "GPU_TEMP GPU_TEMP_CELSIUS !dcgm_gpu_temp"),
    (153, _N, "temp_margin_c", 1, "GPU_TEMP_LIMIT GPU_TEMP_MARGIN_CELSIUS"),
    (155, _D, "power_w", 1, "POWER_USAGE BOARD_POWER_WATTS !dcgm_power_usage"),
    (156, _W, "energy_j", 1e-3, "TOTAL_ENERGY_CONSUMPTION !dcgm_total_energy_consumption"),
    (157, _D, "power_instant_w", 1, "POWER_USAGE_INSTANT BOARD_POWER_RAW_WATTS"),
    (160, _D, "power_limit_w", 1, "POWER_MGMT_LIMIT BOARD_POWER_LIMIT_REQUESTED_WATTS"),
    (163, _D, "power_limit_default_w", 1, "POWER_MGMT_LIMIT_DEF BOARD_POWER_LIMIT_DEFAULT_WATTS"),
    (200, _W, "", 1, "PCIE_TX_THROUGHPUT !dcgm_pcie_tx_throughput"),
    (201, _W, "", 1, "PCIE_RX_THROUGHPUT !dcgm_pcie_rx_throughput"),
    (202, _W, "pcie_replay", 1, "PCIE_REPLAY_COUNTER PCIE_REPLAY_TOTAL !dcgm_pcie_replay_counter"),
    (203, _N, "gpu_util", 0.01, "GPU_UTIL GPU_UTIL_RATIO !dcgm_gpu_utilization"),
    (204, _N, "mem_copy_util", 0.01, "MEM_COPY_UTIL !dcgm_mem_copy_utilization"),
    (206, _N, "", 1, "ENC_UTIL !dcgm_enc_utilization"),
    (207, _N, "", 1, "DEC_UTIL !dcgm_dec_utilization"),
    (XID, _N, "", 1, "XID_ERRORS XID_ERROR !dcgm_xid_errors"),
    (235, _N, "pcie_link_gen_max", 1, "PCIE_MAX_LINK_GEN"),
    (236, _N, "pcie_link_width_max", 1, "PCIE_MAX_LINK_WIDTH"),
    (237, _N, "pcie_link_gen", 1, "PCIE_LINK_GEN"),
    (238, _N, "pcie_link_width", 1, "PCIE_LINK_WIDTH"),
    (240, _W, "violation_power_ns", 1, "POWER_VIOLATION !dcgm_power_violation"),
    (241, _W, "violation_thermal_ns", 1, "THERMAL_VIOLATION !dcgm_thermal_violation"),
    (242, _W, "violation_sync_boost_ns", 1, "SYNC_BOOST_VIOLATION !dcgm_sync_boost_violation"),
    (243, _W, "violation_board_limit_ns", 1, "BOARD_LIMIT_VIOLATION !dcgm_board_limit_violation"),
    (244, _W, "violation_low_util_ns", 1, "LOW_UTIL_VIOLATION !dcgm_low_util_violation"),
    (245, _W, "violation_reliability_ns", 1, "RELIABILITY_VIOLATION !dcgm_reliability_violation"),
    (250, _N, "fb_total_bytes", _MIB, "FB_TOTAL"),
    (251, _N, "fb_free_bytes", _MIB, "FB_FREE !dcgm_fb_free"),
    (252, _N, "fb_used_bytes", _MIB, "FB_USED !dcgm_fb_used"),
    (253, _N, "fb_reserved_bytes", _MIB, "FB_RESERVED"),
    (310, _W, "ecc_sbe_volatile", 1, "ECC_SBE_VOL_TOTAL !dcgm_ecc_sbe_volatile_total"),
    (311, _W, "ecc_dbe_volatile", 1, "ECC_DBE_VOL_TOTAL !dcgm_ecc_dbe_volatile_total"),
    (312, _W, "ecc_sbe_aggregate", 1, "ECC_SBE_AGG_TOTAL !dcgm_ecc_sbe_aggregate_total"),
    (313, _W, "ecc_dbe_aggregate", 1, "ECC_DBE_AGG_TOTAL !dcgm_ecc_dbe_aggregate_total"),
    (346, _N, "ecc_sram_threshold", 1, "THRESHOLD_SRM SRAM_EXCEEDED"),
    (390, _N, "", 1, "RETIRED_SBE PAGE_RETIRED_SBE_TOTAL !dcgm_retired_pages_sbe"),
    (391, _N, "", 1, "RETIRED_DBE PAGE_RETIRED_DBE_TOTAL !dcgm_retired_pages_dbe"),
    (392, _N, "", 1, "RETIRED_PENDING PAGE_RETIRED_PENDING !dcgm_retired_pages_pending"),
    (393, _N, "remapped_rows_uncorrectable", 1, "UNCORRECTABLE_REMAPPED_ROWS ROW_REMAP_UNCORRECTABLE_TOTAL"),
    (394, _N, "remapped_rows_correctable", 1, "CORRECTABLE_REMAPPED_ROWS ROW_REMAP_CORRECTABLE_TOTAL"),
    (395, _N, "row_remap_failure", 1, "ROW_REMAP_FAILURE ROW_REMAP_FAILED"),
    (396, _N, "row_remap_pending", 1, "ROW_REMAP_PENDING"),
    (409, _W, "nvlink_crc_flit_errors", 1, "NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL NVLINK_CRC_FLIT_ERROR_TOTAL "
     "!dcgm_nvlink_flit_crc_error_count_total"),
    (419, _W, "nvlink_crc_data_errors", 1, "NVLINK_CRC_DATA_ERROR_COUNT_TOTAL NVLINK_CRC_DATA_ERROR_TOTAL "
     "!dcgm_nvlink_data_crc_error_count_total"),
    (429, _W, "nvlink_replay_errors", 1, "NVLINK_REPLAY_ERROR_COUNT_TOTAL NVLINK_REPLAY_ERROR_TOTAL "
     "!dcgm_nvlink_replay_error_count_total"),
    (439, _W, "nvlink_recovery_errors", 1, "NVLINK_RECOVERY_ERROR_COUNT_TOTAL NVLINK_RECOVERY_ERROR_TOTAL "
     "!dcgm_nvlink_recovery_error_count_total"),
    (440, _W, "", 1, "NVLINK_BANDWIDTH_L0 NVLINK_THROUGHPUT_L0"),
    (449, _W, "", 1, "NVLINK_BANDWIDTH_TOTAL NVLINK_THROUGHPUT_TOTAL !dcgm_nvlink_bandwidth_total"),
    (526, _N, "", 1, "VGPU_LICENSE_STATUS"),
    (1001, _D, "gr_engine_active", 1, "PROF_GR_ENGINE_ACTIVE PROF_GR_ENGINE_UTIL_RATIO !dcgm_fi_prof_gr_engine_active"),
    (1002, _D, "sm_active", 1, "PROF_SM_ACTIVE PROF_SM_UTIL_RATIO !dcgm_fi_prof_sm_active"),
    (1003, _D, "sm_occupancy", 1, "PROF_SM_OCCUPANCY PROF_SM_OCCUPANCY_RATIO !dcgm_fi_prof_sm_occupancy"),
    (1004, _D, "tensor_active", 1, "PROF_PIPE_TENSOR_ACTIVE PROF_TENSOR_UTIL_RATIO !dcgm_fi_prof_pipe_tensor_active"),
    (1005, _D, "dram_active", 1, "PROF_DRAM_ACTIVE PROF_DRAM_UTIL_RATIO !dcgm_fi_prof_dram_active"),
    (1006, _D, "fp64_active", 1, "PROF_PIPE_FP64_ACTIVE PROF_FP64_UTIL_RATIO"),
    (1007, _D, "fp32_active", 1, "PROF_PIPE_FP32_ACTIVE PROF_FP32_UTIL_RATIO"),
    (1008, _D, "fp16_active", 1, "PROF_PIPE_FP16_ACTIVE PROF_FP16_UTIL_RATIO"),
    (1009, _W, "pcie_tx_bytes_per_s", 1, "PROF_PCIE_TX_BYTES !dcgm_fi_prof_pcie_tx_bytes"),
    (1010, _W, "pcie_rx_bytes_per_s", 1, "PROF_PCIE_RX_BYTES !dcgm_fi_prof_pcie_rx_bytes"),
    (1011, _W, "nvlink_tx_bytes_per_s", 1, "PROF_NVLINK_TX_BYTES"),
    (1012, _W, "nvlink_rx_bytes_per_s", 1, "PROF_NVLINK_RX_BYTES"),
    (1076, _W, "c2c_tx_bytes_per_s", 1, "PROF_C2C_TX_ALL_BYTES"),
    (1078, _W, "c2c_rx_bytes_per_s", 1, "PROF_C2C_RX_ALL_BYTES"),
    (1216, _D, "nvlink_symbol_ber", 1, "NVLINK_COUNT_SYMBOL_BER_FLOAT NVLINK_SYMBOL_BER_RATIO"),
    (1523, _N, "recovery_action", 1, "GET_GPU_RECOVERY_ACTION GPU_RECOVERY_ACTION"),
    (0, _N, "", 1, "!DCGM_EXP_CLOCK_EVENTS_COUNT !DCGM_EXP_XID_ERRORS_COUNT !DCGM_EXP_GPU_HEALTH_STATUS "
     "!DCGM_EXP_P2P_STATUS"),
)  # fmt: skip


def _full(name: str) -> str:
    if name.startswith("!"):
        return name[1:]
    return f"DCGM_FI_{name}" if name.startswith("PROF_") else f"DCGM_FI_DEV_{name}"


@cache
def by_name() -> dict[str, Field]:
    """Every known name, old or new, to its field."""
    found = {}
    for number, kind, metric, factor, names in _TABLE:
        full = tuple(_full(name) for name in names.split())
        field = Field(number, kind, metric, factor, full)
        found.update(dict.fromkeys(full, field))
    return found
