"""Pieces of SQL that the boards' queries share.

Rules that every query here keeps: no ``now()``, so that a panel is as true for last Tuesday as for this minute; a table
of windows is read with FINAL; a range of weeks is answered from hours; raw events only of one node, at most 15 minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from infra.grafana.colours import STATES

RANGE_S: Final = "dateDiff('second', $__fromTime, $__toTime)"
"""Length of the range that the board shows. [s]"""
MINUTES_S: Final = "(dateDiff('minute', toStartOfMinute($__fromTime + 59), toStartOfMinute($__toTime - 60)) * 60)"
"""Seconds of the whole minutes of the range, the last two left out: what a GPU could have reported at most."""
IN_MINUTES: Final = "ts < toStartOfMinute($__toTime - 60)"
"""The windows of these minutes: the newest may still be on their way."""
RAW_S: Final = 900
"""Raw events are shown of at most this long before the end of the range. [s]"""


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

    @property
    def _long(self) -> str:
        return f"{RANGE_S} > {self.hours * 3600}"

    def rows(self, columns: str, where: str = "1") -> str:
        """A subquery: ts, window_s (length of the row's window, seconds) and ``columns``; closed windows only (the
        newest 10 seconds are still filling when the next have begun)."""
        fine_from = (
            f"if({self._long}, toStartOfHour($__toTime), $__fromTime)"
            if self.coarse
            else f"greatest($__fromTime, $__toTime - {self.hours * 3600})"
        )
        fine = (
            f"SELECT ts, {self.fine_s} AS window_s, {columns}\n    FROM gpufleet.{self.fine} FINAL\n"
            f"    WHERE ts >= {fine_from} AND ts <= $__toTime - {max(self.fine_s, 20)} AND {where}"
        )
        if not self.coarse:
            return f"(\n    {fine}\n)"
        return (
            f"(\n    {fine}\n    UNION ALL\n"
            f"    SELECT ts, 3600 AS window_s, {columns}\n    FROM gpufleet.{self.coarse} FINAL\n"
            f"    WHERE {self._long} AND ts >= $__fromTime AND ts < toStartOfHour($__toTime) AND {where}\n)"
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
    def gaps(self) -> str:
        """Order of a query whose columns are all Nullable: a point without windows becomes NULL, drawn as a gap."""
        start = f"toStartOfInterval($__fromTime, toIntervalSecond({self.step}))"
        return f"ORDER BY time WITH FILL FROM {start} TO $__toTime STEP {self.step}"


FLEET: Final = Windows("fleet_10s", 10, "fleet_1h", 24)
HEALTH: Final = Windows("health_1m", 60, "health_1h", 3)
USAGE: Final = Windows("usage_1m", 60, "usage_1h", 12)
USAGE_BESIDE_HEALTH: Final = Windows("usage_1m", 60, "usage_1h", 3)
"""Usage in the steps of HEALTH, to be divided by it."""
GPU: Final = Windows("gpu_1m", 60, "gpu_1h", 24)
RACK: Final = Windows("rack_1m", 60, "", 7 * 24)
FACILITY: Final = Windows("facility_1m", 60, "", 7 * 24)
JOB: Final = Windows("job_1m", 60, "", 24)
SICK: Final = Windows("sick_1m", 60, "", 24)


def share(part: str, whole: str) -> str:
    """part / whole, NULL where there is no whole: nothing expected is neither all nor nothing."""
    return f"if(({whole}) > 0, ({part}) / ({whole}), NULL)"


def weighted(metric: str) -> str:
    """Mean of a metric that windows keep as sum of value x seconds."""
    return share(f"sum({metric}_sum)", f"sum({metric}_s)")


def gpu_state(scope: str, windows: Windows = SICK) -> str:
    """State of each GPU and minute as a code of colours.STATES: a subquery of node_id, gpu_index, ts, state.

    From the minutes in which it reported and those in which something was wrong with it; ``scope`` picks the nodes.
    """
    code = {text: number for number, (text, _) in STATES.items()}
    bounds = f"ts >= greatest($__fromTime, $__toTime - {windows.hours * 3600}) AND ts <= $__toTime - 60 AND {scope}"
    return f"""(
    SELECT node_id, gpu_index, ts, max(code) AS state
    FROM
    (
        SELECT node_id, gpu_index, ts, {code["healthy"]} AS code
        FROM gpufleet.gpu_1m FINAL
        WHERE {bounds}
        UNION ALL
        SELECT node_id, gpu_index, ts, multiIf(
            NOT in_service, {code["not in service"]},
            reason = 'opted_out', {code["opted out"]},
            reason = 'silent', {code["silent"]},
            reason IN ('slowdown', 'temp_high', 'straggler', 'clock_offset'), {code["slowed down"]},
            {code["sick"]}) AS code
        FROM gpufleet.sick_1m FINAL
        WHERE {bounds}
    )
    GROUP BY node_id, gpu_index, ts
)"""
