"""Slow counters of a slice: errors, remapped rows, links, throttle times, NIC counters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.simulator.physics import HW_SLOWDOWN, HW_THERMAL, POWER_BRAKE, SW_POWER_CAP, SW_THERMAL
from producers.simulator.randomness import generator
from producers.simulator.state import SliceState

Array = NDArray[Any]

_SBE_PER_GPU_HOUR = 0.004
"""Corrected memory errors of a sound GPU."""
_LIFE = ("ecc_sbe_aggregate", "ecc_dbe_aggregate", "remapped_rows_uncorrectable", "remapped_rows_correctable")
_LOAD = (
    "ecc_sbe_volatile",
    "ecc_dbe_volatile",
    "pcie_replay",
    "nvlink_crc_flit_errors",
    "nvlink_crc_data_errors",
    "nvlink_replay_errors",
    "nvlink_recovery_errors",
    "violation_power_ns",
    "violation_thermal_ns",
    "violation_sync_boost_ns",
    "violation_board_limit_ns",
    "violation_low_util_ns",
    "violation_reliability_ns",
)
"""Counters that restart with the driver."""
_STATES = ("ecc_sram_threshold", "row_remap_failure", "row_remap_pending", "recovery_action")
NIC_COUNTERS = (
    "nic_link_downed",
    "nic_np_cnp_sent",
    "nic_rp_cnp_handled",
    "nic_out_of_sequence",
    "nic_packet_seq_err",
    "nic_local_ack_timeout_err",
    "nic_rx_discards",
    "nic_tx_discards",
    "nic_pause_rx",
)
"""Ethernet (RoCE) counters; the fleet has no InfiniBand."""


class Counters:
    """``gpu`` holds (n, g) int64 arrays by field name, ``nic`` (n, m) ones."""

    def __init__(self, state: SliceState, seed: int) -> None:
        self._state, self._seed = state, seed
        n, g = state.row.shape
        m = state.shape.nics
        rng = generator(seed, "counters", state.number)
        self.gpu = {name: np.zeros((n, g), np.int64) for name in (*_LIFE, *_LOAD, *_STATES)}
        self.gpu["ecc_sbe_aggregate"] += rng.poisson(2.0, (n, g))
        self.gpu["remapped_rows_correctable"] += rng.random((n, g)) < 0.01
        self.gpu["pcie_link_gen"] = np.full((n, g), state.shape.model.pcie_gen, np.int64)
        self.gpu["pcie_link_width"] = np.full((n, g), 16, np.int64)
        self.gpu["nvlink_links_active"] = np.full((n, g), state.shape.model.nvlinks, np.int64)
        self.nic = {name: np.zeros((n, m), np.int64) for name in NIC_COUNTERS}
        self.nic["nic_link_up"] = np.ones((n, m), np.int64)

    def throttled(self, reasons: Array, tick_s: float) -> None:
        """Add the time that clock event reasons (n, g, ticks) held the GPUs back, as the driver's counters do."""
        if not (reasons & ~1).any():
            return
        tick_ns = int(tick_s * 1e9)
        for field, bits in (
            ("violation_power_ns", SW_POWER_CAP | POWER_BRAKE),
            ("violation_thermal_ns", SW_THERMAL | HW_THERMAL | HW_SLOWDOWN),
        ):
            self.gpu[field] += ((reasons > 0) & (reasons & bits > 0)).sum(axis=2) * tick_ns

    def minute(self, at_us: int, seconds: float, nic_load: Array) -> None:
        """What accrues without a fault in ``seconds``: corrected errors and congestion, by the NICs' load (n,)."""
        rng = generator(self._seed, "accrual", self._state.number, at_us)
        n, g = self._state.row.shape
        hits = int(rng.poisson(_SBE_PER_GPU_HOUR * n * g * seconds / 3600))
        for _ in range(hits):
            place = (int(rng.integers(n)), int(rng.integers(g)))
            self.gpu["ecc_sbe_volatile"][place] += 1
            self.gpu["ecc_sbe_aggregate"][place] += 1
        shape = self.nic["nic_np_cnp_sent"].shape
        busy = nic_load[:, None] * seconds
        marked = rng.poisson(np.broadcast_to(busy * 40, shape))
        self.nic["nic_np_cnp_sent"] += marked
        self.nic["nic_rp_cnp_handled"] += rng.poisson(np.broadcast_to(busy * 38, shape))
        self.nic["nic_pause_rx"] += rng.poisson(np.broadcast_to(busy * 3, shape))
        self.nic["nic_out_of_sequence"] += rng.poisson(np.broadcast_to(busy * 0.02, shape))

    def driver_reload(self, position: int, gpu: int | None, now_us: int) -> None:
        """Counters of the driver's load restart, waiting row remaps take effect, energy begins anew."""
        where = (position, slice(None) if gpu is None else gpu)
        for name in (*_LOAD, "row_remap_pending", "recovery_action", "ecc_sram_threshold"):
            self.gpu[name][where] = 0
        self._state.energy[where] = 0
        self._state.agent_epoch[where] = now_us
