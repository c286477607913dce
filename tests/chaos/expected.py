"""What the tables must hold of one site, from the events of the log in plain Python."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.chaos.log import Log
from tests.projector import model

Event = Mapping[str, Any]
Rows = dict[tuple[Any, ...], dict[str, Any]]
"""Key -> what a row of a window table must say."""
MINUTE_S, HOUR_S = 60, 3600
US = 1_000_000
SUMS = (
    "samples", "seconds", "active_s", "nvlink_tx_bytes", "nvlink_rx_bytes", "throttle_known_s",
    *(f"{name}_{part}" for name in model.AVERAGED for part in ("sum", "s")),
    *(f"throttle_{name}_s" for name in model.THROTTLES),
)  # fmt: skip
USED = ("requests", "throttled_requests", "failed_requests", "input_tokens", "cached_tokens", "output_tokens")


def tenant_of(leases: Iterable[Event]) -> Callable[[str, int], str]:
    """Who holds a node at a time (us), by the highest revision of each lease; leases do not overlap here."""
    held: dict[str, Event] = {}
    for one in leases:
        before = held.get(one["lease_id"])
        rank = (one["revision"], one["run_id"], one["seq"])
        if before is None or rank > (before["revision"], before["run_id"], before["seq"]):
            held[one["lease_id"]] = one

    def tenant(node: str, ts: int) -> str:
        for lease in held.values():
            end = lease["valid_to"]
            if node in lease["nodes"] and lease["valid_from"] <= ts and (end is None or ts < end):
                return str(lease["tenant"])
        return ""

    return tenant


def windows(log: Log, closed: int) -> dict[str, Rows]:
    """Table -> rows. ``closed``: seconds since 1970 before which hours are over; later ones are not compared."""
    events, tenant = log.events("node-telemetry"), tenant_of(log.events("leases"))
    slots = model.slots(events, tenant)
    found: dict[str, Rows] = {
        "rack_10s": {
            place: {**_measures(bucket), "gpus": len(bucket.gpus), "nodes": len({node for node, _ in bucket.gpus})}
            for place, bucket in slots.items()
        },
        "fleet_10s": {
            place: {**_measures(bucket), "gpus": gpus}
            for place, (bucket, gpus) in model.merged(slots, lambda p: (p[0], p[2], p[3])).items()
        },
    }
    joules, minutes = energy(events), model.gpu_minutes(events, tenant)
    found["gpu_1m"] = {
        place: {**_measures(bucket), "energy_j": joules.get(place[:3], 0)} for place, bucket in minutes.items()
    }
    stands = {event["node_id"]: (event["rack"], event["gpu_model"]) for event in events}
    of_racks: dict[tuple[Any, ...], int] = defaultdict(int)
    for start, node, gpu, name in minutes:
        of_racks[start, *stands[node], name] += joules.get((start, node, gpu), 0)
    found["rack_1m"] = {
        place: {**_measures(bucket), "gpus": gpus, "energy_j": of_racks[place]}
        for place, (bucket, gpus) in model.merged(slots, lambda p: (p[0] // 60 * 60, *p[1:])).items()
    }
    hours = model.gpu_minutes(events, tenant, window_s=HOUR_S)
    found["gpu_1h"] = {}
    for place, bucket in hours.items():
        mine = [p for p in minutes if (p[0] // HOUR_S * HOUR_S, *p[1:]) == place]
        if place[0] + HOUR_S <= closed:
            found["gpu_1h"][place] = {
                **_measures(bucket),
                "minutes": len(mine),
                "energy_j": sum(joules.get(p[:3], 0) for p in mine),
            }
    for table, length in (("usage_1m", MINUTE_S), ("usage_1h", HOUR_S), ("usage_1d", 24 * HOUR_S)):
        found[table] = {
            place: {"windows": row["windows"], **{name: row[name] for name in USED}}
            for place, row in model.usage(log.events("tenant-usage"), length).items()
        }
    return found


def _measures(bucket: model.Bucket) -> dict[str, Any]:
    return {**{name: bucket.sums.get(name, 0.0) for name in SUMS}, **bucket.extremes}


def energy(events: Iterable[Event]) -> dict[tuple[int, str, int], int]:
    """(minute s, node, gpu) -> joules: the minute's highest counter less that of the last minute with one, else less
    its own lowest. (By minutes, not by ticks: a clock that was set back mixes the order of the ticks.)"""
    spread: dict[tuple[str, int], dict[int, tuple[int, int]]] = defaultdict(dict)
    for event, gpu, _, _, readings in model.samples(events):
        value = readings["energy_j"]
        if value is not None:
            minute = event["ts"] // US // MINUTE_S * MINUTE_S
            of_gpu = spread[event["node_id"], event["gpu_index"][gpu]]
            low, high = of_gpu.get(minute, (value, value))
            of_gpu[minute] = (min(low, value), max(high, value))
    found = {}
    for (node, gpu), minutes in spread.items():
        before: int | None = None
        for minute in sorted(minutes):
            low, high = minutes[minute]
            found[minute, node, gpu] = high - (low if before is None else min(before, high))
            before = high
    return found
