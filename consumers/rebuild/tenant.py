"""The tenant of rows beside the live table: what the leases say now, as for every stored row."""

from __future__ import annotations

from consumers.projector.store import Store, scalar
from consumers.rebuild.tables import RebuildError
from schemas.catalogue import EventKind
from schemas.ddl import LEASE_DICTIONARY, tenant_expression

ATTEMPTS = 5


def align(store: Store, kind: EventKind, table: str, where: str = "1", timeout_s: int = 600) -> int:
    """Bring the tenant of a table's rows in line with the leases; rows rewritten.

    A lease may have been corrected since they were inserted, and the correction knew the live table alone.
    """
    expression = tenant_expression(kind)
    if expression is None:
        return 0
    store.command(f"SYSTEM RELOAD DICTIONARY {LEASE_DICTIONARY}")
    wrong = f"{where} AND tenant != {expression}"
    first: int | None = None
    for _ in range(ATTEMPTS):
        count = int(scalar(store, f"SELECT count() FROM gpufleet.{table} WHERE {wrong}"))
        first = count if first is None else first
        if not count:
            return first
        store.command(
            f"ALTER TABLE gpufleet.{table} UPDATE tenant = {expression} WHERE {wrong}",
            settings={"mutations_sync": 2, "allow_nondeterministic_mutations": 1, "max_execution_time": timeout_s},
        )
    raise RebuildError(
        f"gpufleet.{table}: rows still carry another tenant than the leases say after {ATTEMPTS} rewrites; does every"
        f" server load the dictionary {LEASE_DICTIONARY}?"
    )
