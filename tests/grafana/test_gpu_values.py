"""The board of one GPU against its samples as sent: the straggler while it is slow, and GPUs that had errors."""

from __future__ import annotations

import math
import statistics
import uuid
from collections.abc import Iterator
from typing import Any, Final

import pytest

from infra.grafana.boards.ids import Gpu
from tests.grafana.asking import Asking
from tests.grafana.day import HOUR_US, MINUTE_US, Day, micros
from tests.grafana.health import SLOWDOWN, Health
from tests.story import Story

pytestmark = pytest.mark.store
RAW_US: Final = 15 * MINUTE_US
"""Raw samples are shown of so much."""
USED_FROM: Final = 0.05
LATER_US: Final = 2 * MINUTE_US


@pytest.fixture(scope="module")
def ask(story: Story) -> Asking:
    return Asking(story)


class One:
    """A GPU, at the end of an hour that ends at ``at``."""

    def __init__(self, day: Day, node: str, gpu: int, at: int) -> None:
        self.day, self.node, self.gpu, self.at = day, node, gpu, at
        rack = day.fleet.racks[day.nodes[node].rack].rack_id
        self.wanted = {"rack": rack, "node": node, "gpu": str(gpu)}
        self.minutes = range(at - HOUR_US, at, MINUTE_US)

    def read(self, name: str, minute: int) -> float | None:
        """A valid value of a field."""
        event = self.day.samples[minute].get(self.node)
        if event is None or self.gpu not in event["gpu_index"]:
            return None
        value = event[name][event["gpu_index"].index(self.gpu)]
        return float(value) if value is not None and math.isfinite(value) and value >= 0 else None

    def line(self, name: str) -> dict[int, float | None]:
        return {minute: self.read(name, minute) for minute in self.minutes}


@pytest.fixture(scope="module")
def slow(day: Day) -> One:
    """The straggler, ten minutes before it recovers."""
    fact = day.story.fact["straggler"]
    return One(day, fact["node"], fact["gpu"], fact["until"] - 10 * MINUTE_US)


