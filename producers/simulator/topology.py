"""Where every node stands: rack, feed, PDU, coolant loop, NVLink domain. Made once from the scenario and its seed."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from producers.simulator.models import MODELS, GpuModel
from producers.simulator.randomness import generator, stable_hash
from producers.simulator.scenario import Group, Scenario

SLICE_NODES = 1024
"""Most nodes of a slice: its arrays fit a core's cache."""


@dataclass(frozen=True, slots=True)
class Rack:
    rack_id: str
    model: GpuModel
    nodes: range
    """Indices of its nodes."""
    feed: int
    cdu: int
    pdu_id: str
    nvlink_domain: str
    """Cluster uuid and clique; empty when each node is its own domain."""
    switch_trays: int
    full_load_w: float


@dataclass(frozen=True, slots=True)
class Node:
    index: int
    node_id: str
    rack: int
    slot: int
    group: int
    gpus: int
    nics: int


@dataclass(frozen=True, slots=True)
class Shape:
    """Nodes of one shape have events of one size."""

    model: GpuModel
    gpus: int
    nics: int


@dataclass(frozen=True)
class Fleet:
    """Nodes in rack order, and the slices in which they are computed and sent.

    Arrays over nodes are in node order: ``rack_of``, ``feed_of``, ``cdu_of`` int32; ``uuids`` uint8 (nodes, most GPUs
    of a node, 16).
    """

    scenario: Scenario
    nodes: tuple[Node, ...]
    racks: tuple[Rack, ...]
    feeds: tuple[str, ...]
    cdus: tuple[str, ...]
    slices: tuple[tuple[Shape, NDArray[np.int64]], ...]
    rack_of: NDArray[np.int32]
    feed_of: NDArray[np.int32]
    cdu_of: NDArray[np.int32]
    uuids: NDArray[np.uint8]

    def find(self, node_id: str) -> Node | None:
        return next((node for node in self.nodes if node.node_id == node_id), None)

    def model(self, node: Node) -> GpuModel:
        return self.racks[node.rack].model

    def shape(self, node: Node) -> Shape:
        return Shape(self.model(node), node.gpus, node.nics)


def build(scenario: Scenario) -> Fleet:
    """The fleet of a scenario; the same for the same scenario and seed."""
    racks: list[Rack] = []
    nodes: list[Node] = []
    group_racks: list[list[int]] = []
    for number, group in enumerate(scenario.groups):
        group_racks.append(_racks_of(scenario, number, group, racks, nodes))
    cdus = _number_cdus(scenario, racks, group_racks)
    rack_of = np.array([node.rack for node in nodes], np.int32)
    rng = generator(scenario.seed, "uuid")
    most = max(group.gpus_per_node for group in scenario.groups)
    uuids = rng.integers(0, 256, (len(nodes), most, 16), np.uint8)
    uuids[..., 6] = uuids[..., 6] & 0x0F | 0x40
    uuids[..., 8] = uuids[..., 8] & 0x3F | 0x80
    return Fleet(
        scenario,
        tuple(nodes),
        tuple(racks),
        tuple(f"feed-{i + 1:02d}" for i in range(_feeds(scenario))),
        cdus,
        tuple(_slices(scenario, nodes)),
        rack_of,
        np.array([rack.feed for rack in racks], np.int32)[rack_of],
        np.array([rack.cdu for rack in racks], np.int32)[rack_of],
        uuids,
    )


def _feeds(scenario: Scenario) -> int:
    """Feeds of the scenario; a fleet scaled down has no more of them than racks."""
    racks = sum(-(-group.nodes // group.nodes_per_rack) for group in scenario.groups)
    return max(1, min(scenario.power.feeds, racks))


def _racks_of(scenario: Scenario, number: int, group: Group, racks: list[Rack], nodes: list[Node]) -> list[int]:
    prefix = group.prefix or group.model.lower()
    model = MODELS[group.model]
    made = []
    for first in range(0, group.nodes, group.nodes_per_rack):
        count = min(group.nodes_per_rack, group.nodes - first)
        ordinal = first // group.nodes_per_rack + 1
        index = len(racks)
        rack_id = f"{prefix}-r{ordinal:04d}"
        domain = uuid.uuid5(uuid.NAMESPACE_DNS, f"{scenario.site}/{rack_id}") if group.switch_trays else None
        racks.append(
            Rack(
                rack_id,
                model,
                range(len(nodes), len(nodes) + count),
                index % _feeds(scenario),
                -1,
                f"pdu-{rack_id}",
                f"{domain}.1" if domain else "",
                group.switch_trays,
                count * group.gpus_per_node * model.all_in_w,
            )
        )
        made.append(index)
        for slot in range(count):
            node_id = f"{rack_id}-n{slot + 1:02d}"
            nodes.append(Node(len(nodes), node_id, index, slot, number, group.gpus_per_node, group.nics_per_node))
    return made


def _number_cdus(scenario: Scenario, racks: list[Rack], group_racks: Sequence[list[int]]) -> tuple[str, ...]:
    """Racks of one group in a row share a distribution unit."""
    cdus: list[str] = []
    per = scenario.cooling.racks_per_cdu
    for members in group_racks:
        for first in range(0, len(members), per):
            for index in members[first : first + per]:
                old = racks[index]
                racks[index] = Rack(
                    old.rack_id,
                    old.model,
                    old.nodes,
                    old.feed,
                    len(cdus),
                    old.pdu_id,
                    old.nvlink_domain,
                    old.switch_trays,
                    old.full_load_w,
                )
            cdus.append(f"cdu-{len(cdus) + 1:03d}")
    return tuple(cdus)


def _slices(scenario: Scenario, nodes: Sequence[Node]) -> list[tuple[Shape, NDArray[np.int64]]]:
    """Nodes of one shape by a hash of their name, so that sending slice after slice spreads every rack's nodes."""
    by_shape: dict[Shape, list[Node]] = {}
    for node in nodes:
        group = scenario.groups[node.group]
        by_shape.setdefault(Shape(MODELS[group.model], node.gpus, node.nics), []).append(node)
    slices = []
    for shape, members in by_shape.items():
        count = -(-len(members) // SLICE_NODES)
        ordered = sorted(members, key=lambda node: stable_hash(node.node_id))
        bounds = np.linspace(0, len(ordered), count + 1).astype(int)
        for start, end in pairwise(bounds):
            chosen = sorted(node.index for node in ordered[start:end])
            slices.append((shape, np.array(chosen, np.int64)))
    return slices
