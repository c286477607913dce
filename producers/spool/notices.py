"""What the spool wants told: a disk that refuses, a backlog, damage. The producer sends them as node events."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from producers.spool.accounts import GIVEN_UP, Notice
from producers.spool.segment import Segment, Span, Stream

BACKLOG, DRAINED = "spool_backlog", "spool_drained"


class Notices:
    """Gathers notices until they are taken; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Notice] = []
        self._down = False
        self._announced: set[str] = set()

    def take(self) -> list[Notice]:
        """The notices since the last call."""
        with self._lock:
            taken, self._waiting = self._waiting, []
        return taken

    def unwritable(self, folder: Path, error: Exception) -> None:
        """The disk refuses; said once until it works again."""
        if not self._down:
            self._down = True
            why = getattr(error, "strerror", None) or str(error)
            self._say(
                Notice("source_down", "spool", f"spool: cannot write {folder}: {why}; events wait in memory alone")
            )

    def writable(self, folder: Path) -> None:
        """The disk takes events again."""
        if self._down:
            self._down = False
            self._say(Notice("source_up", "spool", f"spool: {folder} can be written again"))

    def damaged(self, places: int) -> None:
        """Some events on disk cannot be read any more."""
        self._say(
            Notice(
                GIVEN_UP,
                "",
                f"the spool is damaged in {places} places: what stood there is lost, the audit names it",
                occurrences=places,
                attributes={"reason": "damaged"},
            )
        )

    def backlog(self, segments: Iterable[Segment]) -> None:
        """A backlog begins to be sent: what it holds, stream by stream. It stands until ``drained``."""
        streams: dict[Stream, Span] = {}
        oldest: dict[Stream, int] = {}
        for segment in segments:
            if segment.left <= len(segment.flying):
                continue
            for stream, span in segment.spans.items():
                seen = streams.get(stream)
                if seen is None:
                    seen = streams[stream] = Span(span.first)
                    oldest[stream] = segment.first_ts
                seen.first, seen.last = min(seen.first, span.first), max(seen.last, span.last)
                seen.events += span.events
                oldest[stream] = min(oldest[stream], segment.first_ts)
        for stream, span in streams.items():
            topic, producer, run = stream
            self._announced.add(producer)
            attributes = {
                "run": str(run),
                "first_seq": str(span.first),
                "last_seq": str(span.last),
                "first_ts": str(oldest[stream]),
            }
            message = f"up to {span.events} {topic} events of run {run} wait in the spool and are sent now"
            self._say(Notice(BACKLOG, topic, message, producer, max(1, span.events), attributes))

    def drained(self) -> None:
        """Nothing waits any more."""
        announced, self._announced = self._announced, set()
        for producer in sorted(announced):
            self._say(Notice(DRAINED, "", "the spool is empty: the backlog was sent", producer))

    def _say(self, notice: Notice) -> None:
        with self._lock:
            self._waiting.append(notice)
