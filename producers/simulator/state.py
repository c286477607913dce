"""The state of one slice of the fleet: what its nodes and GPUs are at this moment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from producers.simulator.randomness import generator
from producers.simulator.topology import Fleet, Shape


class SliceState:
    """Arrays over the slice's nodes (n,) and GPUs (n, g). Changed by the world, moved on by the physics."""

    def __init__(self, fleet: Fleet, number: int, start_us: int) -> None:
        self.number = number
        self.shape: Shape
        self.nodes: NDArray[np.int64]
        self.shape, self.nodes = fleet.slices[number]
        model, n, g = self.shape.model, len(self.nodes), self.shape.gpus
        rng = generator(fleet.scenario.seed, "silicon", number)
        self.row = np.zeros((n, g), np.int32)
        """Row of the load table."""
        self.resistance = np.ones((n, g), np.float32)
        """Factor on each GPU's thermal resistance: above 1 for bad contact or a clogged cold plate."""
        self.efficiency = np.clip(rng.normal(1.0, 0.02, (n, g)), 0.93, 1.07).astype(np.float32)
        """Power a GPU needs for the same work, over the model's mean: silicon differs."""
        self.memory_offset = rng.integers(0, 96, (n, g)) * (2 << 20)
        self.slow = np.ones((n, g), np.float32)
        """1 for a sound GPU, above 1 for one that works that much slower."""
        self.limit_w = np.full((n, g), model.tdp_w, np.float32)
        self.lost = np.zeros((n, g), bool)
        self.silent = np.zeros(n, bool)
        """The node sends nothing."""
        self.agent_epoch = np.full((n, g), start_us, np.int64)
        """driver_epoch of each GPU."""
        self.temperature = np.full((n, g), fleet.scenario.cooling.supply_c + 4, np.float64)
        age_s = rng.uniform(2, 40, (n, 1)) * 86_400
        self.energy = np.broadcast_to(age_s * model.tdp_w * 0.5, (n, g)) * rng.uniform(0.8, 1.2, (n, g))
        """Joules since the driver was loaded."""
        self.host_started_us = start_us - (age_s[:, 0] * 1e6).astype(np.int64) - 180_000_000
        self.clock_offset = (rng.normal(0, 3e-5, n)).astype(np.float32)
        self.clock_synced = np.ones(n, bool)
        self.host_character = rng.uniform(0.85, 1.15, n).astype(np.float32)
        """How a node's host differs from the mean: processes, memory."""
        self.node_power_w = np.full(n, np.nan)
        """All-in power of each node in the last batch, mean."""
        self.gpu_power_w = np.zeros((n, g), np.float32)
        """Board power of each GPU in the last batch, mean."""
        self.reasons = np.zeros((n, g), np.int32)
        """Clock event reasons at the last tick."""
