"""What exactly is absurd about an event that is stored with flaws: bit by bit, field by field, in words.

The table computes ``flaws`` in SQL as it stores the row (schemas/flaws.py); this says the same in Python over one row,
with what was expected and what was found. A test keeps the two equal for every kind and every bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from schemas import catalogue, flaws
from schemas.catalogue import KINDS, Schema, TenantFrom, fields_of_shape
from schemas.flaws import MAX_GPU_INDEX, MAX_GPUS, MAX_INTERVAL_MS, MAX_NICS, MAX_TICKS, Flaw

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

Row = Mapping[str, Any]
_MINUTE_US = 60_000_000


class Point(NamedTuple):
    """One thing that is absurd."""

    flaw: Flaw
    field: str
    expected: str
    found: str

    @property
    def name(self) -> str:
        return str(self.flaw.name).lower()

    def __str__(self) -> str:
        return f"{self.name}: {self.field}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Flawed:
    """A flawed event with what is absurd about it."""

    topic: str
    site: str
    producer_id: str
    run_id: int
    seq: int
    ts: datetime
    stored_at: datetime
    flaws: int
    points: list[Point]


def find(
    client: Client,
    *,
    topic: str | None = None,
    producer: str | None = None,
    flaw: Flaw | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 20,
    database: str = "gpufleet",
) -> tuple[list[Flawed], int]:
    """(the newest flawed events, explained; how many there are)."""
    parts, values = ["1"], dict[str, Any]()
    for condition, name, value in (
        ("topic = {topic:String}", "topic", topic),
        ("producer_id = {producer:String}", "producer", producer),
        ("bitAnd(flaws, {flaw:UInt32}) != 0", "flaw", None if flaw is None else int(flaw)),
        ("ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')", "since", _micros(since)),
        ("ts < fromUnixTimestamp64Micro({until:Int64}, 'UTC')", "until", _micros(until)),
    ):
        if value is not None:
            parts.append(condition)
            values[name] = value
    view = f"{database}.flawed_events WHERE {' AND '.join(parts)}"
    total = int(
        client.query(f"SELECT uniqExact(topic, producer_id, run_id, seq) FROM {view}", values).result_rows[0][0]
    )
    newest = client.query(
        f"SELECT DISTINCT topic, producer_id, run_id, seq, ts FROM {view} ORDER BY ts DESC, topic, seq DESC"
        " LIMIT {limit:UInt32}",
        {**values, "limit": limit},
    ).result_rows
    found = []
    for name, producer_id, run_id, seq, ts in newest:
        who = {"producer": producer_id, "run": run_id, "seq": seq, "ts": _micros(ts)}
        rows = client.query(
            f"SELECT *, flaws FROM {database}.{KINDS[name].table}"
            " WHERE producer_id = {producer:String} AND run_id = {run:Int64} AND seq = {seq:Int64}"
            " AND ts = fromUnixTimestamp64Micro({ts:Int64}, 'UTC') LIMIT 1",
            who,
        )
        for row in rows.named_results():
            points = explain(catalogue.latest(name), row)
            found.append(
                Flawed(
                    name, row["site"], producer_id, run_id, seq, _utc(row["ts"]), _utc(row["stored_at"]),
                    row["flaws"], points,
                )
            )  # fmt: skip
    return found, total


def explain(schema: Schema, row: Row) -> list[Point]:
    """What is absurd about a row of the schema's table, in the order of the bits."""
    names = {field["name"] for field in schema.fields}
    points: list[Point] = []
    if "gpu_index" in names and isinstance(row["gpu_index"], Sequence):
        points += _gpus(schema, row)
    if any(True for _ in fields_of_shape(schema, "tick")):
        points += _lengths(schema, row, "tick", Flaw.RAGGED_TICK, row["ticks"], "ticks", broadcast=True)
    if any(True for _ in fields_of_shape(schema, "nic")):
        points += _nics(schema, row)
    if "ticks" in names:
        points += _ticks(schema, row)
    by_topic = _BY_TOPIC.get(schema.kind.topic)
    points += by_topic(row) if by_topic else []
    points += _identity(schema, row)
    return sorted(points, key=lambda point: int(point.flaw))


def _gpus(schema: Schema, row: Row) -> Iterator[Point]:
    index = row["gpu_index"]
    n = len(index)
    yield from _lengths(schema, row, "gpu", Flaw.RAGGED_GPU, n, "as many as gpu_index", but="gpu_index")
    if "ticks" in row:
        yield from _lengths(
            schema, row, "gpu_tick", Flaw.RAGGED_GPU, n * row["ticks"], f"{n} GPUs times {row['ticks']} ticks"
        )
    if n > MAX_GPUS:
        yield Point(Flaw.GPU_COUNT, "gpu_index", f"at most {MAX_GPUS} GPUs", str(n))
    if len(set(index)) != n:
        twice = sorted({one for one in index if index.count(one) > 1}) if n <= 1_000 else ["many"]
        yield Point(Flaw.GPU_INDEX, "gpu_index", "each number once", f"twice: {_few(twice)}")
    outside = [one for one in index if not 0 <= one <= MAX_GPU_INDEX]
    if outside:
        yield Point(Flaw.GPU_INDEX, "gpu_index", f"0 to {MAX_GPU_INDEX}", _few(outside))


