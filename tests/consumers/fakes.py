"""Stand-ins for Kafka's messages, the clock and the store, for tests that need no server."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import fastavro

from consumers.batch import Bad
from consumers.errors import StoreUnavailableError
from consumers.store import Boot, Wanted
from schemas.catalogue import EventKind, Schema
from schemas.container import Container
from tests.consumers.fleet import Sent

Identity = tuple[str, int, int]


class FakeClock:
    """A clock that stands still until it is turned."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    def now_us(self) -> int:
        return int(self.now * 1e6)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeMessage:
    """A message as confluent-kafka hands it out."""

    def __init__(self, sent: Sent, offset: int, partition: int = 0, append_us: int | None = None) -> None:
        self._sent, self._offset, self._partition = sent, offset, partition
        self._append_us = sent.record["ts"] if append_us is None else append_us

    def topic(self) -> str:
        return self._sent.topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return self._sent.key

    def value(self) -> bytes:
        return self._sent.value

    def headers(self) -> list[tuple[str, bytes]]:
        return list(self._sent.headers)

    def timestamp(self) -> tuple[int, int]:
        return 1, self._append_us // 1000


class FakeStore:
    """Event tables in memory: what was inserted, in order. ``fail`` makes the next calls of insert fail.

    A failure is (stored all the same?, error).
    """

    def __init__(self) -> None:
        self.rows: list[Identity] = []
        self.appended: list[str] = []
        self.fail: list[tuple[bool, Exception]] = []
        self.lookups = 0
        self.starts = 0

    def insert(self, schema: Schema, body: Container) -> None:
        stored, error = self.fail.pop(0) if self.fail else (True, None)
        if stored:
            records: list[Any] = list(fastavro.reader(io.BytesIO(bytes(body))))
            self.rows += [(r["producer_id"], r["run_id"], r["seq"]) for r in records]
        if error is not None:
            raise error

    def stored(self, kind: EventKind, wanted: Sequence[Wanted]) -> set[Identity]:
        self.lookups += 1
        return set(self.rows) & {(w.producer_id, w.run_id, w.seq) for w in wanted}

    def max_seq(
        self, kind: EventKind, keys: Sequence[tuple[str, int]], since_us: int, *, own_key: bool
    ) -> dict[tuple[str, int], int]:
        return {key: max((seq for p, r, seq in self.rows if (p, r) == key), default=-1) for key in keys}

    def boot(self) -> Boot:
        return Boot("store", f"start-{self.starts}", 0, 0)

    def append(self, table: str, columns: Sequence[str], lines: str) -> None:
        stored, error = self.fail.pop(0) if self.fail else (True, None)
        if stored:
            self.appended += lines.splitlines()
        if error is not None:
            raise error

    def ledger_count(self, consumer: str, times: Sequence[int]) -> int:
        return len(self.appended)


class FakeLetters:
    """Dead letters in memory."""

    def __init__(self) -> None:
        self.written: list[Bad] = []

    def write(self, bad: Sequence[tuple[Bad, str]]) -> None:
        self.written += [one for one, _ in bad]


def away() -> StoreUnavailableError:
    return StoreUnavailableError("connection reset")
