"""The tables a rebuild is about: the live one, the one that is filled beside it, the one that is put in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from consumers.projector import windows
from consumers.projector.store import Store, rows
from consumers.projector.windows import Table
from schemas.catalogue import KINDS, EventKind

BESIDE, SWAP = ENDINGS = "__rebuild", "__swap"
"""Endings of the tables beside a live one. Nobody but the store's administrator reads them (infra/clickhouse)."""

EVENTS: dict[str, EventKind] = {kind.table: kind for kind in KINDS.values()}
PROJECTIONS: dict[str, Table] = {
    table.name: table
    for table in (
        windows.RACK_10S,
        windows.FLEET_10S,
        windows.RACK_1M,
        windows.GPU_1M,
        windows.GPU_1H,
        windows.FLEET_1H,
        windows.USAGE_1M,
        windows.USAGE_1H,
        windows.USAGE_1D,
        windows.HEALTH_1M,
        windows.HEALTH_1H,
        windows.SICK_1M,
        windows.JOB_1M,
        windows.RACK_1H,
        windows.FACILITY_1M,
        windows.FACILITY_1H,
    )
}
TABLES: tuple[str, ...] = (*EVENTS, *PROJECTIONS)
"""Every table that can be rebuilt. node_place is the place of now and made anew by the projector itself; the key of
sick_1h holds since when something was known, which a second computation need not know alike."""

HOUR_S = 3600
_PARTITIONED = {"toYYYYMMDD(ts)": "%Y%m%d", "toYYYYMM(ts)": "%Y%m"}
Ddl = Callable[[str], str]
"""A DDL statement as it must run on this deployment (ON CLUSTER, where there is one)."""


class RebuildError(RuntimeError):
    """The rebuild cannot go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the live table has it."""

    name: str
    type: str
    materialized: bool

    @property
    def number(self) -> bool:
        """Whether values are compared as numbers."""
        inner = self.type.removeprefix("Nullable(").rstrip(")")
        return inner.startswith(("Int", "UInt", "Float"))

    @property
    def floating(self) -> bool:
        return self.type.removeprefix("Nullable(").startswith("Float")


@dataclass(frozen=True, slots=True)
class Layout:
    """What of a table's definition matters here."""

    name: str
    columns: tuple[Column, ...]
    partition_format: str
    """strftime format of a row's partition id."""

    @property
    def stored(self) -> tuple[str, ...]:
        """Columns that rows are copied by; the others are computed from them."""
        return tuple(c.name for c in self.columns if not c.materialized)

    def partition(self, hour: int) -> str:
        """Id of the partition that holds an hour."""
        return f"{datetime.fromtimestamp(hour, UTC):{self.partition_format}}"

    def span(self, partition: str) -> tuple[int, int]:
        """Seconds since 1970 at which a partition begins and ends."""
        start = datetime.strptime(partition, self.partition_format).replace(tzinfo=UTC)
        ahead = start + timedelta(days=1 if self.partition_format == "%Y%m%d" else 32)
        end = ahead if self.partition_format == "%Y%m%d" else ahead.replace(day=1)
        return int(start.timestamp()), int(end.timestamp())


def layout(store: Store, table: str) -> Layout:
    """RebuildError when the table is not there, or is parted in a way that cannot be swapped."""
    found = rows(
        store, f"SELECT partition_key FROM system.tables WHERE database = 'gpufleet' AND name = {quoted(table)}"
    )
    if not found:
        raise RebuildError(f"gpufleet.{table} is not there; run `gpufleet migrate`")
    parted = _PARTITIONED.get(str(found[0][0]))
    if parted is None:
        raise RebuildError(f"gpufleet.{table} is parted by {found[0][0]}, expected {' or '.join(_PARTITIONED)}")
    columns = rows(
        store,
        "SELECT name, type, default_kind FROM system.columns"
        f" WHERE database = 'gpufleet' AND table = {quoted(table)} ORDER BY position",
    )
    return Layout(table, tuple(Column(str(n), str(t), str(k) == "MATERIALIZED") for n, t, k in columns), parted)


def make(store: Store, table: str, ending: str, ddl: Ddl) -> str:
    """An empty table of the live one's shape beside it, in place of any that stood there; its uuid."""
    drop(store, table, ending, ddl)
    comment = quoted(f"Beside gpufleet.{table}: made by gpufleet rebuild")
    store.command(ddl(f"CREATE TABLE gpufleet.{table}{ending} AS gpufleet.{table} COMMENT {comment}"))
    return uuid(store, f"{table}{ending}")


def drop(store: Store, table: str, ending: str, ddl: Ddl) -> None:
    """Drop a table beside the live one, if it is there. The live one cannot be named here."""
    assert ending in ENDINGS
    store.command(ddl(f"DROP TABLE IF EXISTS gpufleet.{table}{ending}") + " SYNC")


def uuid(store: Store, table: str) -> str:
    """Tells a table from another of the same name; empty when there is none."""
    found = rows(
        store, f"SELECT toString(uuid) FROM system.tables WHERE database = 'gpufleet' AND name = {quoted(table)}"
    )
    return str(found[0][0]) if found else ""


def now_us(store: Store) -> int:
    """The store's clock, microseconds since 1970."""
    return int(rows(store, "SELECT toUnixTimestamp64Micro(now64(6))")[0][0])


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def numbers(values: Sequence[int]) -> str:
    """``(1, 2)`` for IN; a list that holds nothing is one that matches nothing."""
    return f"({', '.join(map(str, values)) or '-1'})"


def hour_of() -> str:
    """SQL of the hour a row belongs to, seconds since 1970."""
    return "toUnixTimestamp(toStartOfHour(toDateTime(ts, 'UTC')))"
