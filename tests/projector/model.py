"""What the windows must hold, computed from the same events in plain Python: sample by sample, no arrays, no SQL."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

US = 1_000_000
AVERAGED = ("gr_engine_active", "sm_active", "tensor_active", "dram_active", "power_w", "clock_sm_mhz", "fb_used_bytes")
INTEGERS = {"clock_sm_mhz", "fb_used_bytes", "temp_gpu_c", "temp_mem_c", "clock_event_reasons", "energy_j"}
THROTTLES = {
    "power_cap": {0x4},
    "hw_slowdown": {0x8},
    "sw_thermal": {0x20},
    "hw_thermal": {0x40},
    "power_brake": {0x80},
    "slowdown": {0x8, 0x20, 0x40, 0x80},
}


@dataclass
class Bucket:
    """Measures of one window."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    extremes: dict[str, float | None] = field(
        default_factory=lambda: dict.fromkeys(
            ("power_w_min", "power_w_max", "temp_gpu_c_max", "temp_mem_c_max", "fb_used_bytes_max")
        )
    )
    gpus: set[tuple[str, int]] = field(default_factory=set)

    def add(self, readings: Mapping[str, float | None], seconds: float, *, starts: bool) -> None:
        self.sums["samples"] += 1 if starts else 0
        self.sums["seconds"] += seconds
        for name in AVERAGED:
            value = readings.get(name)
            if value is not None:
                self.sums[f"{name}_sum"] += value * seconds
                self.sums[f"{name}_s"] += seconds
        for name in ("power_w_min", "power_w_max", "temp_gpu_c_max", "temp_mem_c_max", "fb_used_bytes_max"):
            value, held = readings.get(name.rsplit("_", 1)[0]), self.extremes[name]
            if value is not None:
                better = min if name.endswith("min") else max
                self.extremes[name] = value if held is None else better(held, value)
        active = readings.get("gr_engine_active")
        if active is not None and active >= 0.05:
            self.sums["active_s"] += seconds
        for way in ("tx", "rx"):
            rate = readings.get(f"nvlink_{way}_bytes_per_s")
            if rate is not None:
                self.sums[f"nvlink_{way}_bytes"] += rate * seconds
        reasons = readings.get("clock_event_reasons")
        if reasons is not None:
            self.sums["throttle_known_s"] += seconds
            for name, bits in THROTTLES.items():
                if any(int(reasons) & bit for bit in bits):
                    self.sums[f"throttle_{name}_s"] += seconds


def reading(event: Mapping[str, Any], name: str, gpu: int, tick: int) -> float | None:
    """One value, None for no reading."""
    values = event.get(name) or []
    if not values:
        return None
    value = values[gpu * event["ticks"] + tick]
    if name in INTEGERS:
        return value if value >= 0 else None
    return value if math.isfinite(value) else None


