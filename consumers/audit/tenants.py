"""Every row's tenant is what the leases say, now."""

from __future__ import annotations

from collections.abc import Iterator

from consumers.attribution.rewrite import leased_kinds
from consumers.audit.report import Finding, Kind
from consumers.audit.scope import Scope
from consumers.projector.store import Store, rows
from schemas.ddl import tenant_expression


def check(store: Store, scope: Scope) -> Iterator[Finding]:
    """One finding per table, node, stored and right tenant."""
    for kind in leased_kinds():
        found = rows(
            store,
            f"""SELECT {kind.key}, tenant, {tenant_expression(kind)} AS leased, count(), min(ts), max(ts)
FROM gpufleet.{kind.table}
WHERE {scope.events(kind.key)} AND tenant != leased
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
