"""A schema registry in a few lines: the part of the Confluent API that we use, over HTTP on a free port."""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass
class FakeRegistry:
    """Holds schemas in memory; ``credentials`` (user:password) are demanded when given."""

    credentials: str = ""
    first_id: int = 7001
    by_id: dict[int, str] = field(default_factory=dict)
    subjects: dict[str, list[int]] = field(default_factory=dict)
    compatibility: dict[str, str] = field(default_factory=dict)
    broken: bool = False
    """Answer every request with a 500 that is not JSON."""

    def __enter__(self) -> Self:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer("GET")

            def do_POST(self) -> None:
                self._answer("POST")

            def do_PUT(self) -> None:
                self._answer("PUT")

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _answer(self, method: str) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                expected = "Basic " + base64.b64encode(registry.credentials.encode()).decode()
                if registry.broken:
                    code, answer = 500, b"<html>oops</html>"
                elif registry.credentials and self.headers.get("Authorization") != expected:
                    code, answer = (
                        401,
                        json.dumps({"error_code": 401, "message": "User cannot be authenticated"}).encode(),
                    )
                else:
                    code, document = registry.answer(method, self.path.partition("?")[0], body)
                    answer = json.dumps(document).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, subject: str, schema: str) -> int:
        """Register as the real one does: the same text gets the same id."""
        identifier = next((i for i, text in self.by_id.items() if text == schema), self.first_id + len(self.by_id))
        self.by_id[identifier] = schema
        known = self.subjects.setdefault(subject, [])
        if identifier not in known:
            known.append(identifier)
        return identifier

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        parts = path.strip("/").split("/")
        if method == "PUT" and parts[0] == "config":
            self.compatibility[parts[1]] = body["compatibility"]
            return 200, {"compatibility": body["compatibility"]}
        if method == "GET" and parts[:2] == ["schemas", "ids"]:
            text = self.by_id.get(int(parts[2]))
            return (200, {"schema": text}) if text else (404, {"error_code": 40403, "message": "Schema not found"})
        if method == "POST" and parts[0] == "subjects" and parts[2:] == ["versions"]:
            return 200, {"id": self.add(parts[1], body["schema"])}
        if method == "POST" and parts[0] == "subjects":
            for version, identifier in enumerate(self.subjects.get(parts[1], ()), start=1):
                if self.by_id[identifier] == body["schema"]:
                    found = {"subject": parts[1], "id": identifier, "version": version, "schema": body["schema"]}
                    return 200, found
            return 404, {"error_code": 40403, "message": "Schema not found"}
        return 405, {"error_code": 405, "message": f"not in this fake: {method} {path}"}
