"""Rules about GPUs and nodes: each fires, stays quiet in maintenance, clears; one cause is told once."""

from __future__ import annotations

from typing import Any

import pytest

from infra.grafana.alerts.rules import BY_NAME
from tests.alerts.support import Bench

ALL = range(4)
BEGIN, END = 10, 30
"""Minutes of the fault; END is the first without it."""
FAULTS: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("gpu_reset", {"reason": "xid_119", "action": "reset_gpu"}, {"node": "r1-n1", "gpu": "0"}),
    ("gpu_reset", {"reason": "xid_154", "action": "drain_and_reset", "gpus": [2]}, {"node": "r1-n1", "gpu": "2"}),
    ("gpu_reboot", {"reason": "xid_79", "action": "reboot_node", "scope": "node", "gpus": ALL}, {"node": "r1-n1"}),
    ("gpu_replace", {"reason": "row_remap_failure", "action": "replace_gpu"}, {"node": "r1-n1", "gpu": "0"}),
    ("gpu_workflow", {"reason": "xid_74", "action": "workflow"}, {"node": "r1-n1", "gpu": "0"}),
    ("gpu_workflow", {"reason": "xid_54", "action": "check_mechanicals"}, {"node": "r1-n1", "gpu": "0"}),
    ("gpu_unclassified", {"reason": "xid_999", "action": "unclassified"}, {"gpu": "0", "code": "xid_999"}),
    ("gpu_hot", {"reason": "temp_high", "action": "check_cooling_and_power"}, {"node": "r1-n1", "gpu": "0"}),
    ("gpu_slowed", {"reason": "slowdown", "action": "check_cooling_and_power"}, {"node": "r1-n1", "gpu": "0"}),
    ("nvlink_down", {"reason": "nvlink_inactive", "action": "check_link", "gpus": ALL}, {"domain": "r1-n1"}),
    ("nic_down", {"reason": "link_down", "action": "check_link", "scope": "node", "gpus": ALL}, {"node": "r1-n1"}),
    ("pcie_downtrained", {"reason": "pcie_downtrained", "action": "reseat_or_replace"}, {"node": "r1-n1", "gpu": "0"}),
    ("silent_node", {"reason": "silent", "action": "check_agent", "gpus": ALL}, {"node": "r1-n1"}),
    ("clock_offset", {"reason": "clock_offset", "action": "check_clock", "gpus": ALL}, {"node": "r1-n1"}),
]
IDS = [f"{name}-{fault['reason']}" for name, fault, _ in FAULTS]


@pytest.mark.parametrize(("name", "fault", "labels"), FAULTS, ids=IDS)
def test_it_fires_once_and_clears(bench: Bench, name: str, fault: dict[str, Any], labels: dict[str, str]) -> None:
    rule = BY_NAME[name]
    due, kept = rule.for_s // 60, rule.keep_s // 60
    bench.health(range(END + kept + 3))
    bench.sick(range(BEGIN, END), **fault)
    watch = bench.watch(rule).to(5)
    assert watch.states == []
    watch.to(BEGIN + 1)
    assert watch.states == ["Pending" if due else "Alerting"]
    watch.to(BEGIN + 1 + due)
    assert len(watch.told) == 1
    told = dict(watch.told[0].alert.labels)
    assert {key: told[key] for key in labels} == labels
    assert told["site"] == bench.site
    watch.to(END)
    assert watch.states == ["Alerting"]
    watch.to(END + 1)
    assert watch.states == (["Recovering"] if kept else [])
    watch.to(END + 1 + kept)
    assert watch.firing == []
    assert len(watch.told) == 1


@pytest.mark.parametrize(("name", "fault"), [each[:2] for each in FAULTS], ids=IDS)
def test_it_is_quiet_in_maintenance(bench: Bench, name: str, fault: dict[str, Any]) -> None:
    bench.health(range(40))
    bench.sick(range(BEGIN, END), in_service=False, **fault)
    assert bench.watch(BY_NAME[name]).to(BEGIN + 1, BEGIN + 6, END).states == []


def test_maintenance_that_begins_ends_the_alert(bench: Bench) -> None:
    bench.health(range(30))
    bench.sick(range(5, 10), "xid_79", "reboot_node", scope="node", gpus=ALL)
    bench.sick(range(10, 25), "xid_79", "reboot_node", scope="node", gpus=ALL, in_service=False)
    watch = bench.watch(BY_NAME["gpu_reboot"]).to(6, 7, 10)
    assert watch.states == ["Alerting"]
    assert watch.to(11, 16).states == []


