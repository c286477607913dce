"""A day of outage for one node's spool: what it takes on disk, what an event costs, how fast it is sent afterwards.

The events are the simulator's, of one node with eight GPUs: K = 5 ticks of a second in the fast lane, the slow lane
every minute, and whatever else the node says. They are made in a process of their own, so that CPU and memory are the
spool's. The broker is the embedded one.
"""

from __future__ import annotations

import os
import pickle
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from producers.encode import Message
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from producers.spool.look import size
from producers.spool.outbox import SpoolOutbox
from producers.spool.settings import Fsync, SpoolSettings
from schemas import identity

Say = Callable[[str], None]
POLICY_EVENTS = 2_000
HOUR_S = 3600


def events(folder: Path, hours: float, end_us: int) -> Path:
    """A file of one node's events, the last at about ``end_us``."""
    path = folder / "events"
    arguments = [sys.executable, "-m", "infra.bench.spool_events", str(path), str(hours), str(end_us)]
    subprocess.run(arguments, check=True)
    return path


def read(path: Path) -> Iterator[tuple[str, bytes, bytes, bytes, int]]:
    """(topic, key, value, header, ts) of each."""
    with path.open("rb") as file:
        while prefix := file.read(4):
            yield pickle.loads(file.read(*struct.unpack("<I", prefix)))  # noqa: S301  # written by this very program


class _Run:
    """A journal that gives out the numbers the events carry already, and a spool."""

    def __init__(self, folder: Path, bootstrap: str, settings: SpoolSettings, contact: Callable[[], bool]) -> None:
        topics = ("node-telemetry", "node-counters", "node-events", "inventory")
        self.journal = Journal.start(folder / "journal", "bench", ["bench-node"], topics)
        kafka = {"bootstrap.servers": bootstrap}
        self.spool = SpoolOutbox(
            folder / "spool",
            self.journal,
            folder / "journal",
            lambda told: KafkaOutbox(kafka, told, 64 << 20),
            settings,
            contact=contact,
        )

    def close(self) -> None:
        self.spool.close(5.0)
        self.journal.close()


def spool(folder: Path, hours: float, bootstrap: str, say: Say) -> dict[str, Any]:
    """Run everything; the report."""
    folder.mkdir(parents=True, exist_ok=True)
    say(f"making {hours:g} h of one node's events")
    file = events(folder, hours, time.time_ns() // 1000)
    report: dict[str, Any] = {"hours": hours, "fsync": _policies(folder, file, say)}
    day = _outage(folder / "day", file, bootstrap, hours, say)
    report |= day
    return report


def _outage(folder: Path, file: Path, bootstrap: str, hours: float, say: Say) -> dict[str, Any]:
    folder.mkdir()
    contact = False
    settings = SpoolSettings(drain_bytes_per_s=0.0, drain_jitter_s=0.0, max_bytes=1 << 40)
    run = _Run(folder, bootstrap, settings, lambda: contact)
    say("spooling it with no link")
    raw = count = 0
    memory: list[int] = []
    cpu, began = time.process_time(), time.monotonic()
    for topic, key, value, header, _ in read(file):
        run.spool.offer(_message(run.journal, topic, key, value, header))
        raw, count = raw + len(value), count + 1
        if count % 1000 == 0:
            memory.append(_resident())
    while _unpacked(folder) > 1:  # all but the file that is being written
        time.sleep(0.05)
    cpu = time.process_time() - cpu
    wrote_s = time.monotonic() - began
    on_disk = size(folder / "spool")
    say("sending it to the embedded broker as fast as it takes it")
    contact = True
    cpu_drain, began = time.process_time(), time.monotonic()
    while run.spool.spooled:
        time.sleep(0.01)
        memory.append(_resident())
    drained_s, cpu_drain = time.monotonic() - began, time.process_time() - cpu_drain
    run.close()
    return {
        "events": count,
        "raw_mib": round(raw / 2**20, 1),
        "disk_mib": round(on_disk / 2**20, 1),
        "ratio": round(raw / on_disk, 2),
        "spool_cpu_us_per_event": round(cpu / count * 1e6, 1),
        "spool_share_of_a_core": f"{cpu / (hours * HOUR_S):.5%}",
        "spool_wall_s": round(wrote_s, 2),
        "drain_wall_s": round(drained_s, 2),
        "drain_times_real_time": round(hours * HOUR_S / drained_s),
        "drain_cpu_us_per_event": round(cpu_drain / count * 1e6, 1),
        "resident_mib_first": round(memory[0] / 2**20, 1),
        "resident_mib_most": round(max(memory) / 2**20, 1),
        "resident_mib_last": round(memory[-1] / 2**20, 1),
    }


def _policies(folder: Path, file: Path, say: Say) -> dict[str, Any]:
    """What one event costs on the way to the disk, by fsync policy, and how long the caller waits for it."""
    found: dict[str, Any] = {}
    for policy in get_args(Fsync):
        say(f"fsync = {policy}")
        place = folder / f"fsync-{policy}"
        place.mkdir()
        run = _Run(place, "127.0.0.1:1", replace(SpoolSettings(), fsync=policy), lambda: False)
        taken: list[float] = []
        cpu = time.process_time()
        for number, (topic, key, value, header, _) in enumerate(read(file)):
            if number == POLICY_EVENTS:
                break
            message = _message(run.journal, topic, key, value, header)
            began = time.perf_counter()
            run.spool.offer(message)
            taken.append(time.perf_counter() - began)
        cpu = time.process_time() - cpu
        run.close()
        taken.sort()
        found[policy] = {
            "cpu_us_per_event": round(cpu / len(taken) * 1e6, 1),
            "wait_us_p50": round(taken[len(taken) // 2] * 1e6, 1),
            "wait_us_p99": round(taken[int(len(taken) * 0.99)] * 1e6, 1),
        }
    return found


def _message(journal: Journal, topic: str, key: bytes, value: bytes, header: bytes) -> Message:
    """The event under this run's identity in the header; the datum keeps the one it was made with."""
    row = journal.row("bench-node", topic)
    who = identity.unpack(header)
    seq = journal.next(row)
    journal.give(row, seq)
    named = who._replace(producer_id="bench-node", run_id=journal.run_id, seq=seq)
    return Message(topic, key, value, identity.pack(named), row)


def _unpacked(folder: Path) -> int:
    return len(list((folder / "spool").glob("samples-*.log")))


def _resident() -> int:
    """Resident memory of this process, bytes."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
