"""The views that unroll an event's arrays into rows for people, derived from the Avro schemas.

A view names a metric as the event does, turns "no reading" (NaN, the blank value, a missing array) into NULL, and
leaves flawed events out. Only the arrays that a query names are read. Arrays are resized to what the event's counts
say even though ``flaws = 0`` follows: the engine may unroll a row before it filters it.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas import flaws
from schemas.catalogue import AvroField, Schema
from schemas.ddl import DATABASE, clickhouse_type, column, quoted

_FLOATS = ("float", "double")


@dataclass(frozen=True, slots=True)
class Unrolled:
    """One view over one event table."""

    name: str
    topic: str
    shape: str
    """gpu, nic or tick: what a row is, besides a tick."""
    doc: str


VIEWS = (
    Unrolled(
        "gpu_samples",
        "node-telemetry",
        "gpu",
        "Fast lane, one row per GPU and tick. Filter by node_id and event_ts: they reach the key; sample_ts does not.",
    ),
    Unrolled(
        "gpu_counters",
        "node-counters",
        "gpu",
        "Slow lane, one row per GPU and tick. Filter by node_id and event_ts: they reach the key; sample_ts does not.",
    ),
    Unrolled(
        "host_samples",
        "node-telemetry",
        "tick",
        "Host metrics, one row per node and tick. Filter by node_id and event_ts: they reach the key.",
    ),
    Unrolled(
        "nic_samples",
        "node-counters",
        "nic",
        "RDMA ports, one row per port and tick. Filter by node_id and event_ts: they reach the key.",
    ),
)

_HEAD = ("site", "node_id", "rack", "gpu_model")
_TAIL = ("producer_id", "run_id", "seq")


def uuid_text(value: str) -> str:
    """SQL that writes a GPU's 16 bytes as NVIDIA does: GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx; empty for zeros."""
    form = r"'^(.{8})(.{4})(.{4})(.{4})(.{12})$', 'GPU-\\1-\\2-\\3-\\4-\\5'"
    return f"if(({value}) = toFixedString('', 16), '', replaceRegexpOne(lower(hex({value})), {form}))"


def _items(field: AvroField) -> object:
    return field["type"]["items"]


def _null(field: AvroField, value: str) -> str:
    if _items(field) in _FLOATS:
        return f"if(isFinite({value}), {value}, NULL)"
    return f"nullIf({value}, {field['blank']})" if "blank" in field else value


def _nothing(field: AvroField) -> str:
    if _items(field) in _FLOATS:
        return f"to{clickhouse_type(_items(field))}(nan)"
    return f"to{clickhouse_type(_items(field))}({field.get('blank', 0)})"


def _row_type(field: AvroField) -> str:
    kind = clickhouse_type(_items(field))
    return f"Nullable({kind})" if _items(field) in _FLOATS or "blank" in field else kind


class _Select:
    """Collects a view's columns: name, type, comment and expression."""

    def __init__(self) -> None:
        self.columns: list[tuple[str, str, str, str]] = []

    def add(self, name: str, kind: str, comment: str, sql: str) -> None:
        self.columns.append((name, kind, comment, sql))


def view(which: Unrolled, schema: Schema) -> str:
    """CREATE OR REPLACE VIEW, ended by a semicolon, with the metrics of that schema version."""
    by_name = {field["name"]: field for field in schema.fields}
    select = _Select()
    for name in _HEAD:
        c = column(by_name[name])
        select.add(name, c.type, c.comment, f"e.{name}")
    select.add("tenant", "LowCardinality(String)", "Customer that leased the node then; empty = nobody.", "e.tenant")
    event = "Event time: the first tick of the event. A filter on it prunes partitions and key."
    select.add("event_ts", "DateTime64(6, 'UTC')", event, "e.ts")
    tick = "t" if which.shape == "tick" else "(i % e.ticks)"
    sample = f"e.ts + toIntervalMicrosecond(toInt64({tick}) * e.interval_ms * 1000)"
    select.add("sample_ts", "DateTime64(6, 'UTC')", "Time of the tick.", sample)
    select.add("interval_ms", "Int32", "Time the sample stands for. [ms]", "e.interval_ms")
    joins = _rows(which, schema, select)
    for name in _TAIL:
        c = column(by_name[name])
        select.add(name, c.type, c.comment, f"e.{name}")
    declared = ",\n".join(f"    {n} {kind} COMMENT {quoted(comment)}" for n, kind, comment, _ in select.columns)
    chosen = ",\n".join(f"    {sql} AS {n}" for n, _, _, sql in select.columns)
    return (
        f"CREATE OR REPLACE VIEW {DATABASE}.{which.name}\n(\n{declared}\n)\nCOMMENT {quoted(which.doc)}\n"
        f"AS SELECT\n{chosen}\nFROM {DATABASE}.{schema.kind.table} AS e\nARRAY JOIN\n    "
        + ",\n    ".join(joins)
        + "\nWHERE e.flaws = 0;\n"
    )


def _rows(which: Unrolled, schema: Schema, select: _Select) -> list[str]:
    """Adds the metrics' columns and returns what ARRAY JOIN unrolls."""
    if which.shape == "tick":
        for field in schema.fields:
            if field.get("shape") == "tick":
                name = field["name"]
                value = f"e.{name}[if(length(e.{name}) = 1, 1, t + 1)]"
                sql = f"if(empty(e.{name}), NULL, {_null(field, value)})"
                select.add(name, f"Nullable({clickhouse_type(_items(field))})", column(field).comment, sql)
        for name in ("clock_offset_s", "clock_synced"):
            field = next(f for f in schema.fields if f["name"] == name)
            sql = f"if(isFinite(e.{name}), e.{name}, NULL)" if field["type"] == "float" else f"e.{name}"
            kind = "Nullable(Float32)" if field["type"] == "float" else "Bool"
            select.add(name, kind, column(field).comment, sql)
        return [f"range(toUInt32(least(greatest(e.ticks, 0), {flaws.MAX_TICKS}))) AS t"]
    lead = "gpu_index" if which.shape == "gpu" else "nic_name"
    most = (flaws.MAX_GPUS if which.shape == "gpu" else flaws.MAX_NICS) * flaws.MAX_TICKS
    size = f"toUInt32(least(greatest(toInt64(length(e.{lead})) * e.ticks, 0), {most}))"
    joins = [f"range({size}) AS i"]
    for field in schema.fields:
        name = field["name"]
        if field.get("shape") == which.shape:
            place = "intDiv(i, e.ticks) + 1"
            if field.get("broadcast"):
                place = f"if(length(e.{name}) = 1, 1, {place})"
            if name == "gpu_uuid":
                select.add(name, "String", column(field).comment, uuid_text(f"e.{name}[{place}]"))
            else:
                select.add(name, clickhouse_type(_items(field)), column(field).comment, f"e.{name}[{place}]")
        elif field.get("shape") == f"{which.shape}_tick":
            joins.append(f"arrayResize(e.{name}, {size}, {_nothing(field)}) AS j_{name}")
            select.add(name, _row_type(field), column(field).comment, _null(field, f"j_{name}"))
    return joins