def _nics(schema: Schema, row: Row) -> Iterator[Point]:
    n = len(row["nic_name"])
    yield from _lengths(schema, row, "nic", Flaw.RAGGED_NIC, n, "as many as nic_name", but="nic_name")
    if "ticks" in row:
        yield from _lengths(
            schema, row, "nic_tick", Flaw.RAGGED_NIC, n * row["ticks"], f"{n} ports times {row['ticks']} ticks"
        )
    if n > MAX_NICS:
        yield Point(Flaw.NIC_COUNT, "nic_name", f"at most {MAX_NICS} ports", str(n))


def _lengths(
    schema: Schema,
    row: Row,
    shape: str,
    flaw: Flaw,
    wanted: int,
    because: str,
    *,
    but: str = "",
    broadcast: bool = False,
) -> Iterator[Point]:
    """Arrays of a shape that have another length than ``wanted``, 0, or (broadcast ones) 1."""
    for field in fields_of_shape(schema, shape):
        length = len(row[field["name"]])
        may_be_one = broadcast or bool(field.get("broadcast"))
        if field["name"] != but and length not in ((0, 1, wanted) if may_be_one else (0, wanted)):
            yield Point(flaw, field["name"], f"0 or {wanted} values ({because})", str(length))


def _ticks(schema: Schema, row: Row) -> Iterator[Point]:
    ticks, interval = row["ticks"], row["interval_ms"]
    if not 1 <= ticks <= MAX_TICKS:
        yield Point(Flaw.TICK_COUNT, "ticks", f"1 to {MAX_TICKS}", str(ticks))
    if not 1 <= interval <= MAX_INTERVAL_MS:
        yield Point(Flaw.INTERVAL, "interval_ms", f"1 to {MAX_INTERVAL_MS}", str(interval))
    within = (_micros(row["ts"]) or 0) % _MINUTE_US
    if within + (ticks - 1) * interval * 1000 >= _MINUTE_US:
        last = f"{within / 1e6:g} s into its minute, {ticks} ticks of {interval} ms"
        yield Point(Flaw.CROSSES_MINUTE, "ts", "all ticks in one UTC minute", last)
    for field in schema.fields:
        if field["type"] in ("float", "double") and math.isinf(row[field["name"]]):
            yield Point(Flaw.NOT_FINITE, field["name"], "a finite number, or NaN for none", str(row[field["name"]]))


def _identity(schema: Schema, row: Row) -> Iterator[Point]:
    texts = ["site", "producer_id", schema.kind.key]
    if schema.kind.tenant is TenantFrom.FIELD and schema.kind.key != "tenant":
        texts.append("tenant")
    for name in texts:
        if row[name] == "":
            yield Point(Flaw.IDENTITY, name, "a name", "nothing")
    if row["run_id"] <= 0:
        yield Point(Flaw.IDENTITY, "run_id", "a start in microseconds since 1970", str(row["run_id"]))
    if row["seq"] < 0:
        yield Point(Flaw.IDENTITY, "seq", "0 or more", str(row["seq"]))


def _inventory(row: Row) -> Iterator[Point]:
    ports = len(row["nic_name"])
    if len(row["nic_firmware"]) not in (0, ports):
        found = str(len(row["nic_firmware"]))
        yield Point(Flaw.RAGGED_LIST, "nic_firmware", f"0 or {ports} values (as many as nic_name)", found)
    if ports > MAX_NICS:
        yield Point(Flaw.NIC_COUNT, "nic_name", f"at most {MAX_NICS} ports", str(ports))
    yield from _not_negative(row, "gpu_memory_bytes", "gpu_nvlink_count")


def _node_events(row: Row) -> Iterator[Point]:
    yield from _at_least(row, "occurrences", 1)
    if not 0 <= (row["gpu_index"] or 0) <= MAX_GPU_INDEX:
        yield Point(Flaw.GPU_INDEX, "gpu_index", f"0 to {MAX_GPU_INDEX}", str(row["gpu_index"]))
    yield from _in_order(row, "ts", "ended_at")


