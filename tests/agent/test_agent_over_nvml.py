"""The whole agent over a stub of the NVML library and a kernel log: from the driver to the bytes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.bench.stub_nvml import Stub
from producers.agent.build import sources
from producers.agent.clock import SystemClock
from producers.agent.facts import Fact
from tests.agent.support import START, Bench, Told, fixed, settings, until


def stub_settings(tmp_path: Path, library: Path, names: Sequence[str], **changed: Any) -> Any:
    kmsg = tmp_path / "kmsg"
    kmsg.touch()
    (tmp_path / "sys").mkdir(exist_ok=True)
    told = settings(tmp_path, sources=tuple(names), ticks=1, **changed)
    return replace(told, nvml_library=library, kmsg=kmsg, sysfs=tmp_path / "sys")


def test_from_nvml_and_the_kernel_log_to_the_bytes(tmp_path: Path, stub: Stub, stub_library: Path) -> None:
    told = stub_settings(tmp_path, stub_library, ["nvml", "kmsg", "host", "nic"])
    bench = Bench(told, sources(told, SystemClock()))
    with bench.running():
        until(lambda: any(event["gr_engine_active"] for event in bench.events("node-telemetry")))
        until(lambda: bench.events("inventory"))
        until(lambda: {"nvml-events", "kmsg"} <= {name for name, up in bench.agent.sources_up() if up})
        line = "NVRM: Xid (PCI:0000:12:00): 79, pid=7, GPU has fallen off the bus."
        stub.gpu(2).recovery = 2
        stub.xid(2, 79)
        with told.kmsg.open("a") as log:
            log.write(f"4,77,{10**15},-;{line}\n")
        until(lambda: bench.facts("xid"))
        stub.gpu(2).lost = 1
        until(lambda: bench.facts("gpu_lost"))
        stub.reload_driver()
        until(lambda: [fact for fact in bench.facts("driver_reload") if fact["gpu_index"] is None])
    whole = next(event for event in bench.events("node-telemetry") if event["gr_engine_active"])
    assert whole["gr_engine_active"] == [0.875] * 8
    assert whole["power_w"] == [301.0 + index for index in range(8)]
    assert whole["nvlink_tx_bytes_per_s"] == [4 * 2.0**20] * 8
    assert whole["energy_j"] == [5_000_000] * 8
    assert whole["gpu_uuid"] == [stub.uuid(index) for index in range(8)]
    assert whole["host_mem_total_bytes"][0] > 0
    (xid,) = bench.facts("xid")
    assert (xid["source"], xid["code"], xid["gpu_index"], xid["raw"]) == ("kmsg", 79, 2, line)
    assert (xid["recovery_action"], xid["occurrences"]) == (2, 1)
    assert bench.events("inventory")[0]["driver_version"] == "575.57.08"
    epochs = {tuple(event["driver_epoch"]) for event in bench.events("node-telemetry") if event["driver_epoch"]}
    assert len(epochs) == 2


def test_an_xid_read_before_the_first_list_of_gpus_names_its_gpu(
    tmp_path: Path, stub: Stub, stub_library: Path
) -> None:
    told = stub_settings(tmp_path, stub_library, ["nvml", "kmsg"])
    line = "NVRM: Xid (PCI:0000:13:00): 31, pid=7, MMU Fault"
    told.kmsg.write_text(f"4,70,{time.monotonic_ns() // 1000},-;{line}\n")
    stub.control.hang_call = b"nvmlDeviceGetCount_v2"  # the driver takes its time
    bench = Bench(told, sources(told, SystemClock()))
    with bench.running():
        until(lambda: bench.agent._early)
        assert bench.facts("xid") == []
        stub.control.hang_call = b""
        until(lambda: bench.facts("xid"))
    (xid,) = bench.facts("xid")
    assert (xid["code"], xid["gpu_index"], xid["gpu_uuid"]) == (31, 3, stub.uuid(3))
    assert xid["raw"] == line


@pytest.mark.parametrize("names", [["nvml", "kmsg"], ["kmsg"]], ids=["NVML hangs for good", "nobody lists GPUs"])
def test_an_xid_does_not_wait_long_for_gpus_that_do_not_come(
    tmp_path: Path, stub: Stub, stub_library: Path, names: list[str]
) -> None:
    told = stub_settings(tmp_path, stub_library, names)
    told.kmsg.write_text(f"4,70,{time.monotonic_ns() // 1000},-;NVRM: Xid (PCI:0000:13:00): 31, pid=7, MMU Fault\n")
    stub.control.hang_call = b"nvmlDeviceGetCount_v2"
    bench = Bench(told, sources(told, SystemClock()))
    with bench.running():
        until(lambda: bench.facts("xid"), 30)
        stub.control.hang_call = b""
    (xid,) = bench.facts("xid")
    assert (xid["gpu_index"], xid["pci_address"]) == (None, "0000:13:00.0")


def test_an_xid_that_still_waits_at_the_end_is_sent(tmp_path: Path, nvml: Told) -> None:
    nvml.hang.clear()
    bench = Bench(settings(tmp_path), fixed([nvml]))
    with bench.running():
        bench.agent.post(Fact("xid", "kmsg", START, pci_address="0000:13:00.0", code=31, raw="NVRM"))
        until(lambda: bench.agent._early)
        assert bench.facts("xid") == []
    nvml.hang.set()
    assert [fact["code"] for fact in bench.facts("xid")] == [31]


def test_nvml_that_hangs_in_a_call_leaves_the_rest_alone(tmp_path: Path, stub: Stub, stub_library: Path) -> None:
    told = stub_settings(tmp_path, stub_library, ["nvml", "host"])
    bench = Bench(told, sources(told, SystemClock()))
    bench.agent.runners[0].source.deadline_s = 0.5
    with bench.running():
        until(lambda: any(event["power_w"] for event in bench.events("node-telemetry")))
        stub.control.hang_call = b"nvmlDeviceGetClockInfo"
        until(lambda: [fact for fact in bench.facts("source_down") if fact["value"] == "nvml"])
        at = len(bench.events("node-telemetry"))
        until(lambda: len(bench.events("node-telemetry")) > at + 5)
        stub.control.hang_call = b""
        until(lambda: [fact for fact in bench.facts("source_up") if fact["value"] == "nvml"])
    assert all(event["host_load1"] for event in bench.events("node-telemetry")[at:])
