"""What Grafana makes of a dashboard's query, step by step, without Grafana.

The browser replaces variables (variables.py, formats.py) and derives the interval (timerange.py); the data source's
back end replaces macros (macros.py). ``expand`` is both; ``load`` and ``queries`` find the texts in a dashboard's
JSON (dashboard.py); ``run`` asks the store (runner.py). The preview page, the alert evaluator, the tests and the
panel benchmark all go through here, so that what is tested is what Grafana would send.

dashboard = load(Path("infra/grafana/dashboards/operator/gpufleet-fleet.json"))
time_range = parse_range("now-6h", "now", now_ms)
for query in queries(dashboard):
    frame = run(client, expand(query.sql, time_range, dashboard.defaults(), interval_of(query, time_range)))
"""

from __future__ import annotations

from infra.grafana.expand.choose import choose
from infra.grafana.expand.dashboard import (
    Annotation,
    Dashboard,
    DashboardError,
    Link,
    Panel,
    Query,
    Target,
    Variable,
    dashboards,
    load,
    queries,
    read,
)
from infra.grafana.expand.macros import Context, MacroError, expand_macros
from infra.grafana.expand.runner import Frame, run
from infra.grafana.expand.timerange import (
    MAX_DATA_POINTS,
    TimeRange,
    TimeRangeError,
    interval_ms,
    interval_text,
    parse_range,
    parse_time,
)
from infra.grafana.expand.variables import ALL, Value, Variables, interpolate, scope, selected

__all__ = [
    "ALL",
    "MAX_DATA_POINTS",
    "Annotation",
    "Dashboard",
    "DashboardError",
    "Frame",
    "Link",
    "MacroError",
    "Panel",
    "Query",
    "Target",
    "TimeRange",
    "TimeRangeError",
    "Value",
    "Variable",
    "Variables",
    "choose",
    "dashboards",
    "expand",
    "interpolate",
    "interval_ms",
    "interval_of",
    "interval_text",
    "load",
    "parse_range",
    "parse_time",
    "queries",
    "read",
    "run",
    "scope",
    "selected",
]


def expand(sql: str, time_range: TimeRange, variables: Variables, interval_ms: int = 1000) -> str:
    """The SQL that reaches the store. ``variables`` maps names to a text, a list of texts, or a Value.

    MacroError for a macro that the back end refuses. A variable or macro that nobody knows stays as it stands, and
    the store refuses it.
    """
    return expand_macros(interpolate(sql, scope(variables, time_range, interval_ms)), Context(time_range, interval_ms))


def interval_of(query: Query, time_range: TimeRange, max_data_points: int = MAX_DATA_POINTS) -> int:
    """``$__interval_ms`` for a dashboard's query: by its panel's own points and minimum, if it has one."""
    if query.panel is None:
        return interval_ms(time_range, max_data_points)
    return interval_ms(time_range, query.panel.max_data_points or max_data_points, query.panel.min_interval_ms)
