"""NVML: every GPU metric the driver offers, sampled at the tick, and what the inventory wants to know.

A metric that a GPU does not support is asked for once and then left alone. A GPU that is lost keeps its place and is
looked for again; a driver that went away is waited for, and its return begins a new driver epoch.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from producers.agent.clock import Clock
from producers.agent.gpus import pci_text, uuid_bytes, uuid_text
from producers.agent.sources import nvml_library as library
from producers.agent.sources.base import GpuDevice, Number, Sample, SourceError
from producers.agent.sources.nvml_gpm import GpmPair
from producers.agent.sources.nvml_library import DRIVER_GONE, GPU_GONE, UNSUPPORTED, DriverGoneError, Gate, GpuGoneError
from producers.agent.sources.nvml_metrics import FAST, SLOW, Reader, fabric_info, memory_info, nvlink_count

LOOK_AGAIN_S = 60.0
"""A lost GPU often comes back only for a library that starts anew; try that this often."""
_NO_CLUSTER = bytes(16)


@dataclass(slots=True)
class _Device:
    """A GPU as NVML holds it."""

    handle: Any
    info: GpuDevice
    gpm: GpmPair | None = None
    unsupported: set[str] = field(default_factory=set)
    lost: bool = False


class NvmlSampler:
    """The NVML source. ``gate`` is shared with the thread that waits for XIDs."""

    name = "nvml"
    period_s = 0.0
    deadline_s = 5.0
    stale_after_s = 2.5

    def __init__(self, clock: Clock, gate: Gate, path: Path | None = None) -> None:
        self._clock = clock
        self._path = path
        self._gate = gate
        self._pynvml: Any = None
        self._request: Any = None
        self._devices: dict[bytes, _Device] = {}
        self._described: dict[str, str] = {}
        self._driver_went = False
        self._looked_at = 0.0

    def open(self) -> None:
        self._pynvml = library.load(self._path)
        library.init(self._pynvml)
        try:
            self._request = self._pynvml.c_nvmlGpmMetricsGet_t()
            self._described = self._describe_driver()
            self._devices = self._enumerate(self._devices)
        except self._pynvml.NVMLError as error:
            self.close()
            raise SourceError(f"NVML failed while it listed the GPUs: {error}") from None
        self._looked_at = self._clock.mono_s()
        self._gate.open()

    def close(self) -> None:
        if self._pynvml is None:
            return
        self._gate.close(3.0)
        for device in self._devices.values():
            if device.gpm is not None:
                device.gpm.close()
                device.gpm = None
        with contextlib.suppress(self._pynvml.NVMLError):  # the driver may be gone, and nothing left to let go of
            self._pynvml.nvmlShutdown()
        self._pynvml = None

    def sample(self, slow: bool) -> Sample:
        if slow and self._lost() and self._clock.mono_s() - self._looked_at > LOOK_AGAIN_S:
            self._start_anew()
        try:
            sample = self._read_all(slow)
        except DriverGoneError as gone:
            self._driver_went = True
            try:
                self._start_anew()
            except SourceError as error:
                raise SourceError(f"the driver went away ({gone}); {error}") from None
            sample = self._read_all_or_fail(slow)
        sample.driver_reloaded, self._driver_went = self._driver_went, False
        return sample

    def _start_anew(self) -> None:
        self.close()
        self.open()

    def _read_all_or_fail(self, slow: bool) -> Sample:
        try:
            return self._read_all(slow)
        except DriverGoneError as gone:
            raise SourceError(f"the driver went away again at once: {gone}") from None

    def _lost(self) -> bool:
        return any(device.lost for device in self._devices.values())

    def _read_all(self, slow: bool) -> Sample:
        sample = Sample(has_gpus=True, described=dict(self._described))
        for uuid, device in self._devices.items():
            try:
                if device.lost:
                    self._find_again(uuid, device, slow)
                values = self._read(device, slow)
            except GpuGoneError:
                device.lost = True
                continue
            sample.gpu[uuid] = values
        sample.gpus = [device.info for device in self._devices.values() if not device.lost]
        return sample

    def _read(self, device: _Device, slow: bool) -> dict[str, Number]:
        values: dict[str, Number] = {}
        for readers in (FAST, SLOW) if slow else (FAST,):
            for reader in readers:
                if reader.name not in device.unsupported:
                    values |= self._ask(device, reader)
        if device.gpm is not None and "gpm" not in device.unsupported:
            gpm = device.gpm
            values |= self._ask(device, Reader("gpm", lambda _pynvml, _handle: gpm.read(slow)))
        return values

    def _ask(self, device: _Device, reader: Reader) -> dict[str, Number]:
        try:
            return reader.read(self._pynvml, device.handle)
        except self._pynvml.NVMLError as error:
            self._judge(error)
            if error.value in UNSUPPORTED:
                device.unsupported.add(reader.name)
            return {}  # a passing failure: no reading this time

    def _judge(self, error: Any) -> None:
        if error.value in DRIVER_GONE:
            raise DriverGoneError(f"{error}, {library.hint(error.value)}") from None
        if error.value in GPU_GONE:
            raise GpuGoneError(str(error)) from None

    def _find_again(self, uuid: bytes, device: _Device, slow: bool) -> None:
        """Take a lost GPU back, if the driver can reach it; GpuGoneError when not."""
        if not slow:
            raise GpuGoneError
        pynvml = self._pynvml
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid_text(uuid).encode())
            pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
            found = self._describe(handle, device.info.index)
        except pynvml.NVMLError as error:
            self._judge(error)
            raise GpuGoneError(str(error)) from None
        device.handle, device.info, device.gpm = found.handle, found.info, found.gpm
        device.unsupported, device.lost = found.unsupported, False

    def _enumerate(self, known: dict[bytes, _Device]) -> dict[bytes, _Device]:
        """The GPUs the driver lists, and those it once listed, as lost."""
        pynvml = self._pynvml
        devices = {uuid: _Device(None, old.info, lost=True) for uuid, old in known.items()}
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                device = self._describe(pynvml.nvmlDeviceGetHandleByIndex(index), index)
            except pynvml.NVMLError as error:
                if error.value in DRIVER_GONE:
                    raise
                continue  # counted, but not reachable: lost, if it was ever seen
            devices[device.info.uuid] = device
        return devices

    def _describe(self, handle: Any, index: int) -> _Device:
        pynvml = self._pynvml
        uuid = uuid_bytes(_text(pynvml.nvmlDeviceGetUUID(handle)))
        info = GpuDevice(
            uuid=uuid,
            index=index,
            name=_text(pynvml.nvmlDeviceGetName(handle)),
            pci_address=pci_text(_text(pynvml.nvmlDeviceGetPciInfo(handle).busId)),
            serial=_text(self._optional("", pynvml.nvmlDeviceGetSerial, handle)),
            vbios=_text(self._optional("", pynvml.nvmlDeviceGetVbiosVersion, handle)),
            memory_bytes=self._optional(-1, lambda h: memory_info(pynvml, h).total, handle),
            power_limit_w=self._optional(float("nan"), _limit_w(pynvml.nvmlDeviceGetPowerManagementLimit), handle),
            power_limit_max_w=self._optional(
                float("nan"), lambda h: pynvml.nvmlDeviceGetPowerManagementLimitConstraints(h)[1] / 1000.0, handle
            ),
            ecc_enabled=self._optional(-1, lambda h: pynvml.nvmlDeviceGetEccMode(h)[0], handle),
            mig_enabled=self._optional(-1, lambda h: pynvml.nvmlDeviceGetMigMode(h)[0], handle),
            nvlink_count=self._optional(-1, lambda h: nvlink_count(pynvml, h), handle),
        )
        fabric = self._optional(None, lambda h: fabric_info(pynvml, h), handle)
        if fabric is not None and bytes(fabric.clusterUuid) != _NO_CLUSTER:
            self._described["nvlink_domain"] = f"{bytes(fabric.clusterUuid).hex()}.{fabric.cliqueId}"
        return _Device(handle, info, GpmPair.open(pynvml, handle, self._request))

    def _describe_driver(self) -> dict[str, str]:
        pynvml = self._pynvml
        cuda = self._optional(0, lambda _: pynvml.nvmlSystemGetCudaDriverVersion_v2(), None)
        return {
            "driver_version": _text(self._optional("", lambda _: pynvml.nvmlSystemGetDriverVersion(), None)),
            "cuda_version": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
        }

    def _optional(self, missing: Any, call: Any, handle: Any) -> Any:
        """What ``call`` returns, or ``missing`` where the GPU does not have it."""
        try:
            return call(handle)
        except self._pynvml.NVMLError as error:
            if error.value in DRIVER_GONE | GPU_GONE:
                raise
            return missing


def _limit_w(call: Any) -> Any:
    return lambda handle: call(handle) / 1000.0


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
