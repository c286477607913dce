"""The committed dashboards are what the code makes, and Grafana 12 and 13 can load them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from grafana_foundation_sdk.models import units as sdk_units

from infra.grafana import generate, units
from infra.grafana.boards import ids
from infra.grafana.target import CUSTOMER, OPERATOR, PLUGIN
from schemas import catalogue
from schemas.catalogue import KINDS

FILES = {path.stem: path for path in sorted(generate.DASHBOARDS.rglob("*.json"))}
BOARDS: dict[str, dict[str, Any]] = {uid: json.loads(path.read_text()) for uid, path in FILES.items()}
NAMES = {board.UID: board for board in (*ids.OPERATOR, *ids.CUSTOMER)}
KINDS_OF_PANELS = {"timeseries", "stat", "table", "bargauge", "heatmap", "state-timeline"}
SDK_UNITS = {value for name, value in vars(sdk_units).items() if isinstance(value, str) and not name.startswith("__")}

every_board = pytest.mark.parametrize("uid", FILES)


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Panels that show data."""
    return [panel for panel in board["panels"] if panel["type"] not in ("row", "text")]


def constants(names: type) -> dict[str, int]:
    return {name: value for name, value in vars(names).items() if isinstance(value, int)}


def addresses(board: dict[str, Any]) -> Iterator[str]:
    """Every address that a board, a panel or a column links to."""

    def within(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("url"), str) and value["url"]:
                yield value["url"]
            for inner in value.values():
                yield from within(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from within(inner)

    yield from within(board)


def test_the_committed_files_are_what_the_code_makes(tmp_path: Path) -> None:
    generate.write(tmp_path)

    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.json")}
    committed = {path.relative_to(generate.DASHBOARDS): path.read_bytes() for path in FILES.values()}
    assert sorted(made) == sorted(committed)
    assert [name for name, content in made.items() if committed[name] != content] == [], (
        "run python -m infra.grafana.generate"
    )


def test_files_of_boards_that_are_no_more_are_removed(tmp_path: Path) -> None:
    (tmp_path / "operator").mkdir()
    (tmp_path / "operator" / "gone.json").write_text("{}")

    generate.write(tmp_path)

    assert not (tmp_path / "operator" / "gone.json").exists()


def test_every_named_board_exists_and_no_other() -> None:
    assert set(FILES) == set(NAMES)
    assert {uid: path.parent.name for uid, path in FILES.items()} == {
        board.UID: audience
        for audience, boards in (("operator", ids.OPERATOR), ("customer", ids.CUSTOMER))
        for board in boards
    }


@every_board
def test_a_board_is_one_that_grafana_12_and_13_load(uid: str) -> None:
    board = BOARDS[uid]
    # 41 is Grafana 12.0's; 12 and 13 raise older ones when they load them, and refuse to lower newer ones.
    assert board["schemaVersion"] == 41
    assert board["uid"] == uid
    assert len(uid) <= 40, "Grafana's limit"
    assert "id" not in board
    assert board["title"]
    assert board["description"]
    kinds = {panel["type"] for panel in board["panels"]}
    assert kinds <= KINDS_OF_PANELS | {"row", "text"}


@every_board
def test_panels_have_the_ids_that_others_link_to(uid: str) -> None:
    used = Counter(panel["id"] for panel in BOARDS[uid]["panels"])
    assert [each for each, times in used.items() if times > 1] == []

    named = constants(NAMES[uid])
    assert len(set(named.values())) == len(named), "an id has two names"
    assert {panel["id"] for panel in panels(BOARDS[uid])} == set(named.values())


@every_board
def test_panels_do_not_overlap_and_stay_on_the_board(uid: str) -> None:
    cells: Counter[tuple[int, int]] = Counter()
    for panel in BOARDS[uid]["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
        assert place["h"] > 0, panel["title"]
        columns = range(place["x"], place["x"] + place["w"])
        cells.update(product(columns, range(place["y"], place["y"] + place["h"])))
    assert [cell for cell, times in cells.items() if times > 1] == []


@every_board
def test_panels_are_in_reading_order(uid: str) -> None:
    places = [(panel["gridPos"]["y"], panel["gridPos"]["x"]) for panel in BOARDS[uid]["panels"]]
    assert all(before < after for before, after in pairwise(places))


@every_board
def test_a_board_is_not_crowded(uid: str) -> None:
    assert 10 <= len(panels(BOARDS[uid])) <= 20


@every_board
def test_every_panel_says_what_it_means_and_what_to_do(uid: str) -> None:
    for panel in panels(BOARDS[uid]):
        means, _, do = panel["description"].partition("\n\n**What to do:** ")
        assert len(means) > 20, panel["title"]
        assert len(do) > 10, panel["title"]


@every_board
def test_every_board_shows_how_complete_its_data_is(uid: str) -> None:
    top = [panel for panel in panels(BOARDS[uid]) if panel["id"] == constants(NAMES[uid])["COMPLETENESS"]]
    assert [panel["type"] for panel in top] == ["stat"]
    assert top[0]["gridPos"]["y"] == 0, "in the top row"


@every_board
def test_data_sources_are_those_of_the_audience(uid: str) -> None:
    found = set(re.findall(r'"datasource": \{\s*"type": "([^"]*)",\s*"uid": "([^"]*)"', FILES[uid].read_text()))
    expected = (PLUGIN, OPERATOR if FILES[uid].parent.name == "operator" else CUSTOMER)
    assert found == {expected}


@every_board
def test_links_lead_to_boards_panels_and_variables_that_exist(uid: str) -> None:
    for address in addresses(BOARDS[uid]):
        split = urlsplit(address)
        target = split.path.removeprefix("/d/")
        assert target in BOARDS, address
        assert FILES[target].parent == FILES[uid].parent, f"{address}: a board of the other audience"
        assert "${__url_time_range}" in split.query, f"{address}: the time range is lost"
        query = parse_qs(split.query.replace("${__url_time_range}", ""), keep_blank_values=True)
        variables = {variable["name"] for variable in BOARDS[target]["templating"]["list"]}
        assert {key.removeprefix("var-") for key in query if key.startswith("var-")} <= variables, address
        if "viewPanel" in query:
            assert int(query["viewPanel"][0]) in {panel["id"] for panel in BOARDS[target]["panels"]}, address


@every_board
def test_values_in_links_are_encoded(uid: str) -> None:
    for address in addresses(BOARDS[uid]):
        for value in re.findall(r"\$\{([^}]*)\}", address):
            assert value == "__url_time_range" or value.endswith(":percentencode"), address


@every_board
def test_variables_of_this_board_that_links_carry_exist_here(uid: str) -> None:
    own = {variable["name"] for variable in BOARDS[uid]["templating"]["list"]}
    for address in addresses(BOARDS[uid]):
        carried = {name for name in re.findall(r"\$\{(\w+):", address) if not name.startswith("__")}
        assert carried <= own, address


def test_the_operators_links_lead_from_the_fleet_down_to_a_gpu() -> None:
    way = [ids.Fleet.UID, ids.Rack.UID, ids.Node.UID, ids.Gpu.UID]
    for upper, lower in pairwise(way):
        assert any(urlsplit(address).path == f"/d/{lower}" for address in addresses(BOARDS[upper])), (upper, lower)


def test_every_unit_of_the_schemas_has_a_unit_of_grafana() -> None:
    used = {field.get("unit", "") for topic in KINDS for field in catalogue.latest(topic).fields}
    assert used <= set(units.IDS)
    assert set(units.IDS.values()) <= SDK_UNITS


@every_board
def test_units_are_grafanas(uid: str) -> None:
    used = set(re.findall(r'"unit": "([^"]*)"', FILES[uid].read_text()))
    overrides = [
        item["value"]
        for panel in panels(BOARDS[uid])
        for override in panel["fieldConfig"]["overrides"]
        for item in override["properties"]
        if item["id"] == "unit"
    ]
    assert used | set(overrides) <= SDK_UNITS


@pytest.mark.parametrize("uid", [board.UID for board in (ids.Delivered, ids.Usage, ids.Energy, ids.Effect)])
def test_billed_figures_are_pinned_to_utc(uid: str) -> None:
    assert BOARDS[uid]["timezone"] == "utc"
