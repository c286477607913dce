"""How far the store's merges are behind, and how small the data gets once they are done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from schemas import catalogue

DEBT = """
SELECT count() AS parts, countIf(level = 0) AS unmerged_parts, sumIf(rows, level = 0) AS unmerged_rows
FROM system.parts
WHERE active AND database = {database:String} AND table = {table:String}
"""

# Grain: one row a column of the table's active parts.
COLUMNS = """
SELECT column, sum(column_data_compressed_bytes) AS bytes
FROM system.parts_columns
WHERE active AND database = {database:String} AND table = {table:String}
GROUP BY column
"""

MERGING = "SELECT name FROM system.tables WHERE database = {database:String} AND engine LIKE '%MergeTree'"


@dataclass(frozen=True, slots=True)
class Debt:
    """Merge debt of a table at one moment."""

    at_s: float
    """Seconds since the drain began."""
    parts: int
    unmerged_parts: int
    """Parts as they were inserted."""
    unmerged_rows: int


def debt(client: Client, table: str, at_s: float) -> Debt:
    """The table's merge debt now."""
    row = client.query(DEBT, parameters={"database": client.database, "table": table}).result_rows[0]
    return Debt(round(at_s, 1), *(int(value) for value in row))


def metric_columns() -> list[str]:
    """The fast lane's metrics: every array of readings, GPU and host alike."""
    schema = catalogue.latest("node-telemetry")
    return [f["name"] for shape in ("gpu_tick", "tick") for f in catalogue.fields_of_shape(schema, shape)]


def bytes_per_value(client: Client, table: str = "node_telemetry") -> tuple[float, float]:
    """Compressed bytes per metric value, of the metric columns alone and with the whole row counted in.

    Call it after OPTIMIZE ... FINAL. A value is one element of a metric array.
    """
    metrics = metric_columns()
    lengths = " + ".join(f"length({name})" for name in metrics)
    values = int(client.query(f"SELECT sum({lengths}) FROM {table}").result_rows[0][0])
    rows = client.query(COLUMNS, parameters={"database": client.database, "table": table}).result_rows
    sizes = {str(column): int(size) for column, size in rows}
    if not values:
        return 0.0, 0.0
    return sum(sizes.get(name, 0) for name in metrics) / values, sum(sizes.values()) / values


@contextmanager
def merges_stopped(client: Client) -> Iterator[None]:
    """No background merges of any table, so that inserts are measured alone, as the baseline's are."""
    tables = [name for (name,) in client.query(MERGING, parameters={"database": client.database}).result_rows]
    for table in tables:
        client.command(f"SYSTEM STOP MERGES {client.database}.{table}")
    try:
        yield
    finally:
        for table in tables:
            client.command(f"SYSTEM START MERGES {client.database}.{table}")
