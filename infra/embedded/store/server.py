"""ClickHouse's HTTP interface in front of the engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final

from aiohttp import web

from infra.embedded.store import body as bodies
from infra.embedded.store import codecs, request, statement, work
from infra.embedded.store.access import Access, TenantLimits
from infra.embedded.store.answer import Answer, Pipe
from infra.embedded.store.body import Spool
from infra.embedded.store.config import Policy
from infra.embedded.store.engine import Connection, Engine, Summary
from infra.embedded.store.errors import (
    AUTHENTICATION_FAILED,
    TOO_MANY_QUERIES,
    UNKNOWN_EXCEPTION,
    Refusal,
    code_of,
    status_of,
)
from infra.embedded.store.gate import Gate
from infra.embedded.store.passwords import Verifier
from infra.embedded.store.request import Ask
from infra.embedded.store.sessions import Sessions
from infra.embedded.store.user_book import UserBook
from infra.embedded.store.users import Kind, User
from infra.embedded.store.writes import Writes

_LOG = logging.getLogger(__name__)
MOST_WAITING: Final = 256
"""Requests in work or waiting for a thread; more are refused (429)."""
MOST_WAITING_TENANT: Final = 64
"""The same of one tenant: requests that dribble in for ever must not keep everybody else out."""
FOLLOW_USERS_S: Final = 1.0
"""How often the users' files are looked at while statements run and nobody asks anything new."""