# one cause, one alert


def test_the_strongest_action_speaks(bench: Bench) -> None:
    """A lost GPU, with an Xid that asks for a reset and counters that ask for a look, is one alert: reboot."""
    bench.health(range(20))
    bench.sick(range(5, 15), "gpu_lost", "reboot_node")
    bench.sick(range(5, 15), "xid_79", "reboot_node", scope="node", gpus=ALL)
    bench.sick(range(5, 15), "xid_119", "reset_gpu")
    bench.sick(range(5, 15), "xid_74", "workflow")
    bench.sick(range(5, 15), "nvlink_inactive", "check_link")
    bench.sick(range(5, 15), "silent", "check_agent")
    told = []
    for name in ("gpu_reboot", "gpu_reset", "gpu_workflow", "nvlink_down", "silent_node"):
        told += [note.rule.name for note in bench.watch(BY_NAME[name]).to(6, 8, 12, 14).told]
    assert told == ["gpu_reboot"]


def test_a_memory_error_that_ends_in_a_replacement_is_not_told_as_a_reset_too(bench: Bench) -> None:
    bench.health(range(20))
    bench.sick(range(5, 15), "xid_64", "reset_gpu")
    bench.sick(range(6, 15), "row_remap_failure", "replace_gpu")
    assert bench.watch(BY_NAME["gpu_reset"]).to(6, 7, 8, 9, 12).told == []
    assert bench.watch(BY_NAME["gpu_replace"]).to(6, 7, 8, 9, 12).labels("gpu") == [("0",)]


def test_a_link_that_is_down_is_not_told_as_a_reset_too(bench: Bench) -> None:
    bench.health(range(20))
    bench.sick(range(5, 15), "nvlink_inactive", "check_link")
    assert bench.watch(BY_NAME["gpu_reset"]).to(6, 8, 10, 12).told == []
    assert len(bench.watch(BY_NAME["nvlink_down"]).to(6, 9, 12).told) == 1


def test_two_gpus_of_a_node_are_two_causes(bench: Bench) -> None:
    bench.health(range(20))
    bench.sick(range(5, 15), "xid_119", "reset_gpu", gpus=[1])
    bench.sick(range(7, 15), "xid_119", "reset_gpu", gpus=[3])
    assert bench.watch(BY_NAME["gpu_reset"]).to(6, 8, 10, 12).labels("gpu") == [("1",), ("3",)]


def test_a_switch_fault_is_one_alert_for_its_nvlink_domain(bench: Bench) -> None:
    """An SXID makes every GPU of the domain sick, each row naming where it began."""
    bench.health(range(20))
    for node in ("r1-n1", "r1-n2", "r1-n3"):
        bench.sick(
            range(5, 15), "sxid_22013", "unclassified", node=node, gpus=ALL, scope="nvlink_domain", origin_node="r1-n1"
        )
    watch = bench.watch(BY_NAME["gpu_unclassified"]).to(6, 8)
    assert watch.labels("node", "gpu", "code") == [("r1-n1", "all", "sxid_22013")]
    assert watch.told[0].alert.value == 12


def test_links_of_a_whole_rack_are_one_page(bench: Bench) -> None:
    bench.health(range(30))
    for node in ("r1-n1", "r1-n2", "r1-n3", "r1-n4"):
        bench.sick(range(5, 12), "link_down", "check_link", node=node, scope="node")
    rack, node_rule = (bench.watch(BY_NAME[name]) for name in ("rack_links_down", "nic_down"))
    assert rack.to(4, 6, 8, 10).labels("rack") == [("r1",)]
    assert node_rule.to(4, 6, 8, 10).told == []
    assert rack.to(13).states == ["Recovering"]
    assert rack.to(18).states == []


def test_many_wrong_clocks_are_one_alert(bench: Bench) -> None:
    bench.health(range(20))
    for number in range(25):
        bench.sick(range(5, 15), "clock_offset", "check_clock", node=f"r1-n{number}")
    assert bench.watch(BY_NAME["clock_offset"]).to(6, 11, 12).labels("node") == [("many",)]


# Xids that are no faults


