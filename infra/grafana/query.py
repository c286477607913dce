"""Pieces of SQL that the boards' queries share.

Rules that every query here keeps: no ``now()``, so that a panel is as true for last Tuesday as for this minute; a table
of windows is read with FINAL; a range of weeks is answered from hours; raw events only of one node, at most 15 minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from infra.grafana.colours import STATES

RANGE_S: Final = "dateDiff('second', $__fromTime, $__toTime)"
"""Length of the range that the board shows. [s]"""
IN_MINUTES: Final = "ts < toStartOfMinute($__toTime - 60)"
"""The windows of these minutes: the newest may still be on their way."""
RAW_S: Final = 900
"""Raw events are shown of at most this long before the end of the range. [s]"""


def known_since(scope: str) -> str:
    """When the inventory first spoke of these nodes; 1970 where it never did."""
    return f"(SELECT min(ts) FROM gpufleet.inventory WHERE flaws = 0 AND {scope})"


def whole_minutes_s(begin: str) -> str:
    """Seconds of the whole minutes from ``begin`` to the end of the range, the last two left out: what a GPU could have
    reported at most."""
    return f"(dateDiff('minute', toStartOfMinute({begin} + 59), toStartOfMinute($__toTime - 60)) * 60)"


def minutes_known_s(scope: str) -> str:
    """The same of the range, but from the time on at which the inventory knew these nodes; 0 where it never did."""
    since = f"toDateTime({known_since(scope)}, 'UTC')"
    return f"if(toUnixTimestamp({since}) = 0, 0, {whole_minutes_s(f'greatest($__fromTime, {since})')})"


def held_by(site: str, node: str) -> str:
    """Customer that leases a node in the newest closed minute of the range; empty = nobody. Operator's boards only."""
    at = "toDateTime64($__toTime - 60, 6, 'UTC')"
    return f"dictGetOrDefault('gpufleet.lease_by_node', 'tenant', (toString({site}), toString({node})), {at}, '')"


def heard(expression: str, scope: str) -> str:
    """The expression, or NULL where nothing was heard of any GPU in the range: no data is not zero."""
    any_row = " UNION ALL ".join(
        f"(SELECT 1 FROM gpufleet.{table} WHERE ts >= {begin} AND ts <= $__toTime AND {scope} LIMIT 1)"
        for table, begin in (
            ("health_1m", "greatest($__fromTime, $__toTime - 86400)"),
            ("health_1h", "toStartOfHour($__fromTime)"),
        )
    )
    return f"if((SELECT count() FROM ({any_row})) = 0, NULL, {expression})"


def chosen(variable: str) -> str:
    """A variable's value as a SQL text. Percent-encoding leaves nothing that could end the text, whatever was typed."""
    return f"decodeURLComponent('${{{variable}:percentencode}}')"


def only(variable: str, column: str | None = None) -> str:
    """Rows of the chosen value; nothing chosen = all. Written so that the primary key is used."""
    return f"({chosen(variable)} = '' OR {column or variable} = {chosen(variable)})"


def recent(table: str, seconds: int = RAW_S, where: str = "1", window_s: int = 60) -> str:
    """Rows of the newest closed window before the end of the range, per site, if it is at most ``seconds`` old."""
    bounds = f"ts > $__toTime - {seconds} AND ts <= $__toTime - {window_s}"
    newest = f"SELECT site, max(ts) FROM gpufleet.{table} WHERE {bounds} AND {where} GROUP BY site"
    return f"{bounds} AND (site, ts) IN ({newest})"


def newest_sick(scope: str) -> str:
    """Rows of sick_1m in the newest closed minute: health_1m's, since where nothing is wrong sick_1m has no row."""
    bounds = "ts > $__toTime - 900 AND ts <= $__toTime - 60"
    newest = f"SELECT site, max(ts) FROM gpufleet.health_1m WHERE {bounds} GROUP BY site"
    return f"{bounds} AND (site, ts) IN ({newest}) AND {scope}"


def known(expression: str) -> str:
    """The expression, or NULL where no minute of the last quarter of an hour is there: no data is not zero."""
    data = "SELECT count() FROM gpufleet.health_1m WHERE ts > $__toTime - 900 AND ts <= $__toTime - 60"
    return f"if(({data}) = 0, NULL, {expression})"