class Server:
    """The HTTP application over one engine."""

    def __init__(
        self,
        engine: Engine,
        users: UserBook,
        policies: Mapping[str, Policy],
        spool: Spool,
        writes: Writes,
        database: str,
        clock: Callable[[], float],
        limits: TenantLimits | None = None,
        readers: int = 8,
        writers: int = 4,
    ) -> None:
        self._engine, self._users, self._spool, self._writes = engine, users, spool, writes
        limits = limits or TenantLimits()
        gate_connection = engine.admin()
        gate = Gate(gate_connection, database, policies)
        gate_connection.close()
        self._access = Access(engine, gate, database, limits)
        self._sessions = Sessions(clock)
        self._verifier = Verifier()
        self._readers = ThreadPoolExecutor(readers, "reader")
        self._writers = ThreadPoolExecutor(writers, "writer")
        self._helpers = ThreadPoolExecutor(2, "helper")
        self._tenants: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(limits.queries))
        self._running: dict[str, set[str]] = defaultdict(set)
        """User -> the marks of its statements in work."""
        self._following: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._waiting_of: Counter[str] = Counter()
        """Of tenants."""
        self._nobody = User("nobody", Kind.READER, "scrypt$14$" + "00" * 16 + "$" + secrets.token_hex(32))

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=1 << 40)  # bodies are bounded by the spool
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/replicas_status", self._ping)
        app.router.add_get("/", self._query)
        app.router.add_post("/", self._query)
        app.cleanup_ctx.append(self._follow_writes)
        return app

    def close(self) -> None:
        """Wait for running statements, close sessions."""
        for pool in (self._readers, self._writers, self._helpers):
            pool.shutdown(wait=True)
        self._sessions.close()

    async def _follow_writes(self, _app: web.Application) -> AsyncIterator[None]:
        """While the application runs, a merge whose writes were refused is noticed: by a thread that wakes nobody, or
        else there would always have been a write since the last look."""
        stop = threading.Event()

        def follow() -> None:
            while not self._writes.lost and not stop.wait(max(0.0, self._writes.next_look_s())):
                if self._writes.next_look_s() > 0:
                    continue  # a statement that wrote has looked meanwhile
                try:
                    self._writes.look_again()
                except RuntimeError:
                    _LOG.exception("could not ask the engine about its writes")

        thread = threading.Thread(target=follow, name="look", daemon=True)
        thread.start()
        yield
        stop.set()
        await asyncio.to_thread(thread.join)

    async def quiet(self, patience_s: float) -> None:
        """Until no request is in work, or for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self._waiting:
                    await asyncio.sleep(0.02)

    def _follow_users(self) -> None:
        """While statements run, users that are taken away lose theirs; a request looks at the files by itself."""
        if self._running:
            self._following = self._following or asyncio.get_running_loop().call_later(FOLLOW_USERS_S, self._look_again)
        elif self._following is not None:
            self._following.cancel()
            self._following = None

    def _look_again(self) -> None:
        self._following = None
        self._refresh()
        self._follow_users()

    def _refresh(self) -> None:
        for name in self._users.refresh():
            if name in self._running:
                self._evict(name)

    def _evict(self, name: str) -> None:
        """End the statements of a user who is gone; again until none is left, since one may be about to begin."""
        marks = self._running.pop(name, set())
        for mark in marks:
            self._helpers.submit(self._kill, mark)
        if marks:
            self._running[name] = marks
            asyncio.get_running_loop().call_later(0.2, self._evict, name)

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _query(self, http: web.Request) -> web.StreamResponse:
        headers = {
            "X-ClickHouse-Query-Id": _one_line(http.query.get("query_id", "")) or str(uuid.uuid4()),
            "X-ClickHouse-Server-Display-Name": "gpufleet",
            "X-ClickHouse-Timezone": _one_line(http.query.get("session_timezone", "")) or self._engine.timezone,
        }
        if self._waiting >= MOST_WAITING:
            message = f"more than {MOST_WAITING} requests are waiting"
            return failure(Refusal(TOO_MANY_QUERIES, "TOO_MANY_SIMULTANEOUS_QUERIES", message, 429), headers)
        self._waiting += 1
        tenant = ""
        try:
            user = await self._user(http)
            if user.kind is Kind.TENANT:
                tenant = user.name
                self._waiting_of[tenant] += 1
                if self._waiting_of[tenant] > MOST_WAITING_TENANT:
                    message = f"more than {MOST_WAITING_TENANT} requests of {tenant} are waiting"
                    raise Refusal(TOO_MANY_QUERIES, "TOO_MANY_SIMULTANEOUS_QUERIES", message, 429)
            most = bodies.MAX_SQL if user.kind is Kind.ADMIN else bodies.MAX_SQL_OTHERS
            ask = await request.read(http, self._spool, most)
            if ask is None:
                return web.Response(text="Ok.\n", headers=headers)
            return await self._run(http, user, ask, headers)
        except (Refusal, RuntimeError) as error:
            return failure(error, headers)
        except (ValueError, OSError) as error:
            _LOG.exception("request failed")
            message = f"The store failed on this request: {type(error).__name__}; see its log"
            return failure(Refusal(UNKNOWN_EXCEPTION, "UNKNOWN_EXCEPTION", message, 500), headers)
        finally:
            self._waiting -= 1
            if tenant:
                self._waiting_of[tenant] -= 1
                if not self._waiting_of[tenant]:
                    del self._waiting_of[tenant]

    async def _user(self, http: web.Request) -> User:
        name, password = request.credentials(http)
        self._refresh()
        user = self._users.find(name) or self._nobody
        hashes = [stored for stored in (user.password, user.previous) if stored]
        good = any(self._verifier.known(stored, password) for stored in hashes)
        loop = asyncio.get_running_loop()
        for stored in hashes:
            if not good and password:
                good = await loop.run_in_executor(self._helpers, self._verifier.verify, stored, password)
        if not good or user is self._nobody:
            raise _unknown(name, 403 if password else 401)
        return user

    async def _run(self, http: web.Request, user: User, ask: Ask, headers: dict[str, str]) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        reading = ask.job.body.head.keyword in statement.READING
        pool = self._readers if reading else self._writers
        turn: AbstractAsyncContextManager[object] = (
            self._tenants[user.name] if user.kind is Kind.TENANT else nullcontext()
        )
        done: asyncio.Future[None] | None = None
        try:
            async with turn:
                if self._users.find(user.name) is None:
                    raise _unknown(user.name, 403)  # taken away while it waited
                self._running[user.name].add(ask.job.mark)
                self._follow_users()
                pipe = Pipe(loop)
                done = loop.run_in_executor(pool, self._work, user, ask, pipe)
                # Not before the thread has ended: the engine may still read the file when this request is gone.
                done.add_done_callback(lambda _: ask.job.body.discard())
                try:
                    answer = await pipe.began
                    return await self._send(http, answer, pipe, ask.encoding, headers)
                except BaseException:
                    pipe.leave()
                    if reading and not done.done():
                        loop.run_in_executor(self._helpers, self._kill, ask.job.mark)
                    raise
                finally:
                    await asyncio.shield(done)
        finally:
            if done is None:
                ask.job.body.discard()
            marks = self._running.get(user.name, set())
            marks.discard(ask.job.mark)
            if not marks:
                self._running.pop(user.name, None)
                self._follow_users()

    def _work(self, user: User, ask: Ask, pipe: Pipe) -> None:
        """In a worker thread: clear the job, open its connection, run it."""
        try:
            if pipe.gone:
                return
            job = self._access.clear(user, ask.job)
            key = (user.name, ask.session_id)
            if ask.session_id and user.kind is Kind.ADMIN:
                if ask.session_check:
                    self._sessions.check(key)
                if self._sessions.wanted(key, job.body.sql):
                    opened = self._sessions.use(
                        key, ask.session_timeout_s, self._engine.admin, job.database, job.settings
                    )
                    with opened as connection:
                        self._execute(job, connection, pipe)
                    return
            fresh: Connection = self._access.connect(user, job)
            try:
                self._execute(job, fresh, pipe)
            finally:
                fresh.close()
        except work.Gone:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the request that waits for it
            pipe.fail(error)

    def _execute(self, job: work.Job, connection: Connection, pipe: Pipe) -> None:
        work.execute(job, connection, pipe, self._writes, self._access.forget)

    def _kill(self, mark: str) -> None:
        """End a query whose client left, or may no longer ask."""
        connection = self._engine.admin()
        try:
            connection.run(f"KILL QUERY WHERE Settings['{work.MARK}'] = '{mark}' ASYNC")
        except RuntimeError:
            _LOG.exception("could not end a query")
        finally:
            connection.close()

    async def _send(
        self, http: web.Request, answer: Answer, pipe: Pipe, encoding: str, headers: dict[str, str]
    ) -> web.StreamResponse:
        if answer.format is not None:
            headers["X-ClickHouse-Format"] = answer.format
        headers["X-ClickHouse-Summary"] = summary_json(answer.summary)
        headers["Content-Type"] = _content_type(answer.format)
        codec: codecs.Codec | None = None
        if encoding and (answer.pieces or not answer.complete):
            headers["Content-Encoding"] = encoding
            codec = codecs.encoder(encoding)
        if answer.complete:
            data = b"".join(answer.pieces)
            return web.Response(body=codec.feed(data) + codec.finish() if codec else data, headers=headers)
        tag = secrets.token_hex(8)
        headers["X-ClickHouse-Exception-Tag"] = tag
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(http)
        for piece in answer.pieces:
            await _write(response, codec, piece)
        answer.pieces.clear()
        try:
            while (more := await pipe.get()) is not None:
                await _write(response, codec, more)
        except (Refusal, RuntimeError) as error:
            await _write(response, codec, exception_block(text_of(error), tag))
            if codec:
                await response.write(codec.finish())
            if http.transport is not None:
                http.transport.close()  # without the last chunk: nobody can take the answer for a whole one
            return response
        if codec:
            await response.write(codec.finish())
        await response.write_eof()
        return response


async def _write(response: web.StreamResponse, codec: codecs.Codec | None, piece: bytes) -> None:
    coded = codec.feed(piece) if codec else piece
    if coded:
        await response.write(coded)


def exception_block(text: str, tag: str) -> bytes:
    """How ClickHouse ends an answer that fails after it began."""
    message = text.encode()
    return b"\r\n__exception__\r\n%b\r\n%b\n%d %b\r\n__exception__\r\n" % (
        tag.encode(),
        message,
        len(message) + 1,
        tag.encode(),
    )


def summary_json(summary: Summary) -> str:
    """The value of X-ClickHouse-Summary: numbers as strings, as ClickHouse sends them."""
    return json.dumps(
        {
            "read_rows": str(summary.read_rows),
            "read_bytes": str(summary.read_bytes),
            "written_rows": str(summary.written_rows),
            "written_bytes": str(summary.written_bytes),
            "total_rows_to_read": "0",
            "result_rows": str(summary.written_rows or summary.result_rows),
            "result_bytes": str(summary.written_bytes or summary.result_bytes),
            "elapsed_ns": str(summary.elapsed_ns),
        },
        separators=(",", ":"),
    )


def text_of(error: BaseException) -> str:
    """ClickHouse's own text, without what chDB puts before it."""
    return str(error).removeprefix("Streaming query failed: ")


def failure(error: Refusal | RuntimeError, headers: dict[str, str]) -> web.Response:
    """An error as ClickHouse answers it: status, code header, text."""
    text = text_of(error)
    code = error.code if isinstance(error, Refusal) else code_of(text)
    status = error.status if isinstance(error, Refusal) else status_of(code)
    headers["X-ClickHouse-Exception-Code"] = str(code)
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
    return web.Response(status=status, text=text + "\n", headers=headers)


def _unknown(name: str, status: int) -> Refusal:
    message = f"{_one_line(name)}: Authentication failed: password is incorrect, or there is no user with such name."
    return Refusal(AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED", message, status)


def _one_line(text: str) -> str:
    return "".join(c for c in text[:200] if c.isprintable())


def _content_type(form: str | None) -> str:
    if form is None:
        return "text/plain; charset=UTF-8"
    if form.startswith("JSON"):
        return "application/json; charset=UTF-8"
    if form.startswith(("TSV", "TabSeparated")):
        return "text/tab-separated-values; charset=UTF-8"
    if form.startswith("CSV"):
        return "text/csv; charset=UTF-8; header=absent"
    return "application/octet-stream"
