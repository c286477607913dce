"""Rules about racks, feeds, coolant, power, versions and leases, and what swallows what."""

from __future__ import annotations

from typing import Any

import pytest

from infra.grafana.alerts.rules import BY_NAME, RULES
from tests.alerts.support import Bench, Place

ALL = range(4)


# feeds


def test_a_feed_trip_is_one_page_that_names_its_racks(bench: Bench) -> None:
    bench.health(range(40))
    bench.plant(range(40), tripped=range(10, 20))
    watch = bench.watch(BY_NAME["feed_trip"]).to(5, 10)
    assert watch.states == []
    assert watch.to(11, 12, 19, 20).labels("feed", "racks") == [("feed-1", "r1")]
    assert watch.texts[0].startswith("Feed feed-1")
    assert "1 racks lose it (r1)" in watch.texts[0]
    assert watch.to(21).states == ["Recovering"]
    assert watch.to(26).firing == []
    assert len(watch.told) == 1


def test_a_long_list_of_racks_is_cut_short(bench: Bench) -> None:
    bench.places = tuple(Place(f"r{n:03d}", "feed-1", "cdu-1") for n in range(64))
    bench.health(range(15))
    bench.facility(range(15), "feed-1", "feed", state="tripped")
    watch = bench.watch(BY_NAME["feed_trip"]).to(11)
    assert len(watch.told) == 1
    assert watch.told[0].alert.value == 64
    assert watch.told[0].label("racks").endswith("r038, r039 and 24 more")


def test_a_trip_swallows_what_it_brings(bench: Bench) -> None:
    """Brakes, a loaded partner, dark racks, GPUs that fall off as the power goes: all one page."""
    bench.health(range(10))
    bench.health(range(10, 30), silent=["r1"])
    bench.plant(range(30), tripped=range(10, 30))
    for node in ("r1-n1", "r1-n2", "r1-n3", "r1-n4"):
        bench.sick(range(10, 30), "silent", "check_agent", node=node, gpus=ALL)
    bench.sick(range(10, 30), "slowdown", "check_cooling_and_power", node="r2-n1", gpus=ALL)
    bench.sick(range(11, 30), "xid_79", "reboot_node", node="r1-n1", gpus=ALL, scope="node", since=10.2)
    bench.sick(range(11, 30), "xid_119", "reset_gpu", node="r1-n2", since=10.2)
    bench.sick(range(11, 30), "link_down", "check_link", node="r1-n3", since=10.2)
    told = []
    for rule in RULES:
        if rule.audience == "operator" and rule.pack not in ("pipeline", "leases", "versions", "jobs"):
            told += [note.rule.name for note in bench.watch(rule).to(12, 17, 23).told]
    assert told == ["feed_trip"]


def test_a_fault_elsewhere_while_a_feed_is_down_is_its_own_alert(bench: Bench) -> None:
    bench.health(range(30))
    bench.plant(range(30), tripped=range(5, 30))
    bench.sick(range(20, 30), "xid_79", "reboot_node", node="r2-n1", gpus=ALL, scope="node")
    bench.sick(range(20, 30), "xid_79", "reboot_node", node="r1-n1", gpus=ALL, scope="node")
    watch = bench.watch(BY_NAME["gpu_reboot"]).to(21, 22, 25)
    assert sorted(watch.labels("node")) == [("r1-n1",), ("r2-n1",)]


def test_a_feed_in_maintenance_is_no_trip(bench: Bench) -> None:
    bench.health(range(20))
    bench.facility(range(20), "feed-1", "feed", state="maintenance", power_w_avg=9.9e5, power_cap_w=1e6)
    for name in ("feed_trip", "feed_power"):
        assert bench.watch(BY_NAME[name]).to(11, 16, 18).states == [], name


@pytest.mark.parametrize(
    ("name", "asset", "kind", "share", "more"),
    [
        ("site_power", "memphis", "site", 0.99, {}),
        ("feed_power", "feed-2", "feed", 0.97, {}),
        ("rack_power", "pdu-r2", "pdu", 0.97, {"rack": "r2"}),
    ],
)
def test_power_close_to_its_limit(
    bench: Bench, name: str, asset: str, kind: str, share: float, more: dict[str, Any]
) -> None:
    rule = BY_NAME[name]
    due, kept = rule.for_s // 60, rule.keep_s // 60
    bench.health(range(60))
    bench.facility(range(10), asset, kind, power_w_avg=8.5e5, power_cap_w=1e6, **more)
    bench.facility(range(10, 25), asset, kind, power_w_avg=share * 1e6, power_cap_w=1e6, **more)
    bench.facility(range(25, 60), asset, kind, power_w_avg=9.0e5, power_cap_w=1e6, **more)
    watch = bench.watch(rule).to(9)
    assert watch.states == []
    assert len(watch.to(11, 11 + due).told) == 1
    assert f"{share:.0%}" in watch.texts[0]
    assert watch.to(26).states == ["Recovering"]
    assert watch.to(26 + kept).firing == []