def distinct(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each identity once, in order of time."""
    found = {(e["producer_id"], e["run_id"], e["seq"]): e for e in events}
    return sorted(found.values(), key=lambda e: e["ts"])


def samples(events: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], int, int, int, dict[str, Any]]]:
    """(event, place of the GPU, tick, start in us, readings)."""
    names = {*AVERAGED, *INTEGERS, "nvlink_tx_bytes_per_s", "nvlink_rx_bytes_per_s"}
    for event in distinct(events):
        for gpu in range(len(event["gpu_index"])):
            for tick in range(event["ticks"]):
                start = event["ts"] + tick * event["interval_ms"] * 1000
                yield event, gpu, tick, start, {n: reading(event, n, gpu, tick) for n in names}


TenantOf = Callable[[str, int], str]


def nobody(node: str, ts: int) -> str:
    return ""


def slots(events: Iterable[Mapping[str, Any]], tenant_of: TenantOf = nobody) -> dict[tuple[Any, ...], Bucket]:
    """(slot start s, rack, model, tenant) -> measures, per 10 seconds."""
    found: dict[tuple[Any, ...], Bucket] = defaultdict(Bucket)
    for event, gpu, _, start, readings in samples(events):
        length = event["interval_ms"] * 1000
        if length <= 10 * US:
            pieces = [(start // (10 * US) * 10, length, True)]
        else:
            last = start // (60 * US) * 60 + 50
            pieces = []
            at = start
            while at < start + length:
                slot = at // (10 * US) * 10
                until = start + length if slot >= last else min(start + length, (slot + 10) * US)
                pieces.append((slot, until - at, at == start))
                at = until
        for slot, covered, starts in pieces:
            tenant = tenant_of(event["node_id"], event["ts"])
            bucket = found[slot, event["rack"], event["gpu_model"], tenant]
            bucket.add(readings, covered / US, starts=starts)
            bucket.gpus.add((event["node_id"], event["gpu_index"][gpu]))
    return found


def merged(
    buckets: Mapping[tuple[Any, ...], Bucket], key: Callable[[tuple[Any, ...]], tuple[Any, ...]]
) -> dict[tuple[Any, ...], tuple[Bucket, int]]:
    """Coarser windows from slots, with the most GPUs of any slot."""
    found: dict[tuple[Any, ...], Bucket] = defaultdict(Bucket)
    per_slot: dict[tuple[Any, ...], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for place, bucket in buckets.items():
        target = found[key(place)]
        for name, value in bucket.sums.items():
            target.sums[name] += value
        for name, extreme in bucket.extremes.items():
            held = target.extremes[name]
            if extreme is not None:
                better = min if name.endswith("min") else max
                target.extremes[name] = extreme if held is None else better(held, extreme)
        per_slot[key(place)][place[0]] += len(bucket.gpus)
    return {place: (bucket, max(per_slot[place].values())) for place, bucket in found.items()}


def gpu_minutes(
    events: Iterable[Mapping[str, Any]], tenant_of: TenantOf = nobody, window_s: int = 60
) -> dict[tuple[Any, ...], Bucket]:
    """(start s, node, gpu, tenant) -> measures."""
    found: dict[tuple[Any, ...], Bucket] = defaultdict(Bucket)
    for event, gpu, _, start, readings in samples(events):
        tenant = tenant_of(event["node_id"], event["ts"])
        place = (start // US // window_s * window_s, event["node_id"], event["gpu_index"][gpu], tenant)
        found[place].add(readings, event["interval_ms"] / 1000, starts=True)
    return found


def energy(events: Iterable[Mapping[str, Any]]) -> dict[tuple[int, str, int], int]:
    """(minute s, node, gpu) -> joules: steps between neighbouring counters of an epoch, each in the later's minute."""
    counters: dict[tuple[str, int], list[tuple[int, int, int]]] = defaultdict(list)
    for event, gpu, _, start, readings in samples(events):
        if readings["energy_j"] is not None:
            epochs = event["driver_epoch"]
            epoch = epochs[0] if len(epochs) == 1 else epochs[gpu]
            counters[event["node_id"], event["gpu_index"][gpu]].append((start, epoch, int(readings["energy_j"])))
    found: dict[tuple[int, str, int], int] = defaultdict(int)
    for (node, gpu), series in counters.items():
        last: dict[int, int] = {}
        for start, epoch, value in sorted(series):
            place = (start // US // 60 * 60, node, gpu)
            found[place] += value - last.get(epoch, value)
            last[epoch] = value
    return found


def usage(events: Iterable[Mapping[str, Any]], window_s: int) -> dict[tuple[Any, ...], dict[str, Any]]:
    """(start s, tenant, workspace, product, model, tier) -> sums; the highest revision of each window."""
    dims = ("tenant", "workspace", "product", "model", "tier")
    newest: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for event in distinct(events):
        if event["window_s"] > window_s:
            continue
        place = (event["producer_id"], event["ts"], event["window_s"], *(event[d] for d in dims))
        rank = (event["revision"], event["run_id"], event["seq"])
        if place not in newest or rank > tuple(newest[place][k] for k in ("revision", "run_id", "seq")):
            newest[place] = event
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for event in newest.values():
        start = event["ts"] // US // window_s * window_s
        row = found.setdefault(
            (start, *(event[d] for d in dims)), {"windows": 0, "ttft": defaultdict(int), "bounds": set()}
        )
        row["windows"] += 1
        for name in (
            "requests",
            "throttled_requests",
            "failed_requests",
            "input_tokens",
            "cached_tokens",
            "output_tokens",
        ):
            row[name] = row.get(name, 0) + event[name]
        if event["ttft_counts"]:
            row["bounds"] |= set(event["latency_bounds_ms"])
            for bound, count in zip([*event["latency_bounds_ms"], math.inf], event["ttft_counts"], strict=True):
                row["ttft"][bound] += count
    return found
