"""A stand-in for NVML, for tests and benchmarks on a machine without NVIDIA GPUs.

``nvml.c`` is a libnvidia-ml.so.1 that answers from a control file; here it is compiled, and the file is mapped and
filled. An agent finds it by ``agent.nvml.driver_library`` and the file by the variable NVML_STUB_CONTROL.
"""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("nvml.c")
CONTROL_VARIABLE = "NVML_STUB_CONTROL"
"""Environment variable with the path of the control file."""
MAX_GPUS, MAX_XIDS, GPM_METRICS = 16, 64, 512
U32, U64, I32 = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int32


def _named(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class Gpu(ctypes.Structure):
    """struct gpu."""

    _fields_ = (
        *_named(I32, "present lost gpm nvlinks"),
        *_named(U32, "power_mw instant_mw temp temp_mem sm_mhz mem_mhz util mem_util"),
        *_named(U32, "pcie_gen pcie_gen_max pcie_width pcie_width_max limit_mw limit_default_mw limit_max_mw"),
        *_named(U32, "remap_corr remap_unc remap_pending remap_failure sram recovery processes links_active"),
        *_named(U32, "fabric_state"),
        *_named(I32, "margin"),
        *_named(U32, "clique replay pad"),
        *_named(U64, "energy_mj reasons fb_total fb_used fb_reserved"),
        ("ecc", U64 * 4),
        ("nvlink_errors", U64 * 4),
        ("violations", U64 * 6),
        ("symbol_ber", U64),
        ("gpm_values", ctypes.c_double * GPM_METRICS),
        ("uuid", ctypes.c_char * 48),
        ("serial", ctypes.c_char * 32),
        ("name", ctypes.c_char * 64),
        ("bus", ctypes.c_char * 32),
        ("cluster", ctypes.c_uint8 * 16),
    )


class Xid(ctypes.Structure):
    """struct xid."""

    _fields_ = (("gpu", I32), ("pad", I32), ("code", U64))


class Control(ctypes.Structure):
    """struct control."""

    _fields_ = (
        *_named(I32, "count init_error fail_code fail_gpu"),
        *_named(U32, "generation gpm_samples calls inits"),
        ("fail_call", ctypes.c_char * 64),
        ("hang_call", ctypes.c_char * 64),
        ("unsupported", ctypes.c_char * 512),
        ("driver", ctypes.c_char * 32),
        *_named(U32, "xid_head xid_tail"),
        ("xids", Xid * MAX_XIDS),
        ("gpus", Gpu * MAX_GPUS),
    )


def compile_stub(folder: Path) -> Path | None:
    """The compiled libnvidia-ml.so.1, or None when there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = folder / "libnvidia-ml.so.1"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", str(library), str(SOURCE), "-lpthread"], check=True)
    return library


class Stub:
    """A control file with ``count`` H100s that idle, ready to be changed."""

    def __init__(self, path: Path, count: int = 8) -> None:
        self.path = path
        path.write_bytes(bytes(ctypes.sizeof(Control)))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), ctypes.sizeof(Control))
        self.control: Any = Control.from_buffer(self._map)
        self.control.count = count
        self.control.fail_gpu = -1
        self.control.driver = b"575.57.08"
        self.control.generation = 1
        for index in range(count):
            self._equip(index)

    def gpu(self, index: int) -> Any:
        return self.control.gpus[index]

    def uuid(self, index: int) -> bytes:
        """The 16 bytes of a GPU's UUID."""
        return uuid.uuid5(uuid.NAMESPACE_OID, f"gpu {index}").bytes

    def xid(self, index: int, code: int) -> None:
        """Raise an XID."""
        slot = self.control.xids[self.control.xid_head % MAX_XIDS]
        slot.gpu, slot.code = index, code
        self.control.xid_head += 1

    def reload_driver(self) -> None:
        """The driver under the library goes and comes back; counters begin again."""
        for index in range(self.control.count):
            self.gpu(index).energy_mj = 0
        self.control.generation += 1

    def _equip(self, index: int) -> None:
        gpu = self.gpu(index)
        gpu.present, gpu.gpm, gpu.nvlinks, gpu.links_active = 1, 1, 18, 18
        gpu.power_mw, gpu.instant_mw = 301_000 + 1000 * index, 305_500
        gpu.temp, gpu.temp_mem, gpu.sm_mhz, gpu.mem_mhz = 41 + index, 50, 1980, 2619
        gpu.util, gpu.mem_util, gpu.margin = 87, 25, 46
        gpu.pcie_gen, gpu.pcie_gen_max, gpu.pcie_width, gpu.pcie_width_max = 5, 5, 16, 16
        gpu.limit_mw, gpu.limit_default_mw, gpu.limit_max_mw = 700_000, 700_000, 700_000
        gpu.energy_mj, gpu.reasons = 5_000_000_000 + index, 0x4
        gpu.fb_total, gpu.fb_used, gpu.fb_reserved = 80 << 30, 10 << 30, 1 << 30
        gpu.processes, gpu.fabric_state, gpu.replay = 2, 3, 7
        gpu.uuid = f"GPU-{uuid.UUID(bytes=self.uuid(index))}".encode()
        gpu.serial = f"16503230{index:04d}".encode()
        gpu.name = b"NVIDIA H100 80GB HBM3"
        gpu.bus = f"00000000:{0x10 + index:02X}:00.0".encode()
        for metric in range(GPM_METRICS):
            gpu.gpm_values[metric] = -1.0
        for metric, value in GPM.items():
            gpu.gpm_values[metric] = value


GPM = {
    1: 87.5,
    2: 75.0,
    3: 50.0,
    5: 62.5,
    10: 25.0,
    11: 0.0,
    12: 12.5,
    13: 6.25,
    20: 100.0,
    21: 200.0,
    60: 3.0,
    61: 4.0,
}
"""GPM metric -> percent or MiB/s, as an H100 has them (no link to a Grace CPU)."""
