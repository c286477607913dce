"""A run as a whole: the story of a back-fill, going live, silence, restart, injection."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producers.encode import Message
from producers.journal import Journal
from producers.simulator import injection, simulation
from producers.simulator.incidents import INCIDENTS
from producers.simulator.memory import Memory
from producers.simulator.reading import ScenarioError
from producers.simulator.scenario import load
from producers.simulator.simulation import Simulation
from schemas import identity
from tests.simulator.support import HOUR_US, NOON_US, QUIET, decode, decoded, micros, quiet, simulate

MINUTE_US = 60_000_000


class Clock:
    """A clock that jumps forward by what a waiting simulation waits, and stops it at a time."""

    def __init__(self, now_us: int, until_us: int) -> None:
        self.now_us, self._until = now_us, until_us

    def __call__(self) -> int:
        return self.now_us

    def stop(self) -> threading.Event:
        clock = self

        class Stop(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                clock.now_us += int((timeout or 0) * 1e6)
                return self.is_set()

            def is_set(self) -> bool:
                return clock.now_us >= clock._until

        return Stop()


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Simulation, list[Message]]:
    """A back-filled day of `small` with its story and nothing else, and all of its messages."""
    messages: list[Message] = []
    run = simulate(replace(load("small"), faults=QUIET), tmp_path_factory.mktemp("day"), messages.append)
    seen: list[tuple[int, int]] = []
    run.backfill(NOON_US, NOON_US + 24 * HOUR_US, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (24 * HOUR_US, 24 * HOUR_US)
    return run, messages


def test_the_story_happens_in_a_backfill_and_is_in_the_truth(day: tuple[Simulation, list[Message]]) -> None:
    run, messages = day
    truth = run.truth
    (slow,) = truth.of("story", part="straggler")
    (trip,) = truth.of("feed_trip")
    (handover,) = truth.of("lease_handover")
    (raised,) = truth.of("limit_raise")
    (coolant,) = truth.of("coolant")
    for fact in (slow, trip, handover, raised, coolant):
        assert NOON_US < fact["at"] < NOON_US + 24 * HOUR_US
        assert fact["at"] % MINUTE_US == 0
    leases = decoded(messages, "leases")
    ended = next(e for e in leases if e["action"] == "ended")
    granted = [e for e in leases if e["action"] == "granted"][-1]
    assert ended["nodes"] == granted["nodes"] == handover["nodes"]
    assert ended["valid_to"] == granted["valid_from"]
    assert ended["revision"] == 2
    assert (ended["tenant"], granted["tenant"]) == ("anthropic", "nimbus")
    raise_event = next(e for e in decoded(messages, "tenant-limits") if e["action"] == "raised")
    assert raise_event["limit_value"] == raised["new"] > raise_event["previous_value"] == raised["old"]
    fast = decoded([m for m in messages if m.key.decode() == slow["node"]], "node-telemetry")
    during = [e for e in fast if slow["at"] < micros(e) <= slow["until"]]
    assert len(during) > 100
    clocks = np.array([e["clock_sm_mhz"] for e in during])
    others = np.delete(clocks, slow["gpu"], axis=1)
    assert np.median(clocks[:, slow["gpu"]]) < 0.9 * np.median(others)
    supply = {e["state"] for e in decoded(messages, "facility-telemetry") if e["asset_kind"] in ("feed", "cdu")}
    assert supply == {"ok", "tripped", "degraded"}


def test_a_limit_raise_lets_more_requests_through(day: tuple[Simulation, list[Message]]) -> None:
    run, messages = day
    (raised,) = run.truth.of("limit_raise")
    refused: dict[bool, list[float]] = defaultdict(list)
    for event in decoded(messages, "tenant-usage"):
        if event["tenant"] == "anthropic":
            answered = event["requests"] - event["throttled_requests"] - event["failed_requests"]
            assert sum(event["ttft_counts"]) == sum(event["latency_counts"]) == answered
            assert len(event["ttft_counts"]) == len(event["latency_bounds_ms"]) + 1
            tokens = event["input_tokens"] + event["cached_tokens"]
            assert tokens < raised["new" if micros(event) > raised["at"] else "old"]
            refused[micros(event) > raised["at"]].append(event["throttled_requests"])
    assert np.mean(refused[False]) > 5 * np.mean(refused[True])


def test_backfill_goes_over_into_live_without_a_gap_or_a_jump(tmp_path: Path) -> None:
    messages: list[Message] = []
    clock = Clock(NOON_US + 2 * HOUR_US + 17_000_000, NOON_US + 2 * HOUR_US + 90_000_000)
    run = simulate(replace(load("small"), faults=QUIET), tmp_path, messages.append, ticks=5, clock=clock)
    run.backfill(NOON_US, NOON_US + 2 * HOUR_US)
    run.live(clock.stop())
    node = "h100-r0001-n01"
    events = [e for e in decoded(messages, "node-telemetry") if e["node_id"] == node]
    assert [e["seq"] for e in events] == list(range(len(events)))
    stamps: list[int] = []
    for event in events:
        step = event["interval_ms"] * 1000
        assert (micros(event) + event["ticks"] * step - 1) // MINUTE_US == micros(event) // MINUTE_US
        stamps += [micros(event) + i * step for i in range(event["ticks"])]
    assert stamps[120] == NOON_US + 2 * HOUR_US
    gaps = np.diff(stamps)
    assert set(gaps.tolist()) == {MINUTE_US, 1_000_000}
    assert stamps[-1] >= clock.now_us - 12_000_000
    energy = np.concatenate([np.array(e["energy_j"]).reshape(8, -1) for e in events], axis=1)
    rises = np.diff(energy, axis=1)
    assert (rises >= 0).all()
    assert rises[:, 120:].max() < 710, "a second at 700 W"
    assert len({tuple(e["driver_epoch"]) for e in events}) == 1


def test_live_never_runs_ahead_of_the_clock_and_spreads_its_sending(tmp_path: Path) -> None:
    clock = Clock(NOON_US + 123_456, NOON_US + 31_000_000)
    sent: list[tuple[int, Message]] = []
    scenario = quiet("colossus1", nodes=4500)
    run = simulate(scenario, tmp_path, lambda m: sent.append((clock.now_us, m)), ticks=5, clock=clock)
    run.live(clock.stop())
    offsets = set()
    for at, message in sent:
        if message.topic != "node-telemetry":
            continue
        who = identity.unpack(message.header)
        last_tick = who.ts + 4_000_000
        if who.ts >= NOON_US:
            assert last_tick <= at <= last_tick + 3_100_000
            offsets.add((at - last_tick) // 100_000)
    assert len(offsets) >= 4


@pytest.mark.parametrize(
    "seconds", [0.0, 0.3, 1.2, 2.5], ids=["before the first tick", "in it", "in the next", "later"]
)
def test_what_has_a_number_is_sent_whenever_the_run_is_stopped(tmp_path: Path, seconds: float) -> None:
    messages: list[Message] = []
    scenario = quiet()
    journal = Journal.start(tmp_path, scenario.site, simulation.producers(scenario), simulation.TOPICS)
    clock = Clock(NOON_US, NOON_US + int(seconds * 1e6))
    run = Simulation(scenario, journal, messages.append, clock=clock)
    run.live(clock.stop())
    assert len(decoded(messages, "inventory")) == 35, "nodes, and the switch trays of the rack"
    for topic in simulation.TOPICS:
        assert int(journal.given(topic).sum()) == sum(message.topic == topic for message in messages)
    assert sum(run.truth.events.values()) == len(messages)


def test_speed_runs_faster_until_it_has_caught_up(tmp_path: Path) -> None:
    clock = Clock(NOON_US + HOUR_US, NOON_US + HOUR_US + 30_000_000)
    events: list[tuple[int, int]] = []

    def sink(message: Message) -> None:
        if message.topic == "node-telemetry":
            events.append((clock.now_us, identity.unpack(message.header).ts))

    run = simulate(quiet(), tmp_path, sink, clock=clock)
    run.backfill(NOON_US, NOON_US + HOUR_US - 5 * MINUTE_US)
    events.clear()
    run.live(clock.stop(), speed=20.0)
    assert all(ts <= at for at, ts in events)
    rate = (events[-1][1] - events[0][1]) / (events[-1][0] - events[0][0])
    assert rate == pytest.approx((5 * 60 + 30) / 30, rel=0.1), "five minutes behind, caught up in half a minute"


def test_a_silent_node_sends_nothing_and_then_its_numbers_go_on(tmp_path: Path) -> None:
    run = simulate(quiet(), tmp_path, ticks=5)
    list(run.generate(NOON_US, NOON_US + 30_000_000))
    node = run.world.fleet.nodes[9]
    INCIDENTS["silent"].begin(run.world, run.now_us, node, 0, 60_000_000)
    messages = [m for m in run.generate(run.now_us, run.now_us + 180_000_000) if m.topic == "node-telemetry"]
    (fact,) = run.truth.of("silent")
    assert fact["node"] == node.node_id
    mine = [identity.unpack(m.header) for m in messages if m.key.decode() == node.node_id]
    assert [who.seq for who in mine] == list(range(6, 6 + len(mine)))
    assert min(who.ts for who in mine) >= fact["until"]
    assert len([m for m in messages if m.key == b"h100-r0001-n01"]) == 36


def test_truth_counts_what_was_sent(tmp_path: Path) -> None:
    messages: list[Message] = []
    run = simulate(load("small"), tmp_path / "journal", messages.append, truth_file=tmp_path / "truth.jsonl")
    run.backfill(NOON_US, NOON_US + 3 * HOUR_US)
    run.close()
    counts: dict[str, int] = defaultdict(int)
    samples = 0
    for message in messages:
        counts[message.topic] += 1
        if message.topic == "node-telemetry":
            event = decode(message)
            samples += len(event["gpu_index"]) * event["ticks"]
    assert dict(run.truth.events) == counts
    assert run.truth.gpu_samples == samples
    lines = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert lines[:-1] == run.truth.facts
    assert lines[-1] == {"what": "sent", "events": counts, "gpu_samples": samples}


def test_a_second_start_names_the_run_before_and_keeps_its_leases(tmp_path: Path) -> None:
    scenario = replace(load("small"), faults=QUIET)
    journals, state = tmp_path / "journals", tmp_path / "state"

    def start(messages: list[Message]) -> tuple[Simulation, Journal]:
        journal = Journal.start(journals, scenario.site, simulation.producers(scenario), simulation.TOPICS)
        made = Simulation(scenario, journal, messages.append, state=state, journals=journals)
        return made, journal

    before: list[Message] = []
    first, journal = start(before)
    assert first.resumes_at is None
    first.backfill(NOON_US, NOON_US + 6 * HOUR_US)
    first.close()
    after: list[Message] = []
    second, _ = start(after)
    assert second.resumes_at == NOON_US + 6 * HOUR_US
    second.backfill(second.resumes_at, second.resumes_at + 10 * MINUTE_US)
    last: dict[str, dict[str, int]] = defaultdict(dict)
    for message in before:
        who = identity.unpack(message.header)
        last[who.producer_id][message.topic] = who.seq
    starts = [e for e in decoded(after, "node-events") if e["event"] == "agent_start"]
    assert len(starts) == 26
    for event in starts:
        assert event["previous_run_id"] == journal.run_id
        assert event["previous_last_seq"] == last[event["node_id"]]
    assert "contract" in {e["reason"] for e in decoded(before, "leases")}
    assert "contract" not in {e["reason"] for e in decoded(after, "leases")}, "they hold and are not granted again"
    over = {e["job_id"] for e in decoded(after, "allocations") if e["state"] == "ended" and e["exit_reason"]}
    running = {e["job_id"] for e in decoded(before, "allocations") if e["state"] == "started"} - {
        e["job_id"] for e in decoded(before, "allocations") if e["state"] == "ended"
    }
    assert running <= over
    assert {decode(m)["host_boot_id"] for m in before if m.topic == "node-telemetry"}.isdisjoint(
        decode(m)["host_boot_id"] for m in after if m.topic == "node-telemetry"
    )


def test_a_state_folder_of_another_fleet_is_refused(tmp_path: Path) -> None:
    run = simulate(load("small"), tmp_path / "a", state=tmp_path / "state")
    run.backfill(NOON_US, NOON_US + MINUTE_US)
    run.close()
    with pytest.raises(ScenarioError, match="another data folder"):
        simulate(load("colossus1", nodes=30), tmp_path / "b", state=tmp_path / "state")


def test_an_injected_fault_begins_in_the_running_simulation(tmp_path: Path) -> None:
    messages: list[Message] = []
    clock = Clock(NOON_US, NOON_US + 30_000_000)
    run = simulate(quiet(), tmp_path / "j", messages.append, state=tmp_path / "state", clock=clock)
    memory = Memory(tmp_path / "state")
    memory.inject("1", {"fault": "gpu_lost", "node": "gb200-r0001-n03", "gpu": 2, "duration_s": 60})
    memory.inject("2", {"fault": "gpu_lost", "node": "nobody"})
    run.live(clock.stop())
    assert memory.announced()["nodes"]["gb200-r0001-n03"] == 4
    lost = [e for e in decoded(messages, "node-events") if e["event"] == "gpu_lost"]
    assert [(e["node_id"], e["gpu_index"]) for e in lost] == [("gb200-r0001-n03", 2)]
    assert [f["request"]["node"] for f in run.truth.of("refused")] == ["nobody"]
    assert not list((tmp_path / "state" / "control").iterdir())


@pytest.mark.parametrize(
    ("fault", "node", "gpu", "asset", "says"),
    [
        ("gpu_lots", "h100-r0001-n01", 0, None, "did you mean 'gpu_lost'"),
        ("gpu_lost", "h100-r0001-n99", 0, None, "did you mean 'h100-r0001-n0"),
        ("gpu_lost", None, 0, None, "needs --node"),
        ("gpu_lost", "h100-r0001-n01", 8, None, "GPUs 0 to 7"),
        ("coolant", None, None, None, "needs --asset"),
        ("feed_trip", None, None, "feed-9", "did you mean 'feed-0"),
    ],
)
def test_a_request_that_cannot_be_is_explained(
    fault: str, node: str | None, gpu: int | None, asset: str | None, says: str
) -> None:
    nodes = {"h100-r0001-n01": 8, "h100-r0001-n09": 8}
    fleet = {"scenario": "small", "nodes": nodes, "cdus": ["cdu-001"], "feeds": ["feed-01"]}
    with pytest.raises(injection.InjectionError, match=says):
        injection.check(fault, node, gpu, asset, fleet)


def test_an_outbox_that_refuses_holds_the_simulation_and_at_the_end_takes_numbers_back(tmp_path: Path) -> None:
    class Full:
        taken = 0

        def offer_many(self, messages: Sequence[Message]) -> int:
            room = min(len(messages), 300 - self.taken)
            self.taken += room
            return room

    scenario = quiet()
    journal = Journal.start(tmp_path, scenario.site, simulation.producers(scenario), simulation.TOPICS)
    clock = Clock(NOON_US, NOON_US + 20_000_000)
    outbox: Any = Full()
    run = Simulation(scenario, journal, outbox, clock=clock, stop_patience_s=0.0)
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    run.live(stop)
    given = sum(int(journal.given(topic).sum()) for topic in simulation.TOPICS)
    assert given == outbox.taken == sum(run.truth.events.values())
