"""dcgm-exporter: every field of its counter files, under old and new names, through HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from producers.agent.clock import SystemClock
from producers.agent.sources.base import SourceError
from producers.agent.sources.dcgm_exporter import DcgmExporterSampler
from producers.agent.sources.dcgm_fields import Type, by_name, is_blank
from tests.agent.support import Facts

UUID = "GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52"
RAW = bytes.fromhex("604ac76cd9cffef362e9d92044ab6e52")
OTHER = "GPU-00000000-0000-0000-0000-000000000001"
MIB = 2**20

# Every field of dcgm-exporter's default-counters.csv and dcp-metrics-included.csv, enabled or commented out, with a
# value as the exporter prints it and what gpufleet is to make of it (None: recognised, not stored).
FIELDS: list[tuple[str, str, str | None, float | None]] = [
    ("DCGM_EXP_CLOCK_EVENTS_COUNT", "2", None, None),
    ("DCGM_EXP_XID_ERRORS_COUNT", "1", None, None),
    ("DCGM_EXP_GPU_HEALTH_STATUS", "0", None, None),
    ("DCGM_EXP_P2P_STATUS", "0", None, None),
    ("DCGM_FI_DEV_SM_CLOCK", "1980", "clock_sm_mhz", 1980),
    ("DCGM_FI_DEV_MEM_CLOCK", "2619", "clock_mem_mhz", 2619),
    ("DCGM_FI_DEV_MEMORY_TEMP", "51", "temp_mem_c", 51),
    ("DCGM_FI_DEV_GPU_TEMP", "44", "temp_gpu_c", 44),
    ("DCGM_FI_DEV_POWER_USAGE", "301.250000", "power_w", 301.25),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "2147483640500", "energy_j", 2_147_483_640),
    ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "3", "pcie_replay", 3),
    ("DCGM_FI_DEV_GPU_UTIL", "87", "gpu_util", 0.87),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", "25", "mem_copy_util", 0.25),
    ("DCGM_FI_DEV_ENC_UTIL", "0", None, None),
    ("DCGM_FI_DEV_DEC_UTIL", "0", None, None),
    ("DCGM_FI_DEV_XID_ERRORS", "0", None, None),
    ("DCGM_FI_DEV_POWER_VIOLATION", "140737488355329", "violation_power_ns", 140_737_488_355_329),
    ("DCGM_FI_DEV_THERMAL_VIOLATION", "2147483633", "violation_thermal_ns", 2_147_483_633),
    ("DCGM_FI_DEV_SYNC_BOOST_VIOLATION", "1", "violation_sync_boost_ns", 1),
    ("DCGM_FI_DEV_BOARD_LIMIT_VIOLATION", "2", "violation_board_limit_ns", 2),
    ("DCGM_FI_DEV_LOW_UTIL_VIOLATION", "3", "violation_low_util_ns", 3),
    ("DCGM_FI_DEV_RELIABILITY_VIOLATION", "4", "violation_reliability_ns", 4),
    ("DCGM_FI_DEV_FB_FREE", "70000", "fb_free_bytes", 70_000 * MIB),
    ("DCGM_FI_DEV_FB_USED", "10000", "fb_used_bytes", 10_000 * MIB),
    ("DCGM_FI_DEV_FB_RESERVED", "600", "fb_reserved_bytes", 600 * MIB),
    ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "5", "ecc_sbe_volatile", 5),
    ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "6", "ecc_dbe_volatile", 6),
    ("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "7", "ecc_sbe_aggregate", 7),
    ("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", "8", "ecc_dbe_aggregate", 8),
    ("DCGM_FI_DEV_RETIRED_SBE", "0", None, None),
    ("DCGM_FI_DEV_RETIRED_DBE", "0", None, None),
    ("DCGM_FI_DEV_RETIRED_PENDING", "0", None, None),
    ("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", "9", "nvlink_crc_flit_errors", 9),
    ("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", "10", "nvlink_crc_data_errors", 10),
    ("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", "11", "nvlink_replay_errors", 11),
    ("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "12", "nvlink_recovery_errors", 12),
    ("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "123", None, None),
    ("DCGM_FI_DEV_NVLINK_BANDWIDTH_L0", "7", None, None),
    ("DCGM_FI_DEV_VGPU_LICENSE_STATUS", "0", None, None),
    ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "1", "remapped_rows_uncorrectable", 1),
    ("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "2", "remapped_rows_correctable", 2),
    ("DCGM_FI_DEV_ROW_REMAP_FAILURE", "0", "row_remap_failure", 0),
    ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "0.910000", "gr_engine_active", 0.91),
    ("DCGM_FI_PROF_SM_ACTIVE", "0.800000", "sm_active", 0.8),
    ("DCGM_FI_PROF_SM_OCCUPANCY", "0.400000", "sm_occupancy", 0.4),
    ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "0.600000", "tensor_active", 0.6),
    ("DCGM_FI_PROF_DRAM_ACTIVE", "0.300000", "dram_active", 0.3),
    ("DCGM_FI_PROF_PIPE_FP64_ACTIVE", "0.000000", "fp64_active", 0.0),
    ("DCGM_FI_PROF_PIPE_FP32_ACTIVE", "0.100000", "fp32_active", 0.1),
    ("DCGM_FI_PROF_PIPE_FP16_ACTIVE", "0.200000", "fp16_active", 0.2),
    ("DCGM_FI_PROF_PCIE_TX_BYTES", "123456789", "pcie_tx_bytes_per_s", 123_456_789),
    ("DCGM_FI_PROF_PCIE_RX_BYTES", "987654321", "pcie_rx_bytes_per_s", 987_654_321),
]
_LABEL_FIELDS = """
DCGM_FI_DRIVER_VERSION DCGM_FI_NVML_VERSION DCGM_FI_DEV_BRAND DCGM_FI_DEV_SERIAL
DCGM_FI_DEV_OEM_INFOROM_VER DCGM_FI_DEV_ECC_INFOROM_VER DCGM_FI_DEV_POWER_INFOROM_VER
DCGM_FI_DEV_INFOROM_IMAGE_VER DCGM_FI_DEV_VBIOS_VERSION
"""
_COMPATIBILITY = """
dcgm_sm_clock dcgm_memory_clock dcgm_memory_temp dcgm_gpu_temp dcgm_power_usage
dcgm_total_energy_consumption dcgm_fi_prof_pcie_tx_bytes dcgm_fi_prof_pcie_rx_bytes
dcgm_pcie_replay_counter dcgm_gpu_utilization dcgm_mem_copy_utilization dcgm_enc_utilization
dcgm_dec_utilization dcgm_xid_errors dcgm_power_violation dcgm_thermal_violation
dcgm_sync_boost_violation dcgm_board_limit_violation dcgm_low_util_violation dcgm_reliability_violation
dcgm_fb_free dcgm_fb_used dcgm_ecc_sbe_volatile_total dcgm_ecc_dbe_volatile_total
dcgm_ecc_sbe_aggregate_total dcgm_ecc_dbe_aggregate_total dcgm_retired_pages_sbe dcgm_retired_pages_dbe
dcgm_retired_pages_pending dcgm_nvlink_flit_crc_error_count_total dcgm_nvlink_data_crc_error_count_total
dcgm_nvlink_replay_error_count_total dcgm_nvlink_recovery_error_count_total dcgm_nvlink_bandwidth_total
dcgm_fi_prof_gr_engine_active dcgm_fi_prof_sm_active dcgm_fi_prof_sm_occupancy
dcgm_fi_prof_pipe_tensor_active dcgm_fi_prof_dram_active
"""
LABELS = (
    f'gpu="2",UUID="{UUID}",pci_bus_id="00000000:3B:00.0",device="nvidia2",modelName="NVIDIA H200",'
    'Hostname="node-1",DCGM_FI_DRIVER_VERSION="575.57.08",DCGM_FI_DEV_SERIAL="16503",'
    'DCGM_FI_DEV_VBIOS_VERSION="96.00",container="",namespace="",pod=""'
)


def line(name: str, value: str, labels: str = LABELS) -> str:
    return f"# HELP {name} {name} help.\n# TYPE {name} gauge\n{name}{{{labels}}} {value}\n"


@contextmanager
def exporter(
    *answers: str | bytes, content_type: str = "text/plain; version=0.0.4", status: int = 200
) -> Iterator[str]:
    """An exporter that gives these answers, the last one again and again."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name http.server asks for
            answer = left.pop(0) if len(left) > 1 else left[0]
            body = answer if isinstance(answer, bytes) else answer.encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def source(url: str, facts: Facts | None = None) -> DcgmExporterSampler:
    made = DcgmExporterSampler(url, 5.0, 2.0, SystemClock(), (facts if facts is not None else Facts()).post)
    made.open()
    return made


