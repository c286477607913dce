"""CPU seconds and memory of the processes of a run, by role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """What a role used since the meter was made."""

    cpu_s: float
    """User and system CPU seconds, children included."""
    rss_bytes: int
    """Resident memory now, children included."""


class CpuMeter:
    """Reads the CPU clocks of processes by role (broker, store, consumer, projector)."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._processes = {role: psutil.Process(pid) for role, pid in pids.items()}
        self._start = {role: _cpu(process) for role, process in self._processes.items()}

    def read(self) -> dict[str, Usage]:
        """Usage per role since the meter was made; psutil.NoSuchProcess when one has died."""
        return {
            role: Usage(_cpu(process) - self._start[role], _rss(process)) for role, process in self._processes.items()
        }


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _cpu(process: psutil.Process) -> float:
    times = [p.cpu_times() for p in _family(process)]
    ended = process.cpu_times()
    return float(sum(t.user + t.system for t in times) + ended.children_user + ended.children_system)


def _rss(process: psutil.Process) -> int:
    return int(sum(p.memory_info().rss for p in _family(process)))
