"""The real agent, from a driver, a kernel log and a dcgm-exporter to rows and windows."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from infra.bench.stub_nvml import Stub, compile_stub
from tests.agent.test_dcgm_exporter import FIELDS, RAW, exporter, line
from tests.e2e.support import COMMAND, Up, environment, query, until

pytestmark = pytest.mark.kafka
REMAPPED = "NVRM: Xid (PCI:0000:12:00): 63, pid='<unknown>', name=<unknown>, Row Remapper: New row marked for remapping"
FAST: dict[str, Callable[[int], float]] = {
    "power_w": lambda gpu: 301.0 + gpu,
    "temp_gpu_c": lambda gpu: 41 + gpu,
    "temp_mem_c": lambda _gpu: 50,
    "clock_sm_mhz": lambda _gpu: 1980,
    "fb_used_bytes": lambda _gpu: 10 << 30,
    "gr_engine_active": lambda _gpu: 0.875,
    "sm_active": lambda _gpu: 0.75,
    "tensor_active": lambda _gpu: 0.625,
    "energy_j": lambda _gpu: 5_000_000,
}
"""What the stub's eight H100s read, by hand from infra/bench/stub_nvml."""


@contextmanager
def agent(up: Up, node: str, *options: str, **variables: str) -> Iterator[None]:
    """`gpufleet agent` against the running stack, long enough to see a tick of the slow lane (every 10 s)."""
    process = subprocess.Popen(
        [*COMMAND, "agent", "--node", node, "--rack", "e2e", "--data", str(up.data), "--for", "13s", *options],
        cwd=up.folder,
        env={**environment(), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield
        _, said = process.communicate(timeout=90)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert "0 given up, 0 not acknowledged" in said


@pytest.fixture(scope="module")
def reported(live: Up, tmp_path_factory: pytest.TempPathFactory) -> Stub:
    """e2e-nvml has run against the stub library and a kernel log, e2e-dcgm against an exporter."""
    folder = tmp_path_factory.mktemp("agent")
    library = compile_stub(folder)
    if library is None:
        pytest.skip("the stub of NVML needs a C compiler (cc), and there is none")
    stub = Stub(folder / "control")
    stub.xid(0, 31)
    kernel = folder / "kmsg"
    kernel.write_text(f"4,70,{time.monotonic_ns() // 1000},-;{REMAPPED}\n")
    page = "".join(line(name, value) for name, value, _, _ in FIELDS)
    nvml = ("--sources", "nvml,kmsg,host", "--set", f"agent.nvml.driver_library={library}")
    kmsg = ("--set", f"agent.kmsg.path={kernel}")
    each_second = ("--set", "agent.ticks_per_event=1")
    with (
        exporter(page) as url,
        agent(live, "e2e-nvml", *nvml, *kmsg, *each_second, NVML_STUB_CONTROL=str(stub.path)),
        agent(live, "e2e-dcgm", "--sources", "dcgm", "--dcgm-url", url, "--set", f"agent.state_dir={folder / 'state'}"),
    ):
        pass
    return stub


def rows(up: Up, sql: str, count: int = 1) -> list[dict[str, Any]]:
    """Rows of a question, once there are so many."""
    with up.client() as client:
        until(lambda: len(query(client, sql)) >= count)
        return query(client, sql)


def test_values_of_the_driver_reach_the_table(live: Up, reported: Stub) -> None:
    events = rows(live, "SELECT * FROM node_telemetry WHERE node_id = 'e2e-nvml' AND flaws = 0 ORDER BY seq", 3)
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert {event["rack"] for event in events} == {"e2e"}
    last = events[-1]
    assert last["gpu_index"] == list(range(8))
    assert [bytes(u) for u in last["gpu_uuid"]] == [reported.uuid(gpu) for gpu in range(8)]
    for name, expected in FAST.items():
        assert last[name] == pytest.approx([expected(gpu) for gpu in range(8)], rel=2**-8), name
    stamps = [event["ts"] for event in events]
    assert stamps == sorted(set(stamps))


def test_people_read_one_row_a_gpu(live: Up, reported: Stub) -> None:
    samples = rows(
        live,
        "SELECT gpu_index, gpu_uuid, max(power_w) AS power FROM gpu_samples WHERE node_id = 'e2e-nvml'"
        " GROUP BY ALL ORDER BY gpu_index",
        8,
    )
    assert [row["gpu_index"] for row in samples] == list(range(8))
    assert all(str(row["gpu_uuid"]).startswith("GPU-") for row in samples)
    assert [row["power"] for row in samples] == pytest.approx([301.0 + gpu for gpu in range(8)], rel=2**-8)


def test_inventory_names_the_hardware(live: Up, reported: Stub) -> None:
    [found] = rows(live, "SELECT * FROM inventory WHERE node_id = 'e2e-nvml' LIMIT 1")
    assert found["driver_version"] == "575.57.08"
    assert found["gpu_index"] == list(range(8))
    assert found["gpu_name"] == ["NVIDIA H100 80GB HBM3"] * 8
    assert found["gpu_pci_address"][2] == "0000:12:00.0"
    assert found["gpu_power_limit_w"] == [700] * 8


def test_xids_of_driver_and_kernel_are_events(live: Up, reported: Stub) -> None:
    found = rows(live, "SELECT * FROM node_events WHERE node_id = 'e2e-nvml' AND event = 'xid'", 2)
    by_code = {row["code"]: row for row in found}
    assert (by_code[31]["gpu_index"], by_code[31]["source"]) == (0, "nvml")
    assert (by_code[63]["pci_address"], by_code[63]["source"]) == ("0000:12:00.0", "kmsg")
    assert by_code[63]["raw"] == REMAPPED
    [started] = rows(live, "SELECT * FROM node_events WHERE node_id = 'e2e-nvml' AND event = 'agent_start'")
    assert started["seq"] == 0
    [stopped] = rows(live, "SELECT * FROM node_events WHERE node_id = 'e2e-nvml' AND event = 'agent_stop'")
    assert stopped["run_id"] == started["run_id"]


def test_every_field_of_dcgm_exporter_reaches_its_column(live: Up, reported: Stub) -> None:
    fast = rows(live, "SELECT * FROM node_telemetry WHERE node_id = 'e2e-dcgm' AND flaws = 0 ORDER BY seq DESC")[0]
    slow = rows(live, "SELECT * FROM node_counters WHERE node_id = 'e2e-dcgm' AND flaws = 0 ORDER BY seq DESC")[0]
    assert (fast["gpu_index"], [bytes(u) for u in fast["gpu_uuid"]]) == ([2], [RAW])
    checked = 0
    for source, _, column, value in FIELDS:
        if column is None or value is None:
            continue
        holder = fast if column in fast else slow
        assert holder[column][:1] == pytest.approx([value], rel=2**-7), (source, column)
        checked += 1
    assert checked > 30
