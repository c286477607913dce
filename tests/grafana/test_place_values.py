"""Boards of a node, of a rack, and of power and cooling, against the events as sent (day.py, health.py)."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import pytest

from infra.grafana.boards.ids import Capacity, Power, Rack
from infra.grafana.boards.ids import Node as NodeBoard
from tests.grafana.asking import Asking
from tests.grafana.day import HOUR_US, MINUTE_US, Day, micros
from tests.grafana.health import Health
from tests.story import Story

pytestmark = pytest.mark.store
RAW_US: Final = 15 * MINUTE_US


@pytest.fixture(scope="module")
def ask(story: Story) -> Asking:
    return Asking(story)


@pytest.fixture(scope="module")
def faulty_at(story: Story) -> int:
    """Minutes after the first GPU fell off the bus, before its node is drained for repair."""
    fact = next(story.truth.of("fault", kind="gpu_lost"))
    return int(fact["at"]) // MINUTE_US * MINUTE_US + 5 * MINUTE_US


@pytest.fixture(scope="module")
def faulty(story: Story) -> str:
    return str(next(story.truth.of("fault", kind="gpu_lost"))["node"])


def hour_before(at: int) -> range:
    return range(at - HOUR_US, at, MINUTE_US)


def where(day: Day, node: str) -> dict[str, str]:
    return {"rack": day.fleet.racks[day.nodes[node].rack].rack_id, "node": node}


def in_rack(day: Day, number: int) -> list[str]:
    return [name for name, node in day.nodes.items() if node.rack == number]


def series(rows: Iterable[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Lines of a time series by name; what is not drawn is left out."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row["Value"] is not None:
            found[row["series"]][micros(row["time"])] = row["Value"]
    return dict(found)


def line(rows: Iterable[dict[str, Any]], name: str) -> dict[int, float]:
    """A column of a time series; what is not drawn is left out."""
    return {micros(row["time"]): row[name] for row in rows if row[name] is not None}


# a node


def test_reporting_and_healthy_gpus_of_a_node_with_a_lost_one(
    ask: Asking, day: Day, health: Health, faulty: str, faulty_at: int
) -> None:
    """XID 79 asks for a reboot of the node: none of its GPUs is healthy, though all but one work on."""
    of = health.classes([faulty], faulty_at - MINUTE_US)
    assert of["unhealthy"] == day.nodes[faulty].gpus
    place = where(day, faulty)
    assert ask.number(NodeBoard.UID, NodeBoard.HEALTHY, faulty_at, 1, place) == of["healthy"]
    assert ask.number(NodeBoard.UID, NodeBoard.REPORTING, faulty_at, 1, place) == 1
    before = faulty_at - 10 * MINUTE_US
    assert ask.number(NodeBoard.UID, NodeBoard.HEALTHY, before, 1, place) == day.nodes[faulty].gpus


def test_completeness_of_a_node_with_a_stuck_agent(ask: Asking, day: Day) -> None:
    """The newest minute may still be on its way: it does not count."""
    fact = next(day.story.truth.of("silent", why="agent stuck"))
    at = int(fact["until"]) // MINUTE_US * MINUTE_US + 10 * MINUTE_US
    minutes = [minute for minute in hour_before(at) if minute < at - MINUTE_US]
    heard = sum(fact["node"] in day.samples[minute] for minute in minutes)
    found = ask.number(NodeBoard.UID, NodeBoard.COMPLETENESS, at, 1, where(day, fact["node"]))
    assert found == pytest.approx(heard / len(minutes))
    assert found < 0.9


def test_every_gpu_of_a_node_in_its_newest_minute(ask: Asking, day: Day, faulty: str, faulty_at: int) -> None:
    rows = ask.rows(NodeBoard.UID, NodeBoard.GPUS, faulty_at, 1, where(day, faulty))
    event = day.samples[faulty_at - MINUTE_US][faulty]
    assert [row["gpu"] for row in rows] == event["gpu_index"]
    columns = {
        "power": "power_w",
        "hottest": "temp_gpu_c",
        "memory": "fb_used_bytes",
        "busy": "gr_engine_active",
        "tensor": "tensor_active",
        "clock": "clock_sm_mhz",
    }
    for column, field in columns.items():
        sent = [value if value >= 0 else None for value in event[field]]  # NaN and -1 are no reading
        assert [row[column] for row in rows] == [None if each is None else pytest.approx(each) for each in sent], column
    assert any(row["power"] is None for row in rows)
    assert all("xid_79" in row["reasons"] for row in rows)


@pytest.mark.parametrize(
    ("panel", "field"),
    [
        (NodeBoard.POWER, "power_w"),
        (NodeBoard.TEMPERATURE, "temp_gpu_c"),
        (NodeBoard.UTILISATION, "tensor_active"),
        (NodeBoard.SM_CLOCK, "clock_sm_mhz"),
    ],
)
def test_lines_of_a_nodes_gpus(ask: Asking, day: Day, faulty: str, faulty_at: int, panel: int, field: str) -> None:
    """From before the fault until after it: the lost GPU's line ends."""
    found = series(ask.rows(NodeBoard.UID, panel, faulty_at, 1, where(day, faulty)))
    sent: dict[str, dict[int, float]] = defaultdict(dict)
    for minute in hour_before(faulty_at):
        event = day.samples[minute][faulty]
        for gpu, value in zip(event["gpu_index"], event[field], strict=True):
            if value >= 0:
                sent[f"GPU {gpu}"][minute] = value
    assert found.keys() == sent.keys()
    for name, values in sent.items():
        assert found[name] == pytest.approx(values), name
    assert len({len(values) for values in sent.values()}) == 2


