"""`gpufleet bench agent`: what the node agent takes from the node it watches.

The real `gpufleet agent` in a process of its own, at 1 Hz with all its sources, against this machine's driver or a
stand-in for it (infra/bench/node.py) and an embedded broker. Its CPU comes from the kernel's account of the process
when it has ended, its memory from readings on the way and the kernel's high-water mark.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from infra.bench.node import Node, node
from infra.config import load
from infra.embedded.broker import EmbeddedBroker
from infra.errors import GpufleetError
from infra.kafka.client import admin
from infra.kafka.topics import Topics, wanted
from producers.agent.agent import TOPICS, journal_folder
from producers.journal import read

SOURCES = "nvml,kmsg,host,nic"
WARM_S = 30.0
"""Imports, first inventory and first connection are over by then: what follows is the steady state."""
TOLD_EVERY_S = 10.0
QUIET_S, PATIENCE_S = 2.0, 30.0
"""A log that brings nothing for so long has been read; what was acknowledged is waited for longer."""
CORE_PERCENT, RSS_MIB = 1.0, 60
"""The aims, over ten minutes."""


@dataclass(slots=True)
class Watched:
    """What the agent's process took."""

    exit_code: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    """User and system, from the first instruction to the last, its children's included."""
    steady_wall_s: float = 0.0
    steady_cpu_s: float = 0.0
    rss: list[tuple[float, int]] = field(default_factory=list)
    """(seconds since the start, resident bytes), every second."""
    peak_bytes: int = 0
    """The kernel's high-water mark; where it keeps none, the highest reading."""


