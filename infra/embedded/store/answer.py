"""From a worker thread that runs a statement to the event loop that sends its result."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from infra.embedded.store.engine import Summary

FIRST_BYTES: Final = 1 << 20
"""A result is held back until it has this many bytes, so that an error before that is a clean HTTP status."""
WAIT_BYTES: Final = 256 << 20
"""The same for wait_end_of_query=1: beyond it the answer starts before the query ends."""
DEPTH: Final = 4
"""Pieces between thread and loop before the thread waits."""


class Gone(Exception):  # noqa: N818 - names the state
    """The client left: stop working for it."""


@dataclass
class Answer:
    """The beginning of a result; more pieces follow through the pipe unless `complete`."""

    format: str | None
    """None for statements without a result."""
    summary: Summary
    pieces: list[bytes] = field(default_factory=list)
    complete: bool = True


class Pipe:
    """Carries one statement's result from its worker thread to the loop, with back-pressure."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._room = threading.Semaphore(DEPTH)
        self._gone = threading.Event()
        self.began: asyncio.Future[Answer] = loop.create_future()

    def begin(self, answer: Answer) -> None:
        """From the thread: hand over the beginning."""
        self._call(self._begin, answer)

    def _begin(self, answer: Answer) -> None:
        if not self.began.done():
            self.began.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """From the thread: the statement failed, before or after its beginning."""
        self._call(self._fail, error)

    def _fail(self, error: BaseException) -> None:
        if self.began.done():
            self._queue.put_nowait(error)
        else:
            self.began.set_exception(error)

    def put(self, piece: bytes | None) -> None:
        """From the thread: one more piece, None at the end. Waits for room; Gone when nobody reads any more."""
        while not self._room.acquire(timeout=0.5):
            if self._gone.is_set():
                raise Gone
        if self._gone.is_set():
            raise Gone
        self._call(self._queue.put_nowait, piece)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    async def get(self) -> bytes | None:
        """In the loop: the next piece, None at the end; raises what the statement raised."""
        item = await self._queue.get()
        self._room.release()
        if isinstance(item, BaseException):
            raise item
        return item

    def leave(self) -> None:
        """In the loop: nobody reads any more."""
        self._gone.set()
        self._room.release()

    @property
    def gone(self) -> bool:
        return self._gone.is_set()