def test_host_and_network_of_the_last_minutes(ask: Asking, day: Day) -> None:
    node, at = next(iter(day.samples[day.end - MINUTE_US])), day.end
    sent = {minute: day.samples[minute][node] for minute in range(at - RAW_US + MINUTE_US, at, MINUTE_US)}
    place = where(day, node)
    host = ask.rows(NodeBoard.UID, NodeBoard.HOST, at, 1, place)
    network = ask.rows(NodeBoard.UID, NodeBoard.NETWORK, at, 1, place)
    memory = {m: e["host_mem_used_bytes"][0] / e["host_mem_total_bytes"][0] for m, e in sent.items()}
    assert line(host, "memory") == pytest.approx(memory)
    for rows, name, field in (
        (host, "CPU", "host_cpu_util"),
        (host, "root disk", "host_disk_used"),
        (host, "I/O pressure", "host_psi_io"),
        (network, "sent", "nic_tx_bytes_per_s"),
        (network, "received", "nic_rx_bytes_per_s"),
    ):
        assert line(rows, name) == pytest.approx({minute: event[field][0] for minute, event in sent.items()}), name
    offset = ask.number(NodeBoard.UID, NodeBoard.CLOCK_OFFSET, at, 1, place)
    assert offset == pytest.approx(abs(sent[at - MINUTE_US]["clock_offset_s"]))


def test_jobs_of_a_node(ask: Asking, day: Day, faulty: str) -> None:
    """All of the day, with why they ended: the lost GPU ended one."""
    rows = ask.rows(NodeBoard.UID, NodeBoard.JOBS, hours=24, wanted=where(day, faulty))
    jobs = {name: job for name, job in day.jobs.items() if faulty in job["nodes"]}
    assert {row["job_id"] for row in rows} == jobs.keys()
    for row in rows:
        job = jobs[row["job_id"]]
        assert (row["nodes_"], row["state"], row["exit_reason"]) == (
            len(job["nodes"]),
            job["state"],
            job["exit_reason"],
        )
        assert row["gpus"] == sum(day.nodes[node].gpus for node in job["nodes"])
        assert micros(row["started_at"]) == micros(job["started_at"])
        assert (row["ended_at"] is None) == (job["ended_at"] is None)
    assert "node_failure" in {row["exit_reason"] for row in rows}


