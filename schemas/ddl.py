"""The event tables' DDL, derived from the Avro schemas.

A table holds every Avro field under its own name, and what the store adds: ``tenant``, ``flaws``, ``stored_at``. It is
made by a committed migration with the first schema version of its kind; each later version adds its columns by a
migration of its own (``alter_table``), so that a table that exists and one made today end up the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schemas import flaws
from schemas.catalogue import AvroField, EventKind, Retention, Schema, TenantFrom

DATABASE = "gpufleet"
LEASE_DICTIONARY = f"{DATABASE}.lease_by_node"
FRESH_FAST = "Default"
"""Codec of telemetry columns: what the server chooses by the size of a part, LZ4 for fresh ones and ZSTD(1) for those
that stay (infra/deploy, section compression). A fresh part is read and merged again within minutes: LZ4 spares a sixth
of an insert, a third of a merge and half of reading the live edge."""
FRESH_BYTES = 256 << 20
"""Up to this size (uncompressed) a part of telemetry counts as fresh; compression.xml has the same number."""

_SCALARS = {
    "string": "String",
    "bytes": "String",
    "boolean": "Bool",
    "int": "Int32",
    "long": "Int64",
    "float": "Float32",
    "double": "Float64",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    type: str
    comment: str
    codec: str
    default: str = ""
    """DEFAULT or MATERIALIZED with its expression, or nothing."""

    def ddl(self) -> str:
        parts = [self.name, self.type, self.default, f"COMMENT {quoted(self.comment)}", f"CODEC({self.codec})"]
        return " ".join(part for part in parts if part)


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def clickhouse_type(avro: Any, *, dictionary: bool = False) -> str:
    """The column type that an Avro type lands in unchanged. ValueError for one that no event may use."""
    if isinstance(avro, str) and avro in _SCALARS:
        return "LowCardinality(String)" if dictionary and avro == "string" else _SCALARS[avro]
    if isinstance(avro, list) and len(avro) == 2 and avro[0] == "null":
        return f"Nullable({clickhouse_type(avro[1])})"
    if isinstance(avro, dict):
        if avro.get("logicalType") == "timestamp-micros":
            return "DateTime64(6, 'UTC')"
        if avro["type"] == "fixed":
            return f"FixedString({avro['size']})"
        if avro["type"] == "array":
            return f"Array({clickhouse_type(avro['items'])})"
        if avro["type"] == "map":
            return f"Map(String, {clickhouse_type(avro['values'])})"
    raise ValueError(
        f"no column type for the Avro type {avro!r}: expected a scalar, timestamp-micros, fixed, array, map or a"
        " union of null and one of them"
    )


def codec(field: AvroField, last: str = "ZSTD(1)") -> str:
    """The compression of a field's column, by what its values do from one tick, GPU and row to the next; it ends with
    the general codec ``last``.

    Measured in bytes and CPU a value (docs/benchmarks.md). Float gauges are rounded so far (``bits``) that ZSTD alone
    finds more than Delta, Gorilla or ALP leave it; it does so for small integer gauges and states too. Large integer
    gauges want T64. Counters that seldom move want DoubleDelta; the energy counter always moves, by noise, and wants
    Delta and T64.
    """
    name, avro, kind = field["name"], field["type"], field.get("kind")
    if name == "ts":
        return f"DoubleDelta, {last}"
    if name in ("run_id", "seq"):
        return f"Delta, {last}"
    items = avro["items"] if isinstance(avro, dict) and avro["type"] == "array" else None
    if items in ("int", "long") and kind == "counter":
        return f"Delta, T64, {last}" if field.get("unit") == "J" else f"DoubleDelta, {last}"
    if items == "long" and kind == "gauge":
        return f"T64, {last}"
    return last


def _comment(field: AvroField) -> str:
    unit = f" [{field['unit']}]" if field.get("unit") else ""
    blank = f" {field['blank']} = no reading." if "blank" in field else ""
    return f"{field['doc']}{blank}{unit}"


def column(field: AvroField, last: str = "ZSTD(1)") -> Column:
    """The column of an Avro field; ``last`` is its general codec."""
    kind = clickhouse_type(field["type"], dictionary=bool(field.get("dictionary")))
    return Column(field["name"], kind, _comment(field), codec(field, last))


def tenant_expression(kind: EventKind) -> str | None:
    """SQL that yields the tenant of a row of this kind from the leases in force; None where leases do not say."""
    if kind.tenant is not TenantFrom.LEASE:
        return None
    return f"dictGetOrDefault('{LEASE_DICTIONARY}', 'tenant', (site, {kind.key}), ts, '')"


def _added(schema: Schema, last: str) -> list[Column]:
    columns = []
    tenant = tenant_expression(schema.kind)
    if tenant is not None:
        doc = "Customer that leased the node at that time, resolved by the store from the leases; empty = nobody."
        columns.append(Column("tenant", "LowCardinality(String)", doc, last, f"DEFAULT {tenant}"))
    columns.append(_flaws(schema, last))
    doc = "When the store took the row in: its age is the freshness of the data. [us]"
    columns.append(Column("stored_at", "DateTime64(6, 'UTC')", doc, f"Delta, {last}", "DEFAULT now64(6)"))
    return columns


def _flaws(schema: Schema, last: str) -> Column:
    doc = "What is absurd about the event, as bits (gpufleet.flaw_bits names them); 0 = sound."
    return Column("flaws", "UInt32", doc, last, f"MATERIALIZED {flaws.expression(schema)}")


def general_codec(kind: EventKind) -> str:
    """The codec that every column of a kind's table ends with."""
    return FRESH_FAST if kind.retention is Retention.TELEMETRY else "ZSTD(1)"


