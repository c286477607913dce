"""Ticks gathered into events: K consecutive ticks of one node, one array per metric in (gpu, tick) order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from producers.agent.gpus import Gpus
from producers.agent.layout import Metric, metrics
from producers.agent.merge import Picture

MINUTE_US = 60_000_000


@dataclass(frozen=True, slots=True)
class LaneEvent:
    """An event of a lane, without header, node and rack."""

    topic: str
    ts: int
    """First tick, microseconds since 1970."""
    fields: dict[str, Any]


class Lane:
    """One lane: fast (node-telemetry) or slow (node-counters).

    A window closes when it holds K ticks, at the end of the UTC minute, before a tick that is not consecutive, and
    before one with other GPUs, driver epochs or NICs. Windows start at multiples of K in the minute, so all nodes
    close theirs at the same ticks.
    """

    def __init__(self, topic: str, interval_us: int, ticks: int, gpus: Gpus) -> None:
        self.topic = topic
        self._interval = interval_us
        self._k = ticks
        self._gpus = gpus
        self._gpu_metrics = metrics(topic, "gpu_tick")
        self._node_metrics = metrics(topic, "tick")
        self._nic_metrics = metrics(topic, "nic_tick")
        self._known: set[str] = set()
        """Fields that were read at least once in this run: from then on a blank means "no reading"."""
        self._pictures: list[Picture] = []
        self._shape: tuple[Any, ...] = ()
        self._first = 0

    def add(self, tick: int, picture: Picture) -> Iterator[LaneEvent]:
        """Take a tick in; the events that are complete with it."""
        shape = (self._gpus.identity(), tuple(picture.nic) if self._nic_metrics else ())
        expected = self._first + len(self._pictures) * self._interval
        if self._pictures and (tick != expected or shape != self._shape):
            yield self._close()
        if not self._pictures:
            self._first, self._shape = tick, shape
        self._pictures.append(picture)
        position = tick % MINUTE_US // self._interval
        if (position + 1) % self._k == 0 or (position + 1) * self._interval >= MINUTE_US:
            yield self._close()

    def flush(self) -> Iterator[LaneEvent]:
        """The window as far as it goes."""
        if self._pictures:
            yield self._close()

    def _close(self) -> LaneEvent:
        pictures, self._pictures = self._pictures, []
        gpus, nics = self._shape
        epochs = [epoch for _, _, epoch in gpus]
        fields: dict[str, Any] = {
            "interval_ms": self._interval // 1000,
            "ticks": len(pictures),
            "gpu_model": self._gpus.model,
            "gpu_index": [index for index, _, _ in gpus],
            "gpu_uuid": [uuid for _, uuid, _ in gpus],
            "driver_epoch": epochs[:1] if len(set(epochs)) == 1 else epochs,
        }
        if gpus:
            for metric in self._gpu_metrics:
                self._put(fields, metric, [[gpu.get(metric.name) for gpu in picture.gpu] for picture in pictures])
        for metric in self._node_metrics:
            self._put(fields, metric, [[picture.node.get(metric.name)] for picture in pictures])
        if nics:
            fields["nic_name"] = list(nics)
            for metric in self._nic_metrics:
                rows = [[nic.get(metric.name) for nic in picture.nic.values()] for picture in pictures]
                self._put(fields, metric, rows)
        if self._node_metrics:
            last = pictures[-1].node
            fields["clock_offset_s"] = float(last.get("clock_offset_s", float("nan")))
            fields["clock_synced"] = bool(last.get("clock_synced", 0))
        return LaneEvent(self.topic, self._first, fields)

    def _put(self, fields: dict[str, Any], metric: Metric, rows: Sequence[Sequence[float | int | None]]) -> None:
        """``rows``: per tick, per GPU or NIC. Leaves a field out that the node has never had."""
        if metric.name not in self._known:
            if all(value is None for row in rows for value in row):
                return
            self._known.add(metric.name)
        fields[metric.name] = [metric.clean(value) for series in zip(*rows, strict=True) for value in series]
