"""Every panel, variable and annotation of every board is asked: empty, full, for a year, with hostile values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from infra.clickhouse.client import ClickHouse, connect
from infra.grafana.expand import Dashboard, Frame, Query, TimeRange, Value, choose, queries
from tests.conftest import migrated
from tests.grafana.boards import (
    BOARDS,
    CUSTOMER,
    HOUR_MS,
    MINUTE_MS,
    OPERATOR,
    QUERIES,
    Chosen,
    ask,
    numbers,
    shortcoming,
    unordered,
)
from tests.grafana.empty import EMPTY
from tests.story import NEWCOMER, Story

pytestmark = pytest.mark.store

MAX_ROWS: Final = 30_000
"""A panel's answer: the 1,440 minutes of a day for the 18 nodes of a rack, and some."""
MAX_TABLE_ROWS: Final = 1_000
MAX_OPTIONS: Final = 5_001
MAX_READ: Final = 1_000_000
"""Rows that one query may read of the story, whose largest rollup (gpu_1m) has 196,000 and raw tables 37,000 each."""
HOSTILE: Final = "\\' OR '1'='1' -- /* x\n\x00\u2028; DROP TABLE gpufleet.leases; %27" + "'\\" * 1_000
NOBODY: Final = "nobody-has-this-name"


