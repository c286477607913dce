"""Time ranges as the dashboard's time picker gives them, and the interval Grafana derives from one.

The grammar is that of Grafana's date math (packages/grafana-data, datemath.ts): ``now``, then steps of ``-6h``,
``+1d`` or ``/d`` (start of the unit; its end for the range's end). Units s m h d w M Q y; fiscal ones are not spoken
here. Everything is UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
MAX_DATA_POINTS: Final = 1000
"""Points that a panel is as wide as, where nobody says."""

_STEP = re.compile(r"([-+/])(\d{1,10})?([smhdwMQy])")
_FIXED_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY_MS, "w": 7 * DAY_MS}
_MONTHS: Final = {"M": 1, "Q": 3, "y": 12}

# rangeutil.ts, roundInterval: (an interval below this many milliseconds becomes, this)
_ROUND: Final = (
    (10, 1), (15, 10), (35, 20), (75, 50), (150, 100), (350, 200), (750, 500),
    (1_500, 1_000), (3_500, 2_000), (7_500, 5_000), (12_500, 10_000), (17_500, 15_000), (25_000, 20_000),
    (45_000, 30_000), (90_000, 60_000), (210_000, 120_000), (450_000, 300_000), (750_000, 600_000),
    (1_050_000, 900_000), (1_500_000, 1_200_000), (2_700_000, 1_800_000), (5_400_000, 3_600_000),
    (9_000_000, 7_200_000), (16_200_000, 10_800_000), (32_400_000, 21_600_000), (DAY_MS, 43_200_000),
    (7 * DAY_MS, DAY_MS), (21 * DAY_MS, 7 * DAY_MS), (42 * DAY_MS, 30 * DAY_MS),
)  # fmt: skip


class TimeRangeError(ValueError):
    """A text that is no time of the time picker."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """From and to in milliseconds since 1970, both inclusive, as Grafana sends them."""

    from_ms: int
    to_ms: int

    @property
    def length_ms(self) -> int:
        return self.to_ms - self.from_ms


def parse_range(from_text: str, to_text: str, now_ms: int) -> TimeRange:
    """The range between two texts of the time picker (``now-6h``, ISO 8601, milliseconds); TimeRangeError."""
    found = TimeRange(parse_time(from_text, now_ms), parse_time(to_text, now_ms, round_up=True))
    if found.from_ms > found.to_ms:
        raise TimeRangeError(f"expected a range that ends after its start, found {from_text!r} to {to_text!r}")
    return found


def parse_time(text: str, now_ms: int, *, round_up: bool = False) -> int:
    """Milliseconds since 1970 of one end. ``round_up``: a rounding step goes to the unit's last millisecond."""
    stripped = "".join(text.split())
    if not stripped.startswith("now"):
        return _absolute(text.strip())
    time, steps = now_ms, stripped[3:]
    at = 0
    while at < len(steps):
        step = _STEP.match(steps, at)
        if step is None:
            raise _unknown(text)
        sign, number, unit = step[1], int(step[2] or 1), step[3]
        try:
            if sign == "/":
                if number != 1:
                    raise _unknown(text)
                time = _start_of(time, unit)
                time = _moved(time, 1, unit) - 1 if round_up else time
            else:
                time = _moved(time, number if sign == "+" else -number, unit)
        except (OverflowError, ValueError):
            raise _unknown(text) from None
        at = step.end()
    return time


def interval_ms(time_range: TimeRange, max_data_points: int = MAX_DATA_POINTS, at_least_ms: int = 1) -> int:
    """``$__interval_ms``: the range over the panel's points, rounded as Grafana rounds, not below the panel's own."""
    exact = time_range.length_ms / max(1, max_data_points)
    rounded = next((to for below, to in _ROUND if exact < below), 365 * DAY_MS)
    return max(rounded, at_least_ms)


def interval_text(milliseconds: int) -> str:
    """``$__interval``: in the largest whole unit, the rest cut off (90 minutes are ``1h``)."""
    for unit, size in (("y", 365 * DAY_MS), ("d", DAY_MS), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds >= size:
            return f"{milliseconds // size}{unit}"
    return f"{max(1, milliseconds)}ms"


def duration_ms(text: str) -> int:
    """Milliseconds of a panel's minimum interval: ``10s``, ``1m``, ``>5m``; TimeRangeError."""
    found = re.fullmatch(r">?\s*(\d+(?:\.\d+)?)(ms|[smhdwMy])", text.strip())
    if found is None:
        raise TimeRangeError(f"expected an interval such as 10s or 5m, found {text!r}")
    sizes = {**_FIXED_MS, "ms": 1, "M": 30 * DAY_MS, "y": 365 * DAY_MS}
    return int(float(found[1]) * sizes[found[2]])


def _absolute(text: str) -> int:
    if re.fullmatch(r"-?\d{1,15}", text):
        return int(text)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise _unknown(text) from None
    aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


def _moved(time_ms: int, number: int, unit: str) -> int:
    if unit in _FIXED_MS:
        return time_ms + number * _FIXED_MS[unit]
    moment = _utc(time_ms)
    months = moment.year * 12 + moment.month - 1 + number * _MONTHS[unit]
    first = moment.replace(year=months // 12, month=months % 12 + 1, day=1)
    last_day = (_utc(_ms(first) + 31 * DAY_MS).replace(day=1) - timedelta(days=1)).day
    return _ms(first.replace(day=min(moment.day, last_day)))


def _start_of(time_ms: int, unit: str) -> int:
    if unit in ("s", "m", "h", "d"):
        return time_ms // _FIXED_MS[unit] * _FIXED_MS[unit]
    midnight = _utc(time_ms).replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "w":
        return _ms(midnight - timedelta(days=(midnight.weekday() + 1) % 7))  # Sunday, as moment.js has it
    month = {"M": midnight.month, "Q": (midnight.month - 1) // 3 * 3 + 1, "y": 1}[unit]
    return _ms(midnight.replace(month=month, day=1))


def _utc(time_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)


def _ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _unknown(text: str) -> TimeRangeError:
    return TimeRangeError(f"expected a time such as now-6h, now/d, an ISO date or milliseconds, found {text!r}")