def columns(schema: Schema) -> list[Column]:
    """Every column of the table of the schema's kind, as of that version, in order."""
    last = general_codec(schema.kind)
    return [column(field, last) for field in schema.fields] + _added(schema, last)


def create_table(schema: Schema) -> str:
    """CREATE TABLE for the kind of a first schema version, without a final semicolon."""
    kind = schema.kind
    body = ",\n".join(f"    {c.ddl()}" for c in columns(schema))
    # The consumer asks for the last seq of a run it does not know: one that is new costs it nothing with this.
    body += ",\n    INDEX run_id_minmax run_id TYPE minmax GRANULARITY 1"
    sort = sorting_key(kind)
    days = "toYYYYMMDD(ts)" if kind.retention is Retention.TELEMETRY else "toYYYYMM(ts)"
    ttl = "\nTTL toDateTime(ts) + INTERVAL {{raw_days}} DAY" if kind.retention is Retention.TELEMETRY else ""
    # Events are told apart by identity: a block's checksum can be remembered though its rows were lost.
    windows = ["non_replicated_deduplication_window = 0", "replicated_deduplication_window = 0"]
    settings = ["fsync_after_insert = 1", "fsync_part_directory = 1", *windows]
    if ttl:
        # A row of arrays is kilobytes wide: column by column, a merge costs a fifth less (docs/benchmarks.md).
        settings += ["ttl_only_drop_parts = 1", "vertical_merge_algorithm_min_rows_to_activate = 1000"]
        # A fresh part is one file, not two for each of some seventy columns: an insert costs a seventh less.
        settings += [f"min_bytes_for_wide_part = {FRESH_BYTES}"]
    return (
        f"CREATE TABLE IF NOT EXISTS {DATABASE}.{kind.table}\n(\n{body}\n)\n"
        f"ENGINE = ReplacingMergeTree\nPARTITION BY {days}\nPRIMARY KEY ({', '.join(sort)})\n"
        f"ORDER BY ({', '.join((*sort, 'producer_id', 'run_id', 'seq'))}){ttl}\n"
        f"SETTINGS {', '.join(settings)}\n"
        f"COMMENT {quoted(schema.definition['doc'])}"
    )


def sorting_key(kind: EventKind) -> tuple[str, ...]:
    """What a kind's table is ordered by, ahead of the identity.

    Telemetry begins with the minute: windows, audits and the identity filter ask for all nodes of a few minutes, which
    would otherwise read whole parts; one node's hour is 60 short reads. No event crosses a minute. ``ts`` itself is not
    in the key: were it there, ClickHouse would compare it instead of the minute, and skip nothing.
    """
    if kind.retention is Retention.TELEMETRY:
        return (kind.sort[0], "toStartOfMinute(ts)", *kind.sort[1:])
    return (*kind.sort, "ts")


def alter_table(old: Schema, new: Schema) -> str:
    """The statements that take the table from one published version to the next, each ended by a semicolon.

    ValueError when the step is not additive: a column that disappears or changes its type.
    """
    last = general_codec(new.kind)
    before = {field["name"]: column(field, last) for field in old.fields}
    after = [column(field, last) for field in new.fields]
    changed = [c.name for c in after if c.name in before and before[c.name].type != c.type]
    lost = sorted(before.keys() - {c.name for c in after})
    if changed or lost:
        raise ValueError(
            f"{new.kind.topic} v{new.version} is not additive: types changed in {changed or 'no field'}, fields gone:"
            f" {lost or 'none'}; publish a schema that only adds fields with defaults"
        )
    table = f"{DATABASE}.{new.kind.table}"
    statements = []
    place = "ts"
    for c in after:
        if c.name not in before:
            statements.append(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {c.ddl()} AFTER {place};")
        elif before[c.name] != c:
            statements.append(f"ALTER TABLE {table} MODIFY COLUMN IF EXISTS {c.ddl()};")
        place = c.name
    statements.append(f"ALTER TABLE {table} MODIFY COLUMN IF EXISTS {_flaws(new, last).ddl()};")
    return "\n".join(statements) + "\n"
