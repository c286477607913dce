"""The whole agent: what it sends, what it survives."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from producers.agent.agent import journal_folder
from producers.agent.facts import Fact
from producers.agent.process import MemoryOutbox
from producers.agent.sources.base import Sample
from producers.encode import Message
from producers.journal import read
from tests.agent.support import START, A, B, Bench, ManualClock, Told, fixed, gpu_sample, settings, until


def test_events_of_a_minute(tmp_path: Path, nvml: Told) -> None:
    host = Told("host", Sample(node={"host_load1": 1.5, "clock_offset_s": 0.25, "clock_synced": 1}))
    bench = Bench(settings(tmp_path), fixed([host, nvml]), ManualClock(START)).run_for(65.0)

    telemetry = bench.events("node-telemetry")
    assert [event["seq"] for event in telemetry] == list(range(len(telemetry)))
    times = [event["ts"].timestamp() for event in telemetry]
    assert times == sorted(times)
    assert sum(event["ticks"] for event in telemetry) == pytest.approx(650, abs=2)
    second = telemetry[1]
    assert second["ticks"] == 5
    assert second["power_w"] == [300.0] * 10
    assert second["gpu_uuid"] == [A, B]
    assert second["gpu_index"] == [0, 1]
    assert second["gpu_model"] == "H100"
    assert second["host_load1"] == [1.5] * 5
    assert (second["clock_offset_s"], second["clock_synced"]) == (0.25, True)
    assert (second["node_id"], second["rack"], second["interval_ms"]) == ("node-1", "r1", 100)

    inventory = bench.events("inventory")
    assert len(inventory) == 1
    assert inventory[0]["gpu_pci_address"] == ["0000:10:00.0", "0000:11:00.0"]
    assert [fact["event"] for fact in bench.facts()] == ["agent_start", "agent_stop"]


def test_the_slow_lane_goes_out_every_minute_and_at_once_on_change(tmp_path: Path, nvml: Told) -> None:
    nvml.answer = gpu_sample(ecc_sbe_volatile=0, nvlink_links_active=18, ecc_dbe_volatile=0, row_remap_pending=0)
    bench = Bench(settings(tmp_path), fixed([nvml]), ManualClock(START))
    ticks = 0

    def change() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 205:  # between two slow ticks, of which there is one a second
            nvml.answer = gpu_sample(
                ecc_sbe_volatile=900, nvlink_links_active=17, ecc_dbe_volatile=2, row_remap_pending=1
            )

    bench.agent.on_tick = change
    bench.run_for(70.0)
    counters = bench.events("node-counters")
    # from :01 on; the 21st slow tick sees the change, the rest of the minute follows, then what was left at the end
    assert [event["ticks"] for event in counters] == [21, 38, 11]
    assert counters[0]["nvlink_links_active"] == [18] * 20 + [17] + [18] * 20 + [17]
    assert counters[0]["ecc_sbe_volatile"][-1] == 900
    found = bench.facts("ecc_dbe", "row_remap", "link_down")
    assert [(fact["event"], fact["gpu_index"], fact["occurrences"]) for fact in found] == [
        ("ecc_dbe", 0, 2),
        ("row_remap", 0, 1),
        ("link_down", 0, 1),
        ("ecc_dbe", 1, 2),
        ("row_remap", 1, 1),
        ("link_down", 1, 1),
    ]
    assert found[0]["source"] == "nvml"


def test_counters_that_tick_along_are_not_sent_at_once(tmp_path: Path, nvml: Told) -> None:
    bench = Bench(settings(tmp_path), fixed([nvml]), ManualClock(START))

    def count() -> None:
        before = nvml.answer.gpu[A].get("pcie_replay", 0)
        nvml.answer = gpu_sample(pcie_replay=before + 1, violation_power_ns=before + 5, clock_mem_mhz=before)

    bench.agent.on_tick = count
    bench.run_for(58.0)
    assert len(bench.events("node-counters")) == 1


def test_throttling_begins_and_ends_once_and_power_capping_does_not_count(tmp_path: Path, nvml: Told) -> None:
    bench = Bench(settings(tmp_path), fixed([nvml]), ManualClock(START))
    ticks = 0

    def change() -> None:
        nonlocal ticks
        ticks += 1
        hot = 20 <= ticks < 40 or 60 <= ticks < 80  # the pause of 2 s is too short to be an end
        nvml.answer = gpu_sample(clock_event_reasons=0x40 | 0x4 if hot else 0x4 | 0x1)

    bench.agent.on_tick = change
    bench.run_for(20.0)
    facts = [fact for fact in bench.facts("throttle_begin", "throttle_end") if fact["gpu_index"] == 0]
    assert [(fact["event"], fact["value"], fact["occurrences"]) for fact in facts] == [
        ("throttle_begin", "hw_thermal", 1),
        ("throttle_end", "hw_thermal", 2),
    ]
    assert (facts[1]["ended_at"] - facts[0]["ts"]).total_seconds() == pytest.approx(6.0, abs=0.2)


def test_a_hung_source_neither_delays_nor_loses_the_others(tmp_path: Path, nvml: Told) -> None:
    nvml.deadline_s = 3.0  # more than a busy machine lets a thread wait
    nvml.stale_after_s = 0.3
    host = Told("host", Sample(node={"host_load1": 1.5}))
    bench = Bench(settings(tmp_path, ticks=1), fixed([nvml, host]))
    with bench.running():
        until(lambda: any(event["power_w"] for event in bench.events("node-telemetry")))
        nvml.hang.clear()
        until(lambda: bench.facts("source_down"))
        at = len(bench.events("node-telemetry"))
        until(lambda: len(bench.events("node-telemetry")) >= at + 10)
        hung = bench.events("node-telemetry")[at : at + 10]
        nvml.hang.set()
        until(lambda: bench.facts("source_up"))
        until(lambda: not math.isnan(bench.events("node-telemetry")[-1]["power_w"][0]))
    assert all(event["host_load1"] == [1.5] for event in hung)
    assert all(math.isnan(watts) for event in hung for watts in event["power_w"])
    assert all(event["energy_j"] == [-1, -1] for event in hung)
    times = [event["ts"].timestamp() for event in hung]
    steps = [round((b - a) * 10, 2) for a, b in itertools.pairwise(times)]
    assert min(steps) == 1.0, "tick after tick, as far as the machine lets this thread run"
    assert all(step == int(step) for step in steps)
    (down,) = bench.facts("source_down")
    assert (down["value"], "no answer within 3 s" in down["message"]) == ("nvml", True)


def test_a_failing_source_is_reported_once_and_tried_again(tmp_path: Path, nvml: Told) -> None:
    nvml.fails = "expected a driver, found none"
    host = Told("host", Sample(node={"host_load1": 1.5}))
    bench = Bench(settings(tmp_path), fixed([nvml, host]), ManualClock(START))

    def heal() -> None:
        if nvml.opened >= 3:
            nvml.fails = None

    bench.agent.on_tick = heal
    bench.run_for(20.0)
    assert [(fact["event"], fact["value"]) for fact in bench.facts("source_down", "source_up")] == [
        ("source_down", "nvml"),
        ("source_up", "nvml"),
    ]
    assert "found none" in bench.facts("source_down")[0]["message"]
    assert bench.events("node-telemetry")[0]["host_load1"]
    assert bench.events("node-telemetry")[-1]["power_w"]


def test_a_bug_in_a_source_stops_neither_the_agent_nor_the_source(tmp_path: Path) -> None:
    class Broken(Told):
        def sample(self, slow: bool) -> Sample:
            raise ZeroDivisionError("a bug")

    host = Told("host", Sample(node={"host_load1": 1.5}))
    bench = Bench(settings(tmp_path), fixed([Broken("nvml"), host]), ManualClock(START)).run_for(5.0)
    assert "ZeroDivisionError" in bench.facts("source_down")[0]["message"]
    assert bench.events("node-telemetry")[-1]["host_load1"]


def test_precedence_is_nvml_then_dcgm_value_by_value(tmp_path: Path, nvml: Told) -> None:
    dcgm = Told("dcgm", gpu_sample(power=111.0, gr_engine_active=0.5))
    dcgm.answer.gpu[A]["energy_j"] = 8
    bench = Bench(settings(tmp_path), fixed([dcgm, nvml]), ManualClock(START))
    ticks = 0

    def lose() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 20:
            nvml.answer = Sample(gpus=nvml.answer.gpus, gpu={}, has_gpus=True)

    bench.agent.on_tick = lose
    bench.run_for(5.0)
    first, last = bench.events("node-telemetry")[1], bench.events("node-telemetry")[-1]
    assert first["power_w"][0] == 300.0
    assert first["gr_engine_active"][0] == 0.5
    assert last["power_w"][0] == 111.0
    assert (first["energy_j"][0], last["energy_j"][0]) == (10, -1)  # an older reading must not look like a restart


def test_a_lost_gpu_leaves_blanks_in_its_place(tmp_path: Path, nvml: Told) -> None:
    bench = Bench(settings(tmp_path, ticks=1), fixed([nvml]), ManualClock(START))
    ticks = 0

    def lose() -> None:
        nonlocal ticks
        ticks += 1
        whole = gpu_sample()
        if 10 <= ticks < 20:
            nvml.answer = Sample(gpus=whole.gpus[1:], gpu={B: whole.gpu[B]}, has_gpus=True)
        else:
            nvml.answer = whole

    bench.agent.on_tick = lose
    bench.run_for(4.0)
    lost = bench.events("node-telemetry")[15]
    assert lost["gpu_uuid"] == [A, B]
    assert math.isnan(lost["power_w"][0])
    assert lost["power_w"][1] == 300.0
    assert lost["energy_j"] == [-1, 10]
    assert [(fact["event"], fact["gpu_index"]) for fact in bench.facts("gpu_lost", "gpu_found")] == [
        ("gpu_lost", 0),
        ("gpu_found", 0),
    ]
    assert len(bench.events("inventory")) == 1


def test_an_energy_counter_that_begins_again_begins_a_new_epoch(tmp_path: Path, nvml: Told) -> None:
    bench = Bench(settings(tmp_path, ticks=1), fixed([nvml]), ManualClock(START))
    ticks = 0

    def reset() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 10:
            nvml.answer = gpu_sample()
            nvml.answer.gpu[A]["energy_j"] = 2

    bench.agent.on_tick = reset
    bench.run_for(3.0)
    events = bench.events("node-telemetry")
    assert len({tuple(event["driver_epoch"]) for event in events}) == 2
    assert len(events[0]["driver_epoch"]) == 1
    assert len(events[-1]["driver_epoch"]) == 2
    (fact,) = bench.facts("driver_reload")
    assert fact["gpu_index"] == 0


class Refusing(MemoryOutbox):
    """An outbox whose bound is reached."""

    full = False

    def offer(self, message: Message) -> bool:
        return not self.full and super().offer(message)


def test_while_the_outbox_refuses_facts_are_kept_and_the_oldest_samples_given_up(tmp_path: Path, nvml: Told) -> None:
    outbox = Refusing()
    bench = Bench(settings(tmp_path, ticks=1, pending_samples=20), fixed([nvml]), ManualClock(START), outbox=outbox)
    ticks = 0

    def refuse() -> None:
        nonlocal ticks
        ticks += 1
        outbox.full = 30 <= ticks < 100
        if 40 <= ticks < 45:
            bench.agent.post(Fact("link_error", "nic", bench.clock.wall_us(), value=str(ticks)))

    bench.agent.on_tick = refuse
    bench.run_for(15.0)
    assert len(bench.facts("link_error")) == 5
    (dropped,) = bench.facts("events_dropped")
    seqs = [event["seq"] for event in bench.events("node-telemetry")]
    missing = sorted(set(range(max(seqs) + 1)) - set(seqs))
    assert (dropped["value"], dropped["occurrences"]) == ("node-telemetry", len(missing))
    assert 45 <= len(missing) <= 55
    assert missing == list(range(missing[0], missing[0] + len(missing)))
    assert seqs == sorted(seqs)
    assert bench.agent.outgoing.dropped == len(missing)


def test_the_next_run_names_the_last_seq_of_the_run_before(tmp_path: Path, nvml: Told) -> None:
    told = settings(tmp_path)
    first = Bench(told, fixed([nvml]), ManualClock(START)).run_for(3.0)
    second = Bench(told, fixed([nvml]), ManualClock(START + 10_000_000)).run_for(1.0)
    start = second.facts("agent_start")[0]
    assert start["previous_run_id"] == first.journal.run_id
    given = {g.topic: g.given - 1 for g in read(journal_folder(told.state_dir)) if g.run_id == first.journal.run_id}
    assert start["previous_last_seq"] == given
    assert given["node-telemetry"] == first.events("node-telemetry")[-1]["seq"]
    assert first.facts("agent_start")[0]["previous_run_id"] is None
    assert start["seq"] == 0


def test_a_clock_that_steps_forward_leaves_a_gap_and_never_goes_back(tmp_path: Path, nvml: Told) -> None:
    clock = ManualClock(START)
    bench = Bench(settings(tmp_path, ticks=1), fixed([nvml]), clock)
    ticks = 0

    def step() -> None:
        nonlocal ticks
        ticks += 1
        clock.wall += {20: 30_000_000, 40: -5_000_000}.get(ticks, 0)

    bench.agent.on_tick = step
    bench.run_for(15.0)
    times = [event["ts"].timestamp() for event in bench.events("node-telemetry")]
    assert times == sorted(set(times))
    gaps = [b - a for a, b in itertools.pairwise(times) if b - a > 0.11]
    assert [round(gap) for gap in gaps] == [30]


def test_a_tick_never_waits_for_the_source_longer_than_its_grace(tmp_path: Path, nvml: Told) -> None:
    nvml.hang.clear()
    clock = ManualClock(START)
    bench = Bench(settings(tmp_path, ticks=1), fixed([nvml]), clock)
    clock.busy = lambda: False
    bench.run_for(10.0)
    assert len(bench.events("node-telemetry")) >= 98
