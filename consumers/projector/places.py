"""node_place: every node as it is now, with the tenant of now.

An inventory event keeps the tenant of its own time. Whoever leases a node today must see what it is made of today, and
who leased it yesterday must not: so the newest place of each node is kept apart, and follows the inventory, the leases
and the clock (a lease that begins at noon changes it at noon, without any event).
"""

from __future__ import annotations

from consumers.projector.store import WRITE_SETTINGS, Store, rows, scalar

_COLUMNS = (
    "tenant",
    "lease_id",
    "rack",
    "slot",
    "feed",
    "pdu",
    "cdu",
    "nvlink_domain",
    "gpu_model",
    "gpu_index",
    "gpu_uuid",
    "gpu_nvlink_count",
    "gpu_power_limit_w",
    "since",
)
_HELD = (
    "dictGetOrDefault('gpufleet.lease_by_node', ('tenant', 'lease_id'), (site, node_id),"
    " toDateTime64(toStartOfMinute(now()), 6, 'UTC'), ('', ''))"
)
_OF_NOW = f"""SELECT
    site, node_id, held.1 AS tenant, held.2 AS lease_id,
    toString(h.rack) AS rack, toString(h.slot) AS slot, toString(h.feed) AS feed, toString(h.pdu) AS pdu,
    toString(h.cdu) AS cdu, toString(h.nvlink_domain) AS nvlink_domain, toString(h.gpu_model) AS gpu_model,
    h.gpu_index AS gpu_index, h.gpu_uuid AS gpu_uuid, h.gpu_nvlink_count AS gpu_nvlink_count,
    i.gpu_power_limit_w AS gpu_power_limit_w, h.valid_from AS since, {_HELD} AS held
FROM gpufleet.node_history AS h
INNER JOIN
(
    SELECT site, node_id, argMax(gpu_power_limit_w, tuple(ts, run_id, seq)) AS gpu_power_limit_w
    FROM gpufleet.inventory WHERE flaws = 0 GROUP BY site, node_id
) AS i ON i.site = h.site AND i.node_id = h.node_id
WHERE h.valid_until >= toDateTime64('2298-12-31 00:00:00', 6, 'UTC')"""


def moved_sql() -> str:
    """How many nodes have another tenant or lease now than node_place says."""
    return f"SELECT countIf((tenant, lease_id) != {_HELD}) FROM gpufleet.node_place FINAL"


def refresh(store: Store, timeout_s: int = 50) -> int:
    """Bring node_place in line with inventory and leases; the number of nodes written."""
    version = int(
        scalar(
            store,
            "SELECT greatest(max(version) + 1, toUInt64(toUnixTimestamp64Micro(now64(6)))) FROM gpufleet.node_place",
        )
    )
    columns = ", ".join(_COLUMNS)
    same = f"site, node_id, cityHash64({', '.join(f'toString({c})' if c == 'since' else c for c in _COLUMNS)})"
    settings = {**WRITE_SETTINGS, "max_execution_time": timeout_s}
    store.command(
        f"""INSERT INTO gpufleet.node_place (site, node_id, {columns}, version, is_deleted)
SELECT site, node_id, {columns}, {version}, 0
FROM
(
{_OF_NOW}
)
WHERE ({same}) NOT IN (SELECT {same} FROM gpufleet.node_place FINAL)""",
        settings=settings,
    )
    store.command(
        f"""INSERT INTO gpufleet.node_place (site, node_id, version, is_deleted)
SELECT site, node_id, {version}, 1
FROM gpufleet.node_place FINAL
WHERE (site, node_id) NOT IN (SELECT site, node_id FROM gpufleet.inventory WHERE flaws = 0)""",
        settings=settings,
    )
    return int(rows(store, f"SELECT count() FROM gpufleet.node_place WHERE version = {version}")[0][0])
