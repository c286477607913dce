"""Who may read which rows: the one list that the store's row filters and a server's row policies are made from.

A table that is not listed is closed to tenants; a test keeps the list equal to the tables that the migrations make.
Views need no filter of their own: they read as whoever asks (SQL SECURITY INVOKER), so the tables' filters hold; a view
that is not in ``VIEWS`` is closed to tenants all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from consumers.rebuild.tables import ENDINGS
from consumers.rebuild.tables import TABLES as REBUILT

TABLES: Mapping[str, str | None] = MappingProxyType(
    {
        # events
        "node_telemetry": "tenant",
        "node_counters": "tenant",
        "node_events": "tenant",
        "inventory": "tenant",
        "allocations": None,
        "leases": "tenant",
        "tenant_usage": "tenant",
        "tenant_limits": "tenant",
        "facility_telemetry": None,
        "dead_letters": None,
        # the pipeline's own
        "ingest_ledger": None,
        "dead_letter_marks": None,
        "migrations": None,
        "projector_state": None,
        "projector_lock": None,
        "projector_requests": None,
        "audit_runs": None,
        "rebuild_state": None,
        # projections
        "rack_10s": "tenant",
        "rack_1m": "tenant",
        "fleet_10s": "tenant",
        "gpu_1m": "tenant",
        "gpu_1h": "tenant",
        "usage_1m": "tenant",
        "usage_1h": "tenant",
        "usage_1d": "tenant",
        "health_1m": "tenant",
        "health_1h": "tenant",
        "fleet_1h": "tenant",
        "rack_1h": "tenant",
        "sick_1m": "tenant",
        "sick_1h": "tenant",
        "job_1m": "tenant",
        "facility_1m": None,
        "facility_1h": None,
        "node_place": "tenant",
    }
)
"""Table -> the column that names the tenant whose row it is; None = tenants read nothing of it."""

BESIDE: tuple[str, ...] = tuple(f"{table}{ending}" for table in REBUILT for ending in ENDINGS)
"""Tables that exist while `gpufleet rebuild` is at work, with rows of every tenant: nobody reads them but the
administrator and, on a server, the writer."""

USAGE_TABLES = ("tenant_usage", "usage_1m", "usage_1h", "usage_1d")
"""A tenant's own business: the operator reads a row only while a lease of that tenant says operator_reads_usage."""

GRANTED = "dictGetOrDefault('gpufleet.usage_grant_at', 'granted', (toString(site), toString(tenant)), ts, 0) = 1"
"""Whether a lease lets the operator read the tenant's usage at the row's time (migration 0305)."""

OPERATOR_ROWS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(USAGE_TABLES, GRANTED),
        # What the operator itself limits, and of the customer's own caps only what a lease opens.
        "tenant_limits": f"limit_name IN ('gpu_quota', 'power_cap') OR {GRANTED}",
    }
)
"""Table -> which of its rows people on the operator's side see; every row of the tables that are not named."""

VIEWS: tuple[str, ...] = (
    "agent_opt_outs",
    "flaw_bits",
    "fleet_now",
    "gpu_alarms",
    "gpu_counters",
    "gpu_delivered",
    "gpu_fault_periods",
    "gpu_faults",
    "gpu_health",
    "gpu_inventory",
    "gpu_lifecycle",
    "gpu_now",
    "gpu_samples",
    "gpu_used",
    "host_samples",
    "lease_current",
    "lease_delivery",
    "lease_segments",
    "limits_current",
    "minutes",
    "nic_samples",
    "node_history",
    "sick_gpus",
    "tenant_headroom",
    "tenant_usage_daily",
    "xid_actions",
    "xids",
)
"""Views that tenants may read: each reads only tables that are filtered by tenant, or none."""

CLOSED_VIEWS: tuple[str, ...] = (
    "dead_letter_states",
    "flawed_events",
    "ingest_health",
    "job_gpus",
    "jobs",
    "lease_overlaps",
    "usage_grants",
)
"""Views that tenants may not read, since they read tables without a tenant or are about the operator's work."""

DICTIONARIES = ("lease_by_node", "node_at", "usage_grant_at")
"""Leases, topology and grants as the store looks them up; closed to tenants, and none holds usage."""

POLICIES: Mapping[str, str | Mapping[str, str | None] | None] = MappingProxyType(
    {
        **TABLES,
        **{table: {"tenant": TABLES[table], "operator": rows} for table, rows in OPERATOR_ROWS.items()},
        **dict.fromkeys(VIEWS, "*"),
        **dict.fromkeys((*CLOSED_VIEWS, *DICTIONARIES)),
    }
)
"""For the embedded store: table or view -> tenant column or None (closed to tenants), or that together with what
operators see of it; "*" for views that are open (their tables are filtered). What is not here only the administrator
sees."""
