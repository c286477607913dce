"""What the chaos suite found, each as a test of its own that needs no chance. docs/reliability.md tells the stories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from consumers.errors import StoreUnavailableError
from consumers.ledger import Entry, Ledger
from consumers.projector.ledger import LedgerReader

NOW = 1_795_382_000.0


class Answer:
    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self.result_rows = rows


class EmptyLedger:
    """A store whose ledger holds nothing."""

    def __init__(self) -> None:
        self.asked = 0

    def query(self, query: str | None = None, *, settings: dict[str, Any] | None = None) -> Answer:
        self.asked += 1
        return Answer([(0, 0)] if "count()" in str(query) else [])

    def command(self, cmd: str, *, settings: dict[str, Any] | None = None) -> Any:
        raise AssertionError(cmd)

    def close(self) -> None: ...


def test_a_projector_that_starts_before_anything_is_stored_does_not_read_on_from_1970() -> None:
    store = EmptyLedger()
    reader = LedgerReader(0.0)
    assert list(reader.read(store, NOW)) == []
    assert store.asked < 10


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def monotonic(self) -> float:
        return self.now

    def now_us(self) -> int:
        return int(self.now * 1e6)

    def sleep(self, seconds: float) -> None: ...


class LedgerStore:
    """Takes rows, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.rows: list[dict[str, Any]] = []

    def append(self, table: str, columns: Sequence[str], lines: str) -> None:
        if self.away:
            raise StoreUnavailableError("away")
        self.rows += [json.loads(line) for line in lines.splitlines()]

    def ledger_count(self, consumer: str, times: Sequence[int]) -> int:
        return 0


def test_a_ledger_row_that_waited_for_the_store_bears_the_time_at_which_it_was_written() -> None:
    entry = Entry("node-telemetry", "id", 0, 5, 9, 5, 5, 0, 0, 1, 1.0, "steady", 0, 0, 0, (1,), ())
    store, clock = LedgerStore(), Clock()
    ledger = Ledger(store, "c", clock)
    store.away = True
    with pytest.raises(StoreUnavailableError):
        ledger.write([entry])
    store.away, clock.now = False, NOW + 600
    ledger.write([])
    assert [row["first_offset"] for row in store.rows] == [5]
    assert store.rows[0]["at"] == "2026-11-22 21:23:20.000000"
