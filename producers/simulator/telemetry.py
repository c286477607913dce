"""The fast lane: a slice's samples as node-telemetry events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.encode import Message
from producers.journal import Journal
from producers.precision import bits_of, significant_array
from producers.simulator import varint
from producers.simulator.columns import Arrays, Column, Scalars, text
from producers.simulator.events import SliceEncoder
from producers.simulator.state import SliceState
from producers.simulator.topology import Fleet
from schemas import catalogue

Array = NDArray[Any]
TOPIC = "node-telemetry"


def fixed_fields(fleet: Fleet, state: SliceState, boots: Sequence[str]) -> dict[str, list[bytes]]:
    """Fields that both lanes send and that never change while a run lasts, encoded for each node of the slice."""
    nodes = [fleet.nodes[i] for i in state.nodes.tolist()]
    g = state.shape.gpus
    index = varint.encode(g) + b"".join(varint.encode(i) for i in range(g)) + b"\x00"
    count = varint.encode(g)
    return {
        "node_id": [text(node.node_id) for node in nodes],
        "rack": [text(fleet.racks[node.rack].rack_id) for node in nodes],
        "host_boot_id": [text(boots[node.index]) for node in nodes],
        "gpu_model": [text(state.shape.model.name)] * len(nodes),
        "gpu_index": [index] * len(nodes),
        "gpu_uuid": [count + fleet.uuids[node.index, :g].tobytes() + b"\x00" for node in nodes],
    }


class TelemetryEncoder:
    """node-telemetry of one slice."""

    def __init__(
        self,
        journal: Journal,
        fleet: Fleet,
        state: SliceState,
        boots: Sequence[str],
        schema_id: int | None = None,
    ) -> None:
        names = [fleet.nodes[i].node_id for i in state.nodes.tolist()]
        fixed = fixed_fields(fleet, state, boots)
        self._encoder = SliceEncoder(journal, TOPIC, names, fixed, schema_id)
        self._bits = bits_of(catalogue.latest(TOPIC))
        self._state = state

    def encode(
        self,
        chosen: Array | None,
        ts: int,
        ticks: int,
        interval_ms: int,
        gpu: Mapping[str, Array],
        host: Mapping[str, Array],
    ) -> list[Message]:
        """Messages of the chosen nodes. ``gpu`` values are (n, g, ticks), ``host`` values (n, ticks) or (n, 1)."""
        state = self._state
        n = len(state.nodes)
        columns: dict[str, Column] = {
            "interval_ms": Scalars(np.full(n, interval_ms)),
            "ticks": Scalars(np.full(n, ticks)),
            "driver_epoch": Arrays(state.agent_epoch),
            "clock_offset_s": Scalars(state.clock_offset),
            "clock_synced": Scalars(-state.clock_synced.astype(np.int64)),  # true is byte 1, the varint of -1
        }
        for name, values in gpu.items():
            columns[name] = self._rounded(name, values.reshape(n, -1))
        for name, values in host.items():
            columns[name] = self._rounded(name, values)
        return self._encoder.encode(chosen, ts, ticks, columns)

    def _rounded(self, name: str, values: Array) -> Arrays:
        bits = self._bits.get(name)
        if bits is None:
            return Arrays(values)
        return Arrays(significant_array(np.ascontiguousarray(values, np.float32), bits))
