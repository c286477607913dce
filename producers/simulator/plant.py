"""Power and cooling: feeds that trip and limit, coolant loops that warm up.

The plant follows the fleet one step behind, as its control loops do: from the power of the last batch it sets the
coolant temperature and the power limits of the next.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.simulator.physics import Environment
from producers.simulator.state import SliceState
from producers.simulator.topology import Fleet

Array = NDArray[Any]

_COOLANT_TAU_S = 90.0
_LIQUID_SHARE = 0.85
"""Share of a rack's power that leaves through the coolant."""
_OVERLOAD_GAIN = 22.0
"""Kelvin of supply temperature per unit of heat over what a distribution unit can reject."""
_FLOW_EXPONENT = 0.8
"""Convective resistance goes with flow to this power (turbulent flow, Dittus-Boelter)."""
_LITRES_PER_KWK = 60 / 3.9
"""l/min that carry one kW at a rise of one kelvin: water with 25 % propylene glycol, 3.9 kJ/(l K)."""
_BRAKE_LOWEST = 0.35
_BRAKE_RECOVERY_PER_S = 0.01


class Plant:
    """Feeds, rack PDUs and coolant distribution units (CDU). Arrays over racks, feeds and CDUs."""

    def __init__(self, fleet: Fleet, start_us: int) -> None:
        self.fleet = fleet
        cooling, power = fleet.scenario.cooling, fleet.scenario.power
        racks = fleet.racks
        self._rack_feed = np.array([rack.feed for rack in racks])
        self._rack_cdu = np.array([rack.cdu for rack in racks])
        self.rack_full_w = np.array([rack.full_load_w for rack in racks])
        feeds, cdus = len(fleet.feeds), len(fleet.cdus)
        self.feed_cap_w = np.bincount(self._rack_feed, self.rack_full_w, feeds) * power.feed_headroom
        self.site_cap_w = power.site_cap_w or float(self.feed_cap_w.sum())
        self.feed_tripped = np.zeros(feeds, bool)
        self.brake = np.ones(feeds)
        """Share of its power limit that a GPU of the feed's racks may draw."""
        self.cdu_full_w = np.bincount(self._rack_cdu, self.rack_full_w, cdus) * _LIQUID_SHARE
        self.flow = np.ones(cdus)
        """Flow of each loop over its design flow."""
        self.leak = np.zeros(cdus, bool)
        self.supply_c: Array = np.full(cdus, cooling.supply_c)
        self.rack_w: Array = np.zeros(len(racks))
        self.feed_w: Array = np.zeros(feeds)
        self.cdu_w: Array = np.zeros(cdus)
        self.rack_j, self.feed_j, self.site_j = np.zeros(len(racks)), np.zeros(feeds), 0.0
        self.started_us = start_us

    @property
    def site_w(self) -> float:
        return float(self.feed_w.sum())

    def environment(self, state: SliceState, extra_resistance: Array) -> Environment:
        """What the slice's nodes get; ``extra_resistance`` (n, g) is each GPU's own factor."""
        cdu = self.fleet.cdu_of[state.nodes]
        resistance = np.maximum(self.flow[cdu], 0.05) ** -_FLOW_EXPONENT
        brake = self.brake[self.fleet.feed_of[state.nodes]]
        return Environment(
            self.supply_c[cdu].astype(np.float32)[:, None],
            (resistance[:, None] * extra_resistance).astype(np.float32),
            brake.astype(np.float32),
        )

    def carrier(self, feed: int) -> int | None:
        """The feed that carries this feed's racks now: itself, its partner, or none."""
        partner = feed ^ 1
        if not self.feed_tripped[feed]:
            return feed
        if partner < len(self.feed_tripped) and not self.feed_tripped[partner]:
            return partner
        return None

    def follow(self, node_power_w: Array, seconds: float) -> None:
        """Take the fleet's mean power of the last ``seconds``, node by node, and move everything on."""
        self.rack_w = np.bincount(self.fleet.rack_of, node_power_w, len(self.fleet.racks))
        own = np.bincount(self._rack_feed, self.rack_w, len(self.feed_cap_w))
        self.feed_w = np.zeros(len(own))
        for feed, watts in enumerate(own):
            carrier = self.carrier(feed)
            if carrier is not None:
                self.feed_w[carrier] += watts
        self.rack_j += self.rack_w * seconds
        self.feed_j += self.feed_w * seconds
        self.site_j += self.site_w * seconds
        self._limit(seconds)
        self._cool(seconds)

    def _limit(self, seconds: float) -> None:
        """Brake the racks of an overloaded feed until it is within its cap, and let go slowly."""
        for feed in range(len(self.brake)):
            carrier = self.carrier(feed)
            load = 0.0 if carrier is None else self.feed_w[carrier] / self.feed_cap_w[carrier]
            load = max(load, self.site_w / self.site_cap_w)
            if load > 1:
                self.brake[feed] = max(_BRAKE_LOWEST, self.brake[feed] * 0.97 / load)
            elif load < 0.92:
                self.brake[feed] = min(1.0, self.brake[feed] + _BRAKE_RECOVERY_PER_S * seconds)

    def _cool(self, seconds: float) -> None:
        cooling = self.fleet.scenario.cooling
        self.cdu_w = np.bincount(self._rack_cdu, self.rack_w, len(self.flow)) * _LIQUID_SHARE
        rejected = self.cdu_full_w * cooling.headroom * np.maximum(self.flow, 0.05)
        target = cooling.supply_c + _OVERLOAD_GAIN * np.maximum(0, self.cdu_w / rejected - 1)
        self.supply_c += (np.minimum(target, 60) - self.supply_c) * (1 - math.exp(-seconds / _COOLANT_TAU_S))

    def flow_lpm(self) -> Array:
        """Flow of each loop."""
        design: Array = self.cdu_full_w / 1000 / self.fleet.scenario.cooling.rise_c * _LITRES_PER_KWK
        return design * self.flow

    def return_c(self) -> Array:
        """Coolant return temperature of each loop, from the heat it carries."""
        rise: Array = self.cdu_w / 1000 * _LITRES_PER_KWK / np.maximum(self.flow_lpm(), 1e-3)
        return self.supply_c + np.minimum(rise, 40)
