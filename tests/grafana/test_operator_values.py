"""What the operator's boards say about the story, against the same figure worked out in Python (day.py)."""

from __future__ import annotations

import statistics
from collections import Counter
from datetime import UTC, datetime

import pytest

from infra.grafana.boards.ids import Capacity, Fleet, Gpu, Health, Pipeline, Power, Rack
from infra.grafana.boards.ids import Node as NodeBoard
from infra.grafana.expand import TimeRange
from tests.grafana.asking import Asking
from tests.grafana.day import HOUR_US, MINUTE_US, Day, micros
from tests.story import Story

pytestmark = pytest.mark.store


@pytest.fixture(scope="module")
def ask(story: Story) -> Asking:
    return Asking(story)


@pytest.fixture(scope="module")
def silent_at(story: Story) -> int:
    """The middle of the time in which an agent was stuck: the end of a minute."""
    fact = next(story.truth.of("silent", why="agent stuck"))
    return int(fact["at"] + fact["until"]) // 2 // MINUTE_US * MINUTE_US


@pytest.fixture(scope="module")
def tripped_at(story: Story) -> int:
    fact = story.fact["feed_trip"]
    return int(fact["at"] + fact["until"]) // 2 // MINUTE_US * MINUTE_US


@pytest.fixture(scope="module")
def held_back_at(story: Story) -> int:
    """Late in the straggler's time."""
    return int(story.fact["straggler"]["until"]) - 10 * MINUTE_US


# who has what


def test_gpus_by_model_and_customer(ask: Asking, day: Day) -> None:
    for at in (day.end, micros(day.story.fact["lease_handover"]["at"])):
        found = ask.rows(Fleet.UID, Fleet.BY_MODEL_AND_TENANT, at)
        counted = {(row["gpu_model"], row["holder"].replace("nobody", "")): row["gpus_"] for row in found}
        assert counted == day.gpus_by(at - MINUTE_US)


def test_leased_and_free_gpus(ask: Asking, day: Day) -> None:
    gpus = day.gpus_by(day.end - MINUTE_US)
    assert ask.number(Capacity.UID, Capacity.LEASED) == sum(n for (_, tenant), n in gpus.items() if tenant)


def test_leases_in_force(ask: Asking, day: Day) -> None:
    rows = ask.rows(Capacity.UID, Capacity.LEASES)
    assert {row["lease_id"]: (row["tenant"], row["nodes_"], row["gpus"]) for row in rows} == {
        held.lease_id: (held.tenant, len(held.nodes), sum(day.nodes[name].gpus for name in held.nodes))
        for held in day.leases
        if held.end >= day.end
    }


def test_gpu_hours_of_each_lease_before_and_after_the_hand_over(ask: Asking, day: Day) -> None:
    leased: Counter[str] = Counter()
    for row in ask.rows(Capacity.UID, Capacity.DELIVERY, hours=24):
        leased[row["lease_id"]] += row["leased"]
        parts = row["delivered"] + row["unhealthy"] + row["unknown"] + row["away"] + row["opted"]
        assert row["leased"] == pytest.approx(parts)
        assert 0.5 * row["leased"] < row["delivered"] <= row["leased"]
    assert leased == pytest.approx({held.lease_id: day.leased_hours(held) for held in day.leases})


def test_gpus_of_a_customer_over_the_hand_over(ask: Asking, day: Day) -> None:
    rows = ask.rows(Capacity.UID, Capacity.BY_TENANT, hours=24)
    hours = list(range(day.start, day.end, HOUR_US))
    for tenant in day.story.tenants:
        found = {micros(row["time"]): row["Value"] for row in rows if row["series"] == tenant}
        for hour in hours:
            held = [sum(day.gpus_of(tenant, minute)) for minute in range(hour, hour + HOUR_US, MINUTE_US)]
            assert found[hour] == pytest.approx(statistics.mean(held)), f"{tenant} at {hour}"


def test_the_hand_over_is_a_change_and_an_annotation(ask: Asking, story: Story) -> None:
    fact = story.fact["lease_handover"]
    rows = ask.rows(Capacity.UID, Capacity.HAND_OVERS, hours=24)
    at_that_time = {(row["action"], row["tenant"], row["nodes_"]) for row in rows if micros(row["ts"]) == fact["at"]}
    nodes = len(fact["nodes"])
    assert at_that_time == {("ended", fact["from_tenant"], nodes), ("granted", fact["to_tenant"], nodes)}
    marks = [row for row in ask.annotation(Fleet.UID, "Hand-overs") if micros(row["time"]) == fact["at"]]
    assert any(fact["to_tenant"] in row["text"] and f"{nodes} nodes" in row["text"] for row in marks)


# power and cooling


def test_site_power_against_its_cap(ask: Asking, day: Day) -> None:
    reading = day.facility(day.story.scenario.site, day.end - MINUTE_US)
    assert ask.number(Power.UID, Power.SITE_POWER) == pytest.approx(reading["power_w"])
    share = reading["power_w"] / reading["power_cap_w"]
    assert ask.number(Fleet.UID, Fleet.POWER_NOW) == pytest.approx(share)


