"""What can be absurd about an event that parses: one bit each, computed by the table as it stores the row.

A flawed event is kept as it was sent and left out of every view and projection (``flaws = 0``); ``flawed_events``
shows it. Values that merely lack a reading (NaN, the field's blank value, an empty array) are no flaw.
"""

from __future__ import annotations

from enum import IntFlag

from schemas.catalogue import AvroField, Schema, TenantFrom, fields_of_shape

MAX_GPUS = 128
"""GPUs one event may carry. The largest node of the fleet has 8; a virtual NVL72 node would have 72."""
MAX_GPU_INDEX = 1023
MAX_NICS = 256
MAX_TICKS = 60
MAX_INTERVAL_MS = 60_000
"""A tick is at most the minute that an event may not cross."""


class Flaw(IntFlag):
    """Bits of the column ``flaws``. A bit is never reused for another meaning."""

    RAGGED_GPU = 1 << 0
    RAGGED_TICK = 1 << 1
    RAGGED_NIC = 1 << 2
    RAGGED_LIST = 1 << 3
    GPU_COUNT = 1 << 4
    TICK_COUNT = 1 << 5
    INTERVAL = 1 << 6
    CROSSES_MINUTE = 1 << 7
    NOT_FINITE = 1 << 8
    GPU_INDEX = 1 << 9
    VALIDITY = 1 << 10
    NEGATIVE_COUNT = 1 << 11
    NIC_COUNT = 1 << 12
    IDENTITY = 1 << 13


MEANING: dict[Flaw, str] = {
    Flaw.RAGGED_GPU: "A per-GPU array is neither empty nor as long as gpu_index (times ticks) says.",
    Flaw.RAGGED_TICK: "A per-tick array has neither 0, 1 nor ticks values.",
    Flaw.RAGGED_NIC: "A per-NIC array is neither empty nor as long as nic_name (times ticks) says.",
    Flaw.RAGGED_LIST: "Two lists that belong together differ in length.",
    Flaw.GPU_COUNT: f"More than {MAX_GPUS} GPUs in one event.",
    Flaw.TICK_COUNT: f"ticks is not in 1..{MAX_TICKS}.",
    Flaw.INTERVAL: f"interval_ms is not in 1..{MAX_INTERVAL_MS} (facility: not positive).",
    Flaw.CROSSES_MINUTE: "The last tick lies in another UTC minute than the first.",
    Flaw.NOT_FINITE: "A single value is infinite, or not finite where a number is needed.",
    Flaw.GPU_INDEX: f"gpu_index holds a value twice or one outside 0..{MAX_GPU_INDEX}.",
    Flaw.VALIDITY: "A period is not on whole minutes where it must be, or ends before it starts.",
    Flaw.NEGATIVE_COUNT: "A count, length or number of an order is negative (or zero where it starts at 1).",
    Flaw.NIC_COUNT: f"More than {MAX_NICS} NIC ports in one event.",
    Flaw.IDENTITY: "site, producer_id or the key is empty, run_id is not positive or seq is negative.",
}


def _is_array(field: AvroField) -> bool:
    return isinstance(field["type"], dict) and field["type"]["type"] == "array"


def _lengths(fields: list[AvroField]) -> str:
    return "[" + ", ".join(f"length({field['name']})" for field in fields) + "]"


def _ragged(schema: Schema, shape: str, size: str, lead: str = "") -> str | None:
    """Whether an array of ``shape`` has a length other than 0 and ``size`` (1 is fine for broadcast ones)."""
    fields = [f for f in fields_of_shape(schema, shape) if f["name"] != lead]
    strict = [f for f in fields if not f.get("broadcast")]
    loose = [f for f in fields if f.get("broadcast")]
    tests = []
    if strict:
        tests.append(f"arrayExists(l -> l != 0 AND l != {size}, {_lengths(strict)})")
    if loose:
        tests.append(f"arrayExists(l -> l > 1 AND l != {size}, {_lengths(loose)})")
    return " OR ".join(tests) or None


def _tests_of_arrays(schema: Schema, names: set[str]) -> dict[Flaw, list[str | None]]:
    tests: dict[Flaw, list[str | None]] = {}
    if "gpu_index" in names and _is_array(next(f for f in schema.fields if f["name"] == "gpu_index")):
        tests[Flaw.RAGGED_GPU] = [
            _ragged(schema, "gpu", "length(gpu_index)", "gpu_index"),
            _ragged(schema, "gpu_tick", "length(gpu_index) * ticks"),
        ]
        tests[Flaw.GPU_COUNT] = [f"length(gpu_index) > {MAX_GPUS}"]
        tests[Flaw.GPU_INDEX] = [
            "arrayUniq(gpu_index) != length(gpu_index)",
            f"arrayExists(i -> i < 0 OR i > {MAX_GPU_INDEX}, gpu_index)",
        ]
    if any(True for _ in fields_of_shape(schema, "tick")):
        fields = list(fields_of_shape(schema, "tick"))
        tests[Flaw.RAGGED_TICK] = [f"arrayExists(l -> l > 1 AND l != ticks, {_lengths(fields)})"]
    if any(True for _ in fields_of_shape(schema, "nic")):
        tests[Flaw.RAGGED_NIC] = [
            _ragged(schema, "nic", "length(nic_name)", "nic_name"),
            _ragged(schema, "nic_tick", "length(nic_name) * ticks"),
        ]
        tests[Flaw.NIC_COUNT] = [f"length(nic_name) > {MAX_NICS}"]
    return tests


