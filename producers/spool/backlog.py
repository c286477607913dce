"""Reads the backlog, file after file: the facts first, then the samples, each oldest first."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

from producers.spool.log import Log
from producers.spool.notices import Notices
from producers.spool.record import Record
from producers.spool.segment import Segment

READS = 3
"""Times a file is read before what cannot be read counts as lost."""
logger = logging.getLogger("gpufleet.spool")


class BacklogReader:
    """Where the sending of the backlog stands. One thread; ``lock`` is the spool's."""

    def __init__(self, facts: Log, samples: Log, notices: Notices, lock: threading.Lock) -> None:
        self._facts, self._samples, self._notices, self._lock = facts, samples, notices, lock
        self.reading: Segment | None = None
        """The file that is being read, which must stay as it is."""
        self._records: Iterator[Record] = iter(())
        self._held: Record | None = None

    def put_back(self, record: Record) -> None:
        """The record could not be sent now: it comes next."""
        self._held = record

    def next(self) -> Record | None:
        """The next record of the backlog; opens the next file when one is read to its end."""
        if self._held is not None:
            record, self._held = self._held, None
            return record
        while True:
            try:
                for record in self._records:
                    return record
            except OSError as error:
                self._unreadable(error)
            with self._lock:
                if self.reading is not None:
                    self._check_read(self.reading)
                segment = self._facts.oldest_waiting() or self._samples.oldest_waiting()
                if segment is not None:
                    segment.mark_opened()
                self.reading = segment
            if segment is None:
                return None
            self._records = segment.records()

    def _unreadable(self, error: OSError) -> None:
        """The file that is being sent cannot be read. Tried again; after a few times its events count as lost."""
        segment = self.reading
        if segment is not None:
            segment.failures += 1
            segment.stranded = segment.failures < READS
            logger.warning("the spool's file %d cannot be read: %s", segment.number, error)

    def _check_read(self, segment: Segment) -> None:
        """What is still not on its way after the whole file was read cannot be read: say so, and let go of it."""
        lost = segment.left - len(segment.flying)
        if segment.stranded:
            segment.stranded = False
        elif lost > 0:
            self._notices.damaged(lost)
            segment.left = len(segment.flying)
            for log in (self._facts, self._samples):
                if log.segments.get(segment.number) is segment:
                    log.drop_if_done(segment)
