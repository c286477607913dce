"""A TCP proxy that breaks connections in the ways networks do. One thread serves any number of listeners."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Matches = Callable[[bytes], bool]
"""Whether a piece of what a client sends begins the request that is waited for."""
PIECE = 1 << 16


def http_insert(piece: bytes) -> bool:
    """An INSERT to ClickHouse: clickhouse-connect names the table in the URL."""
    return piece.startswith(b"POST") and b"INSERT" in piece[:4096]


def http_any(piece: bytes) -> bool:
    """Any request to ClickHouse."""
    return piece.startswith(b"POST")


def kafka_request(api: int) -> Matches:
    """A Kafka request by its API key. librdkafka writes whole requests: length, key, version, correlation id."""

    def matches(piece: bytes) -> bool:
        return len(piece) > 14 and piece[4:6] == api.to_bytes(2, "big") and piece[0] == 0

    return matches


class _Trap:
    """One request to wait for, and what becomes of its connection."""

    def __init__(self, matches: Matches, answer: bool, then: Callable[[], None]) -> None:
        self.matches, self.answer, self.then = matches, answer, then


class Link:
    """One listener in front of one server. Every method may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> None:
        self._loop, self._host, self._port = loop, host, port
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._trap: _Trap | None = None
        self._refusing = False
        self._delay_s = 0.0
        self._open = asyncio.Event()
        self.port = 0
        self.trapped = 0
        """Requests that walked into a trap."""

    async def listen(self) -> None:
        self._open.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=PIECE)
        self.port = self._server.sockets[0].getsockname()[1]

    def end(self) -> None:
        """Listen no more. In the proxy's thread."""
        self._server.close()
        self._cut()

    def cut(self) -> None:
        """Reset every connection."""
        self._loop.call_soon_threadsafe(self._cut)

    def refuse(self, refusing: bool) -> None:
        """Reset every connection, and every new one at once, until called with False."""
        self._loop.call_soon_threadsafe(self._refuse, refusing)

    def slow(self, delay_s: float) -> None:
        """Hold every piece back for so long, both ways; 0 ends it."""
        self._delay_s = delay_s

    def hold(self, holding: bool) -> None:
        """Pass nothing on, without a word to either side, until called with False."""
        self._loop.call_soon_threadsafe(self._open.clear if holding else self._open.set)

    def trap(self, matches: Matches, *, answer: bool, then: Callable[[], None] = lambda: None) -> None:
        """Let the next such request through and cut its connection: once the server has answered, the answer being
        dropped (``answer``), or at once. ``then`` is called when it was cut, in the proxy's thread."""
        self._trap = _Trap(matches, answer, then)

    def heal(self) -> None:
        """As if nothing had been asked for."""
        self._trap, self._delay_s = None, 0.0
        self.refuse(False)
        self.hold(False)

    def _cut(self) -> None:
        for pair in list(self._pairs):
            for writer in pair:
                _reset(writer)

    def _refuse(self, refusing: bool) -> None:
        self._refusing = refusing
        if refusing:
            self._cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(self._host, self._port, limit=PIECE)
        except OSError:
            _reset(writer)
            return
        pair = (writer, up_writer)
        self._pairs.add(pair)
        caught: list[_Trap] = []
        try:
            await asyncio.gather(
                self._pump(reader, up_writer, pair, caught, up=True),
                self._pump(up_reader, writer, pair, caught, up=False),
            )
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._pairs.discard(pair)
            for one in pair:
                _reset(one)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        caught: list[_Trap],
        *,
        up: bool,
    ) -> None:
        while piece := await reader.read(PIECE):
            await self._open.wait()
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            trap = self._trap
            if up and trap is not None and trap.matches(piece):
                self._trap = None
                caught.append(trap)
            if not up and caught:
                self._sprung(caught[0], pair)  # the answer is there, and nobody will see it
                return
            writer.write(piece)
            await writer.drain()
            if up and caught and not caught[0].answer:
                # The rest of the request may be on its way to us: what is there already goes with it.
                with contextlib.suppress(TimeoutError):
                    while rest := await asyncio.wait_for(reader.read(PIECE), 0.002):
                        writer.write(rest)
                        await writer.drain()
                self._sprung(caught[0], pair)
                return
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    def _sprung(self, trap: _Trap, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.trapped += 1
        for writer in pair:
            _reset(writer)
        trap.then()


def _reset(writer: asyncio.StreamWriter) -> None:
    transport = writer.transport
    if not transport.is_closing():
        transport.abort()


class Proxy:
    """The thread, and its links."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._links: list[Link] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def link(self, host: str, port: int, at: int = 0) -> Link:
        """A new listener in front of ``host:port``, on port ``at``; 0 = any."""
        link = Link(self._loop, host, port)
        link.port = at
        self._call(link.listen())
        self._links.append(link)
        return link

    def close(self) -> None:
        """End every connection and the thread."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _end(self) -> None:
        for link in self._links:
            link.end()
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
