"""A log: files of records in the order they were written, the last of them open.

The oldest file is sent and deleted first. A file is closed when it is full, or when somebody wants to read it. One
lock outside keeps threads apart; only reading and rewriting a closed file happen beside it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from producers.encode import Message
from producers.spool.segment import Segment, number_of

_SUFFIXES = (".log", ".z", ".acks", ".partial")
logger = logging.getLogger("gpufleet.spool")


class Log:
    """One log below a folder. ``segment_bytes`` is the size at which a file is closed."""

    def __init__(
        self, folder: Path, name: str, segment_bytes: int, *, durable: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._clock = clock
        self._folder, self._segment_bytes, self._durable = folder, segment_bytes, durable
        self.segments: dict[int, Segment] = {}
        """By number, the oldest first."""
        self._active: Segment | None = None
        self._next = 1

    def recover(self) -> int:
        """Find what earlier processes left; how many damaged spans there were. OSError."""
        damages = 0
        numbers: dict[int, set[str]] = {}
        for path in self._folder.glob(f"{self.name}-*"):
            number = number_of(path)
            if path.suffix in _SUFFIXES and number is not None:
                numbers.setdefault(number, set()).add(path.suffix)
        for number in sorted(numbers):
            self._next = number + 1
            segment = Segment(self._folder, self.name, number, durable=self._durable)
            (self._folder / f"{self.name}-{number:09d}.partial").unlink(missing_ok=True)
            if numbers[number] & {".log", ".z"}:
                found = segment.recover()
                damages += found
                if found:
                    logger.warning("the spool's file %s-%09d is damaged in %d places", self.name, number, found)
            if segment.left:
                self.segments[number] = segment
            else:
                segment.remove()
        return damages

    def append(self, message: Message, *, offered: bool) -> tuple[Segment, int]:
        """Write one event; the file and the ordinal within. OSError when it is not on disk."""
        active = self._active
        if active is None:
            active = Segment(self._folder, self.name, self._next, durable=self._durable)
            active.create()
            self._next += 1
            self.segments[active.number] = self._active = active
        ordinal = active.append(message, offered=offered)
        if active.bytes >= self._segment_bytes:
            self.close_active()
        return active, ordinal

    def sync(self) -> bool:
        """Have the disk hold what was appended; whether there was anything. OSError."""
        return self._active is not None and self._active.sync()

    def sync_outside(self, lock: threading.Lock) -> None:
        """``sync`` that does not keep the lock while the disk works. OSError."""
        with lock:
            descriptor = -1 if self._active is None else self._active.take_dirty()
        if descriptor >= 0:
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def close_active(self) -> None:
        """Close the file that is being written; the next event begins another. OSError."""
        active, self._active = self._active, None
        if active is not None:
            active.closed_at = self._clock()
            try:
                active.seal()
            finally:
                self.drop_if_done(active)

    def compress_closed(self, lock: threading.Lock, busy: Segment | None, *, settles_s: float, now: float) -> None:
        """Compress closed files that have to wait: those with events that nobody sends, and those that took long.

        ``busy`` is left alone. OSError.
        """
        with lock:
            chosen = [
                segment
                for segment in self.closed()
                if not segment.packed
                and segment is not busy
                and (segment.left > len(segment.flying) or now - segment.closed_at > settles_s)
            ]
        for segment in chosen:
            self.unless_gone(segment, segment.compress)
            with lock:
                self.clear_if_gone(segment)

    def unless_gone(self, segment: Segment, work: Callable[[], None]) -> bool:
        """Work on a closed file without the lock; whether it was still there. OSError for any other trouble."""
        try:
            work()
        except FileNotFoundError:
            if self.segments.get(segment.number) is segment:
                raise
            return False  # its last event was acknowledged meanwhile
        return True

    def clear_if_gone(self, segment: Segment) -> None:
        """A file that was rewritten while its last event was acknowledged and it was deleted: delete it again."""
        if self.segments.get(segment.number) is not segment:
            segment.remove()

    def drop_if_done(self, segment: Segment) -> None:
        """Delete a closed file of which nothing waits any more."""
        if not segment.left and not segment.active and self.segments.get(segment.number) is segment:
            del self.segments[segment.number]
            segment.remove()

    def closed(self) -> Iterator[Segment]:
        """The files that are not written any more, the oldest first."""
        return (segment for segment in list(self.segments.values()) if not segment.active)

    def oldest_waiting(self) -> Segment | None:
        """The oldest file that holds something nobody sends; closed when it was open. OSError."""
        for segment in self.segments.values():
            if segment.left > len(segment.flying):
                if segment.active:
                    self.close_active()
                return segment
        return None

    @property
    def bytes(self) -> int:
        return sum(segment.bytes for segment in self.segments.values())

    @property
    def left(self) -> int:
        """Events that wait for an acknowledgement."""
        return sum(segment.left for segment in self.segments.values())

    @property
    def waiting(self) -> int:
        """Of those, the ones that the broker's client does not have."""
        return sum(segment.left - len(segment.flying) for segment in self.segments.values())
