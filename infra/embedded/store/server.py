"""ClickHouse's HTTP interface in front of the engine."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import secrets
import uuid
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp import BodyPartReader, web

from infra.embedded.store import body as bodies
from infra.embedded.store import codecs, statement, work
from infra.embedded.store.answer import Answer, Pipe
from infra.embedded.store.engine import Connection, Engine, Summary
from infra.embedded.store.errors import (
    AUTHENTICATION_FAILED,
    BAD_ARGUMENTS,
    Refusal,
    code_of,
    status_of,
)
from infra.embedded.store.passwords import Verifier
from infra.embedded.store.users import Kind, User

_LOG = logging.getLogger(__name__)

_NOT_SETTINGS: Final = frozenset(
    {
        "query", "database", "default_format", "user", "password", "query_id", "quota_key", "session_id",
        "session_timeout", "session_check", "compress", "decompress", "enable_http_compression",
        "http_zlib_compression_level", "wait_end_of_query", "buffer_size", "client_protocol_version", "role",
        "send_progress_in_http_headers", "http_headers_progress_interval_ms", "stacktrace", "close_session",
        "cancel_http_readonly_queries_on_client_close", "log_comment",
    }
)  # fmt: skip
"""URL parameters that speak to the HTTP layer. log_comment is the carrier of row filters (config.py): dropped."""


class Server:
    """The HTTP application over one engine."""

    def __init__(
        self,
        engine: Engine,
        users: Mapping[str, User],
        spool: bodies.Spool,
        database: str = "gpufleet",
        readers: int = 8,
        writers: int = 4,
    ) -> None:
        self.engine, self.users, self.spool, self.database = engine, users, spool, database
        self._verifier = Verifier()
        self._readers = ThreadPoolExecutor(readers, "reader")
        self._writers = ThreadPoolExecutor(writers, "writer")
        self._nobody = User("nobody", Kind.READER, "sha256$" + "00" * 16 + "$" + secrets.token_hex(32))

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=1 << 40)
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/replicas_status", self._ping)
        app.router.add_route("*", "/", self._query)
        return app

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _query(self, request: web.Request) -> web.StreamResponse:
        query_id = request.query.get("query_id") or str(uuid.uuid4())
        headers = {
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Server-Display-Name": self.engine.host,
            "X-ClickHouse-Timezone": request.query.get("session_timezone") or self.engine.timezone,
        }
        try:
            user = await self._user(request)
            return await self._run(request, user, headers)
        except (Refusal, RuntimeError) as error:
            return _failure(error, headers)

    async def _user(self, request: web.Request) -> User:
        name, password = _credentials(request)
        user = self.users.get(name, self._nobody)
        good = self._verifier.known(user.password, password)
        if not good and password:
            loop = asyncio.get_running_loop()
            good = await loop.run_in_executor(None, self._verifier.verify, user.password, password)
        if not good or user is self._nobody:
            raise Refusal(
                AUTHENTICATION_FAILED,
                "AUTHENTICATION_FAILED",
                f"{name}: Authentication failed: password is incorrect, or there is no user with such name.",
                403 if password else 401,
            )
        return user

    async def _run(self, request: web.Request, user: User, headers: dict[str, str]) -> web.StreamResponse:
        url = request.query
        codec = codecs.decoder(request.headers.get("Content-Encoding", "").strip().lower())
        fields: dict[str, str] = {}
        if request.content_type == "multipart/form-data":
            fields = await _form(request)
            sql = url.get("query", "") + fields.pop("query", "")
            body = bodies.Body(sql.encode(), statement.head(sql.encode()))
        else:
            body = await bodies.read(url.get("query", "").encode(), _pieces(request), codec, self.spool)
        if not body.sql.strip():
            return web.Response(text="Ok.\n", headers=headers)
        values = {**url, **fields}
        job = work.Job(
            body,
            values.get("default_format") or request.headers.get("X-ClickHouse-Format") or "TabSeparated",
            values.get("database") or request.headers.get("X-ClickHouse-Database") or "default",
            {k: v for k, v in values.items() if k not in _NOT_SETTINGS and not k.startswith("param_")},
            {k[6:]: v for k, v in values.items() if k.startswith("param_")},
            _number(values.get("client_protocol_version", "0")),
            values.get("wait_end_of_query") == "1",
            uuid.uuid4().hex,
        )
        loop = asyncio.get_running_loop()
        pipe = Pipe(loop)
        pool = self._writers if body.head.keyword == "INSERT" else self._readers
        loop.run_in_executor(pool, work.run, job, lambda: self._connection(user), pipe)
        try:
            answer = await pipe.began
            return await self._send(request, answer, pipe, headers, values)
        except asyncio.CancelledError:
            pipe.leave()
            if body.head.keyword in statement.READING:
                loop.run_in_executor(None, self._kill, job.mark)
            raise

    def _connection(self, user: User) -> Connection:
        if user.kind is not Kind.OPERATOR:
            raise Refusal(AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED", "only operators for now")
        return self.engine.operator()

    def _kill(self, mark: str) -> None:
        connection = self.engine.operator()
        try:
            connection.run(f"KILL QUERY WHERE Settings['insert_deduplication_token'] = '{mark}' ASYNC")
        except RuntimeError:
            _LOG.exception("could not cancel a query whose client left")
        finally:
            connection.close()

    async def _send(
        self, request: web.Request, answer: Answer, pipe: Pipe, headers: dict[str, str], values: Mapping[str, str]
    ) -> web.StreamResponse:
        if answer.format is not None:
            headers["X-ClickHouse-Format"] = answer.format
        headers["X-ClickHouse-Summary"] = summary_json(answer.summary)
        headers["Content-Type"] = _content_type(answer.format)
        encoding = ""
        if values.get("enable_http_compression") == "1":
            encoding = codecs.choose(request.headers.get("Accept-Encoding", ""))
        if encoding:
            headers["Content-Encoding"] = encoding
        codec = codecs.encoder(encoding) if encoding else None
        if answer.complete:
            data = b"".join(answer.pieces)
            if codec:
                data = codec.feed(data) + codec.finish()
            return web.Response(body=data, headers=headers)
        tag = secrets.token_hex(8)
        headers["X-ClickHouse-Exception-Tag"] = tag
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            for piece in answer.pieces:
                await response.write(codec.feed(piece) if codec else piece)
            while (more := await pipe.get()) is not None:
                coded = codec.feed(more) if codec else more
                if coded:
                    await response.write(coded)
        except (Refusal, RuntimeError) as error:
            text = _text(error)
            block = f"\r\n__exception__\r\n{tag}\r\n{text}\n{len(text) + 1} {tag}\r\n__exception__\r\n".encode()
            await response.write(codec.feed(block) + codec.finish() if codec else block)
            if request.transport is not None:
                request.transport.close()
            return response
        if codec:
            await response.write(codec.finish())
        await response.write_eof()
        return response


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


def _text(error: BaseException) -> str:
    return str(error).removeprefix("Streaming query failed: ")


def _failure(error: Refusal | RuntimeError, headers: dict[str, str]) -> web.Response:
    text = _text(error)
    code = error.code if isinstance(error, Refusal) else code_of(text)
    status = error.status if isinstance(error, Refusal) else status_of(code)
    headers["X-ClickHouse-Exception-Code"] = str(code)
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
    return web.Response(status=status, text=text + "\n", headers=headers)


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


def _credentials(request: web.Request) -> tuple[str, str]:
    name = request.headers.get("X-ClickHouse-User")
    if name is not None:
        return name, request.headers.get("X-ClickHouse-Key", "")
    basic = request.headers.get("Authorization", "")
    if basic.lower().startswith("basic "):
        try:
            name, _, password = base64.b64decode(basic[6:], validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise Refusal(BAD_ARGUMENTS, "BAD_ARGUMENTS", "The Authorization header cannot be read") from None
        return name, password
    return request.query.get("user", "default"), request.query.get("password", "")


def _number(text: str) -> int:
    if not text.isdigit():
        raise Refusal(BAD_ARGUMENTS, "BAD_ARGUMENTS", f"expected a number, found {text!r}")
    return int(text)


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    async for piece in request.content.iter_any():
        yield piece


async def _form(request: web.Request) -> dict[str, str]:
    fields: dict[str, str] = {}
    async for part in await request.multipart():
        if isinstance(part, BodyPartReader) and part.name:
            data = await part.read(decode=False)
            fields[part.name] = bytes(data).decode("utf-8", "surrogateescape")
    return fields