@pytest.fixture(scope="module")
def lost(day: Day) -> One:
    """The first GPU that fell off the bus, half-way to its repair: it has no values."""
    fact = next(day.story.truth.of("fault", kind="gpu_lost"))
    return One(day, fact["node"], fact["gpu"], (fact["at"] + fact["until"]) // 2 // MINUTE_US * MINUTE_US)


def drawn(rows: list[dict[str, Any]], line: str, one: One) -> dict[int, float | None]:
    """A line, for every minute of the GPU's hour; no row is no value."""
    found = {micros(row["time"]): row[line] for row in rows}
    assert found.keys() <= set(one.minutes)
    return {minute: found.get(minute) for minute in one.minutes}


def test_the_newest_minute(ask: Asking, slow: One) -> None:
    last = slow.at - MINUTE_US
    for panel, name in (
        (Gpu.POWER_NOW, "power_w"),
        (Gpu.TEMPERATURE_NOW, "temp_gpu_c"),
        (Gpu.ACTIVE_NOW, "tensor_active"),
    ):
        found = ask.number(Gpu.UID, panel, slow.at, 1, slow.wanted)
        assert found == pytest.approx(slow.read(name, last)), name


@pytest.mark.parametrize(
    ("panel", "line", "field"),
    [
        (Gpu.ACTIVITY, "engine busy", "gr_engine_active"),
        (Gpu.ACTIVITY, "SMs busy", "sm_active"),
        (Gpu.ACTIVITY, "tensor pipes busy", "tensor_active"),
        (Gpu.ACTIVITY, "memory busy", "dram_active"),
        (Gpu.POWER, "mean", "power_w"),
        (Gpu.POWER, "highest", "power_w"),
        (Gpu.TEMPERATURE, "core", "temp_gpu_c"),
        (Gpu.TEMPERATURE, "memory", "temp_mem_c"),
        (Gpu.MEMORY, "used", "fb_used_bytes"),
    ],
)
def test_lines_are_the_samples_minute_by_minute(
    ask: Asking, slow: One, lost: One, panel: int, line: str, field: str
) -> None:
    """A sample stands for its minute. What a lost GPU does not say is not drawn."""
    for one in (slow, lost):
        rows = ask.rows(Gpu.UID, panel, one.at, 1, one.wanted)
        expected = one.line(field)
        assert drawn(rows, line, one) == {
            minute: None if value is None else pytest.approx(value) for minute, value in expected.items()
        }
    assert None in lost.line(field).values()


def test_power_by_the_energy_counter(ask: Asking, day: Day, slow: One) -> None:
    rows = ask.rows(Gpu.UID, Gpu.POWER, slow.at, 1, slow.wanted)
    counted = {minute: slow.read("energy_j", minute) or 0.0 for minute in (slow.minutes[0] - MINUTE_US, *slow.minutes)}
    watts = {minute: (counted[minute] - counted[minute - MINUTE_US]) / 60 for minute in slow.minutes}
    assert drawn(rows, "by energy counter", slow) == pytest.approx(watts)
    assert min(watts.values()) > 0


def test_clock_of_the_straggler_and_of_its_job(ask: Asking, slow: One) -> None:
    """The median is that of the job's GPUs whose engine is busy."""
    medians = {minute: statistics.median(clock for clock, _ in busy_peers(slow, minute)) for minute in slow.minutes}
    last = slow.at - MINUTE_US
    against = ask.number(Gpu.UID, Gpu.AGAINST_PEERS, slow.at, 1, slow.wanted)
    assert against == pytest.approx((slow.read("clock_sm_mhz", last) or 0) / medians[last])
    assert against < 0.92
    own, job = (ask.rows(Gpu.UID, Gpu.CLOCKS, slow.at, 1, slow.wanted, place=place) for place in (0, 1))
    assert drawn(own, "this GPU", slow) == pytest.approx(slow.line("clock_sm_mhz"))
    found = {micros(row["time"]): row["median of its job"] for row in job}
    assert {minute: found[minute] for minute in slow.minutes} == pytest.approx(medians)


def busy_peers(one: One, minute: int) -> Iterator[tuple[float, tuple[str, int]]]:
    """Clock of each busy GPU of the job that holds this one, itself among them."""
    job = one.day.job_of(one.node, one.at)
    assert job is not None
    for node in job["nodes"]:
        for gpu in range(one.day.nodes[node].gpus):
            peer = One(one.day, node, gpu, one.at)
            clock, busy = peer.read("clock_sm_mhz", minute), peer.read("gr_engine_active", minute)
            if clock is not None and busy is not None and busy >= USED_FROM:
                yield clock, (node, gpu)


def test_peers_of_the_straggler(ask: Asking, slow: One) -> None:
    """All of its job, the slowest first."""
    last = slow.at - MINUTE_US
    rows = ask.rows(Gpu.UID, Gpu.PEERS, slow.at, 1, slow.wanted)
    assert (rows[0]["node_id"], rows[0]["gpu"]) == (slow.node, slow.gpu)
    assert {(row["node_id"], row["gpu"]) for row in rows} == {name for _, name in busy_peers(slow, last)}
    for row in rows:
        peer = One(slow.day, row["node_id"], row["gpu"], slow.at)
        fields = ("clock_sm_mhz", "power_w", "tensor_active", "temp_gpu_c")
        found = [row[name] for name in ("clock", "power", "tensor", "hottest")]
        assert found == pytest.approx([peer.read(field, last) for field in fields])
        assert row["slowed"] == 60 * bool(int(peer.read("clock_event_reasons", last) or 0) & SLOWDOWN)


def test_clocks_held_down_by_reason(ask: Asking, day: Day) -> None:
    """Of a GPU that the coolant's failure made hot: each reason's bit, minute by minute."""
    fact = next(each for each in day.story.truth.of("throttle", why="sw_thermal"))
    one = One(day, fact["node"], fact["gpu"], int(fact["at"]) // MINUTE_US * MINUTE_US + 30 * MINUTE_US)
    bits = {"power cap": 0x04, "hardware slowdown": 0x08, "software thermal": 0x20, "hardware thermal": 0x40}
    rows = ask.rows(Gpu.UID, Gpu.THROTTLING, one.at, 1, one.wanted)
    names = [name for name in rows[0] if name != "time"]
    assert len(names) == 5
    masks = one.line("clock_event_reasons")
    for name, bit in zip(names, (*bits.values(), 0x80), strict=True):
        held = {minute: None if mask is None else float(int(mask) & bit != 0) for minute, mask in masks.items()}
        assert drawn(rows, name, one) == held, name
    assert any(int(mask or 0) & SLOWDOWN for mask in masks.values())


@pytest.mark.parametrize(
    ("panel", "line", "field"),
    [
        (Gpu.LINKS, "NVLink sent", "nvlink_tx_bytes_per_s"),
        (Gpu.LINKS, "NVLink received", "nvlink_rx_bytes_per_s"),
        (Gpu.LINKS, "PCIe sent", "pcie_tx_bytes_per_s"),
        (Gpu.LINKS, "PCIe received", "pcie_rx_bytes_per_s"),
        (Gpu.LAST_MINUTES, "mean", "power_w"),
        (Gpu.LAST_MINUTES, "highest instant", "power_instant_w"),
    ],
)
def test_raw_samples_of_the_last_minutes(ask: Asking, slow: One, panel: int, line: str, field: str) -> None:
    rows = ask.rows(Gpu.UID, panel, slow.at, 1, slow.wanted)
    found = {micros(row["time"]): row[line] for row in rows}
    last = range(slow.at - RAW_US + MINUTE_US, slow.at + MINUTE_US, MINUTE_US)
    sent = {minute: slow.read(field, minute) for minute in last}
    assert found == pytest.approx(sent)


def test_uncorrected_errors_since_the_driver_was_loaded(ask: Asking, day: Day, health: Health) -> None:
    """After each error, once the slow lane has had its minute, unless the driver was loaded again meanwhile."""
    errors = [event for event in health.told if event["event"] == "ecc_dbe"]
    shown = []
    for event in errors:
        one = One(day, event["node_id"], event["gpu_index"], micros(event["ts"]) // MINUTE_US * MINUTE_US + LATER_US)
        count, loaded = errors_of(health, one)
        if loaded <= micros(event["ts"]):
            shown.append(ask.number(Gpu.UID, Gpu.ECC_NOW, one.at, 1, one.wanted))
            assert shown[-1] == count, f"{one.node} {one.gpu}"
    assert len(shown) > 3


def errors_of(health: Health, one: One) -> tuple[int, int]:
    """Errors of the GPU since its driver was loaded, and when that was (0: before the day)."""
    count = loaded = 0
    for event in health.told:
        mine = event["node_id"] == one.node and event["gpu_index"] in (None, one.gpu)
        if mine and micros(event["ts"]) <= one.at:
            if event["event"] == "driver_reload":
                count, loaded = 0, micros(event["ts"])
            count += event["event"] == "ecc_dbe"
    return count, loaded


def test_completeness_of_a_gpu_of_a_stuck_agent(ask: Asking, day: Day) -> None:
    """The newest minute may still be on its way: it does not count."""
    fact = next(day.story.truth.of("silent", why="agent stuck"))
    one = One(day, fact["node"], 0, int(fact["until"]) // MINUTE_US * MINUTE_US + 10 * MINUTE_US)
    whole = [minute for minute in one.minutes if minute < one.at - MINUTE_US]
    heard = [minute for minute in whole if one.node in day.samples[minute]]
    assert len(heard) < len(whole)
    found = ask.number(Gpu.UID, Gpu.COMPLETENESS, one.at, 1, one.wanted)
    assert found == pytest.approx(len(heard) / len(whole))


def test_what_it_is_and_where(ask: Asking, day: Day, slow: One) -> None:
    node = day.nodes[slow.node]
    rack = day.fleet.racks[node.rack]
    [row] = ask.rows(Gpu.UID, Gpu.IDENTITY, slow.at, 1, slow.wanted)
    sent = day.samples[slow.at - MINUTE_US][slow.node]["gpu_uuid"][slow.gpu]
    assert row["uuid"] == f"GPU-{uuid.UUID(bytes=sent)}"
    assert row["gpu_model"] == rack.model.name
    assert (row["rack"], row["feed"], row["cdu"]) == (
        rack.rack_id,
        day.fleet.feeds[rack.feed],
        day.fleet.cdus[rack.cdu],
    )
    assert (row["nvlink_domain"], row["nvlinks"]) == (rack.nvlink_domain, rack.model.nvlinks)


def test_its_events_and_its_nodes(ask: Asking, lost: One, health: Health) -> None:
    rows = ask.rows(Gpu.UID, Gpu.EVENTS, lost.at, 1, lost.wanted)
    told = [
        (micros(event["ts"]), event["event"], event["gpu_index"])
        for event in health.told
        if event["node_id"] == lost.node
        and event["gpu_index"] in (None, lost.gpu)
        and lost.at - HOUR_US <= micros(event["ts"]) <= lost.at
    ]
    assert sorted(((micros(row["ts"]), row["event"], row["gpu"]) for row in rows), key=str) == sorted(told, key=str)
    assert any(event == "gpu_lost" for _, event, _ in told)