def test_every_field_of_the_shipped_counter_files() -> None:
    with exporter("".join(line(name, value) for name, value, _, _ in FIELDS)) as url:
        sample = source(url).sample(True)
    expected = {metric: value for _, _, metric, value in FIELDS if metric}
    assert sample.gpu == {RAW: pytest.approx(expected)}
    (device,) = sample.gpus
    assert (device.index, device.pci_address, device.name) == (2, "0000:3b:00.0", "NVIDIA H200")
    assert (device.serial, device.vbios) == ("16503", "96.00")
    assert sample.described == {"driver_version": "575.57.08"}
    known = by_name()
    assert all(name in known for name in (_LABEL_FIELDS + _COMPATIBILITY).split())


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        (155, "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_BOARD_POWER_WATTS"),
        (157, "DCGM_FI_DEV_POWER_USAGE_INSTANT", "DCGM_FI_DEV_BOARD_POWER_RAW_WATTS"),
        (150, "DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_GPU_TEMP_CELSIUS"),
        (203, "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_GPU_UTIL_RATIO"),
        (230, "DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_XID_ERROR"),
        (393, "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "DCGM_FI_DEV_ROW_REMAP_UNCORRECTABLE_TOTAL"),
        (1004, "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_PROF_TENSOR_UTIL_RATIO"),
        (1523, "DCGM_FI_DEV_GET_GPU_RECOVERY_ACTION", "DCGM_FI_DEV_GPU_RECOVERY_ACTION"),
    ],
)
def test_old_and_new_names_are_one_field(number: int, old: str, new: str) -> None:
    known = by_name()
    assert known[old] is known[new]
    assert known[old].id == number


