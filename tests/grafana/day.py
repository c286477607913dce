"""The story's day worked out in Python, from what was sent and what the simulator did: no SQL, no projection.

Times are microseconds since 1970. Node facts come from the scenario's topology, readings from the events as sent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from producers.simulator import topology
from producers.simulator.topology import Node
from tests.story import Story

MINUTE_US: Final = 60_000_000
HOUR_US: Final = 60 * MINUTE_US


@dataclass(frozen=True, slots=True)
class Held:
    """A lease of some nodes over a time."""

    lease_id: str
    tenant: str
    nodes: frozenset[str]
    begin: int
    end: int


class Day:
    """What happened, by the minute."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.fleet = topology.build(story.scenario)
        self.nodes: dict[str, Node] = {node.node_id: node for node in self.fleet.nodes}
        self.start, self.end = story.start_us, story.end_us

    # who had what

    @cached_property
    def leases(self) -> list[Held]:
        """Each lease as its last revision left it."""
        last = {event["lease_id"]: event for event in sorted(self.story.events("leases"), key=lambda e: e["revision"])}
        return [
            Held(
                lease_id,
                event["tenant"],
                frozenset(event["nodes"]),
                micros(event["valid_from"]),
                micros(event["valid_to"]) if event["valid_to"] else self.end,
            )
            for lease_id, event in last.items()
        ]

    def lease_of(self, node: str, at: int) -> Held | None:
        return next((held for held in self.leases if node in held.nodes and held.begin <= at < held.end), None)

    def tenant_of(self, node: str, at: int) -> str:
        held = self.lease_of(node, at)
        return held.tenant if held else ""

    def gpus_by(self, at: int) -> dict[tuple[str, str], int]:
        """GPUs by model and tenant."""
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for name, node in self.nodes.items():
            counts[self.fleet.model(node).name, self.tenant_of(name, at)] += node.gpus
        return dict(counts)

    def nodes_of(self, tenant: str, at: int) -> list[str]:
        return [name for name in self.nodes if self.tenant_of(name, at) == tenant]

    def gpus_of(self, tenant: str, at: int) -> list[int]:
        """GPUs of each node that the tenant holds."""
        return [self.nodes[name].gpus for name in self.nodes_of(tenant, at)]

    def leased_hours(self, held: Held) -> float:
        """GPU-hours that a lease held within the day."""
        gpus = sum(self.nodes[name].gpus for name in held.nodes)
        return gpus * (min(held.end, self.end) - max(held.begin, self.start)) / HOUR_US

    @cached_property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """Each job as the last word about it has it."""
        words = sorted(
            self.story.events("allocations"), key=lambda e: (micros(e["ts"]), e["state"] == "ended", e["seq"])
        )
        return {event["job_id"]: event for event in words}

    def job_of(self, node: str, at: int) -> dict[str, Any] | None:
        """The job that holds the node at a time: the story's jobs take whole nodes."""
        for job in self.jobs.values():
            ended = job["ended_at"]
            if node in job["nodes"] and micros(job["started_at"]) <= at and (ended is None or micros(ended) > at):
                return job
        return None

    # what was sent

    @cached_property
    def samples(self) -> dict[int, dict[str, dict[str, Any]]]:
        """Fast-lane events by minute and node: the back-fill sends one of each a minute."""
        found: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
        for event in self.story.events("node-telemetry"):
            found[micros(event["ts"])][event["node_id"]] = event
        return found

    def readings(self, minute: int, name: str, nodes: Sequence[str] | None = None) -> Iterator[float]:
        """Valid values of a fast-lane field in a minute: one a GPU."""
        for node, event in self.samples[minute].items():
            if nodes is None or node in nodes:
                yield from (float(value) for value in event[name] if value is not None and math.isfinite(value))

    def energy_j(self, minutes: range, nodes: Sequence[str]) -> float:
        """By the GPUs' counters: last less first of the minutes, plus what the minute before the first one had."""
        counters: dict[tuple[str, int, int], list[float]] = defaultdict(list)
        for minute in range(minutes.start - MINUTE_US, minutes.stop, MINUTE_US):
            for node in nodes:
                event = self.samples.get(minute, {}).get(node)
                if event is None:
                    continue
                epochs = event["driver_epoch"] if "driver_epoch" in event else [0] * len(event["gpu_index"])
                for gpu, epoch, value in zip(event["gpu_index"], epochs, event["energy_j"], strict=True):
                    if value >= 0:  # -1 is no reading
                        counters[node, gpu, epoch].append(float(value))
        return sum(values[-1] - values[0] for values in counters.values())

    def facility(self, asset: str, minute: int) -> dict[str, Any]:
        """The only reading of an asset in a minute of the back-fill."""
        [found] = [event for event in self._assets[asset] if minute <= micros(event["ts"]) < minute + MINUTE_US]
        return found

    @cached_property
    def _assets(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for event in self.story.events("facility-telemetry"):
            found[event["asset_id"]].append(event)
        return found

    def completeness(self, tenant: str = "", nodes: Sequence[str] | None = None) -> float:
        """GPU-minutes that came in of those that were to be expected, maintenance left out."""
        received = expected = 0
        for minute in range(self.start, self.end, MINUTE_US):
            for name, node in self.nodes.items():
                if nodes is not None and name not in nodes:
                    continue
                if self._away(name, minute) or tenant not in ("", self.tenant_of(name, minute)):
                    continue
                expected += node.gpus
                event = self.samples[minute].get(name)
                received += len(event["gpu_index"]) if event else 0
        return received / expected

    def _away(self, node: str, minute: int) -> bool:
        """Whether maintenance touches the node's minute."""
        return any(begin < minute + MINUTE_US and minute < until for begin, until in self._maintenance[node])

    @cached_property
    def _maintenance(self) -> dict[str, list[tuple[int, int]]]:
        found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for fact in self.story.truth.of("maintenance"):
            found[fact["node"]].append((fact["at"], fact["until"]))
        return found

    def silent_nodes(self, minute: int) -> set[str]:
        """Nodes without an event in the minute."""
        return self.nodes.keys() - self.samples[minute].keys()

    def usage(self, tenant: str, name: str, product: str = "") -> int:
        """A usage figure of the day, the replay included."""
        total = sum(
            event[name] or 0
            for event in self.story.events("tenant-usage")
            if event["tenant"] == tenant and product in ("", event["product"])
        )
        replayed = self.story.replayed
        if tenant == replayed.tenant and product in ("", replayed.product):
            total += {
                "requests": replayed.requests,
                "input_tokens": replayed.input_tokens,
                "output_tokens": replayed.output_tokens,
            }.get(name, 0)
        return int(total)

    def usage_between(self, tenant: str, name: str, begin: int, end: int) -> int:
        """A usage figure of windows that start in [begin, end), the replay included: all of it if it starts there."""
        total = sum(event[name] or 0 for event in self.usage_windows(tenant, begin, end))
        replayed = self.story.replayed
        if tenant == replayed.tenant and begin <= micros(replayed.start) < end:
            total += int(getattr(replayed, name, 0))
        return int(total)

    def usage_windows(self, tenant: str, begin: int, end: int) -> Iterator[dict[str, Any]]:
        """Usage as the tenant's gateway sent it, window by window; the replay is not among it."""
        for minute in range(begin, end, MINUTE_US):
            yield from self._usage[tenant, minute]

    @cached_property
    def _usage(self) -> dict[tuple[str, int], list[dict[str, Any]]]:
        found: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        for event in self.story.events("tenant-usage"):
            found[event["tenant"], micros(event["ts"])].append(event)
        return found

    # limits

    COUNTED: Final = ("requests", "messages", "input_tokens", "output_tokens")

    def limits(self, tenant: str) -> dict[tuple[str, int, str, str, str], float]:
        """Limits in force at the day's end: (name, window in seconds, product, model, tier) -> limit."""
        last: dict[tuple[str, int, str, str, str], dict[str, Any]] = {}
        for event in sorted(self.story.events("tenant-limits"), key=lambda each: micros(each["valid_from"])):
            if event["tenant"] == tenant and micros(event["valid_from"]) <= self.end:
                key = (event["limit_name"], event["window_s"], event["product"], event["model"], event["tier"])
                last[key] = event
        return {key: event["limit_value"] for key, event in last.items() if event["action"] != "removed"}

    def used(self, tenant: str, name: str, window_s: int, of: tuple[str, str, str]) -> int:
        """What a limit counts in the window that ends with the day. ``of``: product, model and tier; empty = all."""
        field = "requests" if name == "messages" else name
        total = 0
        for event in self.story.events("tenant-usage"):
            where = (event["product"], event["model"], event["tier"])
            if event["tenant"] == tenant and micros(event["ts"]) >= self.end - window_s * 1_000_000:
                total += event[field] if all(a in ("", b) for a, b in zip(of, where, strict=True)) else 0
        replayed = self.story.replayed
        if tenant == replayed.tenant and micros(replayed.start) >= self.end - window_s * 1_000_000:
            where = (replayed.product, "claude", "standard")
            if all(a in ("", b) for a, b in zip(of, where, strict=True)):
                total += int(getattr(replayed, field))
        return total


def micros(moment: datetime | int) -> int:
    """A datetime of fastavro, or what already is microseconds."""
    if isinstance(moment, int):
        return moment
    return round(moment.timestamp() * 1_000_000)
