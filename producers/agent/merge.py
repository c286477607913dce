"""Several sources' samples as one picture of the node.

Precedence is the order of the sources (``PRECEDENCE``), value by value: NVML is read at the tick, dcgm-exporter
repeats what DCGM sampled up to its own interval ago. So dcgm-exporter fills only what NVML has no reading of, for
instance profiling metrics where GPM is missing. When a counter changes hands, a value below the one sent before is
left out: two sources read the same counter at different times, and a step back would look like a restart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from producers.agent.gpus import Gpus
from producers.agent.sources.base import Number, Sample

PRECEDENCE = ("nvml", "dcgm", "host", "nic")


@dataclass(slots=True)
class Picture:
    """The node at one tick. ``gpu`` is parallel to the slots of ``Gpus`` at that time."""

    gpu: list[dict[str, Number]] = field(default_factory=list)
    node: dict[str, Number] = field(default_factory=dict)
    nic: dict[str, dict[str, Number]] = field(default_factory=dict)
    source_of: dict[str, str] = field(default_factory=dict)
    """Field -> the best source that delivered it for some GPU."""


class Merger:
    """Merges the samples of one lane, tick after tick."""

    def __init__(self, gpus: Gpus, counters: frozenset[str]) -> None:
        self._gpus = gpus
        self._counters = counters
        self._sent: dict[tuple[bytes, int, str], tuple[str, Number]] = {}

    def merge(self, samples: list[tuple[str, Sample]]) -> Picture:
        """``samples`` best source first."""
        picture = Picture()
        for slot in self._gpus.slots:
            values: dict[str, Number] = {}
            if not slot.lost:
                for source, sample in samples:
                    self._fill(values, source, sample.gpu.get(slot.device.uuid), slot.device.uuid, slot.epoch, picture)
            picture.gpu.append(values)
        for _, sample in samples:
            for name, value in sample.node.items():
                picture.node.setdefault(name, value)
            for nic, readings in sample.nic.items():
                known = picture.nic.setdefault(nic, {})
                for name, value in readings.items():
                    known.setdefault(name, value)
        return picture

    def _fill(
        self,
        values: dict[str, Number],
        source: str,
        read: dict[str, Number] | None,
        uuid: bytes,
        epoch: int,
        picture: Picture,
    ) -> None:
        if not read:
            return
        for name, value in read.items():
            if name in values:
                continue
            if name in self._counters:
                key = (uuid, epoch, name)
                sender, sent = self._sent.get(key, (source, value))
                if sender != source and value < sent:
                    continue
                self._sent[key] = source, value
            values[name] = value
            picture.source_of.setdefault(name, source)
