"""A consumer in a process of its own, so that its memory can be measured: ``python -m tests.overload.consumer``.

What it is told comes as JSON on standard input, since a password has no place among the arguments: ``bootstrap``,
``store`` (host, port, user, password), ``ready`` (a file that will name the port of /metrics and /health) and
``settings`` (fields of ConsumeSettings over the quick ones of the consumer's tests).
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import clickhouse_connect
import psutil

from consumers.consumer import Consumer
from consumers.health import HealthServer
from consumers.store import EventStore
from tests.consumers.running import settings

PATIENCE_S = 2.0
"""How long the consumer waits for an answer of the store."""


def main(told: dict[str, Any]) -> None:
    where = told["store"]

    def connect() -> Any:
        return clickhouse_connect.get_client(
            host=where["host"],
            port=where["port"],
            username=where["user"],
            password=where["password"],
            autogenerate_session_id=False,
            send_receive_timeout=PATIENCE_S,
            connect_timeout=2,
        )

    consumer = Consumer(settings(told["bootstrap"], **told["settings"]), EventStore(connect, "gpufleet"))
    signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
    server = HealthServer("127.0.0.1", 0, consumer.metrics, consumer.health)
    partial = Path(told["ready"] + ".partial")
    partial.write_text(str(server.port))
    partial.rename(told["ready"])
    consumer.run()
    server.close()


class ConsumerProcess:
    """The process, for the length of a ``with``; watches its resident memory whenever it is asked anything."""

    def __init__(self, folder: Path, bootstrap: str, store: dict[str, Any], **changed: Any) -> None:
        ready = folder / "ready"
        told = {"bootstrap": bootstrap, "store": store, "ready": str(ready), "settings": changed}
        self._log = (folder / "consumer.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.overload.consumer"],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told).encode())
        self.process.stdin.close()
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert self.process.poll() is None, (folder / "consumer.log").read_text()
            assert time.monotonic() < deadline, "the consumer did not start"
            time.sleep(0.02)
        self._port = int(ready.read_text())
        self.most_held = 0.0
        self.most_resident = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the consumer does not stop") from None
        finally:
            self._log.close()
        assert error is not None or code == 0, f"the consumer ended with {code}"

    def problems(self) -> list[str]:
        """What /health says is wrong."""
        found: list[str] = json.loads(self._get("/health"))["problems"]
        return found

    def look(self) -> dict[str, float]:
        """Every metric by name and labels; the highest held bytes and resident size are kept."""
        lines = [line.rsplit(" ", 1) for line in self._get("/metrics").splitlines() if not line.startswith("#")]
        found = {name: float(value) for name, value in lines}
        self.most_held = max(self.most_held, found["gpufleet_consumer_held_bytes"])
        self.most_resident = max(self.most_resident, self.resident())
        return found

    def resident(self) -> int:
        """Bytes of memory that the process has now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def _get(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main(json.load(sys.stdin))
