"""One stage of a drain: readers at work on filled topics, measured until few enough messages are left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from clickhouse_connect.driver.client import Client

from infra.bench.cpu import CpuMeter, Usage
from infra.bench.debt import Debt, debt
from infra.up.drain import Backlog
from infra.up.stack import Stack

STALL_S = 120.0
READING_S = 5.0
"""How often memory is read, which asks nobody."""
LOOK_S, LONGEST_LOOK_S = 0.5, 20.0
"""How often the store is asked what is left: twice as often as it takes to be done at the rate so far, and as the stage
has taken (it may have begun slowly), within these bounds. What a look costs the store, up to 0.2 s of CPU where it is
asked rarely, is charged to the stage."""
SHORTEST_CPU_S = 0.5
"""Process clocks tick in hundredths of a second: below this no rate means anything."""
SHORTEST_S = 5.0
"""Nor below this: what the consumer holds when a stage begins and ends is a second of its work."""
BETWEEN_S = 8.0
"""Longest wait for the end of an insert at either end of a stage that follows a producer: an insert cut in two would
bring rows whose CPU was spent before, or take CPU for rows that are not there yet. A full fleet has one every two."""
PEEK_S = 0.2

# Grain: one row. Read without FINAL: what was inserted.
SAMPLES = "SELECT sum(length(gpu_index) * ticks) FROM node_telemetry"


@dataclass(slots=True)
class Stage:
    """What a stage moved, and what that took."""

    wall_s: float = 0.0
    gpu_samples: int = 0
    cpu: dict[str, Usage] = field(default_factory=dict)
    """Usage by role: broker, consumer, projector, store."""
    debts: list[Debt] = field(default_factory=list)
    consumer_rss: list[int] = field(default_factory=list)
    """Resident bytes of the consumer, every five seconds."""
    store_rss_max: int = 0

    @property
    def cpu_s(self) -> float:
        return sum(usage.cpu_s for usage in self.cpu.values())

    @property
    def ingest_cpu_s(self) -> float:
        """CPU of consumer and store, merges included: what a straightforward pipeline needs, too."""
        return sum(usage.cpu_s for role, usage in self.cpu.items() if role in ("consumer", "store"))

    def ratio_to(self, baseline_per_cpu_s: float) -> float | None:
        """GPU samples per CPU-second of consumer and store, against a baseline's; None for a stage too short."""
        if self.wall_s < SHORTEST_S or self.ingest_cpu_s < SHORTEST_CPU_S:
            return None
        return round(self.gpu_samples / self.ingest_cpu_s / baseline_per_cpu_s, 2)

    def as_dict(self) -> dict[str, Any]:
        rss = self.consumer_rss
        return {
            "wall_s": round(self.wall_s, 1),
            "gpu_samples": self.gpu_samples,
            "gpu_samples_per_s": _rate(self.gpu_samples, self.wall_s),
            "cpu_s": {role: round(usage.cpu_s, 1) for role, usage in self.cpu.items()},
            "gpu_samples_per_cpu_s_all": _rate(self.gpu_samples, self.cpu_s),
            "gpu_samples_per_cpu_s": _rate(self.gpu_samples, self.ingest_cpu_s),
            "consumer_gpu_samples_per_cpu_s": _rate(self.gpu_samples, self.cpu["consumer"].cpu_s),
            "consumer_rss_mib": {"first": rss[0] >> 20, "last": rss[-1] >> 20, "max": max(rss) >> 20} if rss else {},
            "store_rss_max_mib": self.store_rss_max >> 20,
            "parts_max": max((d.parts for d in self.debts), default=0),
            "debt": [asdict(d) for d in self.debts],
        }


def drain(
    stack: Stack,
    client: Client,
    backlog: Backlog,
    until: int,
    say: Callable[[str], None],
    done: Callable[[], bool] = lambda: False,
) -> Stage:
    """Measure from now until at most ``until`` messages are left, or until ``done``. RuntimeError when nothing moves
    any more."""

    def rest_s(left: int, moved: int, seconds: float) -> float:
        if left <= until:
            return 0.0
        return max(LOOK_S, min(seconds, seconds * (left - until) / moved) / 2 if moved else LOOK_S)

    return _measure(stack, client, backlog, rest_s, say, STALL_S, done)


def follow(
    stack: Stack,
    client: Client,
    backlog: Backlog,
    seconds: float,
    say: Callable[[str], None],
    *,
    between: bool = False,
) -> Stage:
    """Measure for so many seconds, while a producer sends at its own pace; ``between``: and until the end of an insert,
    from the end of one."""

    def rest_s(_left: int, _moved: int, took: float) -> float:
        return seconds - took

    return _measure(stack, client, backlog, rest_s, say, seconds + STALL_S, lambda: False, between=between)


def _measure(
    stack: Stack,
    client: Client,
    backlog: Backlog,
    rest_s: Callable[[int, int, float], float],
    say: Callable[[str], None],
    stall_s: float,
    ended: Callable[[], bool],
    *,
    between: bool = False,
) -> Stage:
    """``rest_s`` tells from the messages left, those gone since the beginning and the seconds since then when to look
    again; 0 or less ends the stage. ``between``: from the end of an insert to the end of one."""
    stage = Stage()
    first = left = last = backlog.count()
    if between:
        _next_insert(client)
    meter = CpuMeter(stack.pids())
    before = int(client.query(SAMPLES).result_rows[0][0])
    started = moved = time.monotonic()
    while not ended() and (wait_s := rest_s(left, first - left, time.monotonic() - started)) > 0:
        _rest(stack, stage, meter, min(LONGEST_LOOK_S, wait_s), ended)
        left = backlog.count()
        now = time.monotonic()
        if left < last:
            last, moved = left, now
        if now - moved > stall_s:
            raise RuntimeError(f"no message was stored for {stall_s:.0f} s with {left} left; logs in {stack.data}/log")
        if not stage.debts or now - started - stage.debts[-1].at_s >= READING_S:
            stage.debts.append(debt(client, "node_telemetry", now - started))
            parts = stage.debts[-1]
            say(f"{left:,} messages left, {parts.parts} parts ({parts.unmerged_parts} unmerged)")
    if between:
        _next_insert(client)
    stage.wall_s = time.monotonic() - started
    stage.cpu = meter.read()
    stage.gpu_samples = int(client.query(SAMPLES).result_rows[0][0]) - before
    return stage


def _next_insert(client: Client) -> None:
    """Wait for the end of an insert into the fast lane's table."""
    rows = "SELECT count() FROM node_telemetry"
    before, deadline = client.query(rows).result_rows, time.monotonic() + BETWEEN_S
    while client.query(rows).result_rows == before and time.monotonic() < deadline:
        time.sleep(PEEK_S)


def _rest(stack: Stack, stage: Stage, meter: CpuMeter, seconds: float, ended: Callable[[], bool]) -> None:
    """Let time pass, and read what memory the processes have."""
    now = time.monotonic()
    end, next_reading = now + seconds, now + min(READING_S, seconds)
    while now < end and not ended():
        time.sleep(min(LOOK_S, end - now))
        stack.check()
        now = time.monotonic()
        if now >= next_reading:
            next_reading = now + READING_S
            usage = meter.read()
            stage.consumer_rss.append(usage["consumer"].rss_bytes)
            stage.store_rss_max = max(stage.store_rss_max, usage["store"].rss_bytes)


def _rate(samples: int, seconds: float) -> int | None:
    return round(samples / seconds) if seconds > 0 else None
