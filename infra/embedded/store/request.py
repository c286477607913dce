"""What a ClickHouse client says in an HTTP request: who it is, its statement, its parameters and settings."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from aiohttp import BodyPartReader, web

from infra.embedded.store import body as bodies
from infra.embedded.store import codecs, statement
from infra.embedded.store.errors import BAD_ARGUMENTS, TOO_LARGE, UNKNOWN_FORMAT, Refusal
from infra.embedded.store.work import Job

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
_FORMAT: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_PYTHON_FORMATS: Final = frozenset({"dataframe", "datastore", "arrowtable"})
"""Names that chDB gives a meaning of its own."""


@dataclass(frozen=True)
class Ask:
    """A request apart from its job: how the client wants the answer, and which session it means."""

    job: Job
    session_id: str
    session_timeout_s: float
    session_check: bool
    encoding: str
    """Content-Encoding of the answer, "" for none."""


def credentials(request: web.Request) -> tuple[str, str]:
    """User and password from X-ClickHouse-User/-Key, Basic authentication, or the URL; user "default" without any."""
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


async def read(request: web.Request, spool: bodies.Spool, max_sql: int = bodies.MAX_SQL) -> Ask | None:
    """The request taken apart, its data spooled; None if it holds no statement. Refusal for what is not understood."""
    url = request.query
    for name in ("compress", "decompress"):
        if url.get(name, "0") not in ("0", "false"):
            message = f"{name}=1 (ClickHouse's own block compression) is not supported: use Content-Encoding"
            raise Refusal(BAD_ARGUMENTS, "NOT_IMPLEMENTED", message, 501)
    codec = codecs.decoder(request.headers.get("Content-Encoding", "").strip().lower())
    fields: dict[str, str] = {}
    if request.content_type == "multipart/form-data":
        fields = await _form(request)
        sql = (url.get("query", "") + fields.pop("query", "")).encode("utf-8", "surrogateescape")
        body = bodies.Body(sql, statement.head(sql))
    else:
        known = request.content_length or 0
        body = await bodies.read(url.get("query", "").encode(), _pieces(request), codec, spool, known, max_sql)
    try:
        return _ask(request, body, {**url, **fields})
    except BaseException:
        body.discard()
        raise


def _ask(request: web.Request, body: bodies.Body, values: dict[str, str]) -> Ask | None:
    if not body.sql.strip():
        return None
    form = values.get("default_format") or request.headers.get("X-ClickHouse-Format") or "TabSeparated"
    for name in (form, body.head.format or ""):
        if name.lower() in _PYTHON_FORMATS or (name and not _FORMAT.fullmatch(name)):
            raise Refusal(UNKNOWN_FORMAT, "UNKNOWN_FORMAT", f"Unknown format {name}.")
    encoding = ""
    if values.get("enable_http_compression") in ("1", "true"):
        encoding = codecs.choose(request.headers.get("Accept-Encoding", ""))
    job = Job(
        body,
        form,
        values.get("database") or request.headers.get("X-ClickHouse-Database") or "",
        {k: v for k, v in values.items() if k not in _NOT_SETTINGS and not k.startswith("param_")},
        {k[6:]: v for k, v in values.items() if k.startswith("param_")},
        _number(values, "client_protocol_version", "0"),
        values.get("wait_end_of_query") in ("1", "true"),
        uuid.uuid4().hex,
    )
    return Ask(
        job,
        values.get("session_id", ""),
        _number(values, "session_timeout", "60"),
        values.get("session_check") in ("1", "true"),
        encoding,
    )


def _number(values: dict[str, str], name: str, default: str) -> int:
    text = values.get(name, default)
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise Refusal(BAD_ARGUMENTS, "BAD_ARGUMENTS", f"{name}: expected a number, found {text!r}")
    return int(text)


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    async for piece in request.content.iter_any():
        yield piece


async def _form(request: web.Request) -> dict[str, str]:
    fields: dict[str, str] = {}
    total = 0
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or not part.name:
                continue
            if part.filename is not None:
                message = "external data tables are not supported: insert into a temporary table of a session"
                raise Refusal(BAD_ARGUMENTS, "NOT_IMPLEMENTED", message, 501)
            value = bytearray()
            while chunk := await part.read_chunk(1 << 16):
                value += chunk
                total += len(chunk)
                if total > bodies.MAX_SQL:
                    raise Refusal(TOO_LARGE, "TOO_MANY_BYTES", f"The form is longer than {bodies.MAX_SQL} bytes")
            fields[part.name] = bytes(value).decode("utf-8", "surrogateescape")
    except (ValueError, AssertionError) as error:
        raise Refusal(BAD_ARGUMENTS, "BAD_ARGUMENTS", f"The form cannot be read: {error}") from None
    return fields