def last(hours: int, column: str = "ts") -> str:
    """The range, cut to its last hours: for tables that are kept in minutes only."""
    return f"{column} >= greatest($__fromTime, $__toTime - {hours * 3600}) AND {column} <= $__toTime"


def raw(column: str = "event_ts") -> str:
    """The range, cut to its last 15 minutes."""
    return f"{column} > greatest($__fromTime, $__toTime - {RAW_S}) AND {column} <= $__toTime"


def samples(view: str, lines: Mapping[str, str], scope: str) -> str:
    """Raw samples of the last 15 minutes of the range, second by second where there is room; ``lines``: name -> SQL."""
    columns = ",\n    ".join(f'{expression} AS "{name}"' for name, expression in lines.items())
    return f"""SELECT toStartOfInterval(sample_ts, toIntervalSecond(greatest($__interval_s, 1))) AS time,
    {columns}
FROM gpufleet.{view}
WHERE {raw()} AND {scope}
GROUP BY time
ORDER BY time"""


@dataclass(frozen=True, slots=True)
class Windows:
    """Measures kept in fine windows and in hours. Short ranges read the fine ones; long ones the hours, and the fine
    ones of the hour that is still open."""

    fine: str
    fine_s: int
    """Length of a fine window. [s]"""
    coarse: str
    """Table of hours; empty = there is none, and the range is cut to ``hours``."""
    hours: int
    """Ranges up to this long are answered from the fine windows. [h]"""
    edges: bool = False
    """Long ranges take the fine windows of their first, unfinished hour as well: sums are those of every minute."""

    @property
    def _long(self) -> str:
        return f"{RANGE_S} > {self.hours * 3600}"

    def rows(self, columns: str, where: str = "1", *, fine: str = "") -> str:
        """A subquery: ts, window_s (length of the row's window, seconds) and ``columns``; closed windows only (the
        newest 10 seconds are still filling when the next have begun). ``fine``: the columns as fine windows have them,
        where they are called otherwise."""
        open_hour, full_hour = "toStartOfHour($__toTime)", "toStartOfHour($__fromTime + 3599)"
        bounds, hours_from = f"ts >= if({self._long}, {open_hour}, $__fromTime)", "$__fromTime"
        if not self.coarse:
            bounds = f"ts >= greatest($__fromTime, $__toTime - {self.hours * 3600})"
        elif self.edges:
            hours_from = full_hour
            bounds = f"ts >= $__fromTime AND (NOT ({self._long}) OR ts < {full_hour} OR ts >= {open_hour})"
        minutes = (
            f"SELECT ts, {self.fine_s} AS window_s, {fine or columns}\n    FROM gpufleet.{self.fine} FINAL\n"
            f"    WHERE {bounds} AND ts <= $__toTime - {max(self.fine_s, 20)} AND {where}"
        )
        if not self.coarse:
            return f"(\n    {minutes}\n)"
        return (
            f"(\n    {minutes}\n    UNION ALL\n"
            f"    SELECT ts, 3600 AS window_s, {columns}\n    FROM gpufleet.{self.coarse} FINAL\n"
            f"    WHERE {self._long} AND ts >= {hours_from} AND ts < {open_hour} AND {where}\n)"
        )

    @property
    def step(self) -> str:
        """Seconds between two points."""
        if not self.coarse:
            return f"toUInt32(greatest($__interval_s, {self.fine_s}))"
        return f"toUInt32(greatest($__interval_s, if({self._long}, 3600, {self.fine_s})))"

    @property
    def time(self) -> str:
        return f"toStartOfInterval(ts, toIntervalSecond({self.step})) AS time"

    @property
    def covered_s(self) -> str:
        """Seconds of a point that windows stand for; sums over GPUs divided by it are means over time."""
        if not self.coarse:
            return f"(uniqExact(ts) * {self.fine_s})"
        return f"(uniqExactIf(ts, window_s = {self.fine_s}) * {self.fine_s} + uniqExactIf(ts, window_s = 3600) * 3600)"

    @property
    def _fill(self) -> str:
        start = f"toStartOfInterval($__fromTime, toIntervalSecond({self.step}))"
        return f"time WITH FILL FROM {start} TO $__toTime STEP {self.step}"

    @property
    def gaps(self) -> str:
        """Order of a query whose columns are all Nullable: a point without windows becomes NULL, drawn as a gap."""
        return f"ORDER BY {self._fill}"

    def by_series(self, points: str) -> str:
        """Lines of ``points`` (time, series, Value; grouped, not ordered): where no series has a point there is a NULL,
        so that no line is drawn across missing data."""
        return f"""SELECT time, series, "Value"
FROM
(
    SELECT time, series, "Value"
    FROM
    (
        SELECT time, toString(series) AS series, toNullable(toFloat64("Value")) AS "Value"
        FROM
        (
{points}
        )
        ORDER BY time, series
    )
    ORDER BY {self._fill} INTERPOLATE (series AS series)
)
WHERE series != ''
ORDER BY time, series"""


