"""What a browser may ask for: names and values, never SQL; and as whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.preview.asking import LONGEST_VALUE, Askers, RefusedError, question
from infra.preview.boards import Boards, NotFoundError
from tests.preview.support import HOUR, usual_boards

OPERATOR = Askers(("anthropic", "xai"))


@pytest.fixture
def boards(tmp_path: Path) -> Boards:
    return usual_boards(tmp_path)


def asked(boards: Boards, askers: Askers = OPERATOR, tenant: str | None = None, **body: Any) -> tuple[str, str]:
    whole = {"board": "fleet", "role": "panel", "name": "1.A", **HOUR, "as": tenant, **body}
    found = question(boards, askers, {name: value for name, value in whole.items() if value is not None})
    return found.sql, found.tenant


def test_variables_and_macros_are_expanded_as_grafana_does(boards: Boards) -> None:
    sql, tenant = asked(boards, variables={"rack": "a'b"}, points=60)
    assert (sql, tenant) == ("SELECT 'a%27b', toDateTime(1773130000), 60", "")


def test_a_variable_keeps_its_own_value_where_the_browser_sends_none(boards: Boards) -> None:
    assert asked(boards)[0].startswith("SELECT '', ")


@pytest.mark.parametrize(
    "hostile",
    [
        "') UNION ALL SELECT password FROM users --",
        "\\",
        "${site}",
        "$__timeFilter(ts)",
        "a" * LONGEST_VALUE,
        "}'; DROP",
    ],
)
def test_no_value_gets_out_of_its_text(boards: Boards, hostile: str) -> None:
    sql, _ = asked(boards, variables={"rack": hostile})
    inside = sql.removeprefix("SELECT '").partition("'")[0]
    assert set(inside) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~%")
    assert sql == f"SELECT '{inside}', toDateTime(1773130000), 5"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"sql": "SELECT 1"}, "unknown: sql"),
        ({"rawSql": "SELECT 1"}, "unknown: rawSql"),
        ({"variables": {"rack": "x" * (LONGEST_VALUE + 1)}}, "at most 1000"),
        ({"variables": {"rack": ["a", "b"]}}, "one text"),
        ({"variables": {"rack": "a\x00b"}}, "printable"),
        ({"variables": {"tenant": "xai"}}, "no variable 'tenant'"),
        ({"variables": "rack=a"}, "an object"),
        ({"from": "now-1h"}, "milliseconds"),
        ({"from": -1}, "milliseconds"),
        ({"to": 10**18}, "2100"),
        ({"from": True}, "milliseconds"),
        ({"to": HOUR["from"]}, "ends after its start"),
        ({"points": 0}, "from 1 up"),
        ({"points": "all"}, "whole number"),
        ({"board": None}, "expected board"),
        ({"board": ["fleet"]}, "expected board"),
        ({"as": "xai"}, "operator's board"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(boards: Boards, body: dict[str, Any], says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        asked(boards, **body)


@pytest.mark.parametrize("body", [None, [], "SELECT 1", 7])
def test_a_body_that_is_no_object_is_refused(boards: Boards, body: Any) -> None:
    with pytest.raises(RefusedError, match="JSON object"):
        question(boards, OPERATOR, body)


@pytest.mark.parametrize(
    "body",
    [
        {"board": "../../etc/passwd"},
        {"board": "fleet.json"},
        {"board": ""},
        {"name": "2.A"},
        {"name": "1.B"},
        {"name": "1.A; SELECT 1"},
        {"role": "sql"},
        {"role": "variable", "name": "1.A"},
        {"role": "annotation", "name": "rack"},
    ],
)
def test_only_what_a_board_holds_is_found(boards: Boards, body: dict[str, Any]) -> None:
    with pytest.raises(NotFoundError):
        asked(boards, **body)


def test_variables_and_annotations_are_asked_by_name(boards: Boards) -> None:
    assert asked(boards, role="variable", name="rack", variables={"site": "a"})[0].endswith("decodeURIComponent('a')")
    assert asked(boards, role="annotation", name="XIDs")[0] == "SELECT ts AS time"


def test_a_customers_board_is_asked_as_a_tenant_and_as_nobody_else(boards: Boards) -> None:
    assert asked(boards, board="mine", tenant="xai") == ("SELECT 1 AS n", "xai")
    with pytest.raises(RefusedError, match="choose whose view"):
        asked(boards, board="mine")
    with pytest.raises(RefusedError, match="no credentials for tenant 'mallory'; there are: anthropic, xai"):
        asked(boards, board="mine", tenant="mallory")


def test_a_page_for_one_tenant_knows_no_other_view(boards: Boards) -> None:
    only = Askers(("anthropic", "xai"), only="xai")
    assert asked(boards, only, board="mine") == ("SELECT 1 AS n", "xai")
    for body in ({"board": "mine", "as": "anthropic"}, {"board": "fleet"}, {"board": "fleet", "as": "xai"}):
        with pytest.raises(RefusedError, match="the view of xai only"):
            asked(boards, only, **body)


def test_the_browser_gets_a_board_without_any_sql(boards: Boards) -> None:
    shown = boards["fleet"].public()
    assert "SELECT" not in str(shown)
    assert [entry.get("dependsOn") for entry in shown["templating"]["list"]] == [[], ["site"]]
    assert [entry["name"] for entry in shown["annotations"]["list"]] == ["XIDs"]
    assert shown["panels"][0]["targets"] == [{"refId": "A", "format": 1}]
