"""Replaying a request log: read, repeat, pace, add up per window, shift in time, send.

Times. A trace is moved by a whole number of windows, so that every window holds the same requests as in the file. By
default its last request lands just before the moment at which it is sent; kept times and a chosen start are the other
two ways. Speed changes when things are sent, never how long a window is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from producers.errors import InputError
from producers.usage.logfile import OnMalformed, ReadReport, RequestLog
from producers.usage.request import Dimensions, Request
from producers.usage.windows import UsageWindow, Windows, check_window

TOPIC = "tenant-usage"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a log is replayed."""

    tenant: str
    defaults: Dimensions
    window_us: int = 60_000_000
    lateness_us: int = 60_000_000
    """How far behind the newest request one may come and still be in its window's first revision."""
    first_revision: int = 1
    max_usages: int = 200_000
    repeat: int = 1
    """Every request this many times, each copy in a workspace of its own."""
    jitter_us: int = 0
    """Copies after the first move by up to this much, evenly."""
    seed: int = 1
    speed: float | None = None
    """Times real time; None = at once."""
    source: str = "replay"

    def __post_init__(self) -> None:
        """InputError for what cannot be done."""
        check_window(self.window_us)
        if self.repeat < 1:
            raise InputError(f"a request is sent 1 time or more, found {self.repeat}")


@dataclass(slots=True)
class Outcome:
    """What a replay did; the sums are over every request counted, copies included."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    too_late: int = 0
    """Requests whose window had been forgotten: not counted in any event."""
    events: int = 0
    revisions: int = 0
    """Events among them that supersede an earlier one of this replay."""
    shift_us: int = 0
    """Added to the file's times."""
    first_window: int | None = None
    last_window: int | None = None
    read: ReadReport = field(default_factory=ReadReport)


@dataclass(frozen=True, slots=True)
class Extent:
    """Times of a log, microseconds since 1970."""

    first: int
    """Of the first request in the file."""
    last: int
    """The newest."""


def extent(source: BinaryIO, plan: Plan) -> Extent:
    """First and newest time in a log, malformed lines passed over (the replay itself reports them).

    InputError when there is no request at all.
    """
    first, last = None, 0
    for _, request in RequestLog(source, plan.tenant, plan.defaults, lambda _line, _why: None):
        first = request.ts if first is None else first
        last = max(last, request.ts)
    if first is None:
        raise InputError("the log holds no request: every line is malformed")
    return Extent(first, last)


def shift_to_end_now(log: Extent, now_us: int, plan: Plan) -> int:
    """The shift that lets the newest request lie just before the moment it is sent, in whole windows."""
    pace = plan.speed or 0.0
    lasts = log.last - log.first
    # Slower than real time, the start is now: the events' time then falls behind, it never runs ahead.
    wall = min(int(lasts / pace), lasts) if pace else 0
    return whole_windows(now_us + wall - plan.jitter_us - log.last, plan.window_us)


def whole_windows(shift_us: int, window_us: int) -> int:
    """A shift, or a time, rounded down to whole windows."""
    return shift_us // window_us * window_us


class Replay:
    """One replay. ``emit`` takes the event time and the fields of each event; ``sleep_until`` waits for a moment.

    ``sleep_until(seconds)`` gets seconds since the replay began and returns when they are over.
    """

    def __init__(
        self,
        plan: Plan,
        emit: Callable[[int, dict[str, Any]], None],
        on_malformed: OnMalformed,
        sleep_until: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._plan = plan
        self._emit = emit
        self._on_malformed = on_malformed
        self._sleep_until = sleep_until
        self.outcome = Outcome()

    def run(self, source: BinaryIO, shift: Callable[[Request], int] = lambda _first: 0) -> Outcome:
        """Replay to the end. ``shift`` gets the first request and returns microseconds to add to every time.

        InputError for a file that is no log, or what ``on_malformed`` raises.
        """
        plan, outcome = self._plan, self.outcome
        log = RequestLog(source, plan.tenant, plan.defaults, self._on_malformed)
        outcome.read = log.report
        windows = Windows(
            plan.window_us,
            plan.lateness_us + plan.jitter_us,
            first_revision=plan.first_revision,
            max_usages=plan.max_usages,
        )
        copies = _copies(plan)
        for number, original in self._paced(log):
            if not outcome.requests:
                outcome.shift_us = shift(original)
            for request in copies(original):
                if windows.add(request):
                    outcome.requests += 1
                    outcome.input_tokens += request.input_tokens
                    outcome.cached_tokens += request.cached_tokens
                    outcome.output_tokens += request.output_tokens
                else:
                    outcome.too_late += 1
                    self._on_malformed(number, "came so late that its window is no longer in memory: not counted")
            self._send(windows.due())
        self._send(windows.finish())
        return outcome

    def _paced(self, log: Iterable[tuple[int, Request]]) -> Iterator[tuple[int, Request]]:
        speed, first = self._plan.speed, None
        for number, request in log:
            if speed:
                first = request.ts if first is None else first
                self._sleep_until((request.ts - first) / 1e6 / speed)
            yield number, request

    def _send(self, windows: Iterator[UsageWindow]) -> None:
        plan, outcome = self._plan, self.outcome
        for window in windows:
            ts = window.start + outcome.shift_us
            self._emit(ts, window.fields(plan.tenant, plan.window_us // 1_000_000, plan.source))
            outcome.events += 1
            outcome.revisions += window.revision > plan.first_revision
            outcome.first_window = ts if outcome.first_window is None else min(ts, outcome.first_window)
            outcome.last_window = ts if outcome.last_window is None else max(ts, outcome.last_window)


def _copies(plan: Plan) -> Callable[[Request], Iterator[Request]]:
    """The function that makes a request's copies: the first unmoved; workspace names end in -1, -2 ... if several."""
    chance = random.Random(plan.seed)  # noqa: S311 - load, not secrets

    def copies(request: Request) -> Iterator[Request]:
        if plan.repeat == 1:
            yield request
            return
        name = request.workspace or "workspace"
        yield request._replace(workspace=f"{name}-1")
        for number in range(2, plan.repeat + 1):
            moved = int(chance.uniform(0, plan.jitter_us))
            yield request._replace(workspace=f"{name}-{number}", ts=request.ts + moved)

    return copies