def test_a_tripped_feed_and_the_one_that_carries_its_racks(ask: Asking, day: Day, tripped_at: int) -> None:
    tripped = day.story.fact["feed_trip"]["feed"]
    rows = {row["feed"]: row for row in ask.rows(Power.UID, Power.FEEDS, tripped_at)}
    assert rows.keys() == set(day.fleet.feeds)
    for feed, row in rows.items():
        reading = day.facility(feed, tripped_at - MINUTE_US)
        assert row["state"] == ("tripped" if feed == tripped else "ok")
        assert (row["power"], row["cap"]) == pytest.approx((reading["power_w"], reading["power_cap_w"]))
    assert rows[tripped]["power"] == 0
    assert ask.number(Power.UID, Power.FEEDS_DOWN, tripped_at) == 1
    assert ask.number(Power.UID, Power.FEEDS_DOWN, day.story.fact["feed_trip"]["at"]) == 0


def test_the_feed_trip_is_listed_with_its_times(ask: Asking, story: Story) -> None:
    fact = story.fact["feed_trip"]
    after = fact["until"] + HOUR_US
    [row] = [row for row in ask.rows(Power.UID, Power.FACILITY_EVENTS, after, 6) if row["asset_id"] == fact["feed"]]
    assert row["state"] == "tripped"
    assert (micros(row["first_"]), micros(row["last_"])) == (fact["at"], fact["until"])
    assert row["windows"] == (fact["until"] - fact["at"]) // MINUTE_US


def test_a_year_has_the_day_in_hours(ask: Asking, day: Day) -> None:
    """Racks, facility and sick GPUs: what a range of a year shows is the day's sum, not its end."""
    fact, year = day.story.fact["feed_trip"], 8766
    rows = [row for row in ask.rows(Power.UID, Power.FACILITY_EVENTS, hours=year) if row["asset_id"] == fact["feed"]]
    assert [row["state"] for row in rows] == ["tripped"]
    assert micros(rows[0]["first_"]) == fact["at"] // HOUR_US * HOUR_US
    place = day.fleet.racks[0]
    rack, nodes = place.rack_id, [day.fleet.nodes[index].node_id for index in place.nodes]
    share = ask.number(Rack.UID, Rack.COMPLETENESS, hours=year, wanted={"rack": rack})
    assert share == pytest.approx(day.completeness(nodes=nodes), abs=2e-3)
    hours = ask.rows(Rack.UID, Rack.TEMPERATURE_BY_NODE, hours=year, wanted={"rack": rack})
    assert {row["series"] for row in hours} == set(nodes)
    hottest = max(value for m in range(day.start, day.end, MINUTE_US) for value in day.readings(m, "temp_gpu_c", nodes))
    assert max(row["Value"] for row in hours if row["Value"] is not None) == pytest.approx(hottest)


def test_a_coolant_loop_that_lost_its_flow(ask: Asking, day: Day) -> None:
    fact = day.story.fact["coolant"]
    at = fact["until"] - 5 * MINUTE_US
    rows = {row["cdu"]: row for row in ask.rows(Power.UID, Power.CDUS, at)}
    for cdu, row in rows.items():
        reading = day.facility(cdu, at - MINUTE_US)
        assert row["state"] == ("degraded" if cdu == fact["cdu"] else "ok")
        assert row["flow"] == pytest.approx(reading["flow_lpm"])
        assert row["supply"] == pytest.approx(reading["supply_temp_c"])
    before = {row["cdu"]: row for row in ask.rows(Power.UID, Power.CDUS, fact["at"])}
    assert rows[fact["cdu"]]["flow"] == pytest.approx(fact["flow"] * before[fact["cdu"]]["flow"], rel=0.05)


def test_gpu_power_by_rack_from_their_own_counters(ask: Asking, day: Day) -> None:
    minute = day.end - MINUTE_US
    rows = {row["rack"]: row["power"] for row in ask.rows(Power.UID, Power.RACKS)}
    assert rows.keys() == {rack.rack_id for rack in day.fleet.racks}
    for number, rack in enumerate(day.fleet.racks):
        nodes = [node.node_id for node in day.fleet.nodes if node.rack == number]
        watts = day.energy_j(range(minute, day.end, MINUTE_US), nodes) / 60
        assert rows[rack.rack_id] == pytest.approx(watts, rel=0.001)


def test_power_of_a_rack_a_node_and_a_gpu(ask: Asking, day: Day) -> None:
    minute, node = day.end - MINUTE_US, next(iter(day.samples[day.end - MINUTE_US]))
    rack = day.fleet.racks[day.nodes[node].rack].rack_id
    event = day.samples[minute][node]
    gpu = event["gpu_index"][0]
    in_rack = [name for name, each in day.nodes.items() if day.fleet.racks[each.rack].rack_id == rack]
    where = {"rack": rack, "node": node, "gpu": str(gpu)}
    expected = sum(day.readings(minute, "power_w", in_rack))
    assert ask.number(Rack.UID, Rack.POWER_NOW, wanted=where) == pytest.approx(expected, rel=0.02)
    of_node = sum(day.readings(minute, "power_w", [node]))
    assert ask.number(NodeBoard.UID, NodeBoard.POWER_NOW, wanted=where) == pytest.approx(of_node, rel=0.001)
    assert ask.number(Gpu.UID, Gpu.POWER_NOW, wanted=where) == pytest.approx(event["power_w"][0], rel=0.001)


