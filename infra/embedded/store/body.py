"""A request's body: what part of it is SQL, what part is data, and the data in a file the engine can read."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Final

from infra.embedded.store import statement
from infra.embedded.store.codecs import Decoder
from infra.embedded.store.errors import NOT_ENOUGH_SPACE, SYNTAX_ERROR, TOO_LARGE, TOO_MANY_QUERIES, Refusal

MAX_SQL: Final = 4 << 20
"""Longest SQL text (bytes), and how far into a body an INSERT's FORMAT is looked for."""
MAX_SQL_OTHERS: Final = 256 << 10
"""The same for everybody but the administrator, as ClickHouse's max_query_size has it: longer ones take seconds."""
_ENOUGH: Final = 64 << 10


class Spool:
    """Where bodies wait for the engine: memory-backed files on Linux, files in the folder `fallback` elsewhere.

    `fallback` also names the spool: it belongs to one data folder, which one store at a time holds. A few files are
    kept and written over, since fresh pages cost more than the copy into them. `max_bytes` bounds one body,
    `max_total` all that are there at the same time.
    """

    KEEP_FILES: Final = 4
    KEEP_BYTES: Final = 192 << 20
    """All of them together: two inserts of a full fleet's three seconds, and small ones."""

    def __init__(self, fallback: Path, max_bytes: int, max_total: int) -> None:
        shared = Path("/dev/shm")  # noqa: S108 - a private directory is made inside
        root = shared if shared.is_dir() and os.access(shared, os.W_OK) else fallback
        root.mkdir(parents=True, exist_ok=True)
        prefix = f"gpufleet-store-{hashlib.sha256(str(fallback).encode()).hexdigest()[:16]}-"
        for left in root.glob(f"{prefix}*"):  # by a store on this folder that was killed
            shutil.rmtree(left, ignore_errors=True)
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        self.max_bytes, self.max_total = max_bytes, max_total
        self._count = 0
        self._total = 0
        self._free: list[tuple[Path, int]] = []
        """Files to write over, with their sizes."""

    async def store(self, first: bytes, rest: AsyncIterator[bytes], expected: int = 0) -> Data:
        """Write a body, of about ``expected`` bytes if that is known, to a file. Refusal when there is no room."""
        if self._free:
            kept = min(self._free, key=lambda file: abs(file[1] - expected))  # a small body would cut a large file off
            self._free.remove(kept)
            path = kept[0]
        else:
            self._count += 1
            path = self.folder / str(self._count)
        data = Data(path, 0, self)
        try:
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
                if first:
                    self._write(file, first, data)
                async for piece in rest:
                    self._write(file, piece, data)
                file.truncate(data.size)
        except OSError as error:
            data.release()
            message = f"No room to spool the body in {self.folder}: {error.strerror}"
            raise Refusal(NOT_ENOUGH_SPACE, "NOT_ENOUGH_SPACE", message) from None
        except BaseException:
            data.release()
            raise
        return data

    def _write(self, file: FileIO, piece: bytes, data: Data) -> None:
        data.size += len(piece)
        self._total += len(piece)
        if self._total > self.max_total:
            message = f"more than {self.max_total} bytes of bodies are waiting: send fewer at the same time"
            raise Refusal(TOO_MANY_QUERIES, "TOO_MANY_SIMULTANEOUS_QUERIES", message, 429)
        view = memoryview(piece)
        while view:
            view = view[file.write(view) :]

    def release(self, path: Path, size: int) -> None:
        """Take a file back."""
        self._total -= size
        kept = sum(bytes_ for _, bytes_ in self._free)
        if kept + size <= self.KEEP_BYTES and len(self._free) < self.KEEP_FILES:
            self._free.append((path, size))
        else:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove everything."""
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)
        self.folder.rmdir()


@dataclass
class Data:
    """A body in a file."""

    path: Path
    size: int
    """Bytes."""
    spool: Spool
    released: bool = False

    def replace(self, content: bytes) -> None:
        """Put other bytes in its place (in a worker thread: the file is nobody else's)."""
        self.path.write_bytes(content)

    def release(self) -> None:
        """Give the file back; harmless when done twice. Called in the event loop only."""
        if not self.released:
            self.released = True
            self.spool.release(self.path, self.size)


@dataclass(frozen=True)
class Body:
    """SQL, and the data that goes with it (None: none)."""

    sql: bytes
    head: statement.Statement
    data: Data | None = None

    def with_sql(self, sql: bytes) -> Body:
        """The same with another wording of its statement (without data)."""
        return replace(self, sql=sql, head=statement.head(sql))

    def discard(self) -> None:
        """Give the data's file back."""
        if self.data is not None:
            self.data.release()


async def read(
    url_query: bytes,
    pieces: AsyncIterator[bytes],
    codec: Decoder | None,
    spool: Spool,
    expected: int = 0,
    max_sql: int = MAX_SQL,
) -> Body:
    """Take a request apart. `url_query` is the query parameter ("" if none); `pieces` the body as it arrives, of
    about `expected` bytes (0: unknown).

    With an INSERT ... FORMAT in the URL the whole body is data; otherwise the body continues the SQL, and data may
    follow it there. Refusal for bodies and SQL that are too long, and for a full spool.
    """
    decoded = _decode(pieces, codec, spool.max_bytes)
    if url_query:
        head = await _head(url_query)
        if head.takes_data:
            data = await spool.store(url_query[head.data_at :], decoded, expected)
            return Body(head.sql, head, data)
    sql = bytearray(url_query)
    look = _ENOUGH
    async for piece in decoded:
        sql += piece
        if len(sql) >= look:
            head = await _head(bytes(sql[:look]))
            if head.takes_data and head.data_at < look:
                data = await spool.store(bytes(sql[head.data_at :]), decoded, expected)
                return Body(head.sql, head, data)
            if len(sql) > max_sql:
                message = f"Max query size exceeded: the statement is longer than {max_sql} bytes"
                raise Refusal(SYNTAX_ERROR, "SYNTAX_ERROR", message)
            look = 2 * len(sql)
    head = await _head(bytes(sql))
    if head.takes_data:
        data = await spool.store(bytes(sql[head.data_at :]), decoded, expected)
        return Body(head.sql, head, data)
    return Body(bytes(sql), head)


async def _head(sql: bytes) -> statement.Statement:
    """``statement.head``; a long text takes seconds, in which others must be answered."""
    if len(sql) <= _ENOUGH:
        return statement.head(sql)
    return await asyncio.to_thread(statement.head, sql)


async def _decode(pieces: AsyncIterator[bytes], codec: Decoder | None, limit: int) -> AsyncIterator[bytes]:
    total = 0
    async for piece in pieces:
        for plain in codec.pieces(piece) if codec else (piece,):
            total += len(plain)
            if total > limit:
                message = f"The body is longer than {limit} bytes: send smaller batches"
                raise Refusal(TOO_LARGE, "TOO_MANY_BYTES", message)
            if plain:
                yield plain
    if codec:
        codec.finish()
