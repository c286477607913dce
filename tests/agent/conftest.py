"""The stub NVML library, compiled once and bound to a control file per test; and a source that plays NVML."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.bench.stub_nvml import Control, Stub, compile_stub
from tests.agent.support import Told, gpu_sample


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled libnvidia-ml.so.1."""
    library = compile_stub(tmp_path_factory.mktemp("nvml"))
    if library is None:
        pytest.skip("the stub of NVML needs a C compiler (cc), and there is none")
    return library


@pytest.fixture
def stub(stub_library: Path, tmp_path: Path) -> Iterator[Stub]:
    """Eight idle H100s behind the real nvidia-ml-py, in this process."""
    pytest.importorskip("pynvml")
    library = ctypes.CDLL(str(stub_library), mode=ctypes.RTLD_GLOBAL)  # what pynvml's dlopen by name then finds
    library.nvml_stub_size.restype = ctypes.c_size_t
    assert library.nvml_stub_size() == ctypes.sizeof(Control)
    made = Stub(tmp_path / "nvml-control")
    assert library.nvml_stub_open(str(made.path).encode()) == 0
    yield made
    made.control.hang_call = b""  # nobody may stay in the stub


@pytest.fixture
def nvml() -> Iterator[Told]:
    """A sampler of two GPUs that answers what the test tells it to."""
    told = Told("nvml", gpu_sample())
    yield told
    told.hang.set()
