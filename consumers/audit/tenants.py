"""Every row's tenant is what the leases say, now.

Rows stored before their lease carry none until the projector has rewritten them, which is its work and not a fault:
nodes of leases that it still has open are left out. A projector that does not get on is a finding of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from consumers.attribution.rewrite import leased_kinds
from consumers.audit.report import Finding, Kind
from consumers.audit.scope import Scope
from consumers.projector import ledger
from consumers.projector.store import Store, rows, scalar
from schemas.ddl import tenant_expression

_EARLIER_S = 600
"""A lease may have been stored this long before the ledger's row of it, which carries the consumer's clock."""


def check(store: Store, scope: Scope) -> Iterator[Finding]:
    """One finding per table, node, stored and right tenant."""
    open_from = _open_from(store, scope)
    for kind in leased_kinds():
        found = rows(
            store,
            f"""SELECT {kind.key}, tenant, {tenant_expression(kind)} AS leased, count(), min(ts), max(ts)
FROM gpufleet.{kind.table}
WHERE {scope.events(kind.key)} AND tenant != leased AND (site, {kind.key}) NOT IN
(
    SELECT site, arrayJoin(nodes) FROM gpufleet.leases WHERE (site, lease_id) IN
        (SELECT site, lease_id FROM gpufleet.leases WHERE stored_at >= fromUnixTimestamp64Micro({open_from}, 'UTC'))
)
GROUP BY {kind.key}, tenant, leased
ORDER BY {kind.key}
LIMIT 1000""",
        )
        for node, tenant, leased, count, first, last in found:
            yield Finding(
                Kind.TENANT,
                kind.topic,
                f"node {node}: {count} rows from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} carry tenant"
                f" {tenant!r}, the leases say {leased!r}",
                producer_id=str(node),
                count=int(count),
            )


def _open_from(store: Store, scope: Scope) -> int:
    """Since when stored, in microseconds since 1970, leases may not have reached every row yet."""
    position, _ = ledger.load(store)
    done = 0 if position is None else round(position * 1e6)
    on_its_way = int((scope.now - scope.in_flight_s) * 1e6)
    oldest = scalar(
        store,
        f"""SELECT minOrNull(toUnixTimestamp64Micro(at)) FROM gpufleet.ingest_ledger
WHERE topic = 'leases' AND at > fromUnixTimestamp64Micro({done}, 'UTC')""",
    )
    return on_its_way if oldest is None else min(on_its_way, int(oldest) - _EARLIER_S * 1_000_000)
