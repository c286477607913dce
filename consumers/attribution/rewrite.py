"""Rewrites ``tenant`` of stored rows after leases changed, and says which windows must follow.

The tenant of a row is what the dictionary says for its node and time, always: reload it, rewrite the rows that say
otherwise, look again until none does. Rows that an insert with the old dictionary is still writing come to light when
``reassign`` is called once more a little later, which the projector does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from consumers.attribution.changes import FOREVER, Terms, Touched, clipped, touched
from consumers.projector.store import READ_SETTINGS, Store, rows, scalar
from consumers.projector.windows import MINUTE_S
from schemas.catalogue import KINDS, EventKind, TenantFrom
from schemas.ddl import LEASE_DICTIONARY, tenant_expression

log = logging.getLogger(__name__)

MAX_NODES = 2000
"""Beyond this the rows are found by time alone; naming the nodes would cost more than it saves."""
ATTEMPTS = 5


class AttributionError(RuntimeError):
    """Rows still carry another tenant than the leases say after several rewrites."""


@dataclass(frozen=True, slots=True)
class Reassigned:
    """What a change of leases did."""

    rows: dict[str, int]
    """Rows rewritten, by table."""
    minutes: dict[int, frozenset[str]]
    """Minute -> nodes whose GPU windows belong to another tenant now."""
    changes: tuple[Touched, ...] = ()
    """Which (node, time) the leases may say something else of now, whether rows were there or not."""


def leased_kinds() -> list[EventKind]:
    """Kinds whose rows get their tenant from the leases."""
    return [kind for kind in KINDS.values() if kind.tenant is TenantFrom.LEASE]


def reassign(store: Store, since: int, oldest: int, latest: int, timeout_s: int = 600) -> Reassigned:
    """Apply the lease revisions stored at or after ``since`` to the rows in [oldest, latest).

    Times in microseconds since 1970. AttributionError when rows cannot be brought in line.
    """
    changes = touched(_revisions(store, since), since)
    return apply(store, changes, oldest, latest, timeout_s)


def apply(store: Store, changes: Sequence[Touched], oldest: int, latest: int, timeout_s: int = 600) -> Reassigned:
    """Bring the rows of these changes in line with the leases as they are now."""
    store.command(f"SYSTEM RELOAD DICTIONARY {LEASE_DICTIONARY}")
    written: dict[str, int] = {}
    minutes: dict[int, set[str]] = {}
    for kind in leased_kinds():
        # History kinds have no end of life: their rows follow however old.
        start = oldest if kind.topic in ("node-telemetry", "node-counters") else 0
        for change in clipped(changes, start, latest):
            where = _where(kind, change)
            if kind.topic == "node-telemetry":
                _collect(minutes, _minutes_of_rows(store, where))
            count = _rewrite(store, kind, where, timeout_s)
            if count:
                written[kind.table] = written.get(kind.table, 0) + count
    for change in clipped(changes, oldest, latest):
        _collect(minutes, _stale_windows(store, change))
    return Reassigned(written, {minute: frozenset(nodes) for minute, nodes in minutes.items()}, tuple(changes))


def wrong_rows_sql(kind: EventKind, where: str = "1") -> str:
    """Count of stored rows whose tenant is not what the leases say."""
    return f"SELECT count() FROM gpufleet.{kind.table} WHERE {where} AND tenant != {tenant_expression(kind)}"


def stale_windows_sql(where: str) -> str:
    """(minute, node) of gpu_1m whose tenant is not what the leases say."""
    return f"""SELECT toUnixTimestamp(ts), node_id
FROM gpufleet.gpu_1m FINAL
WHERE {where} AND tenant != {_of_window()}
GROUP BY ts, node_id"""


def _of_window() -> str:
    return f"dictGetOrDefault('{LEASE_DICTIONARY}', 'tenant', (site, node_id), toDateTime64(ts, 6, 'UTC'), '')"


def _revisions(store: Store, since: int) -> list[Terms]:
    found = rows(
        store,
        f"""SELECT site, lease_id, revision, tenant, nodes, toUnixTimestamp64Micro(valid_from),
    if(isNull(valid_to), if(action = 'ended', toUnixTimestamp64Micro(greatest(valid_from,
        toDateTime64(toStartOfMinute(ts), 6, 'UTC'))), {FOREVER}), toUnixTimestamp64Micro(assumeNotNull(valid_to))),
    toUnixTimestamp64Micro(stored_at)
FROM gpufleet.leases FINAL
WHERE flaws = 0 AND (site, lease_id) IN
    (SELECT site, lease_id FROM gpufleet.leases WHERE stored_at >= fromUnixTimestamp64Micro({since}, 'UTC'))""",
    )
    return [
        Terms(str(r[0]), str(r[1]), int(r[2]), str(r[3]), frozenset(r[4]), int(r[5]), int(r[6]), int(r[7]))
        for r in found
    ]


def _where(kind: EventKind, change: Touched) -> str:
    return f"site = {_quoted(change.site)} AND {_span(change)}{_nodes(kind.key, change)}"


def _span(change: Touched) -> str:
    return (
        f"ts >= fromUnixTimestamp64Micro({change.start}, 'UTC') AND ts < fromUnixTimestamp64Micro({change.end}, 'UTC')"
    )


def _nodes(column: str, change: Touched) -> str:
    if len(change.nodes) > MAX_NODES:
        return ""
    return f" AND {column} IN ({', '.join(_quoted(n) for n in sorted(change.nodes))})"


def _rewrite(store: Store, kind: EventKind, where: str, timeout_s: int) -> int:
    expression = tenant_expression(kind)
    first: int | None = None
    for _ in range(ATTEMPTS):
        wrong = int(scalar(store, wrong_rows_sql(kind, where)))
        first = wrong if first is None else first
        if not wrong:
            return first
        store.command(
            f"ALTER TABLE gpufleet.{kind.table} UPDATE tenant = {expression} WHERE {where} AND tenant != {expression}",
            settings={
                "mutations_sync": 2,
                "allow_nondeterministic_mutations": 1,  # the dictionary is reloaded everywhere first
                "max_execution_time": timeout_s,
            },
        )
        log.info("tenant rewritten", extra={"table": kind.table, "rows": wrong})
    raise AttributionError(
        f"{kind.table}: rows still carry another tenant than the leases say after {ATTEMPTS} rewrites; does every"
        f" server load the dictionary {LEASE_DICTIONARY}?"
    )


def _minutes_of_rows(store: Store, where: str) -> Sequence[Sequence[object]]:
    expression = tenant_expression(KINDS["node-telemetry"])
    sql = f"""SELECT toUnixTimestamp(toStartOfMinute(ts)) AS minute, node_id
FROM gpufleet.node_telemetry
WHERE {where} AND tenant != {expression}
GROUP BY minute, node_id"""
    return store.query(sql, settings=dict(READ_SETTINGS)).result_rows


def _stale_windows(store: Store, change: Touched) -> Sequence[Sequence[object]]:
    start, end = change.start // 1_000_000, -(-change.end // 1_000_000)
    where = (
        f"site = {_quoted(change.site)} AND ts >= toDateTime({start // MINUTE_S * MINUTE_S}, 'UTC')"
        f" AND ts < toDateTime({end}, 'UTC'){_nodes('node_id', change)}"
    )
    return rows(store, stale_windows_sql(where))


def _collect(minutes: dict[int, set[str]], found: Sequence[Sequence[object]]) -> None:
    for minute, node in found:
        minutes.setdefault(int(str(minute)), set()).add(str(node))


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
