"""What a board's variables stand for when it opens: their options are asked of the store, in the board's order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from infra.grafana.expand.dashboard import Dashboard, Variable
from infra.grafana.expand.macros import Context, expand_macros
from infra.grafana.expand.runner import Frame, run
from infra.grafana.expand.timerange import TimeRange, interval_ms
from infra.grafana.expand.variables import ALL, Value, interpolate, scope, selected

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client


def choose(
    client: Client, dashboard: Dashboard, time_range: TimeRange, wanted: Mapping[str, str] | None = None
) -> dict[str, Value]:
    """A Value for every variable: ``wanted``'s (as an address has them, ``$__all`` included), else the board's current
    one where that is among the options, else the first option."""
    chosen: dict[str, Value] = {}
    for variable in dashboard.variables:
        options = variable_options(client, variable, time_range, chosen)
        current = variable.current.value
        first = current if current in options or not options else options[0]
        value = (wanted or {}).get(variable.name, first)
        chosen[variable.name] = selected(value, options, variable.all_value) if value == ALL else Value(value)
    return chosen


def variable_options(
    client: Client, variable: Variable, time_range: TimeRange, chosen: Mapping[str, Value]
) -> list[str]:
    """Values to choose from; ``chosen`` are those of the variables before it. What the store raises comes out."""
    if not variable.sql:
        return list(variable.options)
    interval = interval_ms(time_range)
    sql = interpolate(variable.sql, scope(chosen, time_range, interval))
    return options_of(run(client, expand_macros(sql, Context(time_range, interval))))


def options_of(frame: Frame) -> list[str]:
    """The first column is the value; the second, where there is one, only what the picker shows."""
    return [str(row[0]) for row in frame.rows]
