"""Scenario files: what fits, what does not and how it is said, and fleets scaled down."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from producers.simulator import topology
from producers.simulator.scenario import ScenarioError, load, names

GOOD = """
name = "mine"
site = "here"
[[groups]]
model = "H100"
nodes = 3
[[tenants]]
name = "t"
share = 1
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_the_scenarios_that_come_with_gpufleet() -> None:
    assert names() == ["colossus1", "small"]
    fleet = load("colossus1")
    gpus: Counter[str] = Counter()
    for group in fleet.groups:
        gpus[group.model] += group.nodes * group.gpus_per_node
    assert gpus == {"H100": 150_000, "H200": 50_000, "GB200": 20_160}
    assert (fleet.gpus, fleet.nodes) == (220_160, 30_040)
    small = load("small")
    assert [(g.model, g.nodes, g.gpus_per_node) for g in small.groups] == [("H100", 8, 8), ("GB200", 18, 4)]
    assert len(small.tenants) == 3


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    scenario = load(written(tmp_path, GOOD), seed=9)
    assert (scenario.name, scenario.nodes, scenario.seed) == ("mine", 3, 9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('site = "here"|sit = "here"', "sit: no such key.*did you mean 'site'"),
        ('model = "H100"|model = "H10"', r"groups\[0\].model: no GPU model 'H10'.*did you mean 'H100'"),
        ("nodes = 3|nodez = 3", r"groups\[0\].nodez: no such key.*did you mean 'nodes'"),
        ('nodes = 3|nodes = "3"', r"groups\[0\].nodes: expected a whole number, found '3'"),
        ("nodes = 3|nodes = 0", "expected at least 1, found 0"),
        ("share = 1|share = 1.5", "add up to more than 1"),
        ("share = 1|", r"tenants\[0\].share: this key is missing"),
        ('name = "mine"|name = "mine', "not valid TOML"),
        ('site = "here"|site = "here"\npower = 3', "power: expected a table"),
        ('site = "here"|site = "here"\n[jobs]\nstep_s = [1.0]', "jobs.step_s: expected 2 values, found 1"),
        ('site = "here"|site = "here"\n[story]\nfeed_trip = 0.5', "story.feed_trip: expected a list"),
    ],
)
def test_what_does_not_fit_is_named(change: str, says: str, tmp_path: Path) -> None:
    old, new = change.split("|")
    assert old in GOOD
    with pytest.raises(ScenarioError, match=says):
        load(written(tmp_path, GOOD.replace(old, new, 1)))


def test_an_unknown_scenario_names_the_nearest() -> None:
    with pytest.raises(ScenarioError, match="did you mean 'colossus1'"):
        load("colosus1")


@pytest.mark.parametrize("nodes", [3, 4, 77, 1000, 40_000])
def test_scaling_keeps_proportions(nodes: int) -> None:
    scenario = load("colossus1", nodes=nodes)
    assert scenario.nodes == nodes
    for group, whole in zip(scenario.groups, load("colossus1").groups, strict=True):
        assert group.nodes >= 1
        assert abs(group.nodes - whole.nodes * nodes / 30_040) <= 2
    assert scenario.power.site_cap_w == pytest.approx(310e6 * scenario.full_load_w / 291.8928e6)


def test_more_nodes_than_a_machine_can_hold_are_refused_at_once() -> None:
    with pytest.raises(ScenarioError, match="--nodes: expected at most 200,000 nodes in one process, found 99,999,999"):
        load("small", nodes=99_999_999)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (file := tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="is not UTF-8 text, at byte 1"):
        load(file)


def test_fewer_nodes_than_groups_is_refused() -> None:
    with pytest.raises(ScenarioError, match="at least 3"):
        load("colossus1", nodes=2)


def test_places_hang_together() -> None:
    fleet = topology.build(load("colossus1", nodes=500))
    assert len({node.node_id for node in fleet.nodes}) == 500
    assert len({fleet.uuids[n.index, g].tobytes() for n in fleet.nodes for g in range(n.gpus)}) == fleet.scenario.gpus
    for rack in fleet.racks:
        assert len(rack.nodes) <= (18 if rack.model.grace else 8)
        assert {fleet.nodes[i].rack for i in rack.nodes} == {fleet.racks.index(rack)}
        assert bool(rack.nvlink_domain) == rack.model.grace
    in_slices = sorted(index for _, members in fleet.slices for index in members.tolist())
    assert in_slices == list(range(500))
    for shape, members in fleet.slices:
        assert {fleet.shape(fleet.nodes[index]) for index in members.tolist()} == {shape}
