"""What the tests of the whole share: the real command in its own process, the store asked directly, the log read."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import fastavro
import psutil
from clickhouse_connect.driver.client import Client
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from infra.config import load
from infra.connections import connect_store
from schemas.catalogue import by_id
from schemas.framing import PREFIX_BYTES, schema_id
from schemas.identity import Identity, of_message

T = TypeVar("T")
COMMAND = [sys.executable, "-m", "infra.cli.main"]
KEYS = {
    "produced",
    "stored",
    "gpu_samples",
    "lost",
    "duplicated",
    "dead_letters",
    "freshness_p50_s",
    "freshness_p99_s",
    "wall_s",
}
"""What `gpufleet up --json` answers with when its audit found nothing."""


def environment() -> dict[str, str]:
    """This process's, without settings of the person who runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GPUFLEET_")}


def gpufleet(folder: Path, *arguments: str | Path, timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder and wait for its end. Whatever happens, it must not show a traceback."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return done


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The only line of stderr."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    return lines[0]


class Up:
    """`gpufleet up` in a process of its own, its stdout and stderr in files."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.data = data
        self.folder = data.parent
        self._out = data.with_name(f"{data.name}.{time.monotonic_ns()}.out")
        self._err = self._out.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--data", str(data), *arguments],
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def __enter__(self) -> Up:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def ready(self) -> Up:
        """Wait until it lives: events are stored."""
        until(lambda: self._running() and "SQL endpoint" in self.stderr, 240)
        with self.client() as client:
            until(lambda: self._running() and client.command("SELECT count() FROM node_telemetry"), 120)
        return self

    def _running(self) -> bool:
        assert self.process.poll() is None, f"`up` ended with {self.process.returncode}:\n{self.stderr}"
        return True

    def client(self) -> Client:
        """A connection to its store, as the operator."""
        return connect(self.data)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self, timeout: float = 240.0) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(timeout)
        assert "Traceback" not in self.stderr, self.stderr
        return code

    def result(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        lines = self.stdout.splitlines()
        assert len(lines) == 1, self.stdout
        answer: dict[str, Any] = json.loads(lines[0])
        return answer

    def kill(self) -> list[psutil.Process]:
        """SIGKILL to this one process; the children it had."""
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        return children


def connect(data: Path) -> Client:
    """The store of a running `up` on this folder."""
    settings = load(data=data, environ={}, cwd=data)
    return connect_store(settings, database=settings.store.database, admin=True)


def bootstrap(data: Path) -> str:
    """The broker of a running `up` on this folder."""
    return load(data=data, environ={}, cwd=data).kafka.bootstrap


def query(client: Client, sql: str, **values: Any) -> list[dict[str, Any]]:
    """Rows as dicts."""
    result = client.query(sql, parameters=values or None)
    names = [str(name) for name in result.column_names]
    return [dict(zip(names, row, strict=True)) for row in result.result_rows]


def until(condition: Callable[[], T], timeout_s: float = 120.0, every_s: float = 0.1) -> T:
    """Wait for a condition to hold; its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(every_s)
    return value


def read_log(servers: str, topics: list[str]) -> Iterator[tuple[str, Identity, bytes]]:
    """(topic, identity, value) of every message in the topics' logs, from their beginnings to their ends."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "tests-e2e",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    try:
        known = consumer.list_topics(timeout=10).topics
        places = [TopicPartition(topic, p, OFFSET_BEGINNING) for topic in topics for p in known[topic].partitions]
        consumer.assign(places)
        open_ends = len(places)
        while open_ends:
            message = consumer.poll(10)
            assert message is not None, "the log does not end"
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                open_ends -= 1
                continue
            topic, value = message.topic(), message.value()
            assert topic is not None
            assert value is not None
            headers = message.headers()
            assert isinstance(headers, list)
            yield topic, of_message(headers), value
    finally:
        consumer.close()


def decoded(value: bytes) -> dict[str, Any]:
    """A message's event, by fastavro and the schema it was written with."""
    schema = by_id()[schema_id(value)].parsed
    event = fastavro.schemaless_reader(io.BytesIO(value[PREFIX_BYTES:]), schema, None)
    assert isinstance(event, dict)
    return {name: comparable(part) for name, part in event.items()}


def comparable(value: Any) -> Any:
    """The same in the log and in the store: times in microseconds, no reading (NaN) as text."""
    if isinstance(value, datetime):
        since = value.replace(tzinfo=value.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    if isinstance(value, float) and math.isnan(value):
        return "no reading"
    if isinstance(value, list | tuple):
        return [comparable(part) for part in value]
    if isinstance(value, dict):
        return {name: comparable(part) for name, part in value.items()}
    return value
