"""What a lease is, and which leases the log holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from producers.log import LogEvent

TOPIC = "leases"
MINUTE_US = 60_000_000
KINDS = ("reserved", "on-demand", "spot")


@dataclass(frozen=True, slots=True)
class Lease:
    """The terms of a lease of whole nodes."""

    lease_id: str
    tenant: str
    nodes: tuple[str, ...]
    """Sorted, each once."""
    valid_from: int
    """Microseconds since 1970, a whole minute."""
    valid_to: int | None = None
    """The first moment after it, a whole minute; None = open."""
    kind: str = "reserved"
    price: float = 0.0
    """Per GPU-hour, in ``currency``."""
    currency: str = "USD"
    sla: float = 0.0
    """Promised share of leased GPU-seconds that are delivered, 0 to 1."""
    operator_reads_usage: bool = False

    def holds_at(self, us: int) -> bool:
        """Whether the lease covers a moment."""
        return self.valid_from <= us and (self.valid_to is None or us < self.valid_to)

    def overlaps(self, other: Lease) -> bool:
        """Whether both cover some moment."""
        return (other.valid_to is None or self.valid_from < other.valid_to) and (
            self.valid_to is None or other.valid_from < self.valid_to
        )


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease as the log holds it: its highest revision."""

    lease: Lease
    revision: int
    action: str
    reason: str
    changed_at: int
    """Event time of that revision."""
    order: tuple[int, int, int]
    """(revision, run_id, seq): the highest holds."""


def held_leases(events: Iterable[LogEvent], site: str) -> dict[str, HeldLease]:
    """Of every lease of a site, the revision that holds."""
    held: dict[str, HeldLease] = {}
    for event in events:
        fields = event.fields
        if fields["site"] != site:
            continue
        found = HeldLease(
            lease_of(fields),
            fields["revision"],
            fields["action"],
            fields["reason"],
            fields["ts"],
            (fields["revision"], event.identity.run_id, event.identity.seq),
        )
        before = held.get(found.lease.lease_id)
        if before is None or found.order > before.order:
            held[found.lease.lease_id] = found
    return held


def lease_of(fields: dict[str, Any]) -> Lease:
    """The terms in an event's fields."""
    return Lease(
        lease_id=fields["lease_id"],
        tenant=fields["tenant"],
        nodes=tuple(sorted(set(fields["nodes"]))),
        valid_from=fields["valid_from"],
        valid_to=fields["valid_to"],
        kind=fields["lease_kind"],
        price=fields["price_per_gpu_hour"],
        currency=fields["currency"],
        sla=fields["sla_target"],
        operator_reads_usage=fields["operator_reads_usage"],
    )


def event_fields(lease: Lease, revision: int, action: str, reason: str) -> dict[str, Any]:
    """The event for topic leases, without its header."""
    return {
        "lease_id": lease.lease_id,
        "revision": revision,
        "action": action,
        "tenant": lease.tenant,
        "nodes": list(lease.nodes),
        "valid_from": lease.valid_from,
        "valid_to": lease.valid_to,
        "lease_kind": lease.kind,
        "price_per_gpu_hour": lease.price,
        "currency": lease.currency,
        "sla_target": lease.sla,
        "operator_reads_usage": lease.operator_reads_usage,
        "reason": reason,
    }
