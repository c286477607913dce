"""Every query of every committed board, ready to be asked: nothing is listed by hand, the JSON is walked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from infra.grafana.expand import (
    Frame,
    Query,
    TimeRange,
    Value,
    dashboards,
    expand,
    interval_of,
    queries,
    run,
)

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

FOLDER: Final = Path(__file__).parents[2] / "infra" / "grafana" / "dashboards"
BOARDS: Final = dashboards(FOLDER)
OPERATOR: Final = [board for board in BOARDS if board.audience == "operator"]
CUSTOMER: Final = [board for board in BOARDS if board.audience == "customer"]
QUERIES: Final = [query for board in BOARDS for query in queries(board)]
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000

Chosen = dict[str, Value]


def sql_of(query: Query, time_range: TimeRange, variables: Mapping[str, Value]) -> str:
    """The SQL that the store gets."""
    return expand(query.sql, time_range, variables, interval_of(query, time_range))


def ask(client: Client, query: Query, time_range: TimeRange, variables: Mapping[str, Value]) -> Frame:
    """Expand and run; an error of the store names the query."""
    sql = sql_of(query, time_range, variables)
    try:
        return run(client, sql)
    except Exception as error:
        error.add_note(f"{query}:\n{sql}")
        raise


def numbers(frame: Frame) -> Iterator[float]:
    """Every number in an answer that is one: no NULL, no NaN."""
    for row in frame.rows:
        for at in frame.number_columns:
            if row[at] is not None and math.isfinite(float(row[at])):
                yield float(row[at])


def shortcoming(query: Query, frame: Frame) -> str:
    """What an answer lacks that its panel's kind needs; empty when it has all."""
    kind = query.panel.kind if query.panel else query.role
    if not frame.rows:
        return "no rows"
    if query.format == "time_series" and frame.time_column is None:
        return f"no column of times for a time series, found {frame.types}"
    needs_time = {"timeseries", "heatmap", "state-timeline", "annotation"}
    if kind in needs_time and frame.time_column is None:
        return f"no column of times, found {dict(zip(frame.columns, frame.types, strict=True))}"
    if kind in {"timeseries", "heatmap", "stat", "bargauge"} and not any(True for _ in numbers(frame)):
        return "no number"
    if kind == "state-timeline" and len(frame.columns) < 2:
        return "no state"
    if kind == "annotation" and not {"time", "text"} <= set(frame.columns):
        return f"an annotation needs time and text, found {frame.columns}"
    return ""


def unordered(query: Query, frame: Frame) -> bool:
    """A time series whose rows do not come in order of time: the data source refuses to make series of those."""
    at = frame.time_column
    if query.format != "time_series" or at is None:
        return False
    times: list[Any] = [row[at] for row in frame.rows]
    return any(later < earlier for earlier, later in pairwise(times))