_MICROS_PER_MINUTE = 60_000_000
_BY_TOPIC: dict[str, dict[Flaw, str]] = {
    "inventory": {
        Flaw.RAGGED_LIST: "length(nic_firmware) NOT IN (0, length(nic_name))",
        Flaw.NIC_COUNT: f"length(nic_name) > {MAX_NICS}",
        Flaw.NEGATIVE_COUNT: "arrayExists(v -> v < 0, gpu_memory_bytes) OR arrayExists(v -> v < 0, gpu_nvlink_count)",
    },
    "node-events": {
        Flaw.NEGATIVE_COUNT: "occurrences < 1",
        Flaw.GPU_INDEX: f"ifNull(gpu_index, 0) < 0 OR ifNull(gpu_index, 0) > {MAX_GPU_INDEX}",
        Flaw.VALIDITY: "ifNull(ended_at, ts) < ts",
    },
    "allocations": {
        Flaw.RAGGED_LIST: "length(gpu_mask) NOT IN (0, length(nodes))",
        Flaw.VALIDITY: "ifNull(ended_at, started_at) < started_at",
    },
    "leases": {
        Flaw.VALIDITY: (
            f"toUnixTimestamp64Micro(valid_from) % {_MICROS_PER_MINUTE} != 0"
            f" OR toUnixTimestamp64Micro(ifNull(valid_to, valid_from)) % {_MICROS_PER_MINUTE} != 0"
            " OR (isNotNull(valid_to) AND ifNull(valid_to, valid_from) <= valid_from)"
        ),
        Flaw.NEGATIVE_COUNT: "revision < 1 OR price_per_gpu_hour < 0 OR sla_target < 0 OR sla_target > 1",
        Flaw.NOT_FINITE: "NOT isFinite(price_per_gpu_hour) OR NOT isFinite(sla_target)",
    },
    "tenant-usage": {
        Flaw.INTERVAL: "window_s < 1",
        Flaw.RAGGED_LIST: "arrayExists(l -> l != 0 AND l != length(latency_bounds_ms) + 1, "
        "[length(ttft_counts), length(latency_counts)])",
        Flaw.NEGATIVE_COUNT: (
            "least(requests, throttled_requests, failed_requests, input_tokens, cached_tokens, output_tokens) < 0"
            " OR revision < 1 OR arrayExists(c -> c < 0, ttft_counts) OR arrayExists(c -> c < 0, latency_counts)"
        ),
    },
    "tenant-limits": {
        Flaw.NOT_FINITE: "NOT isFinite(limit_value) OR NOT isFinite(ifNull(previous_value, 0))",
        Flaw.NEGATIVE_COUNT: "limit_value < 0 OR window_s < 0",
    },
    "facility-telemetry": {
        Flaw.INTERVAL: "interval_ms < 1",
        Flaw.NOT_FINITE: "arrayExists(v -> isInfinite(v), [{doubles}])",
    },
    "dead-letters": {Flaw.NEGATIVE_COUNT: "source_offset < 0 OR source_partition < 0"},
}


def tests(schema: Schema) -> dict[Flaw, str]:
    """Per flaw that events of this schema can have: the SQL condition, over the columns of their table."""
    names = {field["name"] for field in schema.fields}
    found = _tests_of_arrays(schema, names)
    if "ticks" in names:
        found[Flaw.TICK_COUNT] = [f"ticks < 1 OR ticks > {MAX_TICKS}"]
        found[Flaw.INTERVAL] = [f"interval_ms < 1 OR interval_ms > {MAX_INTERVAL_MS}"]
        found[Flaw.CROSSES_MINUTE] = [
            f"toUnixTimestamp64Micro(ts) % {_MICROS_PER_MINUTE}"
            f" + (toInt64(ticks) - 1) * interval_ms * 1000 >= {_MICROS_PER_MINUTE}"
        ]
    # Arrays are left out: a reading that is not finite counts as no reading everywhere, and looking for infinities in
    # every array would cost a fifth of an insert.
    floats = [f["name"] for f in schema.fields if f["type"] in ("float", "double") and "ticks" in names]
    if floats:
        found.setdefault(Flaw.NOT_FINITE, []).append(" OR ".join(f"isInfinite({name})" for name in floats))
    doubles = ", ".join(
        f"ifNull({f['name']}, 0)" for f in schema.fields if isinstance(f["type"], list) and "double" in f["type"]
    )
    for flaw, test in _BY_TOPIC.get(schema.kind.topic, {}).items():
        found.setdefault(flaw, []).append(test.replace("{doubles}", doubles))
    who = ["site = ''", "producer_id = ''", f"{schema.kind.key} = ''", "run_id <= 0", "seq < 0"]
    if schema.kind.tenant is TenantFrom.FIELD and schema.kind.key != "tenant":
        who.append("tenant = ''")
    found.setdefault(Flaw.IDENTITY, []).append(" OR ".join(who))
    return {flaw: " OR ".join(t for t in found[flaw] if t) for flaw in sorted(found)}


def expression(schema: Schema) -> str:
    """The SQL of ``flaws`` for the schema's table: a sum of bits, 0 = sound."""
    terms = [f"if({test}, {int(flaw)}, 0)" for flaw, test in tests(schema).items()]
    return "toUInt32(" + " + ".join(terms) + ")"
