"""NVML through nvidia-ml-py: loading it, telling its errors apart, and sharing it between two threads."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from producers.agent.sources.base import SourceError

NVML_SUCCESS = 0
UNSUPPORTED = frozenset({2, 3, 4, 13, 25, 26})
"""Invalid argument, not supported, no permission, function not found, version mismatch, deprecated: asking again
will not help until the driver is another one."""
GPU_GONE = frozenset({6, 15, 16, 28})
"""Not found, GPU is lost, reset required, GPU not found."""
DRIVER_GONE = frozenset({1, 9, 18})
"""Uninitialized, driver not loaded, library and driver versions differ."""
TIMEOUT = 10
FUNCTION_NOT_FOUND = 13


class DriverGoneError(Exception):
    """The driver under the library went away; everything must be opened anew."""


class GpuGoneError(Exception):
    """This GPU cannot be reached any more."""


def load(path: Path | None = None) -> Any:
    """The pynvml module, bound to the library at ``path`` if one is given. SourceError when either is missing."""
    try:
        import pynvml
    except ImportError:
        raise SourceError(
            "nvidia-ml-py is not installed: pip install 'gpufleet[agent]', or leave nvml out of the sources"
        ) from None
    if path is not None:
        try:
            # Loaded under its own name first, it is what nvidia-ml-py finds when it asks for libnvidia-ml.so.1.
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise SourceError(f"cannot load NVML from {path}: {error}") from None
    return pynvml


def init(pynvml: Any) -> None:
    """Initialise the library. SourceError says what is missing."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise SourceError(f"NVML does not start: {error} ({hint(error.value)})") from None


def hint(code: int) -> str:
    """What a person can do about an NVML error."""
    return {
        9: "load the NVIDIA driver",
        12: "libnvidia-ml.so.1 was not found: install the NVIDIA driver",
        18: "the driver was updated under the running agent: restart the agent to load the new library",
        4: "run the agent with access to /dev/nvidiactl and /dev/nvidia*",
    }.get(code, f"NVML error {code}")


class Gate:
    """Lets the event thread use the library only between the sampler's initialisations.

    NVML counts initialisations, so it starts anew only when both threads have let go of it.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._changed = threading.Condition()
        self._closed = True
        self._inside = 0

    @contextmanager
    def hold(self, timeout_s: float) -> Iterator[int | None]:
        """Use the library; yields its generation, or None when it does not open within ``timeout_s``.

        Whoever holds must let go soon after ``generation`` has moved on.
        """
        with self._changed:
            entered = self._changed.wait_for(lambda: not self._closed, timeout_s)
            self._inside += entered
            generation = self.generation
        try:
            yield generation if entered else None
        finally:
            with self._changed:
                self._inside -= entered
                self._changed.notify_all()

    def open(self) -> None:
        """The library is initialised."""
        with self._changed:
            self._closed = False
            self._changed.notify_all()

    def close(self, timeout_s: float) -> bool:
        """Ask holders to let go; whether they did in time. One that hangs in the driver is not waited for."""
        with self._changed:
            self._closed = True
            self.generation += 1
            return self._changed.wait_for(lambda: self._inside == 0, timeout_s)
