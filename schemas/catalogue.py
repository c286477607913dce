"""Every kind of event gpufleet knows, and every published version of its Avro schema with a stable id.

Adding a kind takes three things: ``avsc/<topic>/v1.avsc``, a migration, and one line in ``KINDS``
(plus the id that ``gpufleet schema register --catalogue`` writes into ``ids.json``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

AvroField = dict[str, Any]


class Retention(Enum):
    """How long Kafka keeps a topic and how the store ages its table out."""

    TELEMETRY = "telemetry"
    """Many and replaceable by rollups: days."""
    HISTORY = "history"
    """Few and needed to explain the past: for ever."""


class TenantFrom(Enum):
    """Where the tenant of a row comes from. A node never claims its tenant."""

    LEASE = "lease"
    """Resolved by the store from the leases, by node and event time."""
    FIELD = "field"
    """The event is about a tenant and names it."""
    NOBODY = "nobody"
    """The row belongs to the operator alone."""


@dataclass(frozen=True, slots=True)
class EventKind:
    """One kind of event: one topic, one table."""

    topic: str
    key: str
    """Field whose value is the Kafka key."""
    sort: tuple[str, ...]
    """Columns the table is ordered by, ahead of (ts, producer_id, run_id, seq)."""
    retention: Retention
    tenant: TenantFrom
    dense: bool = True
    """Whether seq has no gaps, so that a missing number is a lost event."""

    @property
    def table(self) -> str:
        return self.topic.replace("-", "_")


_T, _H = Retention.TELEMETRY, Retention.HISTORY
_LEASE, _FIELD, _NOBODY = TenantFrom.LEASE, TenantFrom.FIELD, TenantFrom.NOBODY

KINDS: dict[str, EventKind] = {
    kind.topic: kind
    for kind in (
        EventKind("node-telemetry", "node_id", ("site", "node_id"), _T, _LEASE),
        EventKind("node-counters", "node_id", ("site", "node_id"), _T, _LEASE),
        EventKind("node-events", "node_id", ("site", "node_id"), _H, _LEASE),
        EventKind("inventory", "node_id", ("site", "node_id"), _H, _LEASE),
        EventKind("allocations", "job_id", ("site", "job_id"), _H, _NOBODY),
        EventKind("leases", "lease_id", ("site", "lease_id"), _H, _FIELD),
        EventKind("tenant-usage", "tenant", ("site", "tenant"), _H, _FIELD),
        EventKind("tenant-limits", "tenant", ("site", "tenant"), _H, _FIELD),
        EventKind("facility-telemetry", "asset_id", ("site", "asset_id"), _T, _NOBODY),
        EventKind("dead-letters", "source_topic", ("site", "source_topic"), _H, _NOBODY, dense=False),
    )
}


@dataclass(frozen=True)
class Schema:
    """One published version of a kind's schema."""

    kind: EventKind
    version: int
    id: int
    """Id in the Confluent framing when no registry is configured; never reused."""
    definition: dict[str, Any]
    """The .avsc as JSON, with doc, unit, kind and shape of every field."""
    fingerprint: str
    """SHA-256 of the Avro parsing canonical form, as frozen in ids.json."""

    @property
    def fields(self) -> list[AvroField]:
        fields: list[AvroField] = self.definition["fields"]
        return fields

    @cached_property
    def parsed(self) -> Any:
        """The schema as fastavro wants it."""
        return fastavro.parse_schema(self.definition)

    @cached_property
    def text(self) -> str:
        """The schema as one line of JSON, for an Object Container header or a registry."""
        return json.dumps(self.definition, separators=(",", ":"))


def canonical_fingerprint(definition: dict[str, Any]) -> str:
    """SHA-256 (hex) of the schema's parsing canonical form: names, types and order, no docs."""
    return str(fingerprint(to_parsing_canonical_form(definition), "SHA-256"))


@cache
def published() -> tuple[Schema, ...]:
    """Every published schema, oldest version of each kind first."""
    root = files("schemas")
    ids: dict[str, dict[str, Any]] = json.loads((root / "ids.json").read_text())
    schemas = []
    for text_id, entry in ids.items():
        path = root / "avsc" / entry["topic"] / f"v{entry['version']}.avsc"
        definition = json.loads(path.read_text())
        schemas.append(Schema(KINDS[entry["topic"]], entry["version"], int(text_id), definition, entry["fingerprint"]))
    return tuple(sorted(schemas, key=lambda s: s.id))


@cache
def by_id() -> dict[int, Schema]:
    """Schemas by their catalogue id."""
    return {schema.id: schema for schema in published()}


def versions(topic: str) -> list[Schema]:
    """All published versions of a kind, oldest first. KeyError for an unknown topic."""
    kind = KINDS[topic]
    return sorted((s for s in published() if s.kind is kind), key=lambda s: s.version)


@cache
def latest(topic: str) -> Schema:
    """The newest published schema of a kind."""
    return versions(topic)[-1]


def fields_of_shape(schema: Schema, shape: str) -> Iterator[AvroField]:
    """The schema's array fields of a shape: gpu (n), gpu_tick (n*K), tick (K), nic, nic_tick."""
    return (field for field in schema.fields if field.get("shape") == shape)
