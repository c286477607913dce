"""NVML through the real nvidia-ml-py, against the stub library."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import pytest

from infra.bench.stub_nvml import Stub
from producers.agent.clock import SystemClock
from producers.agent.sources.base import SourceError
from producers.agent.sources.nvml import NvmlSampler
from producers.agent.sources.nvml_events import NvmlEventWatcher
from producers.agent.sources.nvml_library import Gate
from producers.agent.sources.nvml_metrics import decode_ber
from tests.agent.support import Facts, until


@pytest.fixture
def sampler(stub: Stub) -> Iterator[NvmlSampler]:
    source = NvmlSampler(SystemClock(), Gate())
    source.open()
    yield source
    stub.control.hang_call = b""
    source.close()


def test_a_tick_reads_every_fast_metric_in_the_schemas_units(stub: Stub, sampler: NvmlSampler) -> None:
    sampler.sample(False)
    values = sampler.sample(False).gpu[stub.uuid(3)]

    assert values == pytest.approx(
        {
            "power_w": 304.0,
            "power_instant_w": 305.5,
            "energy_j": 5_000_000,
            "temp_gpu_c": 44,
            "temp_mem_c": 50,
            "clock_sm_mhz": 1980,
            "clock_event_reasons": 4,
            "fb_used_bytes": 10 * 2**30,
            "gr_engine_active": 0.875,
            "sm_active": 0.75,
            "sm_occupancy": 0.5,
            "tensor_active": 0.625,
            "dram_active": 0.25,
            "fp16_active": 0.0625,
            "pcie_tx_bytes_per_s": 104_857_600,
            "pcie_rx_bytes_per_s": 209_715_200,
            "nvlink_rx_bytes_per_s": 3_145_728,
            "nvlink_tx_bytes_per_s": 4_194_304,
        }
    )


def test_gpm_says_nothing_until_it_has_two_samples(stub: Stub, sampler: NvmlSampler) -> None:
    first = sampler.sample(False).gpu[stub.uuid(0)]
    assert "gr_engine_active" not in first
    assert "power_w" in first
    assert stub.control.gpm_samples == 16
    sampler.close()
    assert stub.control.gpm_samples == 0


def test_a_slow_tick_reads_the_slow_lane_too(stub: Stub, sampler: NvmlSampler) -> None:
    gpu = stub.gpu(1)
    gpu.ecc[0], gpu.ecc[1], gpu.ecc[2], gpu.ecc[3] = 11, 1, 22, 2
    gpu.nvlink_errors[0], gpu.nvlink_errors[1], gpu.nvlink_errors[2], gpu.nvlink_errors[3] = 5, 6, 7, 8
    gpu.remap_corr, gpu.remap_unc, gpu.remap_pending = 3, 1, 1
    gpu.links_active, gpu.pcie_width, gpu.recovery, gpu.sram = 17, 8, 1, 1
    gpu.violations[0], gpu.violations[5] = 123_456_789, 42
    gpu.symbol_ber = 0x30C  # mantissa 3, exponent 12
    sampler.sample(False)
    values = sampler.sample(True).gpu[stub.uuid(1)]

    expected = {
        "ecc_sbe_volatile": 11,
        "ecc_dbe_volatile": 1,
        "ecc_sbe_aggregate": 22,
        "ecc_dbe_aggregate": 2,
        "ecc_sram_threshold": 1,
        "remapped_rows_correctable": 3,
        "remapped_rows_uncorrectable": 1,
        "row_remap_pending": 1,
        "row_remap_failure": 0,
        "pcie_replay": 7,
        "pcie_link_gen": 5,
        "pcie_link_gen_max": 5,
        "pcie_link_width": 8,
        "pcie_link_width_max": 16,
        "nvlink_links_active": 17,
        "nvlink_crc_flit_errors": 5,
        "nvlink_crc_data_errors": 6,
        "nvlink_replay_errors": 7,
        "nvlink_recovery_errors": 8,
        "nvlink_symbol_ber": 3e-12,
        "violation_power_ns": 123_456_789,
        "violation_reliability_ns": 42,
        "power_limit_w": 700.0,
        "power_limit_default_w": 700.0,
        "clock_mem_mhz": 2619,
        "temp_margin_c": 46,
        "gpu_util": 0.87,
        "mem_copy_util": 0.25,
        "fb_total_bytes": 80 * 2**30,
        "fb_free_bytes": 69 * 2**30,
        "fb_reserved_bytes": 2**30,
        "fp64_active": 0.0,
        "fp32_active": 0.125,
        "recovery_action": 1,
        "fabric_state": 3,
        "compute_processes": 2,
    }
    assert {name: values.get(name) for name in expected} == pytest.approx(expected)
    assert "c2c_tx_bytes_per_s" not in values


def test_the_inventory_is_described(stub: Stub) -> None:
    gpu = stub.gpu(2)
    for at in range(16):
        gpu.cluster[at] = at
    gpu.clique = 32766
    source = NvmlSampler(SystemClock(), Gate())
    source.open()
    sample = source.sample(False)
    source.close()

    device = sample.gpus[2]
    assert (device.index, device.uuid, device.serial) == (2, stub.uuid(2), "165032300002")
    assert (device.pci_address, device.name) == ("0000:12:00.0", "NVIDIA H100 80GB HBM3")
    assert (device.memory_bytes, device.power_limit_max_w, device.nvlink_count) == (80 * 2**30, 700.0, 18)
    assert (device.ecc_enabled, device.mig_enabled) == (1, 0)
    assert sample.described == {
        "driver_version": "575.57.08",
        "cuda_version": "12.9",
        "nvlink_domain": "000102030405060708090a0b0c0d0e0f.32766",
    }


def test_what_a_gpu_does_not_support_is_blank_and_asked_for_once(stub: Stub, sampler: NvmlSampler) -> None:
    stub.control.unsupported = b"nvmlDeviceGetPowerUsage,nvmlDeviceGetMarginTemperature"
    first = sampler.sample(True).gpu[stub.uuid(0)]
    assert "power_w" not in first
    assert "temp_margin_c" not in first
    assert "temp_gpu_c" in first

    stub.control.unsupported = b""
    assert "power_w" not in sampler.sample(True).gpu[stub.uuid(0)]


def test_a_gpu_without_gpm_has_no_ratios_and_no_errors(stub: Stub) -> None:
    stub.gpu(0).gpm = 0
    source = NvmlSampler(SystemClock(), Gate())
    source.open()
    source.sample(False)
    sample = source.sample(False)
    source.close()
    assert "gr_engine_active" not in sample.gpu[stub.uuid(0)]
    assert "gr_engine_active" in sample.gpu[stub.uuid(1)]


def test_one_passing_failure_leaves_one_reading_out_once(stub: Stub, sampler: NvmlSampler) -> None:
    stub.control.fail_call, stub.control.fail_code, stub.control.fail_gpu = b"nvmlDeviceGetTemperature", 999, 4
    sample = sampler.sample(False)
    assert "temp_gpu_c" not in sample.gpu[stub.uuid(4)]
    assert "temp_gpu_c" in sample.gpu[stub.uuid(5)]
    stub.control.fail_code = 0
    assert "temp_gpu_c" in sampler.sample(False).gpu[stub.uuid(4)]


@pytest.mark.parametrize("code", [15, 6, 16])
def test_a_lost_gpu_is_missing_and_comes_back(stub: Stub, sampler: NvmlSampler, code: int) -> None:
    sampler.sample(False)
    stub.control.fail_code, stub.control.fail_gpu = code, 5
    sample = sampler.sample(False)
    assert stub.uuid(5) not in sample.gpu
    assert len(sample.gpus) == 7
    assert [device.index for device in sample.gpus] == [0, 1, 2, 3, 4, 6, 7]

    stub.control.fail_code = 0
    assert len(sampler.sample(False).gpus) == 7  # looked for on slow ticks only
    assert len(sampler.sample(True).gpus) == 8


def test_a_reloaded_driver_is_opened_anew_and_said(stub: Stub, sampler: NvmlSampler) -> None:
    assert not sampler.sample(False).driver_reloaded
    stub.reload_driver()
    sample = sampler.sample(False)
    assert sample.driver_reloaded
    assert sample.gpu[stub.uuid(0)]["energy_j"] == 0
    assert not sampler.sample(False).driver_reloaded


def test_a_driver_that_stays_away_is_an_error_and_its_return_a_reload(stub: Stub, sampler: NvmlSampler) -> None:
    sampler.sample(False)
    stub.control.init_error = 9
    stub.reload_driver()
    with pytest.raises(SourceError, match="load the NVIDIA driver"):
        sampler.sample(False)
    with pytest.raises(SourceError, match="NVML does not start"):
        sampler.open()
    stub.control.init_error = 0
    sampler.open()
    assert sampler.sample(False).driver_reloaded


def test_no_library_is_one_clear_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("pynvml")
    missing = tmp_path_factory.mktemp("none") / "libnvidia-ml.so.1"
    source = NvmlSampler(SystemClock(), Gate(), missing)
    with pytest.raises(SourceError, match="cannot load NVML from"):
        source.open()
    source.close()


def test_xids_come_from_the_event_set_with_the_drivers_verdict(stub: Stub, sampler: NvmlSampler) -> None:
    facts, stop = Facts(), threading.Event()
    watcher = NvmlEventWatcher(SystemClock(), sampler._gate)
    thread = threading.Thread(target=watcher.watch, args=(facts.post, lambda: not stop.is_set()), daemon=True)
    thread.start()
    stub.gpu(6).recovery = 2
    stub.xid(6, 79)
    stub.xid(0, 31)
    until(lambda: len(facts) == 2)
    assert [(fact.event, fact.code, fact.gpu_uuid, fact.recovery_action) for fact in facts] == [
        ("xid", 79, stub.uuid(6), 2),
        ("xid", 31, stub.uuid(0), 0),
    ]
    assert facts[0].pci_address == "0000:16:00.0"

    stub.reload_driver()  # the watcher lets go, so that the library can start anew, and then listens again
    sampler.sample(False)
    stub.xid(1, 94)
    until(lambda: len(facts) == 3)
    assert facts[2].code == 94
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_bit_error_rates_are_decoded() -> None:
    assert decode_ber(0x50F) == pytest.approx(5e-15)
    assert decode_ber(0x100) == 1.0
    assert math.isfinite(decode_ber(0xFFF))
