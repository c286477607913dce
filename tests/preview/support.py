"""Small boards, a store that answers what a test says, and a server around them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import aiohttp
from aiohttp import web

from infra.errors import UsageError
from infra.grafana.expand.dashboard import PLUGIN
from infra.preview import chromium
from infra.preview.boards import Boards
from infra.preview.guard import Guard
from infra.preview.server import Preview
from infra.preview.stores import Stores
from tests.conftest import missing

T = TypeVar("T")
HOUR = {"from": 1_773_130_000_000, "to": 1_773_133_600_000}
ANSWER = b'{"meta":[{"name":"n","type":"UInt8"}],"data":[[1]],"rows":1}'


def target(sql: str, ref: str = "A", shape: int = 1) -> dict[str, Any]:
    return {"refId": ref, "datasource": {"type": PLUGIN, "uid": "x"}, "format": shape, "rawSql": sql}


def panel(number: int, kind: str, sql: str, **more: Any) -> dict[str, Any]:
    place = {"x": 0, "y": number * 4, "w": 12, "h": 4}
    return {"id": number, "type": kind, "title": f"Panel {number}", "gridPos": place, "targets": [target(sql)], **more}


def variable(name: str, sql: str) -> dict[str, Any]:
    return {"name": name, "type": "query", "query": sql, "definition": sql, "current": {"text": "All", "value": ""}}


def write_boards(folder: Path, **documents: Mapping[str, Any]) -> Boards:
    """Boards by ``audience_name``: ``operator_one={"panels": [...]}``."""
    for name, document in documents.items():
        audience, uid = name.split("_", 1)
        (folder / audience).mkdir(exist_ok=True)
        whole = {"uid": uid, "title": uid.title(), "time": {"from": "now-1h", "to": "now"}, "panels": [], **document}
        (folder / audience / f"{uid}.json").write_text(json.dumps(whole))
    return Boards(folder)


def usual_boards(folder: Path) -> Boards:
    """An operator's board with variables and an annotation, and a customer's."""
    rack = "SELECT rack AS value FROM racks WHERE site = decodeURIComponent('${site:percentencode}')"
    return write_boards(
        folder,
        operator_fleet={
            "panels": [panel(1, "table", "SELECT '${rack:percentencode}', $__fromTime, $__interval_s")],
            "templating": {"list": [variable("site", "SELECT 'a' AS value"), variable("rack", rack)]},
            "annotations": {"list": [{"name": "XIDs", "enable": True, "target": target("SELECT ts AS time", "Anno")}]},
        },
        customer_mine={"panels": [panel(1, "stat", "SELECT 1 AS n")]},
    )


class FakeStores(Stores):
    """Answers the same bytes to everybody and keeps what it was asked."""

    def __init__(self, answer: Callable[[str, str], BinaryIO] | bytes = ANSWER, tenants: tuple[str, ...] = ()) -> None:
        self._answer, self._known = answer, tenants
        self.asked: list[tuple[str, str]] = []

    def tenants(self) -> tuple[str, ...]:
        return self._known

    def ask(self, sql: str, tenant: str) -> BinaryIO:
        self.asked.append((sql, tenant))
        return io.BytesIO(self._answer) if isinstance(self._answer, bytes) else self._answer(sql, tenant)

    def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def served(boards: Boards, stores: Stores, *, host: str = "127.0.0.1", tenant: str = "") -> AsyncIterator[Site]:
    """A listening server, as a browser would find it. ``host`` is where it believes to listen; it is on loopback."""
    guard = Guard(host)
    preview = Preview(boards, stores, guard, tenant)
    runner = web.AppRunner(preview.application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession(address) as session:
            yield Site(session, guard, address)
    finally:
        await runner.cleanup()
        preview.close()


class Site:
    """What a test asks a server."""

    def __init__(self, session: aiohttp.ClientSession, guard: Guard, address: str) -> None:
        self.session, self.token, self.address = session, guard.token, address

    async def get(self, path: str, **headers: str) -> tuple[int, str, Mapping[str, str]]:
        async with self.session.get(path, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.text(), answer.headers

    async def query(self, _path: str = "/api/query", **body: Any) -> tuple[int, Any]:
        asked = {"board": "fleet", "role": "panel", "name": "1.A", **HOUR, **body}
        async with self.session.post(_path, json=asked) as answer:
            return answer.status, await answer.json(content_type=None)


def run(work: Callable[[], Awaitable[T]], timeout_s: float = 120) -> T:
    """A test's coroutine, to its end."""

    async def bounded() -> T:
        return await asyncio.wait_for(work(), timeout_s)

    return asyncio.run(bounded())


def need_chromium() -> None:
    """Skip where there is none, or fail where GPUFLEET_REQUIRE names ``browser``."""
    try:
        chromium.find()
    except UsageError as error:
        missing("browser", str(error))
