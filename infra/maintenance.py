"""Maintenance as people declare it: which nodes there are, what the store knows of their state, and what changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

TOPIC: Final = "node-events"
BEGIN: Final = "maintenance_begin"
END: Final = "maintenance_end"
_NODES: Final = """SELECT toString(node_id), toString(rack), toString(tenant), gpu_index
FROM gpufleet.node_place FINAL
WHERE site = {site:String} AND notEmpty(gpu_index)"""
# Whole nodes and single GPUs by themselves: an end for one is no end for the other.
_UNDER_WAY: Final = f"""SELECT toString(node_id), gpu_index, ts_, message_, producer_
FROM
(
    SELECT node_id, gpu_index, max(ts) AS ts_, argMax(toString(event), (ts, run_id, seq)) AS event_,
        argMax(message, (ts, run_id, seq)) AS message_, argMax(producer_id, (ts, run_id, seq)) AS producer_
    FROM gpufleet.node_events FINAL
    WHERE site = {{site:String}} AND flaws = 0 AND event IN ('{BEGIN}', '{END}')
    GROUP BY node_id, gpu_index
)
WHERE event_ = '{BEGIN}'
ORDER BY ts_, node_id, gpu_index"""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that the inventory knows."""

    rack: str
    tenant: str
    """Who leases it now; empty = nobody."""
    gpus: frozenset[int]


@dataclass(frozen=True, slots=True)
class UnderWay:
    """Maintenance that has begun and not ended."""

    node: str
    gpu: int | None
    """None = the whole node."""
    since: datetime
    reason: str
    said_by: str
    """Producer of the event: maintenance-cli@HOST, or whatever else tells of maintenance."""


@dataclass(frozen=True, slots=True)
class Change:
    """One event to send."""

    event: str
    node: str
    rack: str
    tenant: str
    gpu: int | None
    reason: str

    def fields(self) -> dict[str, Any]:
        """As the schema of node-events has them."""
        return {
            "node_id": self.node,
            "rack": self.rack,
            "event": self.event,
            "source": "operator",
            "gpu_index": self.gpu,
            "message": self.reason,
        }

    def __str__(self) -> str:
        verb = "begins" if self.event == BEGIN else "ends"
        leased = f"; leased to {self.tenant}: not delivered meanwhile" if self.tenant and self.event == BEGIN else ""
        return f"maintenance {verb}: {place(self.node, self.gpu)}{leased}"


def place(node: str, gpu: int | None) -> str:
    """A node, or a GPU of it, in words."""
    return node if gpu is None else f"{node} GPU {gpu}"


def nodes(client: Client, site: str) -> dict[str, Node]:
    """The nodes of a site with GPUs, by name."""
    rows = client.query(_NODES, parameters={"site": site}).result_rows
    return {node: Node(rack, tenant, frozenset(gpus)) for node, rack, tenant, gpus in rows}


def under_way(client: Client, site: str) -> list[UnderWay]:
    """What is in maintenance by its own events, the longest first."""
    return [UnderWay(*row) for row in client.query(_UNDER_WAY, parameters={"site": site}).result_rows]


def beginning(
    known: Mapping[str, Node], now: Collection[UnderWay], names: Sequence[str], gpu: int | None, reason: str
) -> list[Change]:
    """What has to be told so that these are in maintenance; nothing of what is already.

    LookupError for a GPU that a node does not have.
    """
    for name in names:
        if gpu is not None and gpu not in known[name].gpus:
            raise LookupError(f"{name} has no GPU {gpu}: it has {', '.join(map(str, sorted(known[name].gpus)))}")
    running = {(each.node, each.gpu) for each in now}
    return [
        Change(BEGIN, name, known[name].rack, known[name].tenant, gpu, reason)
        for name in names
        if (name, gpu) not in running
    ]


def ending(
    known: Mapping[str, Node], now: Collection[UnderWay], names: Sequence[str], gpu: int | None, reason: str
) -> list[Change]:
    """What has to be told so that these are back. An end also closes the open faults of its node or GPU, so that
    LookupError is raised for what the store knows of no beginning of."""
    running = {(each.node, each.gpu) for each in now}
    for name in names:
        if (name, gpu) not in running:
            raise LookupError(
                f"{place(name, gpu)} is not in maintenance, as far as the store knows (seconds behind the log); "
                "`gpufleet maintenance list` shows what is"
            )
    return [Change(END, name, known[name].rack, known[name].tenant, gpu, reason) for name in names]