def test_a_software_power_cap_alone_tells_nobody(bench: Bench) -> None:
    """Every GPU of the site held by its power cap for half an hour: no sick GPU, and no alert."""
    bench.health(range(40))
    bench.plant(range(40))
    bench.put(
        "gpu_1m",
        [
            {"site": bench.site, "ts": bench.at(minute), "node_id": f"{place.rack}-n1", "gpu_index": gpu, "tenant": "t",
             "rack": place.rack, "gpu_model": "H100", "seconds": 60.0, "throttle_power_cap_s": 60.0, "version": 1}
            for minute in range(40) for place in bench.places for gpu in ALL
        ],
    )  # fmt: skip
    for name in ("gpu_slowed", "gpu_hot", "rack_slowed", "site_power", "feed_power", "rack_power"):
        assert bench.watch(BY_NAME[name]).to(11, 33).states == [], name


# coolant


@pytest.mark.parametrize(
    ("name", "ill", "text"),
    [
        ("cdu_leak", {"leak": True, "state": "leak"}, "reports a leak: 2 racks hang on it (r1, r2)"),
        ("cdu_flow", {"flow_lpm_min": 30.0, "flow_lpm_avg": 30.0, "state": "degraded"}, "has lost 70% of its flow"),
        ("cdu_flow", {"flow_lpm_min": 60.0, "flow_lpm_avg": 61.0}, "has lost 40% of its flow"),
        ("cdu_hot", {"supply_temp_c_max": 47.5}, "supplies 47.5 C with its flow in order"),
    ],
)
def test_a_coolant_loop_in_trouble_is_one_page(bench: Bench, name: str, ill: dict[str, Any], text: str) -> None:
    rule = BY_NAME[name]
    due, kept = rule.for_s // 60, rule.keep_s // 60
    bench.health(range(80))
    bench.loop(range(40))
    bench.loop(range(40, 52), **ill)
    bench.loop(range(52, 80))
    for node in ("r1-n1", "r1-n2", "r2-n1"):
        bench.sick(range(41, 56), "slowdown", "check_cooling_and_power", node=node, gpus=ALL)
        bench.sick(range(43, 54), "temp_high", "check_cooling_and_power", node=node, gpus=ALL)
    watch = bench.watch(rule).to(38, 40)
    assert watch.states == []
    assert len(watch.to(41, 41 + due, 50).told) == 1
    assert text in watch.texts[0]
    assert watch.told[0].label("racks") == "r1, r2"
    assert watch.to(53).states == ["Recovering"]
    assert watch.to(53 + kept).firing == []
    for other in ("cdu_leak", "cdu_flow", "cdu_hot", "gpu_hot", "gpu_slowed", "rack_slowed"):
        if other != name:
            assert bench.watch(BY_NAME[other]).to(42, 48, 58).told == [], other


def test_a_coolant_unit_in_maintenance_is_quiet(bench: Bench) -> None:
    bench.health(range(60))
    bench.loop(range(40))
    bench.loop(range(40, 60), supply_temp_c_max=50.0, state="maintenance")
    assert bench.watch(BY_NAME["cdu_hot"]).to(42, 48, 55).states == []


def test_a_rack_that_is_slow_without_a_reason_from_the_plant_is_one_page(bench: Bench) -> None:
    bench.health(range(60))
    bench.plant(range(60))
    for node in ("r1-n1", "r1-n2"):
        bench.sick(range(20, 40), "slowdown", "check_cooling_and_power", node=node, gpus=ALL)
    watch = bench.watch(BY_NAME["rack_slowed"]).to(15, 21, 26, 30)
    assert watch.labels("rack") == [("r1",)]
    assert "50% of its GPUs" in watch.texts[0]
    assert bench.watch(BY_NAME["gpu_slowed"]).to(21, 31, 35).told == []
    assert watch.to(41).states == ["Recovering"]
    assert watch.to(46).firing == []


