"""Ticks on the wall clock and windows in the minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from producers.agent.agent import spread_s
from producers.agent.clock import ClockSteppedError, Ticker
from producers.agent.facts import Fact
from producers.agent.gpus import EpochFile, Gpus
from producers.agent.lanes import Lane, LaneEvent
from producers.agent.merge import Picture
from producers.agent.settings import AgentSettings, AgentSettingsError
from producers.agent.sources.base import GpuDevice, Sample

SECOND = 1_000_000
MINUTE = 60 * SECOND
NOON = 1_790_000_000 * SECOND // MINUTE * MINUTE
A, B = b"a" * 16, b"b" * 16


def gpus(tmp_path: Path, *uuids: bytes) -> Gpus:
    made = Gpus(EpochFile(tmp_path / "epochs.json", "boot"), lambda _fact: None)
    see(made, *uuids)
    return made


def see(made: Gpus, *uuids: bytes) -> None:
    devices = [GpuDevice(uuid, index) for index, uuid in enumerate(uuids)]
    made.see([("nvml", Sample(gpus=devices, has_gpus=True))], NOON)


def picture(*power: float | None, **node: float) -> Picture:
    return Picture(gpu=[{} if watts is None else {"power_w": watts} for watts in power], node=dict(node))


def lane_events(lane: Lane, ticks: list[int], *power: float) -> list[LaneEvent]:
    return [event for tick in ticks for event in lane.add(tick, picture(*power))]


def test_ticks_are_multiples_of_the_interval() -> None:
    ticker = Ticker(SECOND)
    assert ticker.next(NOON + 300_000) == NOON + SECOND
    assert ticker.take(NOON + SECOND) == 0
    assert ticker.next(NOON + SECOND + 2_000) == NOON + 2 * SECOND


def test_missed_ticks_are_left_out_not_made_up() -> None:
    ticker = Ticker(SECOND)
    ticker.take(ticker.next(NOON))
    late = ticker.next(NOON + 7_400_000)
    assert late == NOON + 7 * SECOND
    assert ticker.take(late) == 5


def test_a_small_step_back_is_waited_for_and_a_large_one_asks_for_a_new_run() -> None:
    ticker = Ticker(SECOND, patience_s=60)
    ticker.next(NOON)
    ticker.take(NOON + SECOND)
    assert ticker.next(NOON - 30 * SECOND) == NOON + 2 * SECOND
    with pytest.raises(ClockSteppedError) as stepped:
        ticker.next(NOON - 3600 * SECOND)
    assert stepped.value.seconds == 3601


def test_windows_of_k_ticks_in_gpu_tick_order(tmp_path: Path) -> None:
    lane = Lane("node-telemetry", SECOND, 3, gpus(tmp_path, A, B))
    events: list[LaneEvent] = []
    for number in range(6):
        events += lane.add(NOON + number * SECOND, picture(100 + number, 200 + number))
    assert [event.ts for event in events] == [NOON, NOON + 3 * SECOND]
    assert events[0].fields["power_w"] == [100, 101, 102, 200, 201, 202]
    assert events[1].fields["ticks"] == 3
    assert events[0].fields["gpu_uuid"] == [A, B]


def test_an_agent_that_starts_in_the_middle_sends_a_short_first_window(tmp_path: Path) -> None:
    lane = Lane("node-telemetry", SECOND, 5, gpus(tmp_path, A))
    events = lane_events(lane, [NOON + number * SECOND for number in range(3, 10)], 1.0)
    assert [(event.ts - NOON, event.fields["ticks"]) for event in events] == [(3 * SECOND, 2), (5 * SECOND, 5)]


@pytest.mark.parametrize(("interval_ms", "k"), [(1000, 5), (1000, 60), (500, 8), (10_000, 6), (20_000, 1)])
def test_no_event_crosses_a_minute(tmp_path: Path, interval_ms: int, k: int) -> None:
    interval = interval_ms * 1000
    lane = Lane("node-telemetry", interval, k, gpus(tmp_path, A))
    start = NOON + 3 * interval
    events = lane_events(lane, [start + number * interval for number in range(3 * MINUTE // interval)], 1.0)
    events += lane.flush()
    assert sum(event.fields["ticks"] for event in events) == 3 * MINUTE // interval
    for event in events:
        last = event.ts + (event.fields["ticks"] - 1) * interval
        assert event.ts // MINUTE == last // MINUTE
        assert event.fields["ticks"] <= k


def test_a_gap_closes_the_window(tmp_path: Path) -> None:
    lane = Lane("node-telemetry", SECOND, 10, gpus(tmp_path, A))
    events = lane_events(lane, [NOON, NOON + SECOND, NOON + 4 * SECOND], 1.0)
    assert [(event.ts, event.fields["ticks"]) for event in events] == [(NOON, 2)]


def test_another_gpu_or_epoch_closes_the_window(tmp_path: Path) -> None:
    made = gpus(tmp_path, A)
    lane = Lane("node-telemetry", SECOND, 60, made)
    assert lane_events(lane, [NOON], 1.0) == []
    see(made, A, B)
    (first,) = lane_events(lane, [NOON + SECOND], 1.0, 2.0)
    assert (first.fields["gpu_uuid"], first.fields["power_w"]) == ([A], [1.0])
    made.reloaded("nvml", NOON + 2 * SECOND)
    (second,) = lane_events(lane, [NOON + 2 * SECOND], 1.0, 2.0)
    assert second.fields["driver_epoch"] == [NOON]
    (third,) = lane.flush()
    assert third.fields["driver_epoch"] == [NOON + 2 * SECOND]


def test_no_reading_is_blank_once_the_node_has_the_metric_and_absent_before(tmp_path: Path) -> None:
    lane = Lane("node-telemetry", SECOND, 1, gpus(tmp_path, A))
    (before,) = lane.add(NOON, picture(None))
    assert "power_w" not in before.fields
    list(lane.add(NOON + SECOND, picture(5.0)))
    (after,) = lane.add(NOON + 2 * SECOND, picture(None))
    assert len(after.fields["power_w"]) == 1
    assert after.fields["power_w"][0] != after.fields["power_w"][0]
    assert "energy_j" not in after.fields


def test_a_value_the_schema_cannot_hold_is_no_reading(tmp_path: Path) -> None:
    lane = Lane("node-telemetry", SECOND, 1, gpus(tmp_path, A))
    tick = Picture(gpu=[{"clock_sm_mhz": 2**40, "fb_used_bytes": 2**40, "temp_gpu_c": float("nan")}])
    (event,) = lane.add(NOON, tick)
    assert event.fields["clock_sm_mhz"] == [-1]
    assert event.fields["fb_used_bytes"] == [2**40]
    assert event.fields["temp_gpu_c"] == [-1]


def test_nodes_spread_over_at_most_their_share_and_each_stays_where_it_is() -> None:
    delays = [spread_s(f"node-{number}", 5.0, 0.6) for number in range(2000)]
    assert delays == [spread_s(f"node-{number}", 5.0, 0.6) for number in range(2000)]
    assert 0 <= min(delays) < 0.02
    assert 2.98 < max(delays) < 3.0
    tenths = [sum(number * 0.3 <= delay < (number + 1) * 0.3 for delay in delays) for number in range(10)]
    assert min(tenths) > 150


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"interval_ms": 700}, "interval_ms"),
        ({"ticks": 7}, "must divide"),
        ({"spread": 0.9}, "spread"),
        ({"sources": ("nvml", "nvlm")}, "nvlm"),
        ({"slow_interval_ms": 7000}, "slow_interval_ms"),
        ({"node_id": ""}, "node_id"),
        ({"node_id": "a b"}, "as in a host name; found 'a b'"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path: Path, changed: dict[str, object], says: str) -> None:
    given: dict[str, object] = {"node_id": "n", "site": "s", "state_dir": tmp_path, **changed}
    with pytest.raises(AgentSettingsError, match=says):
        AgentSettings(**given)  # type: ignore[arg-type]


def test_a_lost_gpu_keeps_its_index_and_a_new_one_gets_a_free_one(tmp_path: Path) -> None:
    posted: list[Fact] = []
    made = Gpus(EpochFile(tmp_path / "epochs.json", "boot"), posted.append)
    see(made, A, B)
    see(made, B)  # the driver now calls it 0
    assert [(slot.device.index, slot.device.uuid, slot.lost) for slot in made.slots] == [(0, A, True), (1, B, False)]
    see(made, B, b"c" * 16)
    assert [slot.device.index for slot in made.slots] == [0, 1, 2]
    see(made, A, B, b"c" * 16)
    assert [(fact.event, fact.gpu_index) for fact in posted] == [("gpu_lost", 0), ("gpu_found", 0)]


def test_a_driver_epoch_outlives_the_agent_but_not_a_reboot_or_a_restarted_counter(tmp_path: Path) -> None:
    path = tmp_path / "epochs.json"
    before = EpochFile(path, "boot-1")
    before.store({A: (123, 5000)})
    assert EpochFile(path, "boot-1").recall(A, 5001) == 123
    assert EpochFile(path, "boot-1").recall(A, 4999) is None
    assert EpochFile(path, "boot-1").recall(A, None) is None
    assert EpochFile(path, "boot-2").recall(A, 5001) is None
    path.write_text("{torn")
    assert EpochFile(path, "boot-1").recall(A, 5001) is None
