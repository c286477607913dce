"""What the node is made of, as inventory events: at the start, on change, once a day."""

from __future__ import annotations

from typing import Any

from producers.agent.gpus import Gpus
from producers.agent.settings import Place
from producers.agent.sources.base import Sample

DAY_S = 86_400.0


class Inventory:
    """Builds the inventory's fields from the sources and knows when they are due."""

    def __init__(self, place: Place, gpus: Gpus, agent_version: str) -> None:
        self._place = place
        self._gpus = gpus
        self._version = agent_version
        self._described: dict[str, str] = {}
        self._nics: dict[str, str] = {}
        self._sent: dict[str, Any] | None = None
        self._sent_at = 0.0

    def see(self, samples: list[tuple[str, Sample]]) -> None:
        """Take over what the sources describe, best source first; what one no longer says stays known."""
        for _, sample in reversed(samples):
            self._described |= {name: text for name, text in sample.described.items() if text}
            self._nics |= sample.nic_firmware

    def due(self, now_s: float) -> dict[str, Any] | None:
        """The event's fields when the inventory changed, was never sent, or was sent a day ago (monotonic)."""
        fields = self.fields()
        # Not the event itself but its text: NaN is not equal to itself.
        if self._sent is not None and repr(fields) == repr(self._sent) and now_s - self._sent_at < DAY_S:
            return None
        self._sent, self._sent_at = fields, now_s
        return fields

    def fields(self) -> dict[str, Any]:
        """The inventory as it is known now."""
        place, devices = self._place, [slot.device for slot in self._gpus.slots]
        return {
            "asset_kind": "node",
            "slot": place.slot,
            "feed": place.feed,
            "pdu": place.pdu,
            "coolant_loop": place.coolant_loop,
            "lifecycle": place.lifecycle,
            "agent_version": self._version,
            "gpu_model": self._gpus.model,
            **{name: self._described.get(name, "") for name in DESCRIBED},
            "nic_name": sorted(self._nics),
            "nic_firmware": [self._nics[name] for name in sorted(self._nics)],
            "gpu_index": [device.index for device in devices],
            "gpu_uuid": [device.uuid for device in devices],
            "gpu_serial": [device.serial for device in devices],
            "gpu_name": [device.name for device in devices],
            "gpu_pci_address": [device.pci_address for device in devices],
            "gpu_vbios": [device.vbios for device in devices],
            "gpu_memory_bytes": [device.memory_bytes for device in devices],
            "gpu_power_limit_w": [device.power_limit_w for device in devices],
            "gpu_power_limit_max_w": [device.power_limit_max_w for device in devices],
            "gpu_ecc_enabled": [device.ecc_enabled for device in devices],
            "gpu_mig_enabled": [device.mig_enabled for device in devices],
            "gpu_nvlink_count": [device.nvlink_count for device in devices],
        }


DESCRIBED = ("nvlink_domain", "host_model", "kernel", "driver_version", "cuda_version")
"""Inventory fields about the whole node that sources describe."""