def test_a_feed_or_coolant_unit_that_falls_silent(bench: Bench) -> None:
    bench.health(range(60))
    bench.plant(range(10))
    bench.facility(range(10, 45), "feed-1", "feed")
    bench.facility(range(10, 60), "feed-2", "feed")
    bench.facility([*range(10, 15), *range(45, 60)], "cdu-1", "cdu")
    watch = bench.watch(BY_NAME["facility_silent"]).to(9, 15, 24)
    assert watch.states == []
    assert watch.to(27, 32).labels("asset") == [("cdu-1",)]
    assert watch.to(47).states == ["Recovering"]
    assert watch.to(52).firing == []
    # A vanished meter does not take a trip with it: nor does it invent one.
    assert bench.watch(BY_NAME["feed_trip"]).to(58).states == []


# silence


def test_a_silent_rack_swallows_its_nodes(bench: Bench) -> None:
    bench.health(range(10))
    bench.health(range(10, 20), silent=["r1"])
    bench.health(range(20, 40))
    bench.plant(range(40))
    for node in ("r1-n1", "r1-n2", "r1-n3", "r1-n4"):
        bench.sick(range(10, 20), "silent", "check_agent", node=node, gpus=ALL)
    rack, node_rule = bench.watch(BY_NAME["silent_rack"]), bench.watch(BY_NAME["silent_node"])
    assert rack.to(9, 11, 14, 19).labels("rack") == [("r1",)]
    assert node_rule.to(9, 11, 14, 17, 19).told == []
    assert rack.to(21).states == ["Recovering"]
    assert rack.to(26).firing == []


def test_most_racks_silent_are_one_page(bench: Bench) -> None:
    bench.places = tuple(Place(f"r{n}", "feed-1", "cdu-1") for n in range(1, 11))
    bench.health(range(5))
    bench.health(range(5, 20), silent=[f"r{n}" for n in range(1, 9)])
    watch = bench.watch(BY_NAME["silent_rack"]).to(4, 6, 9, 12)
    assert watch.labels("rack") == [("many",)]
    assert "8 racks are silent" in watch.texts[0]


# versions


@pytest.mark.parametrize("name", ["driver_skew", "vbios_skew"])
def test_version_skew(bench: Bench, name: str) -> None:
    rule = BY_NAME[name]
    bench.health([9, 719, 729, 749, 809])

    def state(minute: float, node: str, driver: str, vbios: str) -> None:
        bench.event("inventory", minute, node_id=node, asset_kind="node", gpu_model="H100", driver_version=driver,
                    gpu_index=[0, 1], gpu_vbios=[vbios, vbios])  # fmt: skip

    for node in ("n1", "n2", "n3"):
        state(0, node, "575.57", "96.00.A5")
    state(0, "n4", "580.10", "96.00.D9")
    watch = bench.watch(rule).to(10)
    assert watch.states == ["Pending"]
    assert watch.to(10 + 12 * 60 - 10).told == []
    assert watch.to(10 + 12 * 60).labels("model") == [("H100",)]
    assert "1 H100 nodes" in watch.texts[0]
    state(740, "n4", "575.57", "96.00.A5")
    assert watch.to(750).states == ["Recovering"]
    assert watch.to(810).firing == []


def test_versions_of_nodes_in_maintenance_are_no_skew(bench: Bench) -> None:
    """They are being updated."""
    bench.health(range(30))
    for node, driver in (("n1", "575.57"), ("n2", "575.57"), ("n3", "580.10")):
        bench.event("inventory", 0, node_id=node, asset_kind="node", gpu_model="H100", driver_version=driver,
                    gpu_index=[0], gpu_vbios=["96.00.A5"])  # fmt: skip
    bench.event("node-events", 1, node_id="n3", event="maintenance_begin")
    watch = bench.watch(BY_NAME["driver_skew"]).to(10)
    assert watch.states == []
    bench.event("node-events", 15, node_id="n3", event="maintenance_end")
    assert watch.to(20).states == ["Pending"]


# leases


@pytest.mark.parametrize("name", ["lease_under_delivery", "customer_under_delivery"])
def test_a_lease_that_gets_less_than_was_promised(bench: Bench, name: str) -> None:
    bench.event("leases", -60 * 24 * 2, lease_id="l1", nodes=["r1-n1"], valid_from=_micros(bench, -2880), tenant="t",
                sla_target=0.99)  # fmt: skip
    bench.event("leases", -60 * 24 * 2, lease_id="l2", nodes=["r9-n1"], valid_from=_micros(bench, -2880), tenant="t",
                sla_target=0.5)  # fmt: skip
    bench.health(range(100))
    bench.health(range(100), lease_id="l2", rack="r9", healthy_s=600.0, not_in_service_s=300.0)
    bench.health(range(100, 110), healthy_s=0.0, unhealthy_s=960.0)
    watch = bench.watch(BY_NAME[name]).to(90, 105)
    assert watch.told == []
    assert watch.to(111, 121).labels("lease", "target") == [("l1", "99 %")]
    assert "8.091% of the leased GPU time below its target of 99 %" in watch.texts[0]


