"""XIDs as NVML's event set reports them: the number and the GPU, with the driver's verdict read right then."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable
from typing import Any

from producers.agent.clock import Clock
from producers.agent.facts import Fact, Post
from producers.agent.gpus import pci_text, uuid_bytes
from producers.agent.sources import nvml_library as library
from producers.agent.sources.base import SourceError
from producers.agent.sources.nvml_library import TIMEOUT, UNSUPPORTED, Gate
from producers.agent.sources.nvml_metrics import recovery_action

WAIT_MS = 1000


class NvmlEventWatcher:
    """Waits for XIDs in NVML's event set."""

    name = "nvml-events"
    deadline_s = 10.0

    def __init__(self, clock: Clock, gate: Gate) -> None:
        self._clock = clock
        self._gate = gate
        self._pause = threading.Event()

    def watch(self, post: Post, alive: Callable[[], bool]) -> None:
        while True:
            with self._gate.hold(timeout_s=1.0) as generation:
                if generation is not None:
                    self._watch_generation(generation, post, alive)
            # Without the library, or with a driver that went away, wait: it is the sampler's news, not ours.
            while generation is not None and self._gate.generation == generation and alive():
                self._pause.wait(0.1)
            if not alive():
                return

    def _watch_generation(self, generation: int, post: Post, alive: Callable[[], bool]) -> None:
        pynvml = library.load()
        library.init(pynvml)
        try:
            events = pynvml.nvmlEventSetCreate()
            try:
                gpus = self._register(pynvml, events)
                while alive() and self._gate.generation == generation:
                    self._wait(pynvml, events, gpus, post)
            finally:
                pynvml.nvmlEventSetFree(events)
        except pynvml.NVMLError as error:
            if error.value in library.DRIVER_GONE:
                return
            raise SourceError(f"NVML's events failed: {error} ({library.hint(error.value)})") from None
        finally:
            with contextlib.suppress(pynvml.NVMLError):  # the driver may be gone, and with it what was to be freed
                pynvml.nvmlShutdown()

    def _register(self, pynvml: Any, events: Any) -> dict[int, tuple[bytes, str]]:
        """Ask for XIDs of every GPU; device address -> (UUID, PCI address)."""
        gpus = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
                uuid = pynvml.nvmlDeviceGetUUID(handle)
                address = pynvml.nvmlDeviceGetPciInfo(handle).busId
            except pynvml.NVMLError as error:
                if error.value in library.DRIVER_GONE:
                    raise
                continue  # a GPU without events, or a lost one: the others still count
            key = ctypes.cast(handle, ctypes.c_void_p).value or 0
            gpus[key] = (uuid_bytes(_text(uuid)), pci_text(_text(address)))
        return gpus

    def _wait(self, pynvml: Any, events: Any, gpus: dict[int, tuple[bytes, str]], post: Post) -> None:
        try:
            event = pynvml.nvmlEventSetWait_v2(events, WAIT_MS)
        except pynvml.NVMLError as error:
            if error.value != TIMEOUT:
                raise
            return
        uuid, address = gpus.get(ctypes.cast(event.device, ctypes.c_void_p).value or 0, (None, ""))
        try:
            verdict = recovery_action(pynvml, event.device)
        except pynvml.NVMLError as error:
            if error.value not in UNSUPPORTED | library.GPU_GONE:
                raise
            verdict = None
        code = int(event.eventData)
        post(
            Fact(
                "xid",
                "nvml",
                self._clock.wall_us(),
                gpu_uuid=uuid,
                pci_address=address,
                code=code,
                recovery_action=verdict,
                message=f"XID {code}",
            )
        )


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