def ids(board: Dashboard) -> str:
    return board.uid


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A migrated store in which nothing ever happened."""
    with migrated(tmp_path_factory.mktemp("empty-store")) as store:
        client = connect(ClickHouse(store.host, store.port, store.username, store.password, "gpufleet"))
        yield client
        client.close()


def occasions(story: Story) -> Iterator[tuple[TimeRange, dict[str, str]]]:
    """Ranges, and nodes to look at, in which something is to be seen: the day's end, the time of
    the telling (for what the pipeline did), then each part of the story."""
    end = story.range.to_ms
    yield story.range, {}
    yield TimeRange(end - 6 * HOUR_MS, end), {}
    yield TimeRange(story.told_at.to_ms - 3 * HOUR_MS, story.told_at.to_ms), {}
    straggler = story.fact["straggler"]
    where = {"node": straggler["node"], "gpu": str(straggler["gpu"]), "rack": straggler["node"].rsplit("-", 1)[0]}
    for part in ("straggler", "feed_trip", "coolant", "limit_raise", "lease_handover"):
        middle = story.fact[part].get("until", story.fact[part]["at"] + 30 * 60_000_000) // 1000 - 10 * MINUTE_MS
        yield TimeRange(middle - 3 * HOUR_MS, middle), where


def answered(client: Client, query: Query, occasion: list[tuple[TimeRange, Chosen]]) -> str:
    """What the query lacks on every occasion; empty as soon as it has all it needs on one."""
    lacks = ""
    for time_range, variables in occasion:
        frame = ask(client, query, time_range, variables)
        assert within_budget(query, frame), f"{query}: {len(frame.rows)} rows, {frame.read_rows} read"
        lacks = shortcoming(query, frame)
        if not lacks:
            return ""
    return lacks


def within_budget(query: Query, frame: Frame) -> bool:
    kind = query.panel.kind if query.panel else query.role
    most = {"table": MAX_TABLE_ROWS, "annotation": MAX_TABLE_ROWS, "stat": 50, "variable": MAX_OPTIONS}
    assert not unordered(query, frame), f"{query}: rows out of order"
    return len(frame.rows) <= most.get(kind, MAX_ROWS) and (frame.read_rows or 0) <= MAX_READ


def lacking(client: Client, story: Story, board: Dashboard) -> dict[str, str]:
    """Queries of a board that never have what they need, by name."""
    occasion = [(span, choose(client, board, span, wanted)) for span, wanted in occasions(story)]
    found = {str(query): answered(client, query, occasion) for query in queries(board)}
    return {name: lacks for name, lacks in found.items() if lacks}


def expected(board: Dashboard) -> set[str]:
    return {name for name in EMPTY if name.startswith(f"{board.uid}/")}


def test_boards_are_there() -> None:
    assert [len(OPERATOR), len(CUSTOMER), len(BOARDS)] == [8, 6, 14], "each in its audience's folder"
    assert {str(query) for query in QUERIES} >= EMPTY.keys(), "a reason for a query that is gone"
    assert len({str(query) for query in QUERIES}) == len(QUERIES), "panel ids, ref ids and names are unique"


@pytest.mark.parametrize("board", OPERATOR, ids=ids)
def test_operator_boards_have_what_their_panels_need(story: Story, board: Dashboard) -> None:
    lacks = lacking(story.operator, story, board)
    assert lacks.keys() == expected(board), lacks


@pytest.mark.parametrize("board", CUSTOMER, ids=ids)
def test_customer_boards_have_what_their_panels_need(story: Story, board: Dashboard) -> None:
    lacks = lacking(story.tenant("anthropic"), story, board)
    assert lacks.keys() == expected(board), lacks


@pytest.mark.parametrize("tenant", ["nimbus", "house", NEWCOMER])
def test_customer_boards_work_for_every_tenant(story: Story, tenant: str) -> None:
    client = story.tenant(tenant)
    for board in CUSTOMER:
        variables = choose(client, board, story.range)
        for query in queries(board):
            frame = ask(client, query, story.range, variables)
            assert within_budget(query, frame), str(query)
            if tenant == NEWCOMER:
                assert not [number for number in numbers(frame) if number], f"{query} shows something: {frame.rows[:3]}"


@pytest.mark.parametrize("board", BOARDS, ids=ids)
def test_an_empty_store_is_no_error_and_shows_nothing(empty: Client, board: Dashboard) -> None:
    end = 1_773_208_800_000
    for span in (TimeRange(end - 24 * HOUR_MS, end), TimeRange(end - 15 * MINUTE_MS, end)):
        variables = choose(empty, board, span)
        for query in queries(board):
            frame = ask(empty, query, span, variables)
            if "FROM system." not in query.sql:  # the store itself is there
                assert not list(numbers(frame)), f"{query} shows {frame.rows[:3]}"


@pytest.mark.parametrize("hours", [0.25, 8766.0], ids=["15m", "1y"])
@pytest.mark.parametrize("board", BOARDS, ids=ids)
def test_short_and_long_ranges(story: Story, board: Dashboard, hours: float) -> None:
    client = story.operator if board.audience == "operator" else story.tenant("anthropic")
    span = TimeRange(story.range.to_ms - int(hours * HOUR_MS), story.range.to_ms)
    variables = choose(client, board, span)
    for query in queries(board):
        frame = ask(client, query, span, variables)
        assert within_budget(query, frame), f"{query}: {len(frame.rows)} rows, {frame.read_rows} read"


@pytest.mark.parametrize("board", [board for board in BOARDS if board.variables], ids=ids)
def test_hostile_values_are_values(story: Story, board: Dashboard) -> None:
    """A quote, a backslash or a page of both answers exactly as a name that nobody has."""
    client = story.operator if board.audience == "operator" else story.tenant("anthropic")
    span = TimeRange(story.range.to_ms - HOUR_MS, story.range.to_ms)
    names = [variable.name for variable in board.variables]
    for query in queries(board):
        if "percentencode}" not in query.sql:
            continue
        harmless = ask(client, query, span, {name: Value(NOBODY) for name in names}).rows
        found = ask(client, query, span, {name: Value(HOSTILE) for name in names}).rows
        assert str(found).replace(repr(HOSTILE), repr(NOBODY)) == str(harmless), str(query)


def test_a_value_too_long_for_any_query_is_refused(story: Story) -> None:
    """By the store's parser, before anything runs: Grafana shows the message in the panel."""
    [board] = [board for board in OPERATOR if board.uid == "gpufleet-fleet"]
    query = next(each for each in queries(board) if each.role == "panel" and "${site:" in each.sql)
    with pytest.raises(DatabaseError, match="Max query size exceeded"):
        ask(story.operator, query, story.range, {variable.name: Value("'" * 200_000) for variable in board.variables})