def test_a_lease_of_which_nothing_is_known_fires_and_its_alert_ends_with_it(bench: Bench) -> None:
    bench.event(
        "leases", -200, lease_id="gone", nodes=["x"], valid_from=_micros(bench, -180), tenant="t", sla_target=0.99
    )
    bench.health(range(60))
    watch = bench.watch(BY_NAME["lease_under_delivery"]).to(5, 15)
    assert watch.labels("lease") == [("gone",)]
    bench.event("leases", 20, lease_id="gone", nodes=["x"], valid_from=_micros(bench, -180), tenant="t", revision=2,
                action="ended", valid_to=_micros(bench, 20))  # fmt: skip
    assert watch.to(25, 30).firing == []


def _micros(bench: Bench, minute: float) -> int:
    return int((bench.start + minute * 60) * 1_000_000)


def usage(bench: Bench, minutes: range, **values: Any) -> None:
    bench.put(
        "usage_1m",
        [
            {"site": bench.site, "tenant": "t", "ts": bench.at(minute), "workspace": "w", "product": "api",
             "model": "m", "tier": "standard", "windows": 1, "requests": 100, "throttled_requests": 0,
             "input_tokens": 1000, "output_tokens": 100, "version": 1, **values}
            for minute in minutes
        ],
    )  # fmt: skip


def test_a_cap_that_is_nearly_reached(bench: Bench) -> None:
    rule = BY_NAME["customer_near_cap"]
    limit = {
        "tenant": "t",
        "limit_name": "input_tokens",
        "window_s": 60,
        "product": "api",
        "valid_from": _micros(bench, -10),
    }
    bench.event("tenant-limits", -10, limit_value=1050.0, action="set", **limit)
    bench.event("tenant-limits", -10, limit_value=1e9, action="set", **{**limit, "window_s": 18_000})
    bench.health(range(40))
    usage(bench, range(10), input_tokens=500)
    usage(bench, range(10, 40))
    watch = bench.watch(rule).to(10, 11)
    assert watch.states == []
    assert watch.to(13, 18).labels("cap", "of") == [("input_tokens in 60 s", "api, all models, all tiers")]
    assert watch.texts[0].startswith("95.24% of the cap")
    bench.event("tenant-limits", 20, limit_value=2000.0, action="raised", **{**limit, "valid_from": _micros(bench, 20)})
    assert watch.to(21).states == ["Recovering"]
    assert watch.to(31).firing == []


def test_power_near_its_cap_and_more_gpus_than_the_quota(bench: Bench) -> None:
    level = {"tenant": "t", "window_s": 0, "product": "", "valid_from": _micros(bench, -10), "action": "set"}
    bench.event("tenant-limits", -10, limit_name="gpu_quota", limit_value=32.0, **level)
    bench.event("tenant-limits", -10, limit_name="power_cap", limit_value=10_000.0, **level)
    bench.health(range(10), energy_j=200_000)  # two racks: 32 GPUs, 6.7 kW
    bench.health(range(10, 20), energy_j=290_000)
    bench.health(range(20, 40), energy_j=200_000, gpus=20)
    watch = bench.watch(BY_NAME["customer_near_cap"]).to(9)
    assert watch.states == [], "a quota that is full is what was leased"
    assert watch.to(12, 18).labels("cap", "of") == [("power", "all of them")]
    assert watch.texts[0].startswith("96.67% of the cap on power")
    assert watch.to(22, 28).labels("cap", "of")[1:] == [("GPUs", "all of them")]
    assert watch.texts[1].startswith("125% of the cap on GPUs")


def test_users_being_throttled(bench: Bench) -> None:
    bench.health(range(60))
    usage(bench, range(10))
    usage(bench, range(10, 30), throttled_requests=20)
    usage(bench, range(30, 60))
    watch = bench.watch(BY_NAME["customer_throttled"]).to(11)
    assert watch.states == []
    assert watch.to(20, 25, 30).labels("product") == [("api",)]
    assert watch.to(48).states == ["Recovering"]
    assert watch.to(58).firing == []


def test_a_handful_of_requests_is_no_alert(bench: Bench) -> None:
    bench.health(range(30))
    usage(bench, range(30), requests=2, throttled_requests=1)
    assert bench.watch(BY_NAME["customer_throttled"]).to(12, 20).states == []
