"""What projector, attribution and audit need of ClickHouse: statements and rows. clickhouse-connect's client has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

WRITE_SETTINGS: Mapping[str, Any] = {
    "async_insert": 0,
    "insert_deduplicate": 0,  # a window written twice alike must be written twice
    "do_not_merge_across_partitions_select_final": 1,  # doubles share their event time, so their partition
    "optimize_move_to_prewhere_if_final": 0,
}
READ_SETTINGS: Mapping[str, Any] = {"do_not_merge_across_partitions_select_final": 1}


class Rows(Protocol):
    """The answer to a query."""

    @property
    def result_rows(self) -> Sequence[Sequence[Any]]: ...


class Store(Protocol):
    """A connection to ClickHouse."""

    def query(self, query: str | None = None, *, settings: dict[str, Any] | None = None) -> Rows: ...

    def command(self, cmd: str, *, settings: dict[str, Any] | None = None) -> Any: ...

    def close(self) -> None: ...


StoreFactory = Callable[[], Store]
"""Opens a connection; raises OSError, or any error of the client, while the store is away."""


def rows(store: Store, sql: str) -> Sequence[Sequence[Any]]:
    """The rows of a query."""
    return store.query(sql, settings=dict(READ_SETTINGS)).result_rows


def scalar(store: Store, sql: str) -> Any:
    """The one value of a query."""
    return rows(store, sql)[0][0]
