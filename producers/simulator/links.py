"""Contact windows of a link that comes and goes, such as a satellite's: when a simulated fleet can send.

A specification is ``LENGTH/PERIOD`` with an optional ``+OFFSET``: ``8m/95m+10m`` is eight minutes of contact every 95
minutes, the first ten minutes after the start. A file names one window a line, ``START END``, each a time in UTC
(ISO 8601) or a duration since the start (``+10m``); ``#`` begins a comment. Before, between and after its windows
there is no contact.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from producers.checks import duration_us, micros
from producers.errors import InputError

_SPEC = re.compile(r"\s*(?P<length>[^/+\s]+)\s*/\s*(?P<period>[^/+\s]+)\s*(?:\+\s*(?P<offset>[^/+\s]+)\s*)?")


class LinkSchedule(Protocol):
    """When there is contact."""

    def open_at(self, at_us: int) -> bool:
        """Whether there is contact at that time, microseconds since 1970."""

    def next_change(self, at_us: int) -> int | None:
        """When contact begins or ends next after that time; None = never again."""


@dataclass(frozen=True, slots=True)
class Periodic:
    """A window of ``length_us`` every ``period_us``, the first at ``start_us``."""

    start_us: int
    length_us: int
    period_us: int

    def open_at(self, at_us: int) -> bool:
        return at_us >= self.start_us and (at_us - self.start_us) % self.period_us < self.length_us

    def next_change(self, at_us: int) -> int | None:
        if at_us < self.start_us:
            return self.start_us
        if self.length_us == self.period_us:
            return None
        begun = at_us - (at_us - self.start_us) % self.period_us
        return begun + (self.length_us if self.open_at(at_us) else self.period_us)


class Windows:
    """Windows [start, end), in order and apart."""

    def __init__(self, windows: Sequence[tuple[int, int]]) -> None:
        self._edges = [edge for window in windows for edge in window]

    def open_at(self, at_us: int) -> bool:
        return bisect_right(self._edges, at_us) % 2 == 1

    def next_change(self, at_us: int) -> int | None:
        place = bisect_right(self._edges, at_us)
        return self._edges[place] if place < len(self._edges) else None


def load(text: str, origin_us: int) -> LinkSchedule:
    """The schedule of a specification, or of the file of that name; durations count from ``origin_us``.

    InputError says what was expected and what was found.
    """
    path = Path(text)
    if path.is_file():
        return _windows(path, origin_us)
    match = _SPEC.fullmatch(text)
    if match is None:
        expected = "LENGTH/PERIOD such as 8m/95m or 8m/95m+10m, or a file that exists"
        raise InputError(f"expected {expected}, found {text!r:.60}")
    length, period = duration_us(match["length"]), duration_us(match["period"])
    offset = duration_us(match["offset"]) if match["offset"] else 0
    if not 0 < length <= period:
        raise InputError(f"expected a window no longer than its period and longer than nothing, found {text!r:.60}")
    return Periodic(origin_us + offset, length, period)


def _windows(path: Path, origin_us: int) -> Windows:
    windows: list[tuple[int, int]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{path}, line {number}"
        if len(words) != 2:
            raise InputError(f"{where}: expected START END, found {line.strip()!r:.60}")
        start, end = (_moment(word, origin_us, where) for word in words)
        if end <= start or (windows and start < windows[-1][1]):
            raise InputError(f"{where}: expected windows in order, each ending after it starts, found {line.strip()!r}")
        windows.append((start, end))
    if not windows:
        raise InputError(f"{path}: expected at least one window, START END a line, found none")
    return Windows(windows)


def _moment(word: str, origin_us: int, where: str) -> int:
    try:
        if word.startswith("+"):
            return origin_us + duration_us(word[1:])
        when = datetime.fromisoformat(word)
    except ValueError as error:
        raise InputError(f"{where}: expected 2026-11-22T10:00:00Z or +10m, found {word!r}: {error}") from None
    return micros(when if when.tzinfo else when.replace(tzinfo=UTC))