FLEET: Final = Windows("fleet_10s", 10, "fleet_1h", 24)
HEALTH: Final = Windows("health_1m", 60, "health_1h", 3)
USAGE: Final = Windows("usage_1m", 60, "usage_1h", 12)
USAGE_BESIDE_HEALTH: Final = Windows("usage_1m", 60, "usage_1h", 3)
"""Usage in the steps of HEALTH, to be divided by it."""
GPU: Final = Windows("gpu_1m", 60, "gpu_1h", 24)
RACK: Final = Windows("rack_1m", 60, "rack_1h", 7 * 24)
FACILITY: Final = Windows("facility_1m", 60, "facility_1h", 7 * 24)
JOB: Final = Windows("job_1m", 60, "", 24)
SICK: Final = Windows("sick_1m", 60, "sick_1h", 24)
SICK_SUMS: Final = Windows("sick_1m", 60, "sick_1h", 3, edges=True)
"""For tables and sums: an hour of a spell is one row, not sixty."""


def share(part: str, whole: str) -> str:
    """part / whole, NULL where there is no whole: nothing expected is neither all nor nothing."""
    return f"if(({whole}) > 0, ({part}) / ({whole}), NULL)"


def weighted(metric: str) -> str:
    """Mean of a metric that windows keep as sum of value x seconds."""
    return share(f"sum({metric}_sum)", f"sum({metric}_s)")


def gpu_state(scope: str) -> str:
    """State of each GPU and window as a code of colours.STATES: a subquery of node_id, gpu_index, ts, state.

    From the windows in which it reported and those in which something was wrong with it; ``scope`` picks the nodes.
    An hour is as its worst minute.
    """
    code = {text: number for number, (text, _) in STATES.items()}
    return f"""(
    SELECT node_id, gpu_index, ts, max(code) AS state
    FROM
    (
        SELECT node_id, gpu_index, ts, {code["healthy"]} AS code
        FROM {GPU.rows("node_id, gpu_index", scope)}
        UNION ALL
        SELECT node_id, gpu_index, ts, {sick_state()} AS code
        FROM {SICK.rows("node_id, gpu_index, in_service, reason", scope)}
    )
    GROUP BY node_id, gpu_index, ts
)"""


def sick_state() -> str:
    """Code of colours.STATES of a row of sick_1m or sick_1h."""
    code = {text: number for number, (text, _) in STATES.items()}
    return f"""multiIf(
            NOT in_service, {code["not in service"]},
            reason = 'opted_out', {code["opted out"]},
            reason = 'silent', {code["silent"]},
            reason IN ('slowdown', 'temp_high', 'straggler', 'clock_offset'), {code["slowed down"]},
            {code["sick"]})"""


def anything_wrong(name: str, where: str, scope: str) -> str:
    """Different GPUs with something wrong (``where``, of sick_1m) per point: 0 where the fleet was heard and nothing
    was, no value where nothing was heard either. ``scope`` picks rows of sick_1m and fleet_10s alike."""
    return f"""SELECT {SICK.time},
    toNullable(uniqExactIf((site, node_id, gpu_index), wrong)) AS "{name}"
FROM
(
    SELECT ts, site, toString(node_id) AS node_id, gpu_index, true AS wrong
    FROM {SICK.rows("site, node_id, gpu_index", f"({where}) AND {scope}")}
    UNION ALL
    SELECT ts, site, '' AS node_id, 0 AS gpu_index, false AS wrong
    FROM {FLEET.rows("site", f"ts <= $__toTime - 60 AND {scope}")}
)
GROUP BY time
{SICK.gaps}"""
