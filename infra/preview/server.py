"""The page's server: boards as JSON, answers to their queries, static files. It holds no state of its own.

| path | answer |
|---|---|
| ``/``, ``/d/UID`` and ``/d/UID/SLUG`` | the page; addresses are Grafana's, so that links between boards work in both |
| ``/api/boards`` | which boards there are, and whose views |
| ``/api/boards/UID`` | a board's JSON, without its SQL |
| ``/api/query`` | POST a question (asking.py), get ClickHouse's JSONCompact |
| ``/api/sql`` | POST a question, get the SQL that it stands for, to be run elsewhere |
"""

from __future__ import annotations

import asyncio
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Final

from aiohttp import web

from infra.cli.sql import explain
from infra.errors import GpufleetError, UnreachableError
from infra.preview import charts
from infra.preview.asking import Askers, Question, RefusedError, question
from infra.preview.boards import Board, Boards, NotFoundError
from infra.preview.guard import Guard
from infra.preview.stores import Stores

_LOG = logging.getLogger(__name__)
STATIC: Final = Path(__file__).parent / "static"
AT_ONCE: Final = 6
"""Queries in the store at the same time; more wait."""
LARGEST_REQUEST: Final = 64 << 10
LARGEST_ANSWER: Final = 32 << 20
"""No panel shows more; an answer that goes on is cut off, and the page says so."""
_PIECE: Final = 64 << 10


class Preview:
    """The application. ``tenant``: show that tenant's view and nothing else."""

    def __init__(self, boards: Boards, stores: Stores, guard: Guard, tenant: str = "", site: str = "") -> None:
        self._boards, self._stores, self._guard, self._tenant, self._site = boards, stores, guard, tenant, site
        self._threads = ThreadPoolExecutor(AT_ONCE, "ask")
        self._turns = asyncio.Semaphore(AT_ONCE)

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=LARGEST_REQUEST, middlewares=[self._guard.middleware, _errors])
        app.on_response_prepare.append(self._guard.headers)
        router = app.router
        router.add_get("/", self._page)
        router.add_get("/d/{uid}", self._page)
        router.add_get("/d/{uid}/{slug}", self._page)
        router.add_get("/api/boards", self._list)
        router.add_get("/api/boards/{uid}", self._board)
        router.add_post("/api/query", self._query)
        router.add_post("/api/sql", self._sql)
        router.add_get(f"/lib/{charts.name()}", self._library)
        router.add_get("/static/{path:.+}", self._static)
        return app

    def close(self) -> None:
        """Wait for threads, give connections back."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._stores.close()

    def _askers(self) -> Askers:
        return Askers(self._stores.tenants(), self._tenant)

    async def _page(self, _request: web.Request) -> web.StreamResponse:
        html = (STATIC / "index.html").read_text(encoding="utf-8")
        return web.Response(text=html.replace("/lib/charts.js", f"/lib/{charts.name()}"), content_type="text/html")

    async def _static(self, request: web.Request) -> web.StreamResponse:
        path = (STATIC / request.match_info["path"]).resolve()
        if not path.is_relative_to(STATIC) or path.suffix not in (".js", ".css", ".svg") or not path.is_file():
            raise NotFoundError(f"no file {request.match_info['path'][:80]!r}")
        return web.FileResponse(path, headers={"Cache-Control": "no-cache"})

    async def _library(self, _request: web.Request) -> web.StreamResponse:
        # Its name holds its version: a browser need never ask again.
        headers = {"Cache-Control": "private, max-age=31536000, immutable", "Content-Type": "text/javascript"}
        return web.FileResponse(charts.path(), headers=headers)

    async def _list(self, _request: web.Request) -> web.StreamResponse:
        askers = self._askers()
        listed = [_entry(board) for board in self._boards if askers.sees(board)]
        tenants = [askers.only] if askers.only else list(askers.tenants)
        return web.json_response({"boards": listed, "tenants": tenants, "only": askers.only, "site": self._site})

    async def _board(self, request: web.Request) -> web.StreamResponse:
        board = self._boards[request.match_info["uid"]]
        if not self._askers().sees(board):
            raise RefusedError(f"this page shows the view of {self._tenant} only")
        return web.json_response(board.public())

    async def _sql(self, request: web.Request) -> web.StreamResponse:
        asked = await self._question(request)
        return web.json_response({"sql": asked.sql, "as": asked.tenant})

    async def _question(self, request: web.Request) -> Question:
        if request.content_type != "application/json":  # what a form of another page cannot send
            raise RefusedError("expected application/json")
        try:
            body: Any = await request.json()
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            raise RefusedError("expected JSON") from None
        return question(self._boards, self._askers(), body)

    async def _query(self, request: web.Request) -> web.StreamResponse:
        asked = await self._question(request)
        loop = asyncio.get_running_loop()
        async with self._turns:
            opening = loop.run_in_executor(self._threads, self._stores.ask, asked.sql, asked.tenant)
            try:
                answer = await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.add_done_callback(_discard)  # the browser left; the store ends the query when the stream closes
                raise
            try:
                return await self._send(request, answer)
            finally:
                await asyncio.shield(loop.run_in_executor(self._threads, answer.close))

    async def _send(self, request: web.Request, answer: BinaryIO) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
        sent = 0
        try:
            while piece := await loop.run_in_executor(self._threads, answer.read, _PIECE):
                if not response.prepared:
                    await response.prepare(request)
                sent += len(piece)
                if sent > LARGEST_ANSWER:
                    raise _CutOffError(f"an answer of more than {LARGEST_ANSWER >> 20} MiB")
                await response.write(piece)
        except Exception as error:
            if not response.prepared or isinstance(error, ConnectionResetError):  # the browser left
                raise
            _LOG.warning("an answer was cut off: %s", error)
            if request.transport is not None:
                request.transport.close()  # without its end nobody takes it for a whole answer
            return response
        if not response.prepared:
            raise GpufleetError("the store answered nothing")
        await response.write_eof()
        return response


class _CutOffError(Exception):
    """An answer that is longer than any panel can show."""


def _discard(opening: asyncio.Future[BinaryIO]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _entry(board: Board) -> dict[str, Any]:
    shown = board.dashboard
    return {"uid": shown.uid, "title": shown.title, "audience": shown.audience, "description": shown.description}


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """Errors as JSON with one message for a person; never a traceback."""
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _said(error.status, error.reason)
    except RefusedError as error:
        return _said(400, str(error))
    except NotFoundError as error:
        return _said(404, str(error))
    except GpufleetError as error:
        return _said(503 if isinstance(error, UnreachableError) else 502, error.format_message())
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("clickhouse_connect", "urllib3") or isinstance(error, OSError):
            if isinstance(error, ConnectionResetError):
                raise
            known = explain(error)
            return _said(503 if isinstance(known, UnreachableError) else 422, known.format_message())
        _LOG.exception("request failed")
        return _said(500, "the preview failed on this request; see its log")


def _said(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
