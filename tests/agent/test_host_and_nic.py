"""Host readings from /proc and psutil; RDMA ports from a sysfs tree."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import pytest

from producers.agent.sources.clock_sync import ClockSync, chrony_offset
from producers.agent.sources.ethtool import EthtoolStatistics
from producers.agent.sources.host import HostSampler, Rates
from producers.agent.sources.nic import NicSampler
from tests.agent.support import Facts, ManualClock

NOW = 1_790_000_000_000_000


def write(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def roce(root: Path, device: str = "mlx5_0", netdev: str = "eth4") -> Path:
    """A RoCE port like ConnectX-7's; its folder."""
    write(
        root / "class/infiniband" / device,
        {
            "fw_ver": "28.39.2048",
            "ports/1/state": "4: ACTIVE",
            "ports/1/rate": "400 Gb/sec (4X NDR)",
            "ports/1/counters/port_rcv_data": 1000,
            "ports/1/counters/port_xmit_data": 2000,
            "ports/1/counters/symbol_error": 0,
            "ports/1/counters/link_downed": 2,
            "ports/1/hw_counters/np_cnp_sent": 11,
            "ports/1/hw_counters/rp_cnp_handled": 12,
            "ports/1/hw_counters/out_of_sequence": 13,
            "ports/1/hw_counters/packet_seq_err": 14,
            "ports/1/hw_counters/local_ack_timeout_err": 15,
        },
    )
    if netdev:
        (root / "class/infiniband" / device / "device/net" / netdev).mkdir(parents=True)
        write(root / "class/net" / netdev, {"statistics/rx_dropped": 21, "statistics/tx_dropped": 22})
    return root / "class/infiniband" / device / "ports/1"


