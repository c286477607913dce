"""The node that the agent's benchmark runs on: this machine's driver, or a stand-in that moves as a busy node does."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from infra.bench.stub_nvml import CONTROL_VARIABLE, Stub, compile_stub
from infra.errors import UsageError

NICS = 8
XID_EVERY_S = 60
"""One XID a minute, in the driver's event queue and in the kernel log: the way of discrete events is exercised, too."""
XID_CODE = 63
_XID_LINE = (
    "NVRM: Xid (PCI:0000:{bus:02x}:00): 63, pid='<unknown>', name=<unknown>, Row Remapper: New row marked for remapping"
)
_PORT = {
    "state": "4: ACTIVE",
    "rate": "400 Gb/sec (4X NDR)",
    "counters/symbol_error": "0",
    "counters/link_downed": "0",
    "counters/link_error_recovery": "0",
    "counters/local_link_integrity_errors": "0",
    "counters/excessive_buffer_overrun_errors": "0",
    "hw_counters/np_cnp_sent": "0",
    "hw_counters/rp_cnp_handled": "0",
    "hw_counters/out_of_sequence": "0",
    "hw_counters/packet_seq_err": "0",
    "hw_counters/local_ack_timeout_err": "0",
}
"""What an RDMA port of a ConnectX-7 shows below its folder, but for the two counters that move."""


@dataclass(frozen=True, slots=True)
class Node:
    """What an agent needs to be told to run here."""

    driver: str
    """"stub", or the real driver's version."""
    gpus: int
    settings: Mapping[str, str] = field(default_factory=dict)
    """Dotted keys for the agent."""
    environment: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def node(folder: Path, gpus: int) -> Iterator[Node]:
    """This machine where an NVIDIA driver answers; else a stand-in with ``gpus`` GPUs and eight NICs, made in folder.

    UsageError where there is neither a driver nor a C compiler for the stand-in's library.
    """
    real = _driver()
    if real is not None:
        yield real
        return
    folder.mkdir(parents=True, exist_ok=True)
    library = compile_stub(folder)
    if library is None:
        raise UsageError(
            "bench agent needs an NVIDIA driver, or a C compiler (cc, gcc, clang) for a stand-in of its library; "
            "found neither"
        )
    stub = Stub(folder / "nvml-control", gpus)
    kernel_log = folder / "kmsg"
    os.mkfifo(kernel_log)
    ports = [_port(folder / "sys", f"mlx5_{index}", f"bench-rdma{index}") for index in range(NICS)]
    stop = threading.Event()
    mover = threading.Thread(target=_move, args=(stub, kernel_log, ports, stop), name="stand-in", daemon=True)
    mover.start()
    try:
        yield Node(
            "stub",
            gpus,
            {
                "agent.nvml.driver_library": str(library),
                "agent.kmsg.path": str(kernel_log),
                "agent.nic.sysfs": str(folder / "sys"),
            },
            {CONTROL_VARIABLE: str(stub.path)},
        )
    finally:
        stop.set()
        mover.join()
        for file in ports:
            file.close()


def _driver() -> Node | None:
    """This machine's driver, if it has one with a GPU."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001  # no module, no library, no driver: all the same here
        return None
    try:
        count = int(pynvml.nvmlDeviceGetCount())
        return Node(f"NVIDIA {pynvml.nvmlSystemGetDriverVersion()}", count) if count else None
    finally:
        pynvml.nvmlShutdown()


def _port(sysfs: Path, device: str, netdev: str) -> BinaryIO:
    """One RoCE port in the tree; its two data counters stay in the file that is returned, 21 bytes each."""
    port = sysfs / "class/infiniband" / device / "ports/1"
    for name, text in _PORT.items():
        path = port / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    (port.parent.parent / "fw_ver").write_text("28.39.2048\n")
    (port.parent.parent / "device/net" / netdev).mkdir(parents=True)
    statistics = sysfs / "class/net" / netdev / "statistics"
    statistics.mkdir(parents=True)
    for name in ("rx_dropped", "tx_dropped"):
        (statistics / name).write_text("0\n")
    received = port / "counters/port_rcv_data"
    received.write_text(f"{0:020d}\n")
    (port / "counters/port_xmit_data").hardlink_to(received)  # as much out as in
    return received.open("r+b")


def _move(stub: Stub, kernel_log: Path, ports: list[BinaryIO], stop: threading.Event) -> None:
    """Once a second, change what a second changes on a busy node, so that no event is like the one before."""
    chance = random.Random(1)  # noqa: S311  # a load, not a secret
    # Open for reading as well: then opening does not wait for the agent, and the log has no end.
    with os.fdopen(os.open(kernel_log, os.O_RDWR), "wb", buffering=0) as log:
        second = 0
        while not stop.wait(1.0):
            second += 1
            _load(stub, chance)
            for file in ports:
                os.pwrite(file.fileno(), b"%020d" % (second * 10**9), 0)  # no truncation: a reader sees it whole
            if second % XID_EVERY_S == 0:
                gpu = chance.randrange(stub.control.count)
                line = _XID_LINE.format(bus=0x10 + gpu)
                log.write(f"4,{second},{time.monotonic_ns() // 1000},-;{line}\n".encode())
                stub.xid(gpu, XID_CODE)


def _load(stub: Stub, chance: random.Random) -> None:
    for index in range(stub.control.count):
        gpu = stub.gpu(index)
        share = chance.uniform(0.6, 1.0)
        gpu.power_mw = int(700_000 * share)
        gpu.instant_mw = int(700_000 * chance.uniform(0.6, 1.0))
        gpu.energy_mj += gpu.power_mw
        gpu.temp = 40 + int(30 * share)
        gpu.temp_mem = 50 + int(40 * share)
        gpu.sm_mhz = 1980 - int(200 * share)
        gpu.util = int(100 * share)
        gpu.fb_used = int((40 + 30 * share) * 2**30)
        for metric in (1, 2, 3, 5, 10, 12, 13):
            gpu.gpm_values[metric] = 100 * share
        for metric in (20, 21, 60, 61):
            gpu.gpm_values[metric] = chance.uniform(1000, 20_000)
