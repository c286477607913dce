"""What no query of a board may say, checked in its text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest

from infra.grafana.expand import Dashboard, Query, TimeRange
from infra.grafana.expand.comments import without_comments
from infra.grafana.expand.macros import NOT_IN_4_18, Context, expand_macros, expand_macros_4_19
from tests.grafana.boards import BOARDS, OPERATOR, QUERIES

RAW: Final = ("node_telemetry", "node_counters", "gpu_samples", "gpu_counters", "host_samples", "nic_samples")
USAGE: Final = ("tenant_usage", "tenant_usage_daily", "usage_1m", "usage_1h", "usage_1d", "tenant_headroom")
MOST_RAW_S: Final = 900
CLOCKS: Final = r"\b(now|now64|nowInBlock|today|yesterday|current_?timestamp|current_?date|utc_?timestamp)\s*\("


@pytest.fixture(params=QUERIES, ids=str)
def query(request: pytest.FixtureRequest) -> Query:
    found = request.param
    assert isinstance(found, Query)
    return found


def selects(sql: str) -> Iterator[str]:
    """Every SELECT by itself: the text between its brackets, with the brackets inside it emptied, but not those of
    functions."""
    depth_starts: list[int] = []
    for at, character in enumerate(sql):
        if character == "(":
            depth_starts.append(at + 1)
        elif character == ")" and depth_starts:
            yield sql[depth_starts.pop() : at]
    yield sql


def raw_selects(sql: str) -> list[str]:
    """The innermost SELECTs that read a raw table."""
    names = "|".join(RAW)
    reading = [part for part in selects(sql) if re.search(rf"\b(FROM|JOIN)\s+(gpufleet\.)?({names})\b", part)]
    return [part for part in reading if not any(other != part and other in part for other in reading)]


def test_no_clock_but_the_time_range(query: Query) -> None:
    assert not re.search(CLOCKS, query.sql, re.IGNORECASE)


def test_raw_tables_are_read_for_one_place_and_fifteen_minutes(query: Query) -> None:
    for part in raw_selects(query.sql):
        flat = " ".join(part.split())
        assert re.search(r"\b(node_id|rack|job_id)\s*(=\s*decodeURLComponent|(GLOBAL )?IN\s*\()", flat), flat
        clamps = re.findall(r"\b(?:event_ts|ts) >=? (?:greatest\(\$__fromTime, )?\$__toTime - (\d+)", flat)
        assert clamps, f"expected event_ts > greatest($__fromTime, $__toTime - {MOST_RAW_S}), found {flat}"
        assert min(map(int, clamps)) <= MOST_RAW_S
        assert re.search(r"\b(event_ts|ts)\s*<=?\s*\$__toTime", flat), flat


def test_the_guard_sees_a_raw_table_without_a_filter() -> None:
    """A guard that finds nothing would pass everything."""
    sql = "SELECT 1 FROM (SELECT max(ts) FROM gpufleet.node_telemetry WHERE ts > $__fromTime) WHERE node_id = 'x'"
    assert raw_selects(sql) == ["SELECT max(ts) FROM gpufleet.node_telemetry WHERE ts > $__fromTime"]
    assert raw_selects("SELECT 1 FROM gpufleet.node_events") == []


def test_variables_are_only_written_percent_encoded(query: Query) -> None:
    """Also in strings and comments: whatever is replaced must be harmless."""
    safe = re.sub(r"decodeURLComponent\('\$\{\w+:percentencode\}'\)", "", query.sql)
    left = re.findall(r"\$\{[^}]*\}|\[\[[^\]]*\]\]|\$(?!__)\w+", safe)
    assert not left
    known = {variable.name for variable in query.dashboard.variables}
    assert set(re.findall(r"\$\{(\w+):percentencode\}", query.sql)) <= known, "a variable that the board lacks"


def test_macros_of_the_back_end_alone_and_alike_in_every_plugin_version(query: Query) -> None:
    used = set(re.findall(r"\$__(\w+)", query.sql))
    assert not used & (NOT_IN_4_18 | {"conditionalAll", "adHocFilters", "from", "to", "interval", "interval_ms"})
    context = Context(TimeRange(1_773_122_400_000, 1_773_208_800_000), 60_000)
    older = expand_macros(query.sql, context)
    assert "$__" not in older, "an unknown macro"
    assert without_comments(older).split() == without_comments(expand_macros_4_19(query.sql, context)).split()


@pytest.mark.parametrize("board", OPERATOR, ids=lambda board: board.uid)
def test_operator_boards_do_not_read_usage(board: object) -> None:
    for query in QUERIES:
        if query.dashboard is board:
            assert not re.search(rf"\b({'|'.join(USAGE)})\b", query.sql), str(query)


def test_every_panel_says_what_it_means_and_what_to_do() -> None:
    for board in {query.dashboard.uid: query.dashboard for query in QUERIES}.values():
        for panel in board.panels:
            if panel.targets:
                assert len(panel.description) > 40, f"{board.uid}/{panel.id} {panel.title}"
                assert panel.title


def test_an_empty_list_says_so_in_words_and_an_empty_cell_is_a_dash() -> None:
    tables = [panel for board in BOARDS for panel in board.panels if panel.kind == "table"]
    for panel in tables:
        assert panel.field_config["defaults"]["noValue"].startswith(("no ", "nothing "))
        for override in panel.field_config["overrides"]:
            values = {each["id"]: each["value"] for each in override["properties"]}
            assert values.get("noValue") == "–" or values.get("custom.hidden"), override["matcher"]
    assert tables


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_titles_of_figures_fit_a_laptop(board: Dashboard) -> None:
    """At 1440 pixels a column of the grid is 60 wide and a bold letter about 8; frame, menu and sign take 60."""
    long = [
        panel.title
        for panel in board.panels
        if panel.kind == "stat" and len(panel.title) * 8 > panel.grid["w"] * 60 - 60
    ]
    assert not long
