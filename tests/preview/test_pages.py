"""Every committed board, opened in a browser on a real day of data, on a desk and on a phone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from infra.preview.boards import Board, Boards
from infra.preview.chromium import Page, browser
from infra.preview.serving import running
from infra.preview.shot import FAILED, drawn, whole
from tests.preview.support import need_chromium, run

if TYPE_CHECKING:
    from tests.story import Story

pytestmark = [pytest.mark.browser, pytest.mark.store]
HOURS_MS = 3 * 3_600_000
STATES = "[...document.querySelectorAll('.panel')].map((panel) => panel.dataset.state)"
WIDTHS = "[document.documentElement.scrollWidth, window.innerWidth]"
OVERLAPS = """[...document.querySelectorAll('.grid')].flatMap((grid) => {
    const boxes = [...grid.children].map((panel) => [panel.id, panel.getBoundingClientRect()]);
    return boxes.flatMap(([id, a], n) => boxes.slice(n + 1)
        .filter(([, b]) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)
        .map(([other]) => `${id} over ${other}`));
})"""


def address(url: str, board: Board, story: Story, **more: str) -> str:
    """A board over the story's last hours, as a customer where it is a customer's."""
    end = story.range.to_ms
    query = {"from": str(end - HOURS_MS), "to": str(end), "refresh": "", **more}
    if board.dashboard.audience == "customer":
        query.setdefault("as", story.tenants[0])
    return f"{url}d/{board.dashboard.uid}?{urlencode(query)}"


async def shortcomings(page: Page, width: int, *, mobile: bool) -> list[Any]:
    """What is wrong with the page as it stands, when all of it is drawn."""
    await drawn(page)
    await whole(page, width, mobile=mobile)
    wrong: list[Any] = [*page.problems, *await page.evaluate(FAILED), *await page.evaluate(OVERLAPS)]
    states = await page.evaluate(STATES)
    if not states or not set(states) <= {"shown", "empty", "failed"}:
        wrong.append(f"panels are {states}")
    if "shown" not in states:
        wrong.append("nothing is drawn")
    needed, given = await page.evaluate(WIDTHS)
    if needed > given:
        wrong.append(f"{needed} px wide in a window of {given}")
    return wrong


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("width", "height", "mobile"), [(1440, 900, False), (390, 844, True)], ids=["desk", "phone"])
def test_every_board_is_drawn_without_an_error(story: Story, width: int, height: int, mobile: bool) -> None:
    need_chromium()
    boards = Boards()
    assert len(list(boards)) >= 14

    async def work() -> dict[str, list[Any]]:
        found = {}
        async with running(story.settings, host="127.0.0.1", port=0) as url, browser() as page:
            for board in boards:
                await page.size(width, height, mobile=mobile)
                await page.open(address(url, board, story))
                found[board.dashboard.uid] = await shortcomings(page, width, mobile=mobile)
        return found

    assert run(work, 580) == {board.dashboard.uid: [] for board in boards}


def test_a_click_leads_from_the_fleet_to_a_rack_with_its_range_and_back(story: Story) -> None:
    need_chromium()

    async def work() -> None:
        async with running(story.settings, host="127.0.0.1", port=0) as url, browser() as page:
            await page.size(1440, 2400)
            await page.open(address(url, Boards()["fleet"], story))
            await drawn(page)
            first = "document.querySelector('td a[href*=\"gpufleet-rack\"]')"
            rack = await page.evaluate(f"{first}.textContent")
            before = await page.evaluate("location.search")
            await page.evaluate(f"{first}.click()")
            assert await page.until("location.pathname === '/d/gpufleet-rack'", 10)
            await drawn(page)
            search = await page.evaluate("location.search")
            assert re.search(r"from=\d+&to=\d+", search)[0] == re.search(r"from=\d+&to=\d+", before)[0]  # type: ignore[index]
            assert f"var-rack={rack}" in search
            shown = "[...document.querySelectorAll('.choice')].map((choice) => choice.textContent)"
            assert rack in await page.evaluate(shown)
            assert await page.evaluate(FAILED) == []
            await page.evaluate("history.back()")
            assert await page.until("location.pathname === '/d/gpufleet-fleet'", 10)
            await drawn(page)
            assert await page.evaluate(FAILED) == []
            assert page.problems == []

    run(work)


def test_a_choice_asks_what_depends_on_it_again(story: Story) -> None:
    need_chromium()

    async def work() -> None:
        async with running(story.settings, host="127.0.0.1", port=0) as url, browser() as page:
            await page.size(1440, 900)
            await page.open(address(url, Boards()["node"], story))
            await drawn(page)
            choose = "import('/static/state.js').then((state) => JSON.stringify(state.boardState().variables))"
            before = await page.evaluate("document.querySelectorAll('.choice')[2].textContent")
            await page.evaluate("document.querySelectorAll('.choice')[1].click()")
            options = "[...document.querySelectorAll('.popover [role=option]')]"
            racks = [text for text in await page.evaluate(f"{options}.map((o) => o.textContent)") if text != "All"]
            other = next(rack for rack in racks if not before.startswith(rack))
            await page.evaluate(f"{options}.find((option) => option.textContent === {other!r}).click()")
            shown = "document.querySelectorAll('.choice')[2].textContent"
            assert await page.until(f"{shown}.startsWith({other!r})", 10), await page.evaluate(shown)
            await drawn(page)
            assert f'"rack":"{other}"' in await page.evaluate(choose)
            assert await page.evaluate(FAILED) == []

    run(work)
