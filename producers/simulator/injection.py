"""Faults on request: which there are, whether a request makes sense, and how it begins."""

from __future__ import annotations

from typing import Any

from producers.simulator.incidents import INCIDENTS
from producers.simulator.reading import nearest
from producers.simulator.story import fail_coolant, leak_coolant, trip_feed
from producers.simulator.world import World

ASSET_FAULTS = {
    "coolant": "a coolant loop's pump fails to 30 % of its flow (--asset CDU)",
    "coolant_leak": "a coolant loop leaks and loses a third of its flow (--asset CDU)",
    "feed_trip": "a power feed trips (--asset FEED)",
}
DEFAULT_S = 600
"""How long an asset's fault lasts when no time is given."""


class InjectionError(ValueError):
    """A request for a fault that cannot be; the message names the nearest that can."""


def available() -> dict[str, str]:
    """Every fault by name, with what it does."""
    return {**{name: incident.what for name, incident in INCIDENTS.items()}, **ASSET_FAULTS}


def check(fault: str, node: str | None, gpu: int | None, asset: str | None, fleet: dict[str, Any]) -> None:
    """InjectionError unless the fault exists and so do its node and GPU, or its asset, in the announced fleet."""
    if fault not in available():
        known = ", ".join(available())
        raise InjectionError(f"no fault {fault!r}, expected one of: {known}" + nearest(fault, available()))
    if fault in ASSET_FAULTS:
        assets: list[str] = fleet["feeds"] if fault == "feed_trip" else fleet["cdus"]
        if asset is None:
            raise InjectionError(f"{fault} needs --asset, one of: {', '.join(assets[:8])}")
        if asset not in assets:
            raise InjectionError(f"no asset {asset!r} for {fault}" + nearest(asset, assets))
        return
    nodes: dict[str, int] = fleet["nodes"]
    if node is None:
        raise InjectionError(f"{fault} needs --node, for example {next(iter(nodes))}")
    if node not in nodes:
        raise InjectionError(f"no node {node!r} in scenario {fleet['scenario']!r}" + nearest(node, nodes))
    if gpu is not None and not 0 <= gpu < nodes[node]:
        raise InjectionError(f"node {node} has GPUs 0 to {nodes[node] - 1}, found --gpu {gpu}")


def begin(world: World, now_us: int, request: dict[str, Any]) -> bool:
    """Begin a requested fault; False for a request that names nothing there is."""
    fault, duration = request.get("fault", ""), request.get("duration_s")
    duration_us = None if duration is None else max(1, int(duration * 1_000_000))
    fleet = world.fleet
    if fault in ASSET_FAULTS:
        assets = fleet.feeds if fault == "feed_trip" else fleet.cdus
        if request.get("asset") not in assets:
            return False
        act = {"coolant": fail_coolant, "coolant_leak": leak_coolant, "feed_trip": trip_feed}[fault]
        act(world, now_us, assets.index(request["asset"]), now_us + (duration_us or DEFAULT_S * 1_000_000))
    else:
        node = fleet.find(str(request.get("node")))
        gpu = request.get("gpu") or 0
        if fault not in INCIDENTS or node is None or not 0 <= gpu < node.gpus:
            return False
        INCIDENTS[fault].begin(world, now_us, node, gpu, duration_us)
    world.truth.note("injected", at=now_us, **{key: value for key, value in request.items() if value is not None})
    return True
