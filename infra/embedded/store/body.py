"""A request's body: what part of it is SQL, what part is data, and the data in a file the engine can read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from infra.embedded.store import statement
from infra.embedded.store.codecs import Codec
from infra.embedded.store.errors import NOT_ENOUGH_SPACE, SYNTAX_ERROR, TOO_LARGE, Refusal

MAX_SQL: Final = 4 << 20
"""Longest SQL text (bytes), and how far into a body an INSERT's FORMAT is looked for."""
_ENOUGH: Final = 64 << 10


@dataclass
class Body:
    """SQL, and the file its data lies in (None: no data)."""

    sql: bytes
    head: statement.Statement
    data: Path | None = None
    fields: dict[str, str] = field(default_factory=dict)
    """Parts of a multipart form other than `query`: param_* and settings."""

    def with_sql(self, sql: bytes) -> Body:
        """The same with another wording of its statement (without data)."""
        return replace(self, sql=sql, head=statement.head(sql))

    def discard(self) -> None:
        """Remove the data file."""
        if self.data is not None:
            self.data.unlink(missing_ok=True)


class Spool:
    """Where bodies wait for the engine: memory-backed files on Linux, temporary files elsewhere."""

    def __init__(self, fallback: Path, max_bytes: int) -> None:
        shared = Path("/dev/shm")  # noqa: S108 - a private directory is made inside
        root = shared if shared.is_dir() and os.access(shared, os.W_OK) else fallback
        root.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="gpufleet-store-", dir=root))
        self.max_bytes = max_bytes
        self._count = 0

    def new(self) -> Path:
        self._count += 1
        return self.folder / str(self._count)

    def close(self) -> None:
        """Remove everything."""
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)
        self.folder.rmdir()


async def read(url_query: bytes, pieces: AsyncIterator[bytes], codec: Codec | None, spool: Spool) -> Body:
    """Take a request apart. `url_query` is the query parameter ("" if none); `pieces` the body as it arrives.

    With an INSERT ... FORMAT in the URL the whole body is data; otherwise the body continues the SQL, and data may
    follow it there. Refusal for bodies and SQL that are too long, and for a full spool.
    """
    decoded = _decode(pieces, codec, spool.max_bytes)
    if url_query:
        head = statement.head(url_query)
        if head.takes_data:
            path = await _store(url_query[head.data_at :], decoded, spool)
            return Body(head.sql, head, path)
    sql = bytearray(url_query)
    look = _ENOUGH
    async for piece in decoded:
        sql += piece
        if len(sql) >= look:
            head = statement.head(bytes(sql[:look]))
            if head.takes_data and head.data_at < look:
                path = await _store(bytes(sql[head.data_at :]), decoded, spool)
                return Body(head.sql, head, path)
            if len(sql) > MAX_SQL:
                raise Refusal(SYNTAX_ERROR, "SYNTAX_ERROR", f"Query is longer than {MAX_SQL} bytes")
            look = 2 * len(sql)
    head = statement.head(bytes(sql))
    if head.takes_data:
        path = await _store(bytes(sql[head.data_at :]), decoded, spool)
        return Body(head.sql, head, path)
    return Body(bytes(sql), head)


async def _decode(pieces: AsyncIterator[bytes], codec: Codec | None, limit: int) -> AsyncIterator[bytes]:
    total = 0
    async for piece in pieces:
        plain = codec.feed(piece) if codec else piece
        total += len(plain)
        if total > limit:
            raise Refusal(TOO_LARGE, "TOO_MANY_BYTES", f"The body is longer than {limit} bytes: send smaller batches")
        if plain:
            yield plain
    if codec:
        codec.finish()


async def _store(first: bytes, rest: AsyncIterator[bytes], spool: Spool) -> Path:
    path = spool.new()
    try:
        with path.open("wb", buffering=0) as file:
            if first:
                file.write(first)
            async for piece in rest:
                file.write(piece)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise Refusal(
            NOT_ENOUGH_SPACE, "NOT_ENOUGH_SPACE", f"No room to spool the body in {spool.folder}: {error.strerror}"
        ) from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path
