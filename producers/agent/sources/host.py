"""The host: CPU, memory, disks, network, pressure, temperature, clock; and what it is, for the inventory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil

from producers.agent.clock import Clock
from producers.agent.sources.base import Number, Sample
from producers.agent.sources.clock_sync import ClockSync

TEMPERATURE_EVERY_S = 10.0
"""Sensors hang on slow buses; a package's temperature moves slowly."""
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "grace")
_PRESSURE = {"cpu": "host_psi_cpu", "memory": "host_psi_mem", "io": "host_psi_io"}


class Rates:
    """Counters to rates per second, counter by counter."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}

    def rate(self, name: str, value: float, now_s: float) -> float | None:
        """Change per second since the call before; None the first time, and when the counter went back."""
        before = self._last.get(name)
        self._last[name] = (value, now_s)
        if before is None or now_s <= before[1] or value < before[0]:
            return None
        return (value - before[0]) / (now_s - before[1])


class HostSampler:
    """The host source. Pressure, swap and model are read below ``procfs`` and ``sysfs``, the rest by psutil."""

    name = "host"
    period_s = 0.0
    deadline_s = 5.0
    stale_after_s = 2.5

    def __init__(self, procfs: Path, sysfs: Path, clock: Clock, sync: ClockSync) -> None:
        self._procfs = procfs
        self._sysfs = sysfs
        self._clock = clock
        self._sync = sync
        self._rates = Rates()
        self._described: dict[str, str] = {}
        self._temperature: float | None = None
        self._temperature_at: float | None = None

    def open(self) -> None:
        self._described = {"kernel": os.uname().release, "host_model": self._model()}

    def close(self) -> None:
        self._described = {}

    def sample(self, slow: bool) -> Sample:
        now = self._clock.mono_s()
        node: dict[str, Number] = {}
        for read in (self._cpu, self._memory, self._disks, self._network, self._pressure, self._processes):
            _guard(read, node, now)
        if self._temperature_at is None or now - self._temperature_at >= TEMPERATURE_EVERY_S:
            self._temperature_at, self._temperature = now, _hottest_cpu()
        if self._temperature is not None:
            node["host_cpu_temp_c"] = self._temperature
        offset, synchronised = self._sync.read(now)
        node["clock_offset_s"], node["clock_synced"] = offset, int(synchronised)
        return Sample(node=node, described=dict(self._described))

    def _cpu(self, node: dict[str, Number], now: float) -> None:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # guest time is contained in user time
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        busy_rate = self._rates.rate("busy", total - idle, now)
        total_rate = self._rates.rate("total", total, now)
        if busy_rate is not None and total_rate:
            node["host_cpu_util"] = min(busy_rate / total_rate, 1.0)
        node["host_load1"] = os.getloadavg()[0]

    def _memory(self, node: dict[str, Number], _now: float) -> None:
        memory = psutil.virtual_memory()
        node["host_mem_total_bytes"] = memory.total
        node["host_mem_used_bytes"] = memory.total - memory.available
        node["host_swap_used_bytes"] = self._swap_used()

    def _swap_used(self) -> int:
        try:
            meminfo = (self._procfs / "meminfo").read_text()
        except OSError:
            return int(psutil.swap_memory().used)
        wanted = dict.fromkeys(("SwapTotal", "SwapFree"), 0)
        for line in meminfo.splitlines():
            name, _, rest = line.partition(":")
            if name in wanted:
                wanted[name] = int(rest.split()[0]) * 1024
        return wanted["SwapTotal"] - wanted["SwapFree"]

    def _disks(self, node: dict[str, Number], now: float) -> None:
        disks = psutil.disk_io_counters(nowrap=False)
        if disks is not None:
            _put(node, "host_disk_read_bytes_per_s", self._rates.rate("disk_read", disks.read_bytes, now))
            _put(node, "host_disk_write_bytes_per_s", self._rates.rate("disk_write", disks.write_bytes, now))
        space = os.statvfs("/")
        used, free = space.f_blocks - space.f_bfree, space.f_bavail
        if used + free:
            node["host_disk_used"] = used / (used + free)

    def _network(self, node: dict[str, Number], now: float) -> None:
        links = [link for name, link in psutil.net_io_counters(pernic=True, nowrap=False).items() if name != "lo"]
        received, sent = sum(link.bytes_recv for link in links), sum(link.bytes_sent for link in links)
        _put(node, "host_net_rx_bytes_per_s", self._rates.rate("net_rx", received, now))
        _put(node, "host_net_tx_bytes_per_s", self._rates.rate("net_tx", sent, now))

    def _pressure(self, node: dict[str, Number], _now: float) -> None:
        for resource, metric in _PRESSURE.items():
            try:
                text = (self._procfs / "pressure" / resource).read_text()
            except OSError:
                continue  # a kernel without pressure stall information
            some = next((line for line in text.splitlines() if line.startswith("some ")), "")
            average = some.partition("avg10=")[2].partition(" ")[0]
            if average:
                node[metric] = float(average) / 100.0

    def _processes(self, node: dict[str, Number], _now: float) -> None:
        node["host_processes"] = len(psutil.pids())
        node["host_uptime_s"] = int(self._clock.wall_us() / 1e6 - psutil.boot_time())

    def _model(self) -> str:
        parts = []
        for name in ("sys_vendor", "product_name"):
            try:
                parts.append((self._sysfs / "class/dmi/id" / name).read_text().strip())
            except OSError:
                continue
        return " ".join(parts)


def _put(node: dict[str, Number], metric: str, value: float | None) -> None:
    if value is not None:
        node[metric] = value


def _guard(read: Callable[[dict[str, Number], float], None], node: dict[str, Number], now: float) -> None:
    """One group of readings that a machine lacks must not take the others with it."""
    try:
        read(node, now)
    except (OSError, ValueError, AttributeError, NotImplementedError, psutil.Error):
        return


def _hottest_cpu() -> float | None:
    try:
        sensors = psutil.sensors_temperatures()
    except (OSError, AttributeError):
        return None
    found = [entry.current for name in _CPU_SENSORS for entry in sensors.get(name, ())]
    return max(found, default=None)
