"""Readings of the plant as facility-telemetry: the site, its feeds, rack PDUs and coolant distribution units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from producers.simulator.plant import Plant


def readings(plant: Plant, interval_ms: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """One event's fields for each asset; meters read 0.1 kW (PDU 10 W), thermometers 0.1 K."""
    fleet = plant.fleet
    site = fleet.scenario.site
    common = {"interval_ms": interval_ms}
    yield {
        **common,
        "asset_id": site,
        "asset_kind": "site",
        "power_w": round(plant.site_w, -2),
        "power_cap_w": plant.site_cap_w,
        "energy_j": float(int(plant.site_j)),
    }
    for feed, name in enumerate(fleet.feeds):
        yield {
            **common,
            "asset_id": name,
            "asset_kind": "feed",
            "parent_id": site,
            "state": "tripped" if plant.feed_tripped[feed] else "ok",
            "power_w": round(float(plant.feed_w[feed]), -2),
            "power_cap_w": round(float(plant.feed_cap_w[feed]), -2),
            "energy_j": float(int(plant.feed_j[feed])),
        }
    for number, rack in enumerate(fleet.racks):
        carrier = plant.carrier(rack.feed)
        yield {
            **common,
            "asset_id": rack.pdu_id,
            "asset_kind": "pdu",
            "parent_id": fleet.feeds[rack.feed if carrier is None else carrier],
            "rack": rack.rack_id,
            "power_w": round(float(plant.rack_w[number]), -1),
            "power_cap_w": round(rack.full_load_w * 1.2, -1),
            "energy_j": float(int(plant.rack_j[number])),
        }
    flow, back = plant.flow_lpm(), plant.return_c()
    jitter = rng.normal(0, 0.05, (3, len(fleet.cdus)))
    for cdu, name in enumerate(fleet.cdus):
        share = float(plant.flow[cdu])
        yield {
            **common,
            "asset_id": name,
            "asset_kind": "cdu",
            "parent_id": site,
            "state": "leak" if plant.leak[cdu] else "degraded" if share < 0.9 else "ok",
            "supply_temp_c": round(float(plant.supply_c[cdu] + jitter[0, cdu]), 1),
            "return_temp_c": round(float(back[cdu] + jitter[1, cdu]), 1),
            "flow_lpm": round(float(flow[cdu]) * (1 + jitter[2, cdu] / 20), 1),
            "pressure_kpa": round(140 * share**2, 1),
            "leak": bool(plant.leak[cdu]),
            "valve_open": round(min(1.0, 0.35 + 0.5 * float(plant.cdu_w[cdu] / plant.cdu_full_w[cdu])), 2),
        }