class Counted:
    """Driver statistics as a test has them."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    def read(self, _interface: str) -> dict[str, int]:
        return self._counts

    def close(self) -> None:
        return


def nic(root: Path, facts: Facts, clock: ManualClock, statistics: dict[str, int] | None = None) -> NicSampler:
    made = NicSampler(root, clock, facts.post, Counted(statistics or {}))
    made.open()
    return made


def test_a_roce_port_is_read_in_the_schemas_units(tmp_path: Path) -> None:
    port, clock = roce(tmp_path), ManualClock(NOW)
    statistics = {"rx_prio0_pause": 5, "rx_prio3_pause": 7, "tx_prio3_pause": 100, "rx_discards_phy": 31}
    made = nic(tmp_path, Facts(), clock, statistics)
    assert made.sample(True).node == {}
    clock.advance(2.0)
    write(port, {"counters/port_rcv_data": 1500, "counters/port_xmit_data": 4000})
    sample = made.sample(True)
    assert sample.node == {"nic_rx_bytes_per_s": 1000.0, "nic_tx_bytes_per_s": 4000.0}
    assert sample.nic == {
        "mlx5_0/1": {
            "nic_link_up": 1,
            "nic_rate_gbps": 400.0,
            "nic_link_downed": 2,
            "nic_np_cnp_sent": 11,
            "nic_rp_cnp_handled": 12,
            "nic_out_of_sequence": 13,
            "nic_packet_seq_err": 14,
            "nic_local_ack_timeout_err": 15,
            "nic_symbol_errors": 0,
            "nic_rx_discards": 31,
            "nic_tx_discards": 22,
            "nic_pause_rx": 12,
        }
    }
    assert sample.nic_firmware == {"mlx5_0": "28.39.2048"}


def test_an_infiniband_port_has_no_netdev(tmp_path: Path) -> None:
    port = roce(tmp_path, netdev="")
    write(port, {"counters/port_xmit_discards": 9, "counters/symbol_error": "N/A"})
    values = nic(tmp_path, Facts(), ManualClock(NOW)).sample(True).nic["mlx5_0/1"]
    assert values["nic_tx_discards"] == 9
    assert "nic_symbol_errors" not in values
    assert "nic_pause_rx" not in values


def test_link_changes_are_facts_and_error_counters_too(tmp_path: Path) -> None:
    port, facts, clock = roce(tmp_path), Facts(), ManualClock(NOW)
    made = nic(tmp_path, facts, clock)
    made.sample(True)
    write(port, {"state": "1: DOWN"})
    made.sample(False)
    made.sample(False)
    write(port, {"state": "4: ACTIVE", "counters/link_downed": 3, "counters/symbol_error": 4})
    made.sample(True)
    assert [(fact.event, fact.value, fact.occurrences) for fact in facts] == [
        ("link_down", "DOWN", 1),
        ("link_up", "ACTIVE", 1),
        ("link_error", "symbol_error", 4),
        ("link_error", "link_downed", 1),
    ]
    assert facts[0].attributes == {"nic": "mlx5_0/1", "netdev": "eth4"}


def test_a_node_without_rdma_has_no_nics(tmp_path: Path) -> None:
    sample = nic(tmp_path, Facts(), ManualClock(NOW)).sample(True)
    assert (sample.nic, sample.node) == ({}, {})


def test_driver_statistics_of_the_loopback_and_of_nothing() -> None:
    ethtool = EthtoolStatistics()
    assert ethtool.read("lo") == {}
    assert ethtool.read("no-such-if0") == {}
    for interface in psutil.net_if_stats():
        assert all(count >= 0 for count in ethtool.read(interface).values())
    ethtool.close()


def test_the_host_is_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": "SwapTotal:  2048 kB\nSwapFree:   1024 kB",
            "proc/pressure/cpu": "some avg10=12.50 avg60=0.00 avg300=0.00 total=1",
            "proc/pressure/memory": "some avg10=0.25 avg60=0.00 avg300=0.00 total=1\nfull avg10=9.0 avg60=0 total=1",
            "sys/class/dmi/id/sys_vendor": "Supermicro",
            "sys/class/dmi/id/product_name": "SYS-821GE",
        },
    )
    clock = ManualClock(NOW)
    host = HostSampler(tmp_path / "proc", tmp_path / "sys", clock, ClockSync(chronyc=""))
    host.open()
    first = host.sample(False)
    assert "host_cpu_util" not in first.node  # a rate needs two readings
    clock.advance(1.0)
    node = host.sample(False).node
    assert node["host_swap_used_bytes"] == 1024 * 1024
    assert (node["host_psi_cpu"], node["host_psi_mem"]) == (0.125, 0.0025)
    assert "host_psi_io" not in node
    assert node["host_mem_total_bytes"] == psutil.virtual_memory().total
    assert 0 < node["host_mem_used_bytes"] < node["host_mem_total_bytes"]
    assert node["host_processes"] > 0
    assert 0 <= node["host_disk_used"] <= 1
    assert node["host_uptime_s"] == int(NOW / 1e6 + 1 - psutil.boot_time())
    assert first.described["host_model"] == "Supermicro SYS-821GE"


def test_rates_need_two_readings_and_pass_over_restarts() -> None:
    rates = Rates()
    assert rates.rate("x", 100, 10.0) is None
    assert rates.rate("x", 150, 12.0) == 25.0
    assert rates.rate("x", 10, 13.0) is None
    assert rates.rate("x", 20, 14.0) == 10.0


def test_the_kernels_clock_state_can_be_read() -> None:
    offset, synchronised = ClockSync(chronyc="").read(0.0)
    assert isinstance(synchronised, bool)
    assert math.isnan(offset) or abs(offset) < 10


@pytest.mark.parametrize(
    ("answer", "offset"),
    [
        ("C0A80101,ntp1,2,1700000000.1,0.000012,0.00001,0.00002,1.2,0.0,0.1,0.01,0.001,64.5,Normal", -0.000012),
        ("00000000,,16,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised", None),
        ("506 Cannot talk to daemon", None),
        ("", None),
    ],
)
def test_chronys_figure_is_how_slow_the_host_is(answer: str, offset: float | None) -> None:
    assert chrony_offset(answer) == offset


def test_chrony_is_asked_once_a_minute(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    fake = tmp_path / "chronyc"
    fake.write_text(f'#!/bin/sh\necho x >> {asked}\necho "C0,ntp,2,1.0,-0.25,0,0,0,0,0,0,0,64,Normal"\n')
    fake.chmod(0o755)
    sync = ClockSync(chronyc=str(fake))
    assert [sync.read(at)[0] for at in (0.0, 1.0, 59.0, 60.0)] == [0.25] * 4
    assert len(asked.read_text().split()) == 2
