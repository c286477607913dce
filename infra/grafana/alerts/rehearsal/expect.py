"""What each thing that went wrong must tell, may tell, and where: the judge of a rehearsal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from infra.grafana.alerts.rehearsal.day import Day

MINUTE_S = 60
LATE_S = 45 * MINUTE_S
"""How long after its end a cause may still be spoken of: answers look half an hour back."""

LAST_S = 15 * MINUTE_S


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that went wrong. Times in seconds since 1970."""

    what: str
    where: Mapping[str, str]
    """Labels that its alerts carry; a label that an alert lacks does not matter."""
    begin: float
    end: float
    must: tuple[str, ...]
    """Rules of which exactly one speaks, once; empty = it may pass without a word."""
    may: tuple[str, ...] = ()
    """Rules that may speak as well: their own cause, seen from elsewhere."""
    planned: bool = False
    """Part of the day's plan, not of the random faults."""


_RESET = ("gpu_reset", "gpu_replace")
_FAULTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], float]] = {
    "gpu_lost": (("gpu_reboot",), (), 0),
    "hbm_dbe": (_RESET, ("gpu_restart_app",), 4),
    "sram_dbe": (_RESET, ("gpu_restart_app",), 4),
    "gsp_timeout": (("gpu_reset",), (), 4),
    "uncontained": (("gpu_reset",), ("gpu_repeat",), 4),
    "nvlink": (("gpu_reset",), ("nvlink_down",), 4),
    "software": (("gpu_restart_app",), (), 0),
    "network": (("nic_down",), ("nic_flapping",), 5),
    "nic": (("nic_down",), (), 30),
    "link_flap": ((), ("nic_flapping",), 0),
    "host": ((), (), 0),
    "host_maintenance": ((), (), 0),
    "hang": (("hung_job",), (), 8),
    "thermal": ((), ("gpu_slowed", "gpu_hot"), 0),
    "clock": (("clock_offset",), (), 8),
    "sdc": ((), (), 0),
}
"""Fault -> (one of these must speak, these may, if it lasts at least so many minutes). An adapter's link is down for a
sixth of its repair before its maintenance begins; a host that fails is silent, which the truth says beside it."""


def causes(day: Day) -> list[Cause]:
    """Everything that the truth knows of. What began in the day's last minutes may not have been told yet."""
    latest = day.end_us / 1e6 - LAST_S
    found = (
        cause if cause.begin <= latest else replace(cause, must=(), may=cause.must + cause.may)
        for cause in _causes(day)
    )
    return sorted(found, key=lambda cause: cause.begin)


def _causes(day: Day) -> Iterator[Cause]:
    for fact in day.truth.facts:
        begin, end = fact.get("at", 0) / 1e6, (fact.get("until") or fact.get("at", 0)) / 1e6
        match fact["what"]:
            case "feed_trip":
                yield Cause("feed_trip", {"feed": fact["feed"]}, begin, end, ("feed_trip",), planned=True)
            case "coolant":
                rule = "cdu_leak" if fact["leak"] else "cdu_flow"
                yield Cause(rule, {"cdu": fact["cdu"]}, begin, end, (rule,), planned=True)
            case "cause":
                where = {"node": fact["node"], "gpu": str(fact["gpu"])}
                yield Cause("straggler", where, begin, end, ("straggler",), planned=True)
            case "straggler":
                where = {"node": fact["node"], "gpu": str(fact["gpu"])}
                yield Cause("straggler", where, begin, end, (), ("straggler",))
            case "silent":
                # A failed host is silent for a sixth of its repair before its maintenance begins; a dark rack's nodes
                # are their feed's.
                told = {"host down": (end - begin) / 6, "no power": 0}.get(fact["why"], end - begin) >= 8 * MINUTE_S
                yield Cause("silent", {"node": fact["node"]}, begin, end, ("silent_node",) * told, ("silent_node",))
            case "fault":
                yield _fault(fact, begin, end)


def _fault(fact: Mapping[str, Any], begin: float, end: float) -> Cause:
    must, may, minutes = _FAULTS[fact["kind"]]
    where = {"node": fact["node"]}
    if fact["gpu"] is not None and fact["kind"] not in ("network", "nic", "link_flap", "hang"):
        where["gpu"] = str(fact["gpu"])
    if fact["kind"] == "hang":
        where = {"job": fact["job"]}
        must = must if fact["job"] else ()
    loud = end - begin >= minutes * MINUTE_S
    return Cause(fact["kind"], where, begin, end, must if loud else (), (*must, *may), fact["kind"] == "hang")


EXPECTED_ANYHOW = ("lease_under_delivery",)
"""Told of the day as a whole: a small fleet full of faults misses its leases' targets."""


def explains(cause: Cause, rule: str, labels: Mapping[str, str], at: float) -> bool:
    """Whether an alert that began to fire then belongs to the cause."""
    if rule not in (*cause.must, *cause.may) or not cause.begin <= at <= cause.end + LATE_S:
        return False
    shared = [name for name in cause.where if labels.get(name) not in (None, "", "all")]
    return bool(shared) and all(labels[name] == cause.where[name] for name in shared)