def _allocations(row: Row) -> Iterator[Point]:
    nodes = len(row["nodes"])
    if len(row["gpu_mask"]) not in (0, nodes):
        found = str(len(row["gpu_mask"]))
        yield Point(Flaw.RAGGED_LIST, "gpu_mask", f"0 or {nodes} values (as many as nodes)", found)
    yield from _in_order(row, "started_at", "ended_at")


def _leases(row: Row) -> Iterator[Point]:
    for name in ("valid_from", "valid_to"):
        if row[name] is not None and (_micros(row[name]) or 0) % _MINUTE_US:
            yield Point(Flaw.VALIDITY, name, "a whole UTC minute", str(row[name]))
    if row["valid_to"] is not None and row["valid_to"] <= row["valid_from"]:
        yield Point(Flaw.VALIDITY, "valid_to", f"later than valid_from, {row['valid_from']}", str(row["valid_to"]))
    yield from _at_least(row, "revision", 1)
    yield from _at_least(row, "price_per_gpu_hour", 0)
    if row["sla_target"] < 0 or row["sla_target"] > 1:
        yield Point(Flaw.NEGATIVE_COUNT, "sla_target", "0 to 1", str(row["sla_target"]))
    yield from _finite(row, "price_per_gpu_hour", "sla_target")


def _usage(row: Row) -> Iterator[Point]:
    if row["window_s"] < 1:
        yield Point(Flaw.INTERVAL, "window_s", "1 or more", str(row["window_s"]))
    buckets = len(row["latency_bounds_ms"]) + 1
    for name in ("ttft_counts", "latency_counts"):
        if len(row[name]) not in (0, buckets):
            expected = f"0 or {buckets} values (one more than latency_bounds_ms)"
            yield Point(Flaw.RAGGED_LIST, name, expected, str(len(row[name])))
    tokens = ("input_tokens", "cached_tokens", "output_tokens")
    for name in ("requests", "throttled_requests", "failed_requests", *tokens):
        yield from _at_least(row, name, 0)
    yield from _at_least(row, "revision", 1)
    yield from _not_negative(row, "ttft_counts", "latency_counts")


def _limits(row: Row) -> Iterator[Point]:
    yield from _finite(row, "limit_value", "previous_value")
    yield from _at_least(row, "limit_value", 0)
    yield from _at_least(row, "window_s", 0)


def _facility(row: Row) -> Iterator[Point]:
    if row["interval_ms"] < 1:
        yield Point(Flaw.INTERVAL, "interval_ms", "1 or more", str(row["interval_ms"]))
    for field in catalogue.latest("facility-telemetry").fields:
        value = row[field["name"]] if isinstance(field["type"], list) and "double" in field["type"] else None
        if value is not None and math.isinf(value):
            yield Point(Flaw.NOT_FINITE, field["name"], "a finite number, NaN or nothing", str(value))


def _dead_letters(row: Row) -> Iterator[Point]:
    yield from _at_least(row, "source_offset", 0)
    yield from _at_least(row, "source_partition", 0)


_BY_TOPIC: Mapping[str, Callable[[Row], Iterator[Point]]] = {
    "inventory": _inventory,
    "node-events": _node_events,
    "allocations": _allocations,
    "leases": _leases,
    "tenant-usage": _usage,
    "tenant-limits": _limits,
    "facility-telemetry": _facility,
    "dead-letters": _dead_letters,
}


def _at_least(row: Row, name: str, low: int) -> Iterator[Point]:
    if row[name] < low:
        yield Point(Flaw.NEGATIVE_COUNT, name, f"{low} or more", str(row[name]))


def _not_negative(row: Row, *names: str) -> Iterator[Point]:
    for name in names:
        below = [value for value in row[name] if value < 0]
        if below:
            yield Point(Flaw.NEGATIVE_COUNT, name, "0 or more", _few(below))


def _finite(row: Row, *names: str) -> Iterator[Point]:
    for name in names:
        if row[name] is not None and not math.isfinite(row[name]):
            yield Point(Flaw.NOT_FINITE, name, "a finite number", str(row[name]))


def _in_order(row: Row, begin: str, end: str) -> Iterator[Point]:
    if row[end] is not None and row[end] < row[begin]:
        yield Point(Flaw.VALIDITY, end, f"not before {begin}, {row[begin]}", str(row[end]))


def _few(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values[:5]) + (" ..." if len(values) > 5 else "")


def _micros(moment: datetime | None) -> int | None:
    """Microseconds since 1970; a time without a zone is UTC, as the driver gives them."""
    if moment is None:
        return None
    delta = _utc(moment) - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def named(text: str) -> Flaw:
    """A flaw by its name. ValueError, with the names there are, for another."""
    try:
        return Flaw[text.upper()]
    except KeyError:
        names = ", ".join(str(flaw.name).lower() for flaw in flaws.MEANING)
        raise ValueError(f"expected one of {names}, found {text!r}") from None
