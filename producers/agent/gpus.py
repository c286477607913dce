"""The node's GPUs by UUID: a GPU keeps its index for as long as the agent runs, also while it is lost."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from producers.agent.facts import Fact, Post
from producers.agent.sources.base import GpuDevice, Number, Sample
from producers.agent.state import write_atomically

_MODEL = re.compile(r"\b(G?B\d{3}|GH\d{3}|[HABLTVP]\d{1,3}[SE]?)\b")


def model_of(name: str) -> str:
    """The fleet's name for a product: ``NVIDIA H100 80GB HBM3`` -> ``H100``; without such a part, all of it."""
    found = _MODEL.search(name)
    return found.group(1) if found else name.removeprefix("NVIDIA ").strip()


def uuid_bytes(text: str) -> bytes:
    """The 16 bytes of ``GPU-xxxxxxxx-xxxx-...``. ValueError when it is not one."""
    raw = bytes.fromhex(text.removeprefix("GPU-").replace("-", ""))
    if len(raw) != 16:
        raise ValueError(f"expected a GPU UUID, found {text!r}")
    return raw


def uuid_text(raw: bytes) -> str:
    """The driver's form of a UUID."""
    digits = raw.hex()
    return f"GPU-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def pci_text(text: str) -> str:
    """A PCI address as the schema has it, domain:bus:device.function, from any of the forms drivers print."""
    address, _, function = text.strip().lower().partition(".")
    parts = address.split(":")
    if len(parts) == 2:
        parts.insert(0, "0000")
    domain = parts[0][-4:] if len(parts[0]) > 4 and not parts[0][:-4].strip("0") else parts[0]
    return f"{domain.rjust(4, '0')}:{':'.join(parts[1:])}.{function or '0'}"


@dataclass(slots=True)
class Slot:
    """A GPU's place in every array of this agent."""

    device: GpuDevice
    epoch: int
    """Microseconds since 1970 when this load of its driver was first seen."""
    lost: bool = False


class EpochFile:
    """Driver epochs on disk, so that a restarted agent does not cut counters that went on.

    A GPU's epoch still holds when the host has not rebooted and its energy counter has not gone back.
    """

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id
        self._known: dict[str, tuple[int, int]] = {}
        try:
            stored = json.loads(path.read_text())
            if stored["boot_id"] == boot_id:
                self._known = {uuid: (int(epoch), int(energy)) for uuid, (epoch, energy) in stored["gpus"].items()}
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no file yet, or one that cannot be read: every epoch begins now

    def recall(self, uuid: bytes, energy_j: Number | None) -> int | None:
        """The epoch of a GPU whose counter stands at ``energy_j`` now, if the one on disk still holds."""
        epoch, energy = self._known.get(uuid.hex(), (None, 0))
        return epoch if epoch is not None and energy_j is not None and energy_j >= energy else None

    def store(self, gpus: Mapping[bytes, tuple[int, int]]) -> None:
        """Keep UUID -> (epoch, energy in J)."""
        text = json.dumps({"boot_id": self._boot_id, "gpus": {uuid.hex(): list(known) for uuid, known in gpus.items()}})
        with contextlib.suppress(OSError):  # a full disk: the next run may begin new epochs
            write_atomically(self._path, text)


class Gpus:
    """Every GPU seen in this run, in the order of their indices."""

    def __init__(self, epochs: EpochFile, post: Post) -> None:
        self.slots: list[Slot] = []
        self._by_uuid: dict[bytes, Slot] = {}
        self._by_pci: dict[str, Slot] = {}
        self._epochs = epochs
        self._post = post
        self._energy: dict[bytes, dict[str, int]] = {}

    @property
    def model(self) -> str:
        return model_of(self.slots[0].device.name) if self.slots else ""

    def identity(self) -> tuple[tuple[int, bytes, int], ...]:
        """What the arrays of one event must agree on: index, UUID and driver epoch of each GPU."""
        return tuple((slot.device.index, slot.device.uuid, slot.epoch) for slot in self.slots)

    def find(self, uuid: bytes | None, pci_address: str) -> Slot | None:
        """The GPU a fact is about."""
        return self._by_uuid.get(uuid) if uuid is not None else self._by_pci.get(pci_address)

    def see(self, samples: list[tuple[str, Sample]], now: int) -> None:
        """Take over what the sources see, best source first: new GPUs, changed ones, lost and found ones."""
        for source, sample in samples:
            for device in sample.gpus:
                slot = self._by_uuid.get(device.uuid)
                if slot is None:
                    self._admit(source, device, sample, now)
                elif slot.device != device and (source == "nvml" or not slot.device.serial):
                    slot.device = replace(device, index=slot.device.index)
                    self._by_pci[device.pci_address] = slot
        for source, sample in samples:
            if sample.has_gpus:
                self._judge(source, {device.uuid for device in sample.gpus}, now)
                return  # only the best source may say that a GPU is lost

    def observe(self, source: str, uuid: bytes, energy_j: int, now: int) -> None:
        """Note a GPU's energy counter; one that went back means that its driver began anew."""
        seen = self._energy.setdefault(uuid, {})
        if energy_j < seen.get(source, 0):
            self.restart(source, uuid, now, "the energy counter began again")
            seen = self._energy[uuid]
        seen[source] = energy_j

    def restart(self, source: str, uuid: bytes, now: int, why: str) -> None:
        """Begin a new driver epoch for one GPU."""
        slot = self._by_uuid[uuid]
        slot.epoch = now
        self._energy[uuid] = {}
        self._post(
            Fact(
                "driver_reload",
                source,
                now,
                gpu_uuid=uuid,
                gpu_index=slot.device.index,
                pci_address=slot.device.pci_address,
                message=f"GPU {slot.device.index}: new driver epoch, {why}",
            )
        )

    def reloaded(self, source: str, now: int) -> None:
        """The whole driver was loaded anew: one fact about the node, a new epoch for every GPU."""
        for slot in self.slots:
            slot.epoch = now
        self._energy.clear()
        self._post(Fact("driver_reload", source, now, message="the driver was loaded anew; counters begin again"))

    def save(self) -> None:
        """Keep the epochs for the agent's next run."""
        known = {}
        for slot in self.slots:
            energy = self._energy.get(slot.device.uuid)
            if energy:
                known[slot.device.uuid] = (slot.epoch, max(energy.values()))
        self._epochs.store(known)

    def _admit(self, source: str, device: GpuDevice, sample: Sample, now: int) -> None:
        taken = {slot.device.index for slot in self.slots}
        index = device.index if device.index not in taken else max(taken) + 1
        epoch = self._epochs.recall(device.uuid, sample.gpu.get(device.uuid, {}).get("energy_j"))
        slot = Slot(replace(device, index=index), now if epoch is None else epoch)
        self.slots.append(slot)
        self.slots.sort(key=lambda each: each.device.index)
        self._by_uuid[device.uuid] = slot
        self._by_pci[device.pci_address] = slot

    def _judge(self, source: str, present: set[bytes], now: int) -> None:
        for slot in self.slots:
            lost = slot.device.uuid not in present
            if lost == slot.lost:
                continue
            slot.lost = lost
            device = slot.device
            self._post(
                Fact(
                    "gpu_lost" if lost else "gpu_found",
                    source,
                    now,
                    gpu_uuid=device.uuid,
                    gpu_index=device.index,
                    pci_address=device.pci_address,
                    message=f"GPU {device.index} ({uuid_text(device.uuid)}) "
                    + ("can no longer be reached" if lost else "can be reached again"),
                )
            )
