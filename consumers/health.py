"""/metrics and /health on a loopback port. /health says no, with the reasons, when the consumer does not do its job."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from consumers.clock import Clock
from consumers.metrics import Metrics


@dataclass(slots=True)
class Health:
    """What the main loop knows of its state; read by the server's threads."""

    clock: Clock
    poll_stale_limit_s: float
    store_down_limit_s: float
    kafka_down_limit_s: float
    last_poll: float | None = None
    store_down_since: float | None = None
    store_error: str = ""
    kafka_error: str = ""
    """Last error of Kafka that has not been followed by a message or an assignment."""
    kafka_error_since: float = 0.0
    insert_since: float | None = None
    """When the oldest insert under way began."""
    full_since: float | None = None
    """Since when the buffer has been full, and not half empty again: the store takes less than Kafka brings."""
    held: Mapping[str, str] = field(default_factory=dict)
    """Topics held because their table is behind, with the reason."""
    fatal: str = ""

    def buffer(self, share: float) -> None:
        """How full the buffer is; 1 = full."""
        if share >= 1.0:
            if self.full_since is None:
                self.full_since = self.clock.monotonic()
        elif share < 0.5:
            self.full_since = None

    def problems(self) -> list[str]:
        """Why the consumer is not healthy; empty = it is."""
        now = self.clock.monotonic()
        found = [f"stopped: {self.fatal}"] if self.fatal else []
        if self.last_poll is None:
            found.append("not polling Kafka yet")
        elif now - self.last_poll > self.poll_stale_limit_s:
            found.append(f"Kafka not polled for {now - self.last_poll:.0f} s")
        if self.store_down_since is not None and now - self.store_down_since > self.store_down_limit_s:
            found.append(f"store away for {now - self.store_down_since:.0f} s: {self.store_error}")
        if self.kafka_error and now - self.kafka_error_since > self.kafka_down_limit_s:
            found.append(f"Kafka has been failing for {now - self.kafka_error_since:.0f} s: {self.kafka_error}")
        if self.insert_since is not None and now - self.insert_since > self.store_down_limit_s:
            found.append(f"an insert has waited for the store's answer for {now - self.insert_since:.0f} s")
        if self.full_since is not None and now - self.full_since > self.store_down_limit_s:
            found.append(
                f"the buffer has been full for {now - self.full_since:.0f} s: the store takes less than Kafka brings"
            )
        found.extend(f"paused: {reason}" for reason in dict(self.held).values())
        return found


class HealthServer:
    """Serves GET /metrics and GET /health until closed. OSError when the port is taken."""

    def __init__(self, host: str, port: int, metrics: Metrics, health: Health) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry))
                elif self.path == "/health":
                    problems = health.problems()
                    body = {"ok": not problems, "problems": problems, "kafka_error": health.kafka_error}
                    self._answer(503 if problems else 200, "application/json", json.dumps(body).encode())
                else:
                    self._answer(404, "text/plain", b"expected /metrics or /health\n")

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass  # one line a scrape is noise

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
