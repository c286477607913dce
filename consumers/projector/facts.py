"""Node events, inventory and allocations that came after their minute had been computed: which nodes, from when on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from consumers.projector.store import Store, rows
from consumers.projector.windows import MINUTE_S, instant, instant64

HEALTH_EVENTS = (
    "xid",
    "sxid",
    "ecc_dbe",
    "row_remap",
    "gpu_lost",
    "gpu_found",
    "link_down",
    "link_up",
    "driver_reload",
    "source_down",
    "source_up",
    "agent_start",
    "maintenance_begin",
    "maintenance_end",
    "lifecycle",
)
"""Node events that open or close a fault, a stretch out of service or an opt-out."""


@dataclass(frozen=True, slots=True)
class Change:
    """What holds for some nodes is different from ``start`` on, seconds since 1970."""

    start: int
    nodes: frozenset[str]
    health: bool
    """False: only jobs and sick GPUs follow from it."""


def changes(store: Store, topic: str, minutes: Iterable[int]) -> Iterator[Change]:
    """What the facts with event times in these minutes change, grouped by start."""
    wanted = sorted(set(minutes))
    if not wanted:
        return
    span = f"ts >= {instant64(wanted[0])} AND ts < {instant64(wanted[-1] + MINUTE_S)}"
    there = ", ".join(instant(m) for m in wanted)
    those = f"flaws = 0 AND {span} AND toStartOfMinute(toDateTime(ts, 'UTC')) IN ({there})"
    sql = _allocations(those) if topic == "allocations" else _of_nodes(topic, those)
    for start, nodes in rows(store, sql):
        yield Change(int(start), frozenset(str(n) for n in nodes), topic != "allocations")


def _of_nodes(topic: str, those: str) -> str:
    """The nodes and all of their NVLink domains: a fault may hit the whole domain."""
    table = "inventory" if topic == "inventory" else "node_events"
    kinds = "" if topic == "inventory" else f" AND event IN ({', '.join(repr(e) for e in HEALTH_EVENTS)})"
    return f"""SELECT start, groupUniqArrayArray(arrayConcat([node_id], mates)) FROM
(
    SELECT e.start AS start, e.node_id AS node_id, d.mates AS mates
    FROM
    (
        SELECT site, node_id, toUnixTimestamp(toStartOfMinute(toDateTime(min(ts), 'UTC'))) AS start
        FROM gpufleet.{table} WHERE {those}{kinds}
        GROUP BY site, node_id
    ) AS e
    LEFT JOIN (SELECT site, node_id, nvlink_domain FROM gpufleet.node_place FINAL) AS p
        ON p.site = e.site AND p.node_id = e.node_id
    LEFT JOIN
    (
        SELECT site, nvlink_domain, groupArray(node_id) AS mates
        FROM gpufleet.node_place FINAL WHERE nvlink_domain != '' GROUP BY site, nvlink_domain
    ) AS d ON d.site = p.site AND d.nvlink_domain = p.nvlink_domain
)
GROUP BY start"""


def _allocations(those: str) -> str:
    """A job first heard of holds from its start on; a later word of it from its own time, or from the end it names."""
    return f"""SELECT start, groupUniqArrayArray(nodes) FROM
(
    SELECT toUnixTimestamp(toStartOfMinute(toDateTime(least(
            min(if(a.ts = h.first_ts, a.started_at, a.ts)), min(ifNull(a.ended_at, a.ts))), 'UTC'))) AS start,
        groupUniqArrayArray(a.nodes) AS nodes
    FROM (SELECT * FROM gpufleet.allocations WHERE {those}) AS a
    INNER JOIN
    (
        SELECT site, job_id, min(ts) AS first_ts FROM gpufleet.allocations WHERE flaws = 0 GROUP BY site, job_id
    ) AS h ON h.site = a.site AND h.job_id = a.job_id
    GROUP BY a.site, a.job_id
)
GROUP BY start"""