def test_blanks_are_told_by_type() -> None:
    assert is_blank(2147483632, Type.NARROW)
    assert not is_blank(2147483632, Type.WIDE)
    assert is_blank(float("9223372036854775794"), Type.WIDE)
    assert is_blank(float("9223372036854775794"), Type.NARROW)
    assert is_blank(140737488355330.0, Type.DOUBLE)
    assert not is_blank(140737488355330.0, Type.WIDE)
    assert not is_blank(140737488355344.0, Type.DOUBLE)


def test_blank_values_and_lines_that_cannot_be_parsed_are_no_readings() -> None:
    text = (
        line("DCGM_FI_DEV_MEMORY_TEMP", "9223372036854775794")
        + line("DCGM_FI_DEV_POWER_USAGE", "140737488355328.000000")
        + line("DCGM_FI_DEV_GPU_TEMP", "ERROR - FAILED TO CONVERT TO STRING")
        + line("DCGM_FI_DEV_SM_CLOCK", "1980")
    )
    with exporter(text) as url:
        assert source(url).sample(True).gpu == {RAW: {"clock_sm_mhz": 1980}}


def test_mig_rows_switches_and_unknown_metrics_are_left_out() -> None:
    text = (
        line("DCGM_FI_DEV_GPU_TEMP", "40")
        + line("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "0.5", f'gpu="2",UUID="{UUID}",GPU_I_PROFILE="1g.10gb",GPU_I_ID="3"')
        + line("DCGM_FI_DEV_GPU_TEMP", "44", 'nvswitch="nvswitch0",Hostname="n"')
        + line("DCGM_FI_SOMETHING_NEW", "1")
        + line("DCGM_FI_DEV_GPU_TEMP", "45", f'gpu="3",uuid="{OTHER}",hostname="node-1"')
    )
    with exporter(text) as url:
        sample = source(url).sample(True)
    assert sample.gpu == {RAW: {"temp_gpu_c": 40}, bytes(15) + b"\1": {"temp_gpu_c": 45}}
    assert [device.mig_enabled for device in sample.gpus] == [1, -1]


def test_the_last_xid_is_an_event_only_when_it_changes() -> None:
    facts = Facts()
    answers = [line("DCGM_FI_DEV_XID_ERRORS", value) for value in ("31", "31", "79", "79", "0")]
    with exporter(*answers) as url:
        made = source(url, facts)
        for _ in answers:
            made.sample(True)
    assert [(fact.event, fact.source, fact.code, fact.gpu_uuid) for fact in facts] == [("xid", "dcgm", 79, RAW)]
    assert "DCGM_FI_DEV_XID_ERRORS" in facts[0].raw


@pytest.mark.parametrize(
    ("answer", "content_type", "status", "says"),
    [
        ("<html>hello</html>", "text/html", 200, "expected Prometheus text"),
        ("go_goroutines 7\n", "text/plain", 200, "no DCGM metric"),
        ("", "text/plain", 503, "503"),
        (b"\x00" * (9 << 20), "text/plain", 200, "more than 8 MiB"),
        (bytes(range(256)), "text/plain", 200, "no DCGM metric"),
    ],
)
def test_an_answer_that_is_no_exporters_is_one_clear_error(
    answer: str | bytes, content_type: str, status: int, says: str
) -> None:
    with (
        exporter(answer, content_type=content_type, status=status) as url,
        pytest.raises(SourceError, match=says),
    ):
        source(url).sample(True)


def test_nobody_there_is_one_clear_error() -> None:
    with exporter("x") as url:
        pass
    with pytest.raises(SourceError, match="cannot scrape"):
        source(url).sample(True)
    with pytest.raises(SourceError, match="expected http"):
        source("file:///etc/passwd")
