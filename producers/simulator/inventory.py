"""What each node and switch tray is made of, as inventory events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from producers.simulator.randomness import stable_hash
from producers.simulator.topology import Fleet, Node
from producers.simulator.world import OPERATOR, pci_address

DRIVER, CUDA, KERNEL, AGENT = "580.95.05", "13.0", "6.8.0-1040-nvidia", "simulator"


def inventory(fleet: Fleet, boots: list[str], leased: set[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(producer, an event's fields) for every node, by itself, and every NVLink switch tray, by the operator."""
    for node in fleet.nodes:
        yield node.node_id, of_node(fleet, node, boots[node.index], "leased" if node.index in leased else "accepted")
    for rack in fleet.racks:
        for tray in range(rack.switch_trays):
            asset = {"node_id": f"{rack.rack_id}-sw{tray + 1:02d}", "asset_kind": "switch_tray"}
            host = {"host_model": "NVLink switch tray", "slot": f"sw{tray + 1:02d}", "lifecycle": "accepted"}
            yield OPERATOR, {**_place(fleet, fleet.nodes[rack.nodes[0]]), **asset, **host}


def of_node(fleet: Fleet, node: Node, boot: str, lifecycle: str) -> dict[str, Any]:
    """A node's inventory fields."""
    model = fleet.model(node)
    every = range(node.gpus)
    return {
        **_place(fleet, node),
        "node_id": node.node_id,
        "asset_kind": "node",
        "slot": f"n{node.slot + 1:02d}",
        "lifecycle": lifecycle,
        "host_boot_id": boot,
        "host_model": model.host_model,
        "kernel": KERNEL,
        "driver_version": DRIVER,
        "cuda_version": CUDA,
        "agent_version": AGENT,
        "gpu_model": model.name,
        "nic_name": [f"mlx5_{i}/1" for i in range(node.nics)],
        "nic_firmware": ["28.43.2566"] * node.nics,
        "gpu_index": list(every),
        "gpu_uuid": [fleet.uuids[node.index, gpu].tobytes() for gpu in every],
        "gpu_serial": [f"{stable_hash(f'{node.node_id}/{gpu}') % 10**13:013d}" for gpu in every],
        "gpu_name": [model.product] * node.gpus,
        "gpu_pci_address": [pci_address(gpu) for gpu in every],
        "gpu_vbios": ["96.00.A5.00.01"] * node.gpus,
        "gpu_memory_bytes": [model.memory_bytes] * node.gpus,
        "gpu_power_limit_w": [model.tdp_w] * node.gpus,
        "gpu_power_limit_max_w": [model.tdp_w] * node.gpus,
        "gpu_ecc_enabled": [1] * node.gpus,
        "gpu_mig_enabled": [0] * node.gpus,
        "gpu_nvlink_count": [model.nvlinks] * node.gpus,
    }


def _place(fleet: Fleet, node: Node) -> dict[str, Any]:
    rack = fleet.racks[node.rack]
    return {
        "rack": rack.rack_id,
        "feed": fleet.feeds[rack.feed],
        "pdu": rack.pdu_id,
        "coolant_loop": fleet.cdus[rack.cdu],
        "nvlink_domain": rack.nvlink_domain,
    }
