"""A board as a picture: a server and a browser for the length of it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlencode

from infra.config import Settings
from infra.errors import UnreachableError, UsageError
from infra.grafana.expand.timerange import TimeRangeError, parse_range
from infra.preview import chromium
from infra.preview.boards import Boards, NotFoundError
from infra.preview.chromium import Page
from infra.preview.serving import running

PATIENCE_S: Final = 90.0
IDLE: Final = "document.documentElement.dataset.idle === 'yes'"
"""Everything in sight is drawn, or has failed."""
FAILED: Final = """[...document.querySelectorAll('[data-state="failed"]')].map((panel) =>
    `${panel.id.replace('panel-', '')} (${panel.getAttribute('aria-label')}): `
        + panel.querySelector('[role=alert] p')?.textContent
).concat([...document.querySelectorAll('.failed.page p')].map((page) => page.textContent))"""


@dataclass(frozen=True, slots=True)
class Shot:
    """What to draw. Sizes in CSS pixels; ``start`` and ``end`` as the time picker takes them, None = the board's."""

    board: str
    width: int = 1440
    height: int = 900
    whole: bool = False
    start: str | None = None
    end: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    panel: int | None = None
    tenant: str = ""
    theme: str = "dark"
    bare: bool = False
    """Without the page's head."""

    @property
    def range(self) -> tuple[str, str]:
        """From and to, of which one at least was said."""
        return self.start or "now-6h", self.end or "now"

    @property
    def address(self) -> str:
        """Path and query of the page."""
        query = {f"var-{name}": value for name, value in self.variables.items()}
        if self.start or self.end:
            query |= dict(zip(("from", "to"), self.range, strict=True))
        if self.panel is not None:
            query["viewPanel"] = str(self.panel)
        if self.tenant:
            query["as"] = self.tenant
        if self.bare:
            query["kiosk"] = ""
        query["theme"] = self.theme
        return f"d/{quote(self.board, safe='')}?{urlencode(query)}"


@dataclass(frozen=True, slots=True)
class Taken:
    """The picture, and the panels that could not be drawn: id, title, reason."""

    png: bytes
    failed: list[str]


def take(settings: Settings, shot: Shot, program: str | None = None) -> Taken:
    """Serve, open, wait until everything is drawn, take the picture.

    UsageError for a board, variable, time or tenant that is not there; UnreachableError when browser or store do not
    answer. SIGTERM ends it as Ctrl-C does, and the browser with it.
    """
    try:
        board = Boards()[shot.board].dashboard
    except NotFoundError as error:
        raise UsageError(str(error)) from None
    unknown = set(shot.variables) - {variable.name for variable in board.variables}
    if unknown:
        known = ", ".join(variable.name for variable in board.variables) or "none"
        raise UsageError(f"{board.title} has no variable {', '.join(sorted(unknown))}; it has {known}")
    if board.audience == "customer" and not shot.tenant:
        raise UsageError(f"{board.title} is a customer's board: choose whose view with --as TENANT")
    try:
        parse_range(*shot.range, int(time.time() * 1000))
    except TimeRangeError as error:
        raise UsageError(str(error)) from None
    chromium.find(program)
    try:
        return asyncio.run(_take(settings, shot, program))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _take(settings: Settings, shot: Shot, program: str | None) -> Taken:
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # beside the main thread nobody signals
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with running(settings, host="127.0.0.1", port=0) as url, chromium.browser(program) as page:
        await page.size(shot.width, shot.height)
        await page.open(url + shot.address)
        await drawn(page)
        if shot.whole:
            await whole(page, shot.width)
        return Taken(await page.png(), await page.evaluate(FAILED))


async def drawn(page: Page) -> None:
    """Wait until everything in sight is drawn; UnreachableError when it takes too long."""
    if not await page.until(IDLE, PATIENCE_S):
        raise UnreachableError(f"the board was not drawn within {PATIENCE_S:.0f} s: does the store answer?")


async def whole(page: Page, width: int, *, mobile: bool = False) -> None:
    """Make the window as high as the board, so that every panel is in sight, and wait for all of them."""
    height = await page.evaluate("Math.ceil(document.documentElement.scrollHeight)")
    await page.size(width, int(height), mobile=mobile)
    # Panels that come into sight begin to ask a moment later; the page says "drawn" of those it had until then.
    seen = "[...document.querySelectorAll('.panel')].every((panel) => panel.dataset.state !== 'waiting')"
    await page.until(seen, PATIENCE_S)
    await drawn(page)
