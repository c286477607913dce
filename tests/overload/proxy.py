"""A proxy between consumer and store that is slow, keeps answers to itself, or hands requests on too late."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "accept-encoding"}


@dataclass(frozen=True)
class Asked:
    """A request on its way to the store."""

    query: str
    """The SQL in the URL; for an insert all of it but the data."""
    body: bytes

    @property
    def is_insert(self) -> bool:
        """Whether rows go into an event table."""
        return "INSERT INTO" in self.query and "Avro" in self.query


@dataclass(frozen=True)
class Plan:
    """What becomes of one request."""

    delay_s: float = 0.0
    """Before it is handed on."""
    swallow: bool = False
    """The store does it, and its answer goes nowhere: the client waits until its patience is over."""
    orphan: bool = False
    """The client is cut off at once, and the store gets the request ``delay_s`` later."""


class StoreProxy:
    """Listens on ``port``; ``plan`` may be exchanged at any time. Requests are counted in ``seen`` by their plan."""

    def __init__(self, host: str, port: int) -> None:
        self.plan: Callable[[Asked], Plan] = lambda _asked: Plan()
        self.seen: dict[Plan, int] = {}
        self._lock = threading.Lock()
        self._late: list[threading.Thread] = []
        self._closing = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def _serve(self) -> None:
                asked = Asked("".join(parse_qs(urlsplit(self.path).query).get("query", [])), self._body())
                plan = proxy._planned(asked)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
                told = (host, port, self.command, self.path, asked.body, headers)
                if plan.orphan:
                    proxy._send_late(plan.delay_s, *told)
                    self.close_connection = True
                    return
                proxy._closing.wait(plan.delay_s)
                try:
                    status, answered, data = _forward(*told)
                except OSError:
                    self.close_connection = True  # as the store does when it dies
                    return
                if plan.swallow:
                    proxy._closing.wait(20)
                    self.close_connection = True
                    return
                self.send_response_only(status)
                for name, value in answered.items():
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _serve  # noqa: N815 - as the base class calls them

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # clients that lost their patience

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self.join_late()

    def join_late(self) -> None:
        """Until every orphaned request has reached the store and was answered."""
        for thread in self._late:
            thread.join(60)

    def _planned(self, asked: Asked) -> Plan:
        with self._lock:
            plan = self.plan(asked)
            self.seen[plan] = self.seen.get(plan, 0) + 1
        return plan

    def _send_late(
        self, delay_s: float, host: str, port: int, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> None:
        def late() -> None:
            time.sleep(delay_s)
            _forward(host, port, method, path, body, headers)

        thread = threading.Thread(target=late, daemon=True)
        self._late.append(thread)
        thread.start()


def _forward(
    host: str, port: int, method: str, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the store's answer. OSError when it is not there."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()
