"""Requests into usage per window and dimensions, in bounded memory, late requests included.

A window closes when the newest request is ``lateness`` past its end: revision 1. A request that comes later still
makes a new revision of the whole window, which supersedes; for that, closed windows are remembered as long as memory
allows, and what comes for a forgotten one is told to the caller, never dropped in silence.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from producers.errors import InputError
from producers.usage.request import Dimensions, Request

LATENCY_BOUNDS_MS = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000)
"""Upper bounds, inclusive, of the buckets of time to first token and of whole latency; one more bucket lies above."""

DAY_US = 86_400_000_000


@dataclass(slots=True)
class Usage:
    """What one window and one set of dimensions add up to."""

    requests: int = 0
    throttled: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    ttft_counts: list[int] = field(default_factory=list)
    """Requests per bucket of LATENCY_BOUNDS_MS and above; empty = not measured."""
    latency_counts: list[int] = field(default_factory=list)
    revision: int = 0
    """Of the last one given out; 0 = none yet."""
    changed: bool = True
    """Since it was last given out."""

    def add(self, request: Request) -> None:
        self.requests += 1
        self.throttled += request.status == 429
        self.failed += request.status >= 500
        self.input_tokens += request.input_tokens
        self.cached_tokens += request.cached_tokens
        self.output_tokens += request.output_tokens
        if request.ttft_ms is not None:
            _count(self.ttft_counts, request.ttft_ms)
        if request.latency_ms is not None:
            _count(self.latency_counts, request.latency_ms)
        self.changed = True


def _count(counts: list[int], value_ms: float) -> None:
    if not counts:
        counts.extend([0] * (len(LATENCY_BOUNDS_MS) + 1))
    counts[bisect_left(LATENCY_BOUNDS_MS, value_ms)] += 1


@dataclass(frozen=True, slots=True)
class UsageWindow:
    """One revision of one window and set of dimensions: the whole of it, not a difference."""

    start: int
    """Microseconds since 1970, a multiple of the window's length."""
    dimensions: Dimensions
    revision: int
    usage: Usage
    """Valid until the next request is added."""

    def fields(self, tenant: str, window_s: int, source: str) -> dict[str, Any]:
        """The event for topic tenant-usage, without its header; its ts is the start of the window."""
        usage = self.usage
        measured = usage.ttft_counts or usage.latency_counts
        return {
            "tenant": tenant,
            "window_s": window_s,
            "revision": self.revision,
            **self.dimensions._asdict(),
            "requests": usage.requests,
            "throttled_requests": usage.throttled,
            "failed_requests": usage.failed,
            "input_tokens": usage.input_tokens,
            "cached_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
            "latency_bounds_ms": list(LATENCY_BOUNDS_MS) if measured else [],
            "ttft_counts": list(usage.ttft_counts),
            "latency_counts": list(usage.latency_counts),
            "source": source,
        }


def check_window(window_us: int) -> None:
    """InputError for a length that would not align with UTC days."""
    if window_us < 1_000_000 or window_us % 1_000_000 or DAY_US % window_us:
        raise InputError(f"a window must be whole seconds that divide a day, found {window_us / 1e6:g} s")


class Windows:
    """Adds requests up. ``max_usages`` bounds memory: one usage is a window times a set of dimensions, about 1 KB."""

    def __init__(self, window_us: int, lateness_us: int, *, first_revision: int = 1, max_usages: int = 200_000) -> None:
        check_window(window_us)
        self.window_us = window_us
        self._lateness_us = lateness_us
        self._first_revision = first_revision
        self._max_usages = max_usages
        self._windows: dict[int, dict[Dimensions, Usage]] = {}
        self._usages = 0
        self._newest = 0
        self._closed_before = 0
        """Windows that start earlier have been given out."""
        self._forgotten_before = 0
        self._late: set[int] = set()
        """Closed windows with requests that were not given out yet."""
        self._overflow: list[UsageWindow] = []
        """Late revisions of windows that were forgotten to make room."""

    def add(self, request: Request) -> bool:
        """Count a request; False when its window is forgotten and it was not counted.

        InputError when there are more open windows and dimensions than memory is allowed for.
        """
        start = request.ts - request.ts % self.window_us
        if start < self._forgotten_before:
            return False
        window = self._windows.setdefault(start, {})
        key = Dimensions(request.workspace, request.product, request.model, request.tier)
        usage = window.get(key)
        if usage is None:
            if self._usages >= self._max_usages:
                self._forget()
                if start < self._forgotten_before:
                    return False
            usage = window[key] = Usage()
            self._usages += 1
        usage.add(request)
        if start < self._closed_before:
            self._late.add(start)
        self._newest = max(self._newest, request.ts)
        return True

    def due(self) -> Iterator[UsageWindow]:
        """Windows that closed since the last call, and with each batch of them the late revisions, oldest first."""
        horizon = self._newest - self._lateness_us
        boundary = horizon - horizon % self.window_us
        while self._overflow:
            yield self._overflow.pop(0)
        if boundary > self._closed_before:
            yield from self._give_out(boundary)

    def finish(self) -> Iterator[UsageWindow]:
        """Everything not given out yet, at the end of the log."""
        while self._overflow:
            yield self._overflow.pop(0)
        yield from self._give_out(self._newest + self.window_us)

    def _give_out(self, before: int) -> Iterator[UsageWindow]:
        starts = self._late | {start for start in self._windows if self._closed_before <= start < before}
        self._closed_before = max(self._closed_before, before)
        self._late = set()
        for start in sorted(starts):
            yield from self._revisions(start)

    def _revisions(self, start: int) -> Iterator[UsageWindow]:
        for dimensions, usage in sorted(self._windows[start].items()):
            if usage.changed:
                usage.changed = False
                usage.revision = usage.revision + 1 if usage.revision else self._first_revision
                yield UsageWindow(start, dimensions, usage.revision, usage)

    def _forget(self) -> None:
        """Make room: let the oldest tenth of the usages in given-out windows go, their last revisions kept aside."""
        for start in sorted(start for start in self._windows if start < self._closed_before):
            self._overflow.extend(self._revisions(start))
            self._late.discard(start)
            self._usages -= len(self._windows.pop(start))
            self._forgotten_before = start + self.window_us
            if self._usages <= self._max_usages * 0.9:
                return
        if self._usages >= self._max_usages:
            raise InputError(
                f"more than {self._max_usages} windows and dimensions are open at once: a workspace, product, model "
                "or tier that is different in every line? Use a shorter --out-of-order, or split the log"
            )