def xid(bench: Bench, minute: float, code: int, verdict: int | None = None, node: str = "r1-n1", **more: Any) -> None:
    bench.event("node-events", minute, node_id=node, rack="r1", event="xid", gpu_index=0, code=code,
                recovery_action=verdict, occurrences=1, **more)  # fmt: skip


def test_restart_the_application(bench: Bench) -> None:
    bench.health(range(60))
    xid(bench, 10.5, 31, 0)
    watch = bench.watch(BY_NAME["gpu_restart_app"]).to(10, 11)
    assert watch.labels("node", "gpu") == [("r1-n1", "0")]
    assert watch.to(12, 20).states == ["Alerting"]
    assert watch.to(27, 29).firing == []
    assert len(watch.told) == 1


def test_ignored_codes_and_nodes_in_maintenance_are_quiet(bench: Bench) -> None:
    bench.health(range(30))
    for code in (43, 63, 92, 121, 137):
        xid(bench, 10.5, code)
    bench.event("node-events", 9, node_id="r1-n2", event="maintenance_begin")
    xid(bench, 10.5, 31, node="r1-n2")
    xid(bench, 10.5, 45, node="r1-n2")
    for name in ("gpu_restart_app", "gpu_fabric_manager", "gpu_workflow", "gpu_unclassified", "gpu_reset"):
        assert bench.watch(BY_NAME[name]).to(11, 14, 16).states == [], name


def test_an_application_that_died_of_a_fault_is_the_faults_alert(bench: Bench) -> None:
    bench.health(range(30))
    xid(bench, 10.2, 94, 0)
    bench.sick(range(10, 20), "ecc_dbe", "reset_gpu")
    assert bench.watch(BY_NAME["gpu_restart_app"]).to(11, 12).told == []


def test_an_application_that_died_on_a_slowed_gpu_is_told(bench: Bench) -> None:
    bench.health(range(30))
    xid(bench, 10.2, 31, 0)
    bench.sick(range(5, 20), "slowdown", "check_cooling_and_power")
    assert len(bench.watch(BY_NAME["gpu_restart_app"]).to(11, 12).told) == 1


def test_xid_45_alone_asks_for_the_fabric_manager(bench: Bench) -> None:
    bench.health(range(60))
    xid(bench, 10.2, 45)
    xid(bench, 10.3, 45, gpu_uuid=None)
    watch = bench.watch(BY_NAME["gpu_fabric_manager"]).to(10, 11)
    assert watch.states == ["Pending"]
    assert watch.to(14).labels("node") == [("r1-n1",)]
    assert watch.told[0].alert.value == 2
    assert watch.to(27, 29).firing == []


def test_xid_45_beside_another_xid_is_ignored(bench: Bench) -> None:
    bench.health(range(30))
    xid(bench, 10.2, 45)
    xid(bench, 10.4, 13)
    assert bench.watch(BY_NAME["gpu_fabric_manager"]).to(11, 14, 16).states == []


def test_a_gpu_that_fails_three_times_a_day(bench: Bench) -> None:
    bench.health(range(90))
    for minute in (5, 25, 45):
        bench.sick(range(minute, minute + 3), "xid_95", "reset_gpu", gpus=[1])
        bench.sick(range(minute, minute + 3), "ecc_dbe", "reset_gpu", gpus=[1])  # the same fact, told twice
        bench.sick(range(minute, minute + 3), "xid_95", "reset_gpu", gpus=[2], since=5)
    watch = bench.watch(BY_NAME["gpu_repeat"]).to(10, 30)
    assert watch.told == []
    assert watch.to(50).labels("node", "gpu") == [("r1-n1", "1")]
    assert watch.told[0].alert.value == 3
    bench.sick(range(60, 62), "xid_95", "reset_gpu", gpus=[1], in_service=False)
    assert watch.to(65).states == ["Recovering"]


def test_a_link_that_goes_down_three_times_in_three_hours(bench: Bench) -> None:
    bench.health(range(60))
    for minute in (5, 15):
        bench.sick([minute], "link_down", "check_link", scope="node", gpus=ALL)
    watch = bench.watch(BY_NAME["nic_flapping"]).to(10, 20)
    assert watch.told == []
    bench.sick([25], "link_down", "check_link", scope="node", gpus=ALL)
    assert watch.to(30).labels("node") == [("r1-n1",)]
    bench.sick([35], "link_down", "check_link", scope="node", gpus=ALL, in_service=False)
    assert watch.to(40, 71).firing == []
