"""A Chromium of this machine, driven over the DevTools protocol: enough for a picture and for a test."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp

from infra.errors import UnreachableError, UsageError

PROGRAMS: Final = (
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
    "chromium-headless-shell",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
"""Where one is looked for, the first found wins."""
_FLAGS: Final = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--remote-debugging-address=127.0.0.1",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--mute-audio",
    "--force-color-profile=srgb",
)
_START_S: Final = 30.0
_ANSWER_S: Final = 60.0
_LARGEST: Final = 256 << 20


def find(program: str | None = None) -> str:
    """The browser's program; UsageError says what to install."""
    for name in (program,) if program else PROGRAMS:
        found = shutil.which(name)
        if found:
            return found
    looked = program or "chromium, chromium-browser, google-chrome"
    raise UsageError(
        f"this needs Chromium or Chrome, and found none ({looked}): install one, or name it with --browser"
    )


class Page:
    """One tab. ``problems`` collects what its console and network complain of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())
        self.problems: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol; UnreachableError when the browser refuses it or is gone."""
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            await self._socket.send_json({"id": number, "method": method, "params": params})
            return await asyncio.wait_for(answer, _ANSWER_S)
        except (TimeoutError, ConnectionError, aiohttp.ClientError) as error:
            raise UnreachableError(f"the browser did not answer {method}: {error or 'no answer in time'}") from None
        finally:
            self._answers.pop(number, None)

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; awaits promises. UnreachableError when it throws."""
        done = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise UnreachableError(f"the page failed on {expression[:80]!r}: {_thrown(done['exceptionDetails'])}")
        return done["result"].get("value")

    async def size(self, width: int, height: int, *, scale: float = 1.0, mobile: bool = False) -> None:
        """The window's size in CSS pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )
        if mobile:
            await self.call("Emulation.setTouchEmulationEnabled", enabled=True)

    async def open(self, url: str) -> None:
        """Go to an address."""
        self.problems.clear()
        done = await self.call("Page.navigate", url=url)
        if done.get("errorText"):
            raise UnreachableError(f"the browser cannot open {url}: {done['errorText']}")

    async def until(self, expression: str, timeout_s: float) -> bool:
        """Wait until an expression is true; False when time ran out."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while loop.time() < deadline:
            with contextlib.suppress(UnreachableError):  # between two pages there is none to ask
                if await self.evaluate(f"Boolean({expression})"):
                    return True
            await asyncio.sleep(0.05)
        return False

    async def png(self) -> bytes:
        """What the window shows."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])

    async def close(self) -> None:
        """Stop listening."""
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        await self._socket.close()

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            said = message.json()
            answer = self._answers.get(said.get("id"))
            if answer is not None and not answer.done():
                if "error" in said:
                    answer.set_exception(UnreachableError(f"the browser refused: {said['error'].get('message')}"))
                else:
                    answer.set_result(said["result"])
            elif "method" in said:
                self._note(said["method"], said.get("params", {}))
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(UnreachableError("the browser went away"))

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(_thrown(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.problems.append(" ".join(str(a.get("value", a.get("description", ""))) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            self.problems.append(f"{entry['text']} {entry.get('url', '')}".strip())


@contextlib.asynccontextmanager
async def browser(program: str | None = None) -> AsyncIterator[Page]:
    """A fresh headless browser with one tab; gone afterwards, with its profile."""
    path = find(program)
    profile = tempfile.mkdtemp(prefix="gpufleet-chromium-")
    says = Path(profile) / "stderr.txt"
    try:
        flags = [*_FLAGS, f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # its sandbox refuses to run as root; it opens our own page only
        with says.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                path,
                *flags,
                "about:blank",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            port = await _port(Path(profile) / "DevToolsActivePort", process, says)
            async with aiohttp.ClientSession() as session:
                page = await _tab(session, port)
                try:
                    yield page
                finally:
                    await page.close()
        finally:
            await _end(process)
    finally:
        await _removed(profile)


async def _port(file: Path, process: asyncio.subprocess.Process, says: Path) -> int:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_S
    while loop.time() < deadline and process.returncode is None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(file.read_text().splitlines()[0])
        await asyncio.sleep(0.05)
    if process.returncode is None:
        raise UnreachableError(f"the browser did not start within {_START_S:g} s")
    raise UnreachableError(f"the browser ended at its start (exit code {process.returncode}){_reason(says)}")


def _reason(says: Path) -> str:
    """Why Chromium gave up, as the end of a sentence: its fatal line, or the last one."""
    lines = [line.strip() for line in says.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if ":FATAL:" in line] or lines[-1:]
    return f": {told[0].partition('] ')[2] or told[0]}" if told else ""


async def _tab(session: aiohttp.ClientSession, port: int) -> Page:
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        targets = await answer.json(content_type=None)
    address = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
    page = Page(await session.ws_connect(address, max_msg_size=_LARGEST))
    for domain in ("Page", "Runtime", "Log", "Network"):
        await page.call(f"{domain}.enable")
    return page


async def _end(process: asyncio.subprocess.Process) -> None:
    """The browser and the helpers that it started."""
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _removed(profile: str) -> None:
    """Remove a folder that processes which were just killed may still write to."""
    for _ in range(50):
        shutil.rmtree(profile, ignore_errors=True)
        if not Path(profile).exists():
            return
        await asyncio.sleep(0.1)


def _thrown(details: dict[str, Any]) -> str:
    exception = details.get("exception") or {}
    return str(exception.get("description") or exception.get("value") or details.get("text"))
