"""Variables, macros, formats and times: what Grafana and its ClickHouse data source make of a text."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.grafana.expand import (
    ALL,
    MacroError,
    TimeRange,
    TimeRangeError,
    Value,
    expand,
    interpolate,
    interval_ms,
    interval_text,
    parse_range,
    parse_time,
    scope,
    selected,
)
from infra.grafana.expand.comments import without_comments
from infra.grafana.expand.formats import formatted
from infra.grafana.expand.macros import Context, expand_macros, expand_macros_4_19

# The range of the data source's own tests: 2014-11-12T11:45:26.123Z to 2015-11-12T11:45:26.456Z.
RANGE = TimeRange(1_415_792_726_123, 1_447_328_726_456)
FROM, TO = "toDateTime(1415792726)", "toDateTime(1447328726)"


def both(sql: str, interval: int = 60_000) -> str:
    """The SQL after macros, by either parser; they must agree."""
    context = Context(RANGE, interval)
    older, newer = expand_macros(sql, context), expand_macros_4_19(sql, context)
    assert older == newer
    return older


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("$__timeFilter(ts)", f"ts >= {FROM} AND ts <= {TO}"),
        ("$__timeFilter(cast(sth as timestamp) )", None),
        (
            "$__timeFilter_ms(ts)",
            "ts >= fromUnixTimestamp64Milli(1415792726123) AND ts <= fromUnixTimestamp64Milli(1447328726456)",
        ),
        ("(a >= $__fromTime and a <= $__toTime)", f"(a >= {FROM} and a <= {TO})"),
        ("$__fromTime_ms", "fromUnixTimestamp64Milli(1415792726123)"),
        ("$__dateFilter(d)", "d >= toDate('2014-11-12') AND d <= toDate('2015-11-12')"),
        (
            "$__dateTimeFilter(d, t)",
            f"(d >= toDate('2014-11-12') AND d <= toDate('2015-11-12')) AND (t >= {FROM} AND t <= {TO})",
        ),
        ("$__timeInterval(ts)", "toStartOfInterval(toDateTime(ts), INTERVAL 60 second)"),
        ("$__timeInterval_ms(ts)", "toStartOfInterval(toDateTime64(ts, 3), INTERVAL 60000 millisecond)"),
        ("$__interval_s, $__interval_ms, $__interval", "60, 60000, 1m"),
        ("$__timeInterval($__fromTime)", f"toStartOfInterval(toDateTime({FROM}), INTERVAL 60 second)"),
        (
            "$__timeFilter(coalesce(closed_at, $__toTime))",
            f"coalesce(closed_at, {TO}) >= {FROM} AND coalesce(closed_at, {TO}) <= {TO}",
        ),
        ("$__nobodyKnows(1, 2)", "$__nobodyKnows(1, 2)"),
        ("SELECT '$1'", "SELECT '$1'"),
    ],
)
def test_macros_become_what_the_back_end_makes_of_them(sql: str, expected: str | None) -> None:
    whole = "cast(sth as timestamp)"
    assert both(sql) == (expected or f"{whole} >= {FROM} AND {whole} <= {TO}")


def test_intervals_below_a_second_count_as_one() -> None:
    assert both("$__timeInterval(t) $__interval_s", interval=20) == (
        "toStartOfInterval(toDateTime(t), INTERVAL 1 second) 1"
    )


@pytest.mark.parametrize("sql", ["$__timeFilter", "$__timeFilter(a, b)", "$__dateTimeFilter(a)"])
def test_a_macro_with_other_arguments_is_refused(sql: str) -> None:
    for parser in (expand_macros, expand_macros_4_19):
        with pytest.raises(MacroError, match="number of arguments"):
            parser(sql, Context(RANGE, 1000))


def test_an_open_bracket_is_an_error_for_the_older_parser() -> None:
    with pytest.raises(MacroError, match="close bracket"):
        expand_macros("$__timeFilter(ts", Context(RANGE, 1000))


def test_only_the_newer_parser_leaves_comments_alone() -> None:
    sql = "SELECT 1 -- $__timeFilter()\n/* $__dt( */ + 1"
    assert expand_macros_4_19(sql, Context(RANGE, 1000)) == without_comments(sql)
    with pytest.raises(MacroError):
        expand_macros(sql, Context(RANGE, 1000))


@pytest.mark.parametrize(
    "quoted",
    ["'a -- b'", "'it\\'s -- b'", "'it''s /* b'", "`a--b`", '"a--b"', "$tag$a--b$tag$", "'unterminated --"],
)
def test_what_looks_like_a_comment_in_quotes_is_none(quoted: str) -> None:
    assert without_comments(f"SELECT {quoted}") == f"SELECT {quoted}"
    assert len(without_comments(f"/* {quoted} */ 1")) == len(quoted) + 8


def variables(text: str, **values: str | list[str] | Value) -> str:
    return interpolate(text, scope(values, RANGE, 60_000))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$node", "n 1'"),
        ("${node}", "n 1'"),
        ("[[node]]", "n 1'"),
        ("$node_id", "$node_id"),
        ("${node:raw}", "n 1'"),
        ("[[node:percentencode]]", "n%201%27"),
        ("${node:percentencode}", "n%201%27"),
        ("${node:singlequote}", "'n 1\\''"),
        ("${node:doublequote}", '"n 1\'"'),
        ("${node:sqlstring}", "'n 1'''"),
        ("${node:csv}", "n 1'"),
        ("${node:regex}", "n 1'"),
        ("${node:queryparam}", "var-node=n%201%27"),
        ("${node:customqueryparam:p:x-}", "p=x-n%201%27"),
        ("${node:text}", "n 1'"),
        ("${node:nonsense}", "n 1'"),
        ("$__interval $__interval_ms", "1m 60000"),
        ("${__from} $__to", "1415792726123 1447328726456"),
        ("${__from:date}", "2014-11-12T11:45:26.123Z"),
        ("${__from:date:seconds} ${__from:date:YYYY-MM-DD HH:mm}", "1415792726 2014-11-12 11:45"),
        ("$__timeFilter(ts) ${unknown:csv} [[unknown]]", "$__timeFilter(ts) ${unknown:csv} [[unknown]]"),
    ],
)
def test_variables_in_every_notation_and_format(text: str, expected: str) -> None:
    assert variables(text, node="n 1'") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$many", "'a','b.c'"),
        ("${many:glob}", "{a,b.c}"),
        ("${many:csv} ${many:raw}", "a,b.c a,b.c"),
        ("${many:pipe}", "a|b.c"),
        ("${many:regex}", "(a|b\\.c)"),
        ("${many:singlequote}", "'a','b.c'"),
        ("${many:sqlstring}", "'a','b.c'"),
        ("${many:percentencode}", "%7Ba%2Cb.c%7D"),
        ("${many:queryparam}", "var-many=a&var-many=b.c"),
        ("${many:json}", '["a","b.c"]'),
        ("${many:text}", "a + b.c"),
        ("${many:distributed}", "a,many=b.c"),
        ("${many:lucene}", '("a" OR "b.c")'),
        ("${many:join:;}", "a;b.c"),
        ("${many:html}", "a, b.c"),
    ],
)
def test_several_values(text: str, expected: str) -> None:
    assert variables(text, many=["a", "b.c"]) == expected


def test_all_stands_for_its_own_text_or_for_every_option() -> None:
    assert variables("${v}", v=selected(ALL, ["a", "b"])) == "'a','b'"
    assert variables("${v:csv} ${v:text}", v=selected([ALL], ["a", "b"])) == "a,b All"
    custom = selected(ALL, ["a", "b"], ".* '$other'")
    assert variables("${v} ${v:sqlstring} ${v:text}", v=custom, other="x") == ".* 'x' .* 'x' All"
    assert variables("${v:percentencode}", v=custom, other="x") == ".%2A%20%27%24other%27"


def test_a_value_is_not_read_again() -> None:
    assert variables("${a} ${b}", a="${b} $__interval", b="x") == "${b} $__interval x"
    assert expand("SELECT ${a}", RANGE, {"a": "$__toTime"}) == f"SELECT {TO}", "the back end does read it"


def test_the_query_runner_goes_before_a_variable_of_the_same_name() -> None:
    assert variables("$__interval", __interval="mine") == "1m"


NOW = int(datetime(2026, 3, 31, 13, 45, 26, 123_000, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "down", "up"),
    [
        ("now", "2026-03-31 13:45:26.123", "2026-03-31 13:45:26.123"),
        ("now-6h", "2026-03-31 07:45:26.123", "2026-03-31 07:45:26.123"),
        ("now/h", "2026-03-31 13:00:00.000", "2026-03-31 13:59:59.999"),
        ("now/d", "2026-03-31 00:00:00.000", "2026-03-31 23:59:59.999"),
        ("now/w", "2026-03-29 00:00:00.000", "2026-04-04 23:59:59.999"),
        ("now-1M", "2026-02-28 13:45:26.123", "2026-02-28 13:45:26.123"),
        ("now-1M/M", "2026-02-01 00:00:00.000", "2026-02-28 23:59:59.999"),
        ("now/Q", "2026-01-01 00:00:00.000", "2026-03-31 23:59:59.999"),
        ("now-1y/y", "2025-01-01 00:00:00.000", "2025-12-31 23:59:59.999"),
        ("now - 1d / d + 2h", "2026-03-30 02:00:00.000", "2026-03-31 01:59:59.999"),
        ("2026-01-02T03:04:05Z", "2026-01-02 03:04:05.000", "2026-01-02 03:04:05.000"),
        ("2026-01-02 03:04:05", "2026-01-02 03:04:05.000", "2026-01-02 03:04:05.000"),
        ("1767323045000", "2026-01-02 03:04:05.000", "2026-01-02 03:04:05.000"),
    ],
)
def test_times_of_the_time_picker(text: str, down: str, up: str) -> None:
    def shown(milliseconds: int) -> str:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]

    assert (shown(parse_time(text, NOW)), shown(parse_time(text, NOW, round_up=True))) == (down, up)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "now-", "now-6x", "now/2d", "now6h", "now-99999999999h", "now-9999999999y", "2026-13-01"]
)
def test_what_is_no_time_is_said_so(text: str) -> None:
    with pytest.raises(TimeRangeError, match="expected a time"):
        parse_time(text, NOW)


def test_a_range_ends_after_its_start() -> None:
    assert parse_range("now-15m", "now", NOW) == TimeRange(NOW - 900_000, NOW)
    with pytest.raises(TimeRangeError, match="ends after"):
        parse_range("now", "now-1h", NOW)


@pytest.mark.parametrize(
    ("length", "points", "least", "expected"),
    [
        ("15m", 1000, 1, "1s"),
        ("6h", 1000, 1, "20s"),
        ("6h", 1000, 60_000, "1m"),
        ("7d", 500, 1, "20m"),
        ("365d", 1000, 1, "6h"),
    ],
)
def test_the_interval_is_rounded_as_grafana_rounds(length: str, points: int, least: int, expected: str) -> None:
    time_range = parse_range(f"now-{length}", "now", NOW)
    assert interval_text(interval_ms(time_range, points, least)) == expected


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"])))
def test_percent_encoding_leaves_nothing_that_could_end_a_string(value: str) -> None:
    encoded = formatted(value, "percentencode", "x")
    assert set(encoded) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%")
