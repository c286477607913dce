"""Notices when clocks begin and end to be held down, and says so with node-events, as an agent does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from producers.simulator.physics import HW_SLOWDOWN, HW_THERMAL, POWER_BRAKE, SW_THERMAL
from producers.simulator.state import SliceState
from producers.simulator.world import World

_HELD = HW_SLOWDOWN | SW_THERMAL | HW_THERMAL | POWER_BRAKE
"""The software power cap is normal under load and is no event."""
_QUIET_US = 60_000_000
"""A throttle ends when nothing held the clocks for this long: control loops hover at their threshold."""


class Throttles:
    """Per GPU of one slice: since when and until when its clocks were held down."""

    def __init__(self, state: SliceState) -> None:
        self._state = state
        self._since: NDArray[np.int64] = np.zeros(state.row.shape, np.int64)
        self._last: NDArray[np.int64] = np.zeros(state.row.shape, np.int64)
        self._why: NDArray[np.int32] = np.zeros(state.row.shape, np.int32)
        self._any = False

    def see(self, world: World, now_us: int) -> None:
        """Compare with the reasons of the batch that ended at ``now_us``."""
        held = self._state.reasons & _HELD
        held[self._state.lost] = 0
        active = held > 0
        if not self._any and not active.any():
            return
        began = active & (self._since == 0)
        self._since[began] = now_us
        self._why[began] = held[began]
        self._last[active] = now_us
        ended = (self._since > 0) & ~active & (now_us - self._last >= _QUIET_US)
        for position, gpu in np.argwhere(began).tolist():
            node = world.fleet.nodes[int(self._state.nodes[position])]
            world.node_event(
                now_us, node, "throttle_begin", gpu, value=_name(int(held[position, gpu])), message="clocks held down"
            )
        for position, gpu in np.argwhere(ended).tolist():
            node = world.fleet.nodes[int(self._state.nodes[position])]
            since, last = int(self._since[position, gpu]), int(self._last[position, gpu])
            why = _name(int(self._why[position, gpu]))
            # At the end itself, as the agent does: an end before its event is a flaw.
            world.node_event(last, node, "throttle_end", gpu, value=why, ended_at=last, message="clocks free again")
            world.truth.note("throttle", node=node.node_id, gpu=gpu, why=why, at=since, until=last)
        self._since[ended] = 0
        self._any = bool((self._since > 0).any())


def _name(reasons: int) -> str:
    if reasons & (HW_SLOWDOWN | HW_THERMAL):
        return "hw_thermal"
    return "sw_thermal" if reasons & SW_THERMAL else "power_brake"
