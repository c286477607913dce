"""The macros of Grafana's ClickHouse data source, as its back end (grafana/clickhouse-datasource, pkg/macros) has them.

Two parsers stand behind the same macros: grafana-plugin-sdk-go's sqlutil up to plugin 4.18, grafana/macropro from
4.19 on. ``expand_macros`` does what the first does, ``expand_macros_4_19`` what the second does; a test holds that
every committed query comes out alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from infra.grafana.expand.comments import quoted_end, without_comments
from infra.grafana.expand.timerange import TimeRange, interval_text


class MacroError(ValueError):
    """A macro that the back end refuses: wrong number of arguments, or a bracket that does not close."""


@dataclass(frozen=True, slots=True)
class Context:
    """What macros know of their query."""

    time_range: TimeRange
    interval_ms: int

    @property
    def from_s(self) -> str:
        return f"toDateTime({self.time_range.from_ms // 1000})"

    @property
    def to_s(self) -> str:
        return f"toDateTime({self.time_range.to_ms // 1000})"

    @property
    def from_ms(self) -> str:
        return f"fromUnixTimestamp64Milli({self.time_range.from_ms})"

    @property
    def to_ms(self) -> str:
        return f"fromUnixTimestamp64Milli({self.time_range.to_ms})"

    @property
    def from_date(self) -> str:
        return f"toDate('{datetime.fromtimestamp(self.time_range.from_ms // 1000, UTC):%Y-%m-%d}')"

    @property
    def to_date(self) -> str:
        return f"toDate('{datetime.fromtimestamp(self.time_range.to_ms // 1000, UTC):%Y-%m-%d}')"

    @property
    def seconds(self) -> int:
        return max(self.interval_ms // 1000, 1)


Macro = Callable[[Context, list[str]], str]


def _between(column: str, low: str, high: str) -> str:
    return f"{column} >= {low} AND {column} <= {high}"


def _date_and_time(context: Context, args: list[str]) -> str:
    date, time = args
    return (
        f"({_between(date, context.from_date, context.to_date)}) AND ({_between(time, context.from_s, context.to_s)})"
    )


def _time_group(_context: Context, args: list[str]) -> str:
    """From plugin 4.19 on; before, the result was no ClickHouse SQL. Go's durations: no days."""
    text = args[1].strip().strip("'\"")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    seconds = round(sum(float(n) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit] for n, unit in parts))
    if "".join(n + unit for n, unit in parts) != text or seconds <= 0:
        raise MacroError(f"$__timeGroup: expected a duration such as 5m, found {text!r}")
    return f"toStartOfInterval(toDateTime({args[0].strip()}), INTERVAL {seconds} second)"


MACROS: Final[dict[str, tuple[int | None, Macro]]] = {
    "fromTime": (None, lambda c, _: c.from_s),
    "toTime": (None, lambda c, _: c.to_s),
    "fromTime_ms": (None, lambda c, _: c.from_ms),
    "toTime_ms": (None, lambda c, _: c.to_ms),
    "timeFilter": (1, lambda c, a: _between(a[0], c.from_s, c.to_s)),
    "timeFilter_ms": (1, lambda c, a: _between(a[0], c.from_ms, c.to_ms)),
    "dateFilter": (1, lambda c, a: _between(a[0], c.from_date, c.to_date)),
    "dateTimeFilter": (2, _date_and_time),
    "dt": (2, _date_and_time),
    "timeInterval": (1, lambda c, a: f"toStartOfInterval(toDateTime({a[0]}), INTERVAL {c.seconds} second)"),
    "timeInterval_ms": (
        1,
        lambda c, a: f"toStartOfInterval(toDateTime64({a[0]}, 3), INTERVAL {max(c.interval_ms, 1)} millisecond)",
    ),
    "interval_s": (None, lambda c, _: str(c.seconds)),
    "interval": (None, lambda c, _: interval_text(c.interval_ms)),
    "interval_ms": (None, lambda c, _: str(c.interval_ms)),
    "timeFrom": (1, lambda c, a: f"{a[0]} >= {c.from_s}"),
    "timeTo": (1, lambda c, a: f"{a[0]} <= {c.to_s}"),
    "timeGroup": (2, _time_group),
}
"""Name without ``$__`` -> (arguments it insists on, what it becomes)."""

NOT_IN_4_18: Final = frozenset({"timeFrom", "timeTo", "timeGroup"})
"""Macros whose text before plugin 4.19 is not the one here, or no ClickHouse SQL at all: boards do without them."""


def expand_macros(sql: str, context: Context) -> str:
    """The SQL with its macros replaced, the way of sqlutil: longest names first, everywhere, comments included."""
    for name in sorted(MACROS, key=len, reverse=True):
        found = [
            (match[0] + sql[match.end() : match.end() + length], args)
            for match in re.finditer(rf"\$__{name}\b", sql, re.ASCII)
            for args, length in [_arguments(sql[match.end() :])]
        ]
        for whole, args in found:
            sql = sql.replace(whole, _called(name, context, args))
    return sql


def _arguments(text: str) -> tuple[list[str], int]:
    """Arguments in the brackets that the text begins with, and their length; brackets in quotes count, too."""
    if not text.startswith("("):
        return [], 0
    args: list[str] = []
    depth, start = 0, 1
    for at, character in enumerate(text):
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                return [*args, text[start:at].strip()], at + 1
        elif character == "," and depth == 1:
            args.append(text[start:at].strip())
            start = at + 1
    raise MacroError("failed to parse macro arguments (missing close bracket?)")


def expand_macros_4_19(sql: str, context: Context) -> str:
    """The SQL with its macros replaced, the way of macropro: comments blanked, one scan, arguments first."""
    return _scan(without_comments(sql), context) if "$__" in sql else sql


def _scan(sql: str, context: Context) -> str:
    out, at = [], 0
    for match in re.finditer(r"\$__(\w+)", sql, re.ASCII):
        if match.start() < at or match[1] not in MACROS:
            continue
        args, end = [], match.end()
        close = _closing(sql, end)
        if close is not None:
            args, end = _split(sql[end + 1 : close]), close + 1
        out += [sql[at : match.start()], _called(match[1], context, [_scan(arg, context) for arg in args])]
        at = end
    return "".join([*out, sql[at:]])


def _closing(sql: str, at: int) -> int | None:
    """Where the bracket closes that opens at ``at``; None when none opens there, or it does not close."""
    if not sql.startswith("(", at):
        return None
    depth = 0
    while at < len(sql):
        if sql[at] in "'\"":
            at = quoted_end(sql, at, backslash=False)
            continue
        depth += {"(": 1, ")": -1}.get(sql[at], 0)
        if depth == 0:
            return at
        at += 1
    return None


def _split(raw: str) -> list[str]:
    if not raw.strip():
        return []
    args, depth, start, at = [], 0, 0, 0
    while at < len(raw):
        if raw[at] in "'\"":
            at = quoted_end(raw, at, backslash=False)
            continue
        depth += {"(": 1, ")": -1}.get(raw[at], 0)
        if raw[at] == "," and depth == 0:
            args.append(raw[start:at].strip())
            start = at + 1
        at += 1
    return [*args, raw[start:].strip()]


def _called(name: str, context: Context, args: list[str]) -> str:
    wanted, macro = MACROS[name]
    if wanted is not None and len(args) != wanted:
        raise MacroError(f"$__{name}: unexpected number of arguments: expected {wanted}, received {len(args)}")
    return macro(context, args)
