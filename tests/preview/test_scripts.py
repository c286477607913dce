"""The page's own arithmetic, asked of the page in a browser: units, times, frames, links. No store is needed."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.grafana.expand import parse_range
from infra.preview.chromium import Page, browser
from infra.preview.shot import FAILED, drawn
from tests.preview.support import FakeStores, need_chromium, panel, run, served, target, write_boards

pytestmark = pytest.mark.browser
NOW = int(datetime(2026, 3, 11, 16, 5, 42, tzinfo=UTC).timestamp() * 1000)
MINUTE = 60_000
START = 1_773_130_020_000


def in_page(work: Callable[[Page], Awaitable[None]], folder: Path, answer: bytes = b"", **document: Any) -> None:
    """Open a page with one board, whose every query is answered alike, and work in it."""
    need_chromium()
    boards = write_boards(folder, operator_one={"timezone": "utc", **document})

    async def whole() -> None:
        stores = FakeStores(answer or json.dumps({"meta": [], "data": []}).encode())
        async with served(boards, stores) as site, browser() as page:
            await page.size(1000, 800)
            await page.open(f"{site.address}/d/one?from={START}&to={START + 10 * MINUTE}")
            await drawn(page)
            await work(page)
            assert page.problems == []

    run(whole)


def answer(*columns: tuple[str, str], rows: list[list[Any]]) -> bytes:
    """As ClickHouse writes JSONCompact."""
    return json.dumps({"meta": [{"name": name, "type": kind} for name, kind in columns], "data": rows}).encode()


async def texts(page: Page, selector: str) -> list[str]:
    found = await page.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")
    return [str(text) for text in found]


def test_values_are_written_as_grafana_writes_them(tmp_path: Path) -> None:
    expected = [
        (0, "short", None, "0"),
        (1234567, "short", None, "1.23 Mil"),
        (999_999, "watt", None, "1.00 MW"),
        (292_000_000, "watt", 1, "292.0 MW"),
        (0.9987, "percentunit", None, "99.9%"),
        (0.9987, "percentunit", 2, "99.87%"),
        (0.99, "percentunit", None, "99%"),
        (-3.5, "celsius", 1, "−3.5 °C"),
        (2048, "bytes", None, "2 KiB"),
        (1500, "Bps", None, "1.50 kB/s"),
        (90, "s", None, "1.50 min"),
        (0.0000278, "s", None, "27.8 µs"),
        (3600, "s", None, "1 h"),
        (1_980_000_000, "joule", 2, "1.98 GJ"),
        (1755, "rotmhz", None, "1.75 GHz"),
        (42, "none", None, "42"),
        (1234567, "none", None, "1\u2009234\u2009567"),
        (3.14159, "suffix: kg", 2, "3.14 kg"),
        (7, "no-such-unit", None, "7 no-such-unit"),
        (True, "bool", None, "True"),
    ]

    async def work(page: Page) -> None:
        for value, unit, decimals, text in expected:
            call = f"units.text({json.dumps(value)}, {json.dumps(unit)}, {json.dumps(decimals)})"
            assert await page.evaluate(f"import('/static/units.js').then((units) => {call})") == text, (value, unit)

    in_page(work, tmp_path)


def test_times_are_understood_as_the_server_side_understands_them(tmp_path: Path) -> None:
    ranges = [
        ("now-6h", "now"),
        ("now-90m", "now-30m"),
        ("now/d", "now"),
        ("now/d", "now/d"),
        ("now-1d/d", "now-1d/d"),
        ("now/M", "now"),
        ("now-1M/M", "now-1M/M"),
        ("now/w", "now/w"),
        ("now-1y", "now"),
        ("2026-03-10 06:00", "2026-03-11 06:00"),
        ("2026-03-10T06:00:00Z", "now"),
        ("1773130000000", "1773133600000"),
    ]

    async def work(page: Page) -> None:
        for start, end in ranges:
            given = json.dumps({"from": start, "to": end})
            found = await page.evaluate(f"import('/static/time.js').then((time) => time.resolve({given}, {NOW}))")
            wanted = parse_range(start, end, NOW)
            assert found == {"from": wanted.from_ms, "to": wanted.to_ms}, (start, end)
        for start, end in (("now", "now-1h"), ("yesterday", "now"), ("now-1x", "now"), ("", "now")):
            given = json.dumps({"from": start, "to": end})
            assert await page.evaluate(f"import('/static/time.js').then((t) => t.resolve({given}, {NOW}))") is None

    in_page(work, tmp_path)


def test_series_become_lines_with_the_names_grafana_gives_them(tmp_path: Path) -> None:
    rows = [
        ["2026-03-10T08:07:00Z", "healthy", 3],
        ["2026-03-10T08:08:00Z", "sick", 1],
        ["2026-03-10 08:08:00", "healthy", 4],
    ]
    series = answer(("time", "DateTime('UTC')"), ("series", "String"), ("Value", "UInt64"), rows=rows)

    async def work(page: Page) -> None:
        assert await texts(page, ".legend button span") == ["healthy", "sick"]
        drawn_ = "[...document.querySelectorAll('.plot')[0].data].map((trace) => [...trace.y])"
        assert await page.evaluate(drawn_) == [[3, 4], [None, 1]]
        await page.evaluate("document.querySelectorAll('.legend button')[1].click()")
        await page.until("document.querySelector('.plot').data.length === 1", 5)
        assert await texts(page, ".legend button.off span") == ["healthy"]

    one = panel(1, "timeseries", "") | {"targets": [target("SELECT 1", shape=0)]}
    in_page(work, tmp_path, series, panels=[one])


def test_nothing_is_said_and_never_drawn_as_zero(tmp_path: Path) -> None:
    kinds = ["timeseries", "stat", "table", "bargauge", "heatmap", "state-timeline"]
    panels = [panel(n, kind, "SELECT 1") for n, kind in enumerate(kinds, 1)]
    nulls = answer(("time", "DateTime('UTC')"), ("n", "Nullable(Float64)"), rows=[["2026-03-10T08:07:00Z", None]])

    async def work(page: Page) -> None:
        assert await texts(page, ".body") == ["no data"] * 6
        assert await page.evaluate("document.querySelectorAll('[data-state=empty]').length") == 6

    for number, given in enumerate((nulls, answer(("n", "UInt8"), rows=[]))):
        folder = tmp_path / str(number)
        folder.mkdir()
        in_page(work, folder, given, panels=panels)


def test_a_moment_without_values_is_a_gap_in_a_stack(tmp_path: Path) -> None:
    rows = [
        [f"2026-03-10T08:{minute:02}:00Z", value, value]
        for minute, value in ((7, 1), (8, 2), (9, None), (10, 3), (11, 4))
    ]
    given = answer(("time", "DateTime('UTC')"), ("a", "Nullable(UInt8)"), ("b", "Nullable(UInt8)"), rows=rows)
    config = {
        "defaults": {"custom": {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 60}},
        "overrides": [],
    }

    async def work(page: Page) -> None:
        drawn_ = (
            "[...document.querySelector('.plot').data].map((trace) => [trace.name, trace.stackgroup, [...trace.y]])"
        )
        assert await page.evaluate(drawn_) == [
            ["a", "A0", [1, 2]], ["a", "A1", [3, 4]], ["b", "A0", [1, 2]], ["b", "A1", [3, 4]],
        ]  # fmt: skip

    in_page(work, tmp_path, given, panels=[panel(1, "timeseries", "SELECT 1", fieldConfig=config)])


def test_the_area_under_a_line_ends_where_the_line_does(tmp_path: Path) -> None:
    rows = [[f"2026-03-10T08:{7 + n:02}:00Z", value] for n, value in enumerate((1, 2, None, 3, 4))]
    given = answer(("time", "DateTime('UTC')"), ("a", "Nullable(UInt8)"), rows=rows)
    panels = [
        panel(n, "timeseries", "SELECT 1", fieldConfig={"defaults": {"custom": custom}, "overrides": []})
        for n, custom in enumerate(({"fillOpacity": 10}, {"fillOpacity": 10, "spanNulls": True}, {}), 1)
    ]

    async def work(page: Page) -> None:
        drawn_ = (
            "[...document.querySelectorAll('.plot')].map((plot) => [...plot.data].map((trace) => "
            "[trace.fill ?? '', trace.line.width > 0, [...trace.y]]))"
        )
        gap, spanned, bare = await page.evaluate(drawn_)
        whole = [1, 2, None, 3, 4]
        assert gap == [["tozeroy", False, [1, 2]], ["tozeroy", False, [3, 4]], ["", True, whole]]
        assert (spanned, bare) == ([["tozeroy", True, whole]], [["", True, whole]])

    in_page(work, tmp_path, given, panels=panels)


def test_tables_have_their_titles_colours_links_and_order(tmp_path: Path) -> None:
    link = {"title": "Node", "url": "/d/one?${__url_time_range}&var-node=${__data.fields.node_id:percentencode}"}
    steps = [{"value": None, "color": "green"}, {"value": 85, "color": "red"}]
    hottest = {"displayName": "Hottest", "unit": "celsius", "decimals": 1, "color": {"mode": "thresholds"}}
    hottest |= {"thresholds": {"mode": "absolute", "steps": steps}, "custom.cellOptions": {"type": "color-text"}}
    overrides: dict[str, dict[str, Any]] = {
        "node_id": {"displayName": "Node", "links": [link]},
        "temp": hottest,
        "secret": {"custom.hidden": True},
        "gone": {"displayName": "Gone", "noValue": "never"},
    }
    config = {
        "defaults": {"noValue": "no data"},
        "overrides": [
            {
                "matcher": {"id": "byName", "options": name},
                "properties": [{"id": i, "value": v} for i, v in given.items()],
            }
            for name, given in overrides.items()
        ],
    }
    columns = (
        ("node_id", "String"),
        ("temp", "Nullable(Float32)"),
        ("secret", "String"),
        ("gone", "Nullable(DateTime64(3))"),
    )
    hostile = "<img src=x onerror=alert(1)>'\"&/?"
    rows: list[list[Any]] = [
        ["n2", 90.04, "x", None],
        [hostile, None, "y", None],
        ["n10", 60, "z", "2026-03-10T08:00:00Z"],
    ]

    async def work(page: Page) -> None:
        assert await texts(page, "th button") == ["Node", "Hottest", "Gone"]
        assert await texts(page, "td") == [
            "n2", "90.0 °C", "never", hostile, "no data", "never", "n10", "60.0 °C", "2026-03-10 08:00:00",
        ]  # fmt: skip
        assert await page.evaluate("document.images.length") == 1  # the page's own mark
        address = await page.evaluate("document.querySelectorAll('td a')[1].getAttribute('href')")
        escaped = "%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%27%22%26%2F%3F"
        assert address == f"/d/one?from={START}&to={START + 10 * MINUTE}&var-node={escaped}"
        colors = "[...document.querySelectorAll('td:nth-child(2)')].map((cell) => cell.style.color)"
        hot, blank, cool = await page.evaluate(colors)
        assert (blank, hot != cool) == ("", True)
        await page.evaluate("document.querySelector('th button').click()")
        assert (await texts(page, "td:first-child"))[1:] == ["n2", "n10"]  # as people count, not n10 before n2
        await page.evaluate("document.querySelectorAll('th button')[1].click()")
        assert await texts(page, "td:nth-child(2)") == ["60.0 °C", "90.0 °C", "no data"]

    in_page(work, tmp_path, answer(*columns, rows=rows), panels=[panel(1, "table", "SELECT 1", fieldConfig=config)])


def test_states_are_bands_and_what_was_not_heard_of_is_left_empty(tmp_path: Path) -> None:
    rows = [[f"2026-03-10T08:{minute:02}:00Z", state] for minute, state in ((7, 0), (8, 0), (9, 2), (13, 0))]
    given = answer(("time", "DateTime('UTC')"), ("GPU 0", "UInt8"), rows=rows)
    mapping = {
        "type": "value",
        "options": {"0": {"text": "healthy", "color": "green"}, "2": {"text": "sick", "color": "red"}},
    }
    config = {"defaults": {"mappings": [mapping], "color": {"mode": "thresholds"}}, "overrides": []}

    async def work(page: Page) -> None:
        place = "[parseFloat(i.style.left), parseFloat(i.style.width)]"
        spans = f"[...document.querySelectorAll('.band .track i')].map((i) => {place})"
        assert await page.evaluate(spans) == [[0, 20], [20, 10], [60, 10]]  # per cent of ten minutes
        assert await texts(page, ".state-timeline .legend span") == ["healthy", "sick"]

    in_page(work, tmp_path, given, panels=[panel(1, "state-timeline", "SELECT 1", fieldConfig=config)])


def test_other_panels_and_transformations_say_so(tmp_path: Path) -> None:
    panels = [
        panel(1, "piechart", "SELECT 1"),
        panel(2, "stat", "SELECT 1", transformations=[{"id": "calculateField", "options": {}}]),
        panel(3, "text", "", options={"content": "**Bold** <b>not</b> [home](/d/one) [bad](javascript:alert)"})
        | {"targets": []},
    ]

    async def work(page: Page) -> None:
        assert await texts(page, "#panel-1 .body") == ["A piechart panel is not in the preview; Grafana shows it."]
        said = 'the transformation "calculateField" is not in the preview; Grafana shows this panel'
        assert await page.evaluate(FAILED) == [f"2 (Panel 2): {said}"]
        assert await texts(page, "#panel-3 .body") == ["Bold <b>not</b> home bad"]
        addresses = "[...document.querySelectorAll('#panel-3 a')].map((a) => a.getAttribute('href'))"
        assert await page.evaluate(addresses) == ["/d/one", "#"]

    in_page(work, tmp_path, answer(("n", "UInt8"), rows=[[1]]), panels=panels)