def test_where_a_node_stands_and_whose_it_is(ask: Asking, day: Day) -> None:
    for node in day.story.fact["lease_handover"]["nodes"]:
        rack, held = day.fleet.racks[day.nodes[node].rack], day.lease_of(node, day.end - MINUTE_US)
        [row] = ask.rows(NodeBoard.UID, NodeBoard.PLACE, wanted=where(day, node))
        assert held is not None
        assert (row["tenant"], row["lease_id"]) == (held.tenant, held.lease_id)
        assert (row["rack"], row["gpu_model"], row["pdu"]) == (rack.rack_id, rack.model.name, rack.pdu_id)
        assert (row["feed"], row["cdu"]) == (day.fleet.feeds[rack.feed], day.fleet.cdus[rack.cdu])


def test_events_of_a_node_and_of_a_rack(ask: Asking, day: Day, health: Health, faulty: str) -> None:
    mine = [event for event in health.told if event["node_id"] == faulty]
    rows = ask.rows(NodeBoard.UID, NodeBoard.EVENTS, hours=24, wanted=where(day, faulty))
    assert told(rows) == sent(mine)
    rack = day.fleet.racks[0]
    mine = [event for event in health.told if event["rack"] == rack.rack_id]
    rows = ask.rows(Rack.UID, Rack.EVENTS, hours=24, wanted={"rack": rack.rack_id})
    assert told(rows) == sent(mine)


