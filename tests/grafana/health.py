"""What became of every GPU's minute, in seconds, worked out in Python from the events as sent.

Each of the 60 seconds belongs to one class: not in service (the newest word about the node's life is maintenance);
unhealthy (under a fault, or reporting with a slowdown); healthy (reporting, none of that); unknown. Nobody opts out in
the story. A GPU that reports in part of a minute is taken to do so outside of its faults.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from tests.grafana.day import MINUTE_US, Day, micros

SLOWDOWN: Final = 0x08 | 0x20 | 0x40 | 0x80
"""Clock-event reasons that are faults: hardware and thermal slowdown, power brake. A software power cap is not."""
USED_FROM: Final = 0.05
"""Share of time that the engine is busy, from which a GPU counts as used."""
REBOOT_XIDS: Final = frozenset({79})
"""They ask for a reboot, and so hit the whole node."""
RESET_XIDS: Final = frozenset({64, 95, 119})
"""They ask for a reset of the GPU."""
HARMLESS_XIDS: Final = frozenset({31, 63, 94})
"""The application ends, or nothing does: the GPU is well. With the two above, all XIDs of the story."""

Span = tuple[int, int]


@dataclass(slots=True)
class Seconds:
    """GPU-seconds by class. ``used`` is the part of ``healthy`` in which the engine was busy, ``reported`` the part of
    ``accepted`` of which samples came in."""

    healthy: float = 0.0
    unhealthy: float = 0.0
    unknown: float = 0.0
    away: float = 0.0
    used: float = 0.0
    reported: float = 0.0

    def add(self, other: Seconds) -> None:
        self.healthy += other.healthy
        self.unhealthy += other.unhealthy
        self.unknown += other.unknown
        self.away += other.away
        self.used += other.used
        self.reported += other.reported

    @property
    def accepted(self) -> float:
        """In service."""
        return self.healthy + self.unhealthy + self.unknown

    @property
    def leased(self) -> float:
        return self.accepted + self.away

    @property
    def most(self) -> str:
        """The class with most of the time: for one GPU's minute."""
        return max(("healthy", "unhealthy", "unknown", "away"), key=lambda name: float(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Fault:
    """What makes GPUs of a node unhealthy until it is cleared."""

    name: str
    node: str
    gpus: frozenset[int]
    span: Span


class Health:
    """By node, GPU and minute of the day."""

    def __init__(self, day: Day) -> None:
        self.day = day
        self._nodes: dict[tuple[str, int], Seconds] = {}

    def gpus(self, node: str, minute: int) -> Iterator[Seconds]:
        """Each GPU of a node in a minute, by index."""
        event = self.day.samples.get(minute, {}).get(node)
        for gpu in range(self.day.nodes[node].gpus):
            yield self._gpu(node, gpu, minute, event)

    def node(self, node: str, minute: int) -> Seconds:
        """All GPUs of a node in a minute."""
        key = (node, minute)
        if key not in self._nodes:
            self._nodes[key] = Seconds()
            for each in self.gpus(node, minute):
                self._nodes[key].add(each)
        return self._nodes[key]

    def total(self, minutes: Iterable[int], where: Callable[[str, int], bool]) -> Seconds:
        """Over the nodes and minutes that ``where`` picks."""
        found = Seconds()
        for minute in minutes:
            for node in self.day.nodes:
                if where(node, minute):
                    found.add(self.node(node, minute))
        return found

    def nodes(self, names: Collection[str], minutes: Iterable[int]) -> Seconds:
        """Of some nodes, whoever had them."""
        return self.total(minutes, lambda node, _minute: node in names)

    def of(self, tenant: str, minutes: Iterable[int]) -> Seconds:
        """Of what a tenant leased in each minute; empty: of what nobody did."""
        return self.total(minutes, lambda node, minute: self.day.tenant_of(node, minute) == tenant)

    def classes(self, nodes: Iterable[str], minute: int) -> dict[str, int]:
        """GPUs by the class that has most of the minute."""
        found = dict.fromkeys(("healthy", "unhealthy", "unknown", "away"), 0)
        for node in nodes:
            for gpu in self.gpus(node, minute):
                found[gpu.most] += 1
        return found

    def slowed(self, nodes: Iterable[str], minute: int) -> int:
        """GPUs that say in a minute that heat, hardware or a power brake holds their clocks down."""
        events = (self.day.samples[minute][node] for node in nodes if node in self.day.samples[minute])
        return sum(_slows(reasons) for event in events for reasons in event["clock_event_reasons"])

    def _gpu(self, node: str, gpu: int, minute: int, event: dict[str, Any] | None) -> Seconds:
        place = event["gpu_index"].index(gpu) if event and gpu in event["gpu_index"] else -1
        away = _overlap(self.away[node], minute)
        faulty = min(_overlap(self._faulty[node, gpu], minute), 60 - away)
        came = 60 - away if place >= 0 else 0.0
        reported = min(came, 60 - away - faulty)
        slowed = used = 0.0
        if event and place >= 0:
            reasons, busy = event["clock_event_reasons"][place], event["gr_engine_active"][place]
            slowed = reported if _slows(reasons) else 0.0
            used = reported - slowed if math.isfinite(busy) and busy >= USED_FROM else 0.0
        return Seconds(reported - slowed, faulty + slowed, 60 - away - faulty - reported, away, used, came)

    # what was told

    @cached_property
    def told(self) -> list[dict[str, Any]]:
        """Node events in order of time."""
        return sorted(self.day.story.events("node-events"), key=lambda event: micros(event["ts"]))

    @cached_property
    def away(self) -> dict[str, list[Span]]:
        """When each node was in maintenance: from that word to the next."""
        found: dict[str, list[Span]] = defaultdict(list)
        since: dict[str, int] = {}
        for event in self.told:
            if event["event"] != "lifecycle":
                continue
            begun = since.pop(event["node_id"], None)
            if begun is not None:
                found[event["node_id"]].append((begun, micros(event["ts"])))
            if event["value"] == "maintenance":
                since[event["node_id"]] = micros(event["ts"])
        for node, begun in since.items():
            found[node].append((begun, self.day.end))
        return found

    @cached_property
    def faults(self) -> list[Fault]:
        """Each alarm that is a fault, to the word that clears it."""
        found = []
        for event in self.told:
            name = _fault(event)
            if name:
                node, index = event["node_id"], event["gpu_index"]
                whole = index is None or name == "xid_79"
                gpus = range(self.day.nodes[node].gpus) if whole else (index,)
                found.append(Fault(name, node, frozenset(gpus), (micros(event["ts"]), self._cleared(event))))
        return found

    def _cleared(self, fault: dict[str, Any]) -> int:
        ends = (
            micros(event["ts"])
            for event in self.told
            if event["node_id"] == fault["node_id"] and event["ts"] > fault["ts"] and _clears(event, fault)
        )
        return next(ends, self.day.end)

    @cached_property
    def _faulty(self) -> dict[tuple[str, int], list[Span]]:
        spans: dict[tuple[str, int], list[Span]] = defaultdict(list)
        for fault in self.faults:
            for gpu in fault.gpus:
                spans[fault.node, gpu].append(fault.span)
        return defaultdict(list, {key: _united(each) for key, each in spans.items()})


def _slows(reasons: int) -> bool:
    """-1 is no reading."""
    return reasons > 0 and bool(reasons & SLOWDOWN)


def _fault(event: dict[str, Any]) -> str:
    """Name of the fault that an event opens, if it does."""
    if event["event"] == "xid":
        code = event["code"]
        assert code in REBOOT_XIDS | RESET_XIDS | HARMLESS_XIDS, f"say here what XID {code} does"
        return "" if code in HARMLESS_XIDS else f"xid_{code}"
    return str(event["event"]) if event["event"] in ("ecc_dbe", "row_remap", "gpu_lost", "link_down") else ""


def _clears(event: dict[str, Any], fault: dict[str, Any]) -> bool:
    """A lost GPU ends when it is found, a link when it is up, what the driver said when it is loaded again; and any of
    them when maintenance ends or the node is accepted again."""
    if event["gpu_index"] is not None and event["gpu_index"] != fault["gpu_index"]:
        return False
    what = event["event"]
    if what == "maintenance_end" or (what == "lifecycle" and event["value"] == "accepted"):
        return True
    clears = {"gpu_lost": "gpu_found", "link_down": "link_up"}
    return bool(what == clears.get(fault["event"], "driver_reload"))


def _united(spans: Iterable[Span]) -> list[Span]:
    """The same time without overlaps."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def _overlap(spans: Sequence[Span], minute: int) -> float:
    """Seconds of the minute that lie in the spans."""
    inside = (min(end, minute + MINUTE_US) - max(begin, minute) for begin, end in spans)
    return sum(each for each in inside if each > 0) / 1e6
