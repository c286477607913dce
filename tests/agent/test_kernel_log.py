"""The kernel log: the driver's lines, the device's records, and one event per XID."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from producers.agent.clock import SystemClock
from producers.agent.coalesce import XidMerger
from producers.agent.facts import Fact
from producers.agent.gpus import pci_text
from producers.agent.sources.base import SourceError
from producers.agent.sources.kmsg import KmsgWatcher, RecordReader
from producers.agent.sources.xid_lines import parse
from tests.agent.support import Facts, ManualClock, until

FALLEN = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


@pytest.mark.parametrize(
    ("line", "pci", "code", "message", "attributes"),
    [
        (
            "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.",
            "0000:3b:00.0",
            79,
            "GPU has fallen off the bus.",
            {"pid": "1234"},
        ),
        (FALLEN, "0000:3b:00.0", 79, "GPU has fallen off the bus.", {"pid": "unknown", "process": "unknown"}),
        (
            "NVRM: Xid (PCI:0000:00:06): 31, pid=79749, name=exe, Ch 0000000a, intr 00000000. MMU Fault",
            "0000:00:06.0",
            31,
            "Ch 0000000a, intr 00000000. MMU Fault",
            {"pid": "79749", "process": "exe", "channel": "0000000a"},
        ),
        ("NVRM: Xid (0000:03:00): 13, 0003 00000000 000091c0", "0000:03:00.0", 13, "0003 00000000 000091c0", {}),
        ("NVRM: Xid (3b:00): 43", "0000:3b:00.0", 43, "XID 43", {}),
        (
            "NVRM: Xid (PCI:0000:05:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9).",
            "0000:05:00.0",
            94,
            "Contained: CE User Channel (0x9).",
            {"mig_instance": "05", "pid": "7194"},
        ),
        (
            "NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000 0x0)",
            "0009:01:00.0",
            149,
            "NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000 0x0)",
            {
                "unit": "NETIR_LINK_EVT",
                "severity": "fatal",
                "link": "01",
                "intr_info": "0x021425c6",
                "error_status": "0x00000000",
            },
        ),
        (
            "NVRM: Xid (PCI:0019:01:00): 145, RLW_SRC_TRACK Nonfatal XC1 i0 Link 12 (0x040988e2 0x00000008 0x0)",
            "0019:01:00.0",
            145,
            "RLW_SRC_TRACK Nonfatal XC1 i0 Link 12 (0x040988e2 0x00000008 0x0)",
            {
                "unit": "RLW_SRC_TRACK",
                "severity": "nonfatal",
                "link": "12",
                "intr_info": "0x040988e2",
                "error_status": "0x00000008",
            },
        ),
        (
            "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)",
            "0000:c1:00.0",
            12028,
            "Link 32 egress non-posted PRIV error (First)",
            {"switch": "nvidia-nvswitch3", "severity": "non-fatal", "link": "32"},
        ),
    ],
)
def test_every_form_of_line(line: str, pci: str, code: int, message: str, attributes: dict[str, str]) -> None:
    fact = parse(line, 5)
    assert fact is not None
    assert (fact.event, fact.source, fact.ts, fact.raw) == ("sxid" if "SXid" in line else "xid", "kmsg", 5, line)
    assert (fact.pci_address, fact.code, fact.message) == (pci, code, message)
    assert fact.attributes == attributes


def test_xid_154_carries_the_drivers_verdict() -> None:
    line = "NVRM: Xid (PCI:0000:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
    fact = parse(line, 0)
    assert fact is not None
    assert (fact.recovery_action, fact.attributes["verdict"]) == (2, "Node Reboot Required")


@pytest.mark.parametrize(
    "line",
    ["eth0: link up", "NVRM: Xid error: xyz, invalid", "NVRM: Xid (PCI:0000:66:00): abc, pid=1", "NVRM: GPU lost"],
)
def test_other_lines_are_no_facts(line: str) -> None:
    assert parse(line, 0) is None


@pytest.mark.parametrize("text", ["0000:3b:00", "00000000:3B:00.0", "3b:00", "0000:3b:00.0", "000:3b:00"])
def test_one_pci_address_however_it_is_written(text: str) -> None:
    assert pci_text(text) == "0000:3b:00.0"


def test_records_dictionaries_and_fragments() -> None:
    reader = RecordReader()
    data = (
        b"6,10,1000,-;first\n SUBSYSTEM=pci\n DEVICE=+pci:0\n"
        b"6,11,2000,c;NVRM: Xid \n6,12,2001,+;(PCI:0000:3b:00): 79\n4,13,3000,-,caller=T1;tab\\x09here\nbroken\n6,14"
    )
    records = list(reader.feed(data))
    assert [(record.sequence, record.text) for record in records] == [
        (10, "first"),
        (12, "NVRM: Xid (PCI:0000:3b:00): 79"),
        (13, "tab\there"),
    ]
    assert [record.sequence for record in reader.feed(b",5000,-;rest\n")] == [14]


def watching(path: Path, facts: Facts, stop: threading.Event, **changed: object) -> KmsgWatcher:
    watcher = KmsgWatcher(path, SystemClock(), **changed)  # type: ignore[arg-type]
    threading.Thread(target=watcher.watch, args=(facts.post, lambda: not stop.is_set()), daemon=True).start()
    return watcher


def test_a_restarted_agent_goes_on_behind_what_it_reported(tmp_path: Path) -> None:
    log, facts, stop = tmp_path / "kmsg", Facts(), threading.Event()
    log.write_text(
        "".join(f"4,{number},1000,-;NVRM: Xid (PCI:0000:3b:00): {number}, text\n" for number in range(40, 44))
    )
    watching(log, facts, stop, after=41, look_back_s=1e12)
    until(lambda: len(facts) == 2)
    with log.open("a") as more:
        more.write("4,44,1000,-;NVRM: Xid (PCI:0000:3b:00): 44, text\n6,45,1000,-;nothing\n")
    until(lambda: len(facts) == 3)
    stop.set()
    assert [fact.code for fact in facts] == [42, 43, 44]
    assert facts[-1].attributes["kernel_sequence"] == "44"


def test_the_first_start_in_a_boot_reports_only_the_last_day(tmp_path: Path) -> None:
    log, facts, stop = tmp_path / "kmsg", Facts(), threading.Event()
    clock = ManualClock(1_790_000_000_000_000)
    clock.mono = 200_000.0
    log.write_text(
        "4,1,1000,-;NVRM: Xid (PCI:0000:3b:00): 31, old\n4,2,199000000000,-;NVRM: Xid (PCI:0000:3b:00): 79, new\n"
    )
    watcher = KmsgWatcher(log, clock)
    threading.Thread(target=watcher.watch, args=(facts.post, lambda: not stop.is_set()), daemon=True).start()
    until(lambda: facts)
    stop.set()
    assert [(fact.code, fact.ts) for fact in facts] == [(79, 1_790_000_000_000_000 - 1_000_000_000)]


def test_an_overrun_is_said_with_what_was_lost(tmp_path: Path) -> None:
    log, facts, stop = tmp_path / "kmsg", Facts(), threading.Event()
    log.write_text("")
    answers: list[bytes | OSError] = [
        b"6,7,1000,-;x\n",
        OSError(errno.EPIPE, "overrun"),
        b"4,20,1000,-;NVRM: Xid (PCI:0000:3b:00): 79, text\n",
    ]

    def read(_fd: int, _size: int) -> bytes:
        answer = answers.pop(0) if answers else b""
        if isinstance(answer, OSError):
            raise answer
        return answer

    watching(log, facts, stop, read=read, look_back_s=1e12)
    until(lambda: len(facts) == 3)
    stop.set()
    assert [fact.event for fact in facts] == ["source_down", "source_up", "xid"]
    assert "12 records" in facts[0].message


def test_a_pipe_in_packets_reads_like_the_device(tmp_path: Path) -> None:
    path, facts, stop = tmp_path / "kmsg", Facts(), threading.Event()
    os.mkfifo(path)
    keep = os.open(path, os.O_RDWR)
    watching(path, facts, stop, look_back_s=1e12)
    os.write(keep, b"4,20,1000,-;" + FALLEN.encode() + b"\n")
    until(lambda: facts)
    stop.set()
    os.close(keep)
    assert facts[0].code == 79


def test_a_log_that_may_not_be_read_is_one_clear_error(tmp_path: Path) -> None:
    watcher = KmsgWatcher(tmp_path / "none", SystemClock())
    with pytest.raises(SourceError, match="cannot read the kernel log"):
        watcher.watch(lambda _fact: None, lambda: True)


GPU = b"g" * 16


def number(code: int, verdict: int | None = 1) -> Fact:
    return Fact("xid", "nvml", 10, gpu_uuid=GPU, gpu_index=3, code=code, recovery_action=verdict)


def words(line: str) -> Fact:
    fact = parse(line, 9)
    assert fact is not None
    return replace(fact, gpu_uuid=GPU, gpu_index=3)


def merger(facts: Facts, log: bool = True, nvml: bool = True) -> XidMerger:
    return XidMerger(facts.post, lambda: log, lambda: nvml)


def test_line_and_number_become_one_event_whoever_comes_first() -> None:
    orders: list[tuple[Callable[[], Fact], Callable[[], Fact]]] = [
        (lambda: words(FALLEN), lambda: number(79)),
        (lambda: number(79), lambda: words(FALLEN)),
    ]
    for first, second in orders:
        facts = Facts()
        merge = merger(facts)
        merge.add(first(), 100.0)
        assert facts == []
        merge.add(second(), 100.3)
        assert merge.due(110.0) is None
        (fact,) = facts
        assert (fact.source, fact.raw, fact.recovery_action, fact.occurrences) == ("kmsg", FALLEN, 1, 1)
        assert fact.attributes["seen_by"] == "kmsg,nvml"


def test_a_number_alone_goes_out_after_five_seconds_or_at_once_without_a_kernel_log() -> None:
    facts = Facts()
    merge = merger(facts)
    merge.add(number(79), 100.0)
    assert merge.due(104.9) == 105.0
    assert facts == []
    merge.due(105.0)
    assert [fact.source for fact in facts] == ["nvml"]

    alone = Facts()
    merger(alone, log=False).add(number(79), 100.0)
    assert len(alone) == 1


def test_a_storm_costs_two_events_every_five_seconds_and_loses_no_count() -> None:
    facts = Facts()
    merge = merger(facts)
    for at in range(1000):
        merge.add(words("NVRM: Xid (PCI:0000:3b:00): 45, pid=1, Ch 0x1"), 100.0 + at * 0.004)
        merge.add(number(45), 100.0 + at * 0.004)
    merge.due(106.0)
    assert [fact.occurrences for fact in facts] == [1, 999]
    assert merge.idle


def test_different_gpus_codes_and_units_stay_apart() -> None:
    facts = Facts()
    merge = merger(facts, nvml=False)
    merge.add(words("NVRM: Xid (PCI:0000:3b:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 01 (0x1 0x2)"), 100.0)
    merge.add(words("NVRM: Xid (PCI:0000:3b:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 02 (0x1 0x2)"), 100.0)
    merge.add(words("NVRM: Xid (PCI:0000:3b:00): 13, text"), 100.0)
    merge.add(replace(words("NVRM: Xid (PCI:0000:3c:00): 13, text"), gpu_uuid=b"h" * 16), 100.0)
    merge.due(200.0)
    assert len(facts) == 4


def test_the_exporters_last_xid_counts_only_where_nobody_else_watches() -> None:
    last = replace(number(63), source="dcgm")
    seen, alone = Facts(), Facts()
    merger(seen).add(last, 0.0)
    merger(alone, log=False, nvml=False).add(last, 0.0)
    assert (len(seen), len(alone)) == (0, 1)