def told(rows: Sequence[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    assert len(rows) < 300, "a longer list is cut off"
    return Counter((micros(row["ts"]), row["node_id"], row["gpu"], row["event"], row["code"]) for row in rows)


def sent(events: Iterable[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (micros(each["ts"]), each["node_id"], each["gpu_index"], each["event"], each["code"]) for each in events
    )


# a rack


def test_reporting_and_healthy_share_of_a_rack(
    ask: Asking, day: Day, health: Health, faulty: str, faulty_at: int
) -> None:
    """While a node is silent and away, and another one has lost a GPU."""
    minute = faulty_at - MINUTE_US
    nodes = in_rack(day, day.nodes[faulty].rack)
    of = health.classes(nodes, minute)
    in_service = sum(of.values()) - of["away"]
    place = {"rack": where(day, faulty)["rack"]}
    assert ask.number(Rack.UID, Rack.HEALTHY, faulty_at, 1, place) == pytest.approx(of["healthy"] / in_service)
    heard = sum(day.nodes[node].gpus for node in nodes if node in day.samples[minute])
    assert ask.number(Rack.UID, Rack.REPORTING, faulty_at, 1, place) == pytest.approx(heard / in_service)
    assert 0 < of["away"] + of["unknown"] < in_service
    assert of["unhealthy"]


def test_completeness_of_a_rack(ask: Asking, day: Day, health: Health) -> None:
    for number, rack in enumerate(day.fleet.racks):
        lived = health.nodes(in_rack(day, number), range(day.start, day.end, MINUTE_US))
        found = ask.number(Rack.UID, Rack.COMPLETENESS, hours=24, wanted={"rack": rack.rack_id})
        assert found == pytest.approx(lived.reported / lived.accepted)


def test_nodes_of_a_rack_in_the_newest_minute(ask: Asking, day: Day, faulty: str, faulty_at: int) -> None:
    """A silent node has a row, without values."""
    minute, number = faulty_at - MINUTE_US, day.nodes[faulty].rack
    rows = {row["node_id"]: row for row in ask.rows(Rack.UID, Rack.NODES, faulty_at, 1, where(day, faulty))}
    assert rows.keys() == set(in_rack(day, number))
    for node, row in rows.items():
        assert row["gpus"] == day.nodes[node].gpus
        if node not in day.samples[minute]:
            assert (row["reporting"] or 0, row["hottest"]) == (0, None)
            continue
        assert row["reporting"] == len(day.samples[minute][node]["gpu_index"])
        assert row["power"] == pytest.approx(sum(day.readings(minute, "power_w", [node])))
        assert row["hottest"] == max(value for value in day.readings(minute, "temp_gpu_c", [node]))
        assert row["busy"] == pytest.approx(statistics.mean(day.readings(minute, "gr_engine_active", [node])))
        joules = day.energy_j(range(minute, faulty_at, MINUTE_US), [node])
        assert row["energy"] * 3600 == pytest.approx(joules)
    assert rows.keys() - day.samples[minute].keys()


def test_lines_of_a_racks_nodes(ask: Asking, day: Day, faulty: str, faulty_at: int) -> None:
    nodes, place = in_rack(day, day.nodes[faulty].rack), where(day, faulty)
    power = series(ask.rows(Rack.UID, Rack.POWER_BY_NODE, faulty_at, 1, place))
    tensor = series(ask.rows(Rack.UID, Rack.UTILISATION_BY_NODE, faulty_at, 1, place))
    hottest = series(ask.rows(Rack.UID, Rack.TEMPERATURE_BY_NODE, faulty_at, 1, place))
    assert power.keys() == tensor.keys() == hottest.keys() == set(nodes)
    for node in nodes:
        minutes = [minute for minute in hour_before(faulty_at) if node in day.samples[minute]]
        watts = {minute: sum(day.readings(minute, "power_w", [node])) for minute in minutes}
        assert power[node] == pytest.approx(watts), node
        means = {minute: statistics.mean(day.readings(minute, "tensor_active", [node])) for minute in minutes}
        assert tensor[node] == pytest.approx(means), node
        assert hottest[node] == {minute: max(day.readings(minute, "temp_gpu_c", [node])) for minute in minutes}


def test_nvlink_traffic_of_a_rack(ask: Asking, day: Day) -> None:
    for number, rack in enumerate(day.fleet.racks):
        rows = ask.rows(Rack.UID, Rack.NVLINK_TRAFFIC, hours=1, wanted={"rack": rack.rack_id})
        for name, field in (("sent", "nvlink_tx_bytes_per_s"), ("received", "nvlink_rx_bytes_per_s")):
            expected = {m: sum(day.readings(m, field, in_rack(day, number))) for m in hour_before(day.end)}
            assert line(rows, name) == pytest.approx(expected), rack.rack_id


def test_pdu_and_coolant_of_a_rack(ask: Asking, day: Day) -> None:
    """While the coolant of one of the racks has lost its flow."""
    at = day.story.fact["coolant"]["until"]
    for rack in day.fleet.racks:
        place, cdu = {"rack": rack.rack_id}, day.fleet.cdus[rack.cdu]
        pdu = ask.rows(Rack.UID, Rack.PDU, at, 1, place)
        for name, field in (("PDU", "power_w"), ("PDU, highest", "power_w"), ("PDU may carry", "power_cap_w")):
            expected = {m: day.facility(rack.pdu_id, m)[field] for m in hour_before(at)}
            assert line(pdu, name) == pytest.approx(expected), name
        coolant = ask.rows(Rack.UID, Rack.CDU, at, 1, place)
        for name in ("supply", "return"):
            expected = {m: day.facility(cdu, m)[f"{name}_temp_c"] for m in hour_before(at)}
            assert line(coolant, name) == pytest.approx(expected), name
        supply = day.facility(cdu, at - MINUTE_US)["supply_temp_c"]
        assert ask.number(Rack.UID, Rack.COOLANT, at, 1, place) == pytest.approx(supply)
        nodes = [day.fleet.nodes[index].node_id for index in rack.nodes]
        hottest = max(day.readings(at - MINUTE_US, "temp_gpu_c", nodes))
        assert ask.number(Rack.UID, Rack.HOTTEST, at, 1, place) == hottest


def test_what_the_inventory_has_in_a_rack(ask: Asking, day: Day) -> None:
    for rack in day.fleet.racks:
        rows = ask.rows(Rack.UID, Rack.NVLINK_DOMAIN, wanted={"rack": rack.rack_id})
        kinds = Counter(row["asset_kind"] for row in rows)
        assert kinds == +Counter({"node": len(rack.nodes), "switch_tray": rack.switch_trays})
        for row in rows:
            assert row["nvlink_domain"] == (rack.nvlink_domain or row["node_id"]), "without a domain it is its own"


# power and cooling


def test_headroom_of_the_site(ask: Asking, day: Day) -> None:
    reading = day.facility(day.story.scenario.site, day.end - MINUTE_US)
    share = 1 - reading["power_w"] / reading["power_cap_w"]
    assert ask.number(Power.UID, Power.SITE_HEADROOM) == pytest.approx(share)


def test_site_and_feeds_over_a_trip(ask: Asking, day: Day) -> None:
    """The half hour before, and the half hour after it began."""
    at = day.story.fact["feed_trip"]["at"] + HOUR_US // 2
    site = ask.rows(Power.UID, Power.SITE, at, 1)
    for name, field in (("site", "power_w"), ("cap", "power_cap_w")):
        expected = {m: day.facility(day.story.scenario.site, m)[field] for m in hour_before(at)}
        assert line(site, name) == pytest.approx(expected)
    feeds = series(ask.rows(Power.UID, Power.FEED_LOAD, at, 1))
    assert feeds.keys() == set(day.fleet.feeds)
    for feed, values in feeds.items():
        readings = {m: day.facility(feed, m) for m in hour_before(at)}
        assert values == pytest.approx({m: each["power_w"] / each["power_cap_w"] for m, each in readings.items()})
    assert min(feeds[day.story.fact["feed_trip"]["feed"]].values()) == 0


def test_pdus_hang_on_the_feed_that_carries_them(ask: Asking, day: Day) -> None:
    fact = day.story.fact["feed_trip"]
    for at in (fact["at"], (fact["at"] + fact["until"]) // 2 // MINUTE_US * MINUTE_US):
        rows = {row["pdu"]: row for row in ask.rows(Power.UID, Power.PDUS, at)}
        assert rows.keys() == {rack.pdu_id for rack in day.fleet.racks}
        for pdu, row in rows.items():
            reading = day.facility(pdu, at - MINUTE_US)
            assert (row["feed"], row["rack"]) == (reading["parent_id"], reading["rack"])
            figures = reading["power_w"], reading["power_cap_w"], reading["power_w"] / reading["power_cap_w"]
            assert (row["power"], row["cap"], row["load"]) == pytest.approx(figures)
        by_feed = Counter(row["feed"] for row in rows.values())
        assert by_feed[fact["feed"]] == (1 if at == fact["at"] else 0)


def test_gpus_behind_a_feed_and_a_coolant_loop(ask: Asking, day: Day, health: Health) -> None:
    """In the last minute of the coolant's failure: racks and GPUs by feed, GPUs that are slowed down by loop."""
    at = day.story.fact["coolant"]["until"]
    minute = at - MINUTE_US
    for row in ask.rows(Power.UID, Power.FEEDS, at):
        racks = [number for number, rack in enumerate(day.fleet.racks) if day.fleet.feeds[rack.feed] == row["feed"]]
        nodes = [name for number in racks for name in in_rack(day, number)]
        gpus = sum(day.nodes[name].gpus for name in nodes)
        assert (row["racks"], row["gpus"], row["silent"]) == (
            len(racks),
            gpus,
            health.classes(nodes, minute)["unknown"],
        )
    slowed = {row["cdu"]: row["slowed"] for row in ask.rows(Power.UID, Power.CDUS, at)}
    for number, rack in enumerate(day.fleet.racks):
        assert slowed[day.fleet.cdus[rack.cdu]] == health.slowed(in_rack(day, number), minute)
    assert slowed[day.story.fact["coolant"]["cdu"]] > 30


def test_racks_by_power_and_gpu(ask: Asking, day: Day, health: Health, faulty_at: int) -> None:
    minute = faulty_at - MINUTE_US
    rows = {row["rack"]: row for row in ask.rows(Power.UID, Power.RACKS, faulty_at)}
    for number, rack in enumerate(day.fleet.racks):
        row, nodes = rows[rack.rack_id], in_rack(day, number)
        heard = sum(day.nodes[name].gpus for name in nodes if name in day.samples[minute])
        watts = day.energy_j(range(minute, faulty_at, MINUTE_US), nodes) / 60
        assert (row["power"], row["per_gpu"]) == pytest.approx((watts, watts / heard))
        assert (row["reporting"], row["silent"]) == (heard, health.classes(nodes, minute)["unknown"])


def test_coolant_loops_that_fail(ask: Asking, day: Day) -> None:
    """Warmest and mean, flow and lowest flow, over the failure's last hour; then the stats of its last minute."""
    at = day.story.fact["coolant"]["until"]
    temperatures = ask.rows(Power.UID, Power.COOLANT_TEMPERATURE, at, 1)
    flow = ask.rows(Power.UID, Power.COOLANT_FLOW, at, 1)
    for rows, name, of, field in (
        (temperatures, "warmest supply", max, "supply_temp_c"),
        (temperatures, "mean supply", statistics.mean, "supply_temp_c"),
        (temperatures, "warmest return", max, "return_temp_c"),
        (temperatures, "mean return", statistics.mean, "return_temp_c"),
        (flow, "mean flow", statistics.mean, "flow_lpm"),
        (flow, "lowest flow", min, "flow_lpm"),
    ):
        expected = {m: of([day.facility(cdu, m)[field] for cdu in day.fleet.cdus]) for m in hour_before(at)}
        assert line(rows, name) == pytest.approx(expected), name
    warmest = max(day.facility(cdu, at - MINUTE_US)["supply_temp_c"] for cdu in day.fleet.cdus)
    assert ask.number(Power.UID, Power.HOTTEST_SUPPLY, at) == pytest.approx(warmest)
    assert ask.number(Power.UID, Power.LEAKS, at) == 1
    assert ask.number(Power.UID, Power.LEAKS, at + MINUTE_US) == 0
    assert ask.number(Power.UID, Power.COMPLETENESS, at) == 1


def test_energy_by_customer_and_power_by_model(ask: Asking, day: Day) -> None:
    held: Counter[str] = Counter()
    for minute in range(day.end - HOUR_US, day.end, MINUTE_US):
        for node in day.nodes:
            joules = day.energy_j(range(minute, minute + MINUTE_US, MINUTE_US), [node])
            held[day.tenant_of(node, minute) or "nobody"] += round(joules)
    rows = ask.rows(Power.UID, Power.ENERGY, hours=1)
    assert {row["holder"]: row["Energy"] * 3600 for row in rows} == pytest.approx(dict(held))
    power = series(ask.rows(Power.UID, Power.POWER_BY_MODEL, hours=25))
    for number, rack in enumerate(day.fleet.racks):
        hour = range(day.end - HOUR_US, day.end, MINUTE_US)
        watts = statistics.mean(sum(day.readings(m, "power_w", in_rack(day, number))) for m in hour)
        assert power[rack.model.name][day.end - HOUR_US] == pytest.approx(watts)


def test_the_customer_of_a_node_is_that_of_the_minute(ask: Asking, day: Day) -> None:
    at = day.start + HOUR_US
    rows = ask.rows(Rack.UID, Rack.NODES, at, 1, {"rack": "gb200-r0001"})
    assert len(rows) == 18
    for row in rows:
        assert row["tenant"] == day.tenant_of(row["node_id"], at - MINUTE_US)


def test_the_customer_of_a_node_that_is_away_is_that_of_the_minute(story: Story, day: Day) -> None:
    at = day.start + 2 * HOUR_US
    rows = Asking(story).rows(Capacity.UID, Capacity.NOT_IN_SERVICE, at)
    assert rows
    for row in rows:
        assert row["tenant_"] == day.tenant_of(row["node_id"], at - MINUTE_US)