def test_the_hottest_gpu_of_a_node(ask: Asking, day: Day) -> None:
    minute, node = day.end - MINUTE_US, next(iter(day.samples[day.end - MINUTE_US]))
    hottest = max(day.readings(minute, "temp_gpu_c", [node]))
    rack = day.fleet.racks[day.nodes[node].rack].rack_id
    assert ask.number(NodeBoard.UID, NodeBoard.HOTTEST, wanted={"rack": rack, "node": node}) == hottest


def test_how_busy_the_fleet_was_every_hour(ask: Asking, day: Day) -> None:
    rows = {micros(row["time"]): row["engine busy"] for row in ask.rows(Fleet.UID, Fleet.UTILISATION, hours=25)}
    for hour in range(day.start, day.end, HOUR_US):
        minutes = range(hour, hour + HOUR_US, MINUTE_US)
        busy = statistics.mean(v for minute in minutes for v in day.readings(minute, "gr_engine_active"))
        assert rows[hour] == pytest.approx(busy, rel=0.001), datetime.fromtimestamp(hour / 1e6, UTC)


# what is wrong


def test_a_stuck_agent_is_a_silent_node(ask: Asking, day: Day, silent_at: int) -> None:
    fact = next(day.story.truth.of("silent", why="agent stuck"))
    assert fact["node"] in day.silent_nodes(silent_at - MINUTE_US)
    rows = {row["node_id"]: row for row in ask.rows(Health.UID, Health.SILENT, silent_at)}
    assert rows[fact["node"]]["gpus"] == day.nodes[fact["node"]].gpus
    assert rows.keys() <= day.silent_nodes(silent_at - MINUTE_US)
    assert ask.number(Health.UID, Health.SILENT_NODES, silent_at) == len(rows)
    silent = sum(day.nodes[name].gpus for name in rows)
    assert ask.number(Fleet.UID, Fleet.SILENT, silent_at) == silent
    assert ask.number(Health.UID, Health.SILENT_NODES, fact["at"] - MINUTE_US) < len(rows)


def test_the_straggler_is_named_with_its_job(ask: Asking, story: Story, held_back_at: int) -> None:
    fact = story.fact["straggler"]
    job = next(story.truth.of("straggler", node=fact["node"]))["job"]
    [row] = [row for row in ask.rows(Health.UID, Health.JOBS, held_back_at) if row["job_id"] == job]
    assert (row["verdict"], row["node_id"], row["gpu"]) == ("held back", fact["node"], fact["gpu"])
    assert row["slowest_ratio"] < 0.92
    assert ask.number(Health.UID, Health.STRAGGLERS, held_back_at) >= 1


def test_every_xid_of_the_day_is_listed(ask: Asking, story: Story) -> None:
    sent = Counter(
        (event["node_id"], event["gpu_index"], event["code"])
        for event in story.events("node-events")
        if event["event"] == "xid"
    )
    rows = ask.rows(Health.UID, Health.XID_LIST, hours=24)
    assert sum(sent.values()) > 5
    assert Counter((row["node_id"], row["gpu"], row["code"]) for row in rows) == sent


def test_completeness_of_the_day(ask: Asking, day: Day) -> None:
    """Received of expected: silence lowers it, maintenance does not."""
    assert ask.number(Fleet.UID, Fleet.COMPLETENESS, hours=24) == pytest.approx(day.completeness(), abs=0.0005)
    assert day.completeness() < 0.9999


@pytest.mark.parametrize(("uid", "panel"), [(NodeBoard.UID, NodeBoard.COMPLETENESS), (Gpu.UID, Gpu.COMPLETENESS)])
def test_what_was_not_there_yet_is_not_missing(ask: Asking, uid: str, panel: int) -> None:
    """A year that ends with the first day of a node is as complete as that day."""
    of_day, of_year = (ask.number(uid, panel, hours=hours) for hours in (23, 8766))
    assert of_day > 0.9
    assert of_year == pytest.approx(of_day, abs=0.01)


# the pipeline


def test_every_event_is_in_the_ledger_once(ask: Asking, story: Story) -> None:
    sent = Counter({topic: count for topic, count in story.truth.events.items() if count})
    told = TimeRange(story.told_at.from_ms, story.told_at.to_ms)
    hours = (told.length_ms / 1000 + 60) / 3600
    rows = ask.rows(Pipeline.UID, Pipeline.TOPICS, told.to_ms * 1000, max(hours, 0.25))
    stored = {row["topic"]: row["stored"] for row in rows}
    stored["tenant-usage"] -= story.replayed.events
    assert stored == sent
    assert not sum(row["dead"] + row["duplicates_"] for row in rows)
