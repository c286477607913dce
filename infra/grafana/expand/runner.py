"""Running an expanded query as the data source does: over HTTP, read as typed columns, with what it cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client


@dataclass(frozen=True, slots=True)
class Frame:
    """An answer: columns by name and ClickHouse type, rows, and what the store did for them."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    """ClickHouse types, Nullable and LowCardinality taken off."""
    rows: Sequence[Sequence[Any]]
    read_rows: int | None
    """Rows the store read; None where it does not tell (a tenant is not told how many rows of others it passed)."""
    read_bytes: int | None
    seconds: float
    """Wall time from asking to the last row."""

    @property
    def time_column(self) -> int | None:
        """The first column of times, by which Grafana makes a series."""
        return next((n for n, each in enumerate(self.types) if each.startswith("DateTime")), None)

    @property
    def number_columns(self) -> list[int]:
        return [n for n, each in enumerate(self.types) if each.startswith(("Int", "UInt", "Float", "Decimal"))]

    def column(self, name: str) -> list[Any]:
        """The values of one column; ValueError."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]

    def dicts(self) -> list[dict[str, Any]]:
        """Rows by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def run(client: Client, sql: str) -> Frame:
    """Ask; whatever clickhouse-connect raises comes out as it is."""
    began = time.perf_counter()
    answer = client.query(sql)
    rows = answer.result_rows
    seconds = time.perf_counter() - began
    summary = answer.summary or {}
    return Frame(
        tuple(str(name) for name in answer.column_names),
        tuple(base_type(each.name) for each in answer.column_types),
        rows,
        int(summary["read_rows"]) if "read_rows" in summary else None,
        int(summary["read_bytes"]) if "read_bytes" in summary else None,
        seconds,
    )


def base_type(name: str) -> str:
    """A type without Nullable and LowCardinality around it."""
    for outer in ("LowCardinality(", "Nullable("):
        if name.startswith(outer):
            name = name.removeprefix(outer)[:-1]
    return name