def agent(folder: Path, seconds: int, gpus: int, ticks: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run an agent for so many seconds and report; GpufleetError with its last words when it ends badly."""
    folder = folder.absolute()
    say(f"the agent for {seconds} s with {SOURCES}")
    with node(folder / "node", gpus) as here, _broker(folder) as bootstrap:
        watched = _watch(folder, here, bootstrap, seconds, ticks, say)
        said = (folder / "agent.log").read_text().strip()
        if watched.exit_code != 0:
            raise GpufleetError(f"the agent ended with exit code {watched.exit_code}: {said[-2000:]}")
        acknowledged = Counter({given.topic: given.acknowledged for given in read(journal_folder(_state(folder)))})
        on_broker = _on_broker(bootstrap, acknowledged.total())
    return _report(here, watched, ticks, acknowledged, on_broker, said)


@contextmanager
def _broker(folder: Path) -> Iterator[str]:
    with EmbeddedBroker(folder / "broker") as broker:
        flags = {"kafka.bootstrap": broker.bootstrap, "kafka.partitions": "1", "kafka.history_partitions": "1"}
        settings = load(flags=flags, environ={}, cwd=folder)
        topics = Topics(admin(settings.kafka), settings.kafka)
        topics.apply(topics.plan([each for each in wanted(settings.kafka, settings.retention) if each.name in TOPICS]))
        yield broker.bootstrap


def _state(folder: Path) -> Path:
    return folder / "state" / "agent"


def _watch(folder: Path, here: Node, bootstrap: str, seconds: int, ticks: int, say: Callable[[str], None]) -> Watched:
    settings = {
        **here.settings,
        "kafka.bootstrap": bootstrap,
        "agent.node_id": "bench",
        "agent.rack": "bench",
        "agent.ticks_per_event": str(ticks),
        "agent.state_dir": str(folder / "state"),
        "site.name": "bench",
    }
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    mine = {name: value for name, value in os.environ.items() if not name.startswith("GPUFLEET_")}
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.cli.main", "agent", "--sources", SOURCES, "--for", f"{seconds}s", *flags],
            cwd=folder,
            env={**mine, **here.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        return _follow(process, seconds, say)
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()


def _follow(process: subprocess.Popen[bytes], seconds: int, say: Callable[[str], None]) -> Watched:
    watched, seen = Watched(), psutil.Process(process.pid)
    began = told = time.monotonic()
    steady: tuple[float, float] | None = None
    warm_s = min(WARM_S, seconds / 4)
    while True:
        # Reaped here and not by Popen: the kernel hands its exact account of the process over only once.
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        now = time.monotonic()
        if ended:
            break
        cpu_s, rss = _cpu_s(seen), int(seen.memory_info().rss)
        watched.rss.append((round(now - began, 1), rss))
        watched.peak_bytes = max(watched.peak_bytes, rss, _high_water(process.pid))
        if steady is None and now - began >= warm_s:
            steady = (now, cpu_s)
        if steady is not None:
            watched.steady_wall_s, watched.steady_cpu_s = now - steady[0], cpu_s - steady[1]
        if now - told >= TOLD_EVERY_S:
            told = now
            share = watched.steady_cpu_s / watched.steady_wall_s if watched.steady_wall_s else cpu_s / (now - began)
            say(f"{now - began:.0f} of {seconds} s: {share:.2%} of a core, {rss / 2**20:.1f} MiB")
        time.sleep(1.0)
    process.returncode = watched.exit_code = os.waitstatus_to_exitcode(status)
    watched.wall_s, watched.cpu_s = now - began, usage.ru_utime + usage.ru_stime
    return watched


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _high_water(pid: int) -> int:
    """VmHWM in bytes; 0 where there is no /proc. (ru_maxrss would count this process's memory before exec, too.)"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    kib = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), "0")
    return int(kib) * 1024


def _on_broker(bootstrap: str, expected: int) -> Counter[str]:
    """Messages in each topic's log, counted by reading it (the embedded broker's offsets lag by a batch) until it
    brings nothing more; so many are expected, and waited for."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "gpufleet-bench-agent"})
    found: Counter[str] = Counter()
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in TOPICS])
        began = heard = time.monotonic()
        while time.monotonic() - heard < QUIET_S or (
            found.total() < expected and time.monotonic() - began < PATIENCE_S
        ):
            for message in consumer.consume(1000, timeout=0.2):
                topic = message.topic()
                if message.error() is None and topic is not None:
                    found[topic] += 1
                    heard = time.monotonic()
    finally:
        consumer.close()
    return found


def _report(
    here: Node, watched: Watched, ticks: int, acknowledged: Counter[str], on_broker: Counter[str], said: str
) -> dict[str, Any]:
    warm = [rss for at_s, rss in watched.rss if at_s >= watched.wall_s - watched.steady_wall_s] or [0]
    percent = 100 * watched.steady_cpu_s / watched.steady_wall_s if watched.steady_wall_s else None
    whole = 100 * watched.cpu_s / watched.wall_s
    peak = watched.peak_bytes / 2**20
    return {
        "machine": {"cpu": _cpu_model(), "cores": os.cpu_count(), "python": platform.python_version()},
        "driver": here.driver,
        "gpus": here.gpus,
        "ticks_per_event": ticks,
        "wall_s": round(watched.wall_s, 1),
        "cpu_s": round(watched.cpu_s, 2),
        "core_percent": round(whole, 2),
        "core_percent_steady": None if percent is None else round(percent, 2),
        "rss_mib": {
            "start": round(warm[0] / 2**20, 1),
            "middle": round(warm[len(warm) // 2] / 2**20, 1),
            "end": round(warm[-1] / 2**20, 1),
            "peak": round(peak, 1),
        },
        "acknowledged": dict(acknowledged),
        "on_broker": dict(on_broker),
        "said": said.splitlines()[-1] if said else "",
        "aim": {"core_percent": CORE_PERCENT, "peak_rss_mib": RSS_MIB, "met": whole < CORE_PERCENT and peak < RSS_MIB},
        "rss_readings": [{"at_s": at_s, "bytes": rss} for at_s, rss in watched.rss],
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
