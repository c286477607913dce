"""RDMA ports, RoCE and InfiniBand: counters, link state and speed from sysfs, the rest from the port's netdev.

Units: port_rcv_data and port_xmit_data count four-byte words, for RoCE as for InfiniBand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from producers.agent.clock import Clock
from producers.agent.facts import Fact, Post
from producers.agent.sources.base import Number, Sample
from producers.agent.sources.host import Rates

WORD_BYTES = 4
LOOK_AGAIN_S = 60.0
"""How often to look for ports that came or went."""
_COUNTERS = {
    "nic_np_cnp_sent": ("hw_counters/np_cnp_sent",),
    "nic_rp_cnp_handled": ("hw_counters/rp_cnp_handled",),
    "nic_out_of_sequence": ("hw_counters/out_of_sequence",),
    "nic_packet_seq_err": ("hw_counters/packet_seq_err",),
    "nic_local_ack_timeout_err": ("hw_counters/local_ack_timeout_err",),
    "nic_symbol_errors": ("counters/symbol_error",),
    "nic_link_downed": ("counters/link_downed",),
}
_ERRORS = ("symbol_error", "link_error_recovery", "local_link_integrity_errors", "excessive_buffer_overrun_errors")
"""Counters of a sick cable or port; a step in one is a link_error."""


class Statistics(Protocol):
    """A netdev's driver statistics by name (``ethtool -S``)."""

    def read(self, interface: str) -> Mapping[str, int]:
        """Name -> count; empty when there are none."""

    def close(self) -> None:
        """Let go of what reading needed."""


@dataclass(slots=True)
class _Port:
    name: str
    """Device and port, e.g. mlx5_0/1."""
    folder: Path
    device: str
    netdev: str
    state: str = ""
    errors: dict[str, int] = field(default_factory=dict)


class NicSampler:
    """The NIC source."""

    name = "nic"
    period_s = 0.0
    deadline_s = 5.0
    stale_after_s = 2.5

    def __init__(self, sysfs: Path, clock: Clock, post: Post, statistics: Statistics) -> None:
        self._infiniband = sysfs / "class/infiniband"
        self._net = sysfs / "class/net"
        self._clock = clock
        self._post = post
        self._statistics = statistics
        self._ports: dict[str, _Port] = {}
        self._firmware: dict[str, str] = {}
        self._looked_at = 0.0
        self._rates = Rates()

    def open(self) -> None:
        self._look()

    def close(self) -> None:
        self._statistics.close()

    def sample(self, slow: bool) -> Sample:
        now = self._clock.mono_s()
        if slow and now - self._looked_at > LOOK_AGAIN_S:
            self._look()
        sample = Sample(nic_firmware=dict(self._firmware))
        received: list[float | None] = []
        sent: list[float | None] = []
        for port in self._ports.values():
            self._watch_link(port)
            for counter, rates in (("port_rcv_data", received), ("port_xmit_data", sent)):
                words = _number(port.folder / "counters" / counter)
                if words is not None:
                    rates.append(self._rates.rate(f"{port.name}/{counter}", words * WORD_BYTES, now))
            if slow:
                sample.nic[port.name] = self._read(port)
        for metric, rates in (("nic_rx_bytes_per_s", received), ("nic_tx_bytes_per_s", sent)):
            known = [rate for rate in rates if rate is not None]
            if known and len(known) == len(rates):
                sample.node[metric] = sum(known)
        return sample

    def _look(self) -> None:
        """Find the ports; ports that stay keep their state, so that nothing is reported twice."""
        self._looked_at = self._clock.mono_s()
        found: dict[str, _Port] = {}
        self._firmware = {}
        for folder in sorted(self._infiniband.glob("*/ports/*")):
            device = folder.parent.parent
            name = f"{device.name}/{folder.name}"
            netdev = next((path.name for path in sorted(device.glob("device/net/*"))), "")
            found[name] = self._ports.get(name) or _Port(name, folder, device.name, netdev)
            self._firmware[device.name] = _text(device / "fw_ver")
        self._ports = found

    def _watch_link(self, port: _Port) -> None:
        state = _text(port.folder / "state").partition(":")[2].strip() or "unknown"
        if port.state and state != port.state and "ACTIVE" in (state, port.state):
            event = "link_up" if state == "ACTIVE" else "link_down"
            self._say(event, port, state, f"{port.name}: {port.state} -> {state}", 1)
        port.state = state

    def _read(self, port: _Port) -> dict[str, Number]:
        values: dict[str, Number] = {"nic_link_up": int(port.state == "ACTIVE")}
        rate = _text(port.folder / "rate").split()
        if rate:
            values["nic_rate_gbps"] = float(rate[0])
        for metric, paths in _COUNTERS.items():
            _put(
                values,
                metric,
                next((n for n in (_number(port.folder / path) for path in paths) if n is not None), None),
            )
        if port.netdev:
            self._read_netdev(port, values)
        else:
            _put(values, "nic_tx_discards", _number(port.folder / "counters/port_xmit_discards"))
        self._watch_errors(port, values)
        return values

    def _read_netdev(self, port: _Port, values: dict[str, Number]) -> None:
        counts = self._statistics.read(port.netdev)
        folder = self._net / port.netdev
        for metric, name, fallback in (
            ("nic_rx_discards", "rx_discards_phy", "statistics/rx_dropped"),
            ("nic_tx_discards", "tx_discards_phy", "statistics/tx_dropped"),
        ):
            _put(values, metric, counts[name] if name in counts else _number(folder / fallback))
        pauses = [count for name, count in counts.items() if name.startswith("rx_prio") and name.endswith("_pause")]
        if pauses:
            values["nic_pause_rx"] = sum(pauses)
        if not values.get("nic_link_downed"):
            _put(values, "nic_link_downed", _number(folder / "carrier_down_count"))

    def _watch_errors(self, port: _Port, values: dict[str, Number]) -> None:
        counts = {name: _number(port.folder / "counters" / name) for name in _ERRORS}
        counts["link_downed"] = int(values["nic_link_downed"]) if "nic_link_downed" in values else None
        for name, count in counts.items():
            if count is None:
                continue
            more = count - port.errors.get(name, count)
            port.errors[name] = count
            if more > 0:
                self._say("link_error", port, name, f"{port.name}: {name} rose by {more} to {count}", more)

    def _say(self, event: str, port: _Port, value: str, message: str, occurrences: int) -> None:
        self._post(
            Fact(
                event,
                "nic",
                self._clock.wall_us(),
                value=value,
                message=message,
                occurrences=occurrences,
                attributes={"nic": port.name, "netdev": port.netdev},
            )
        )


def _put(values: dict[str, Number], metric: str, value: Number | None) -> None:
    if value is not None:
        values[metric] = value


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # the port does not have it, or has no value now ("N/A")
