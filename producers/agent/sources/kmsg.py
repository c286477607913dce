"""The kernel log, /dev/kmsg: XID and SXID lines with the driver's own words.

Each read of /dev/kmsg returns one record: ``prefix;text\\n`` and then lines that begin with a space (its dictionary).
The prefix is ``priority,sequence,microseconds,flags``; flag ``c`` begins a line in fragments, ``+`` continues it. A
reader that is too slow gets EPIPE once and goes on at the oldest record still there: the records in between are lost,
which is reported. A regular file in the place of the device is followed like a log file.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from producers.agent.clock import Clock
from producers.agent.facts import Fact, Post
from producers.agent.sources.base import SourceError
from producers.agent.sources.xid_lines import parse

_RECORD = 8192
"""The kernel's CONSOLE_EXT_LOG_MAX: no record is longer."""
_LONGEST = 64 << 10
"""Characters of a message in fragments, and of a line without an end (of a file that is none of the kernel's)."""
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")
POLL_S = 1.0
KERNEL_SEQUENCE = "kernel_sequence"
"""Attribute of facts from the kernel log: the record's number in this boot."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the kernel log."""

    sequence: int
    boot_us: int
    """Microseconds since boot."""
    flags: str
    text: str


class RecordReader:
    """Cuts what the device returns into records and joins fragments."""

    def __init__(self) -> None:
        self._rest = ""
        self._fragment: Record | None = None

    def feed(self, data: bytes) -> Iterator[Record]:
        """The records that are complete with ``data``; text that does not parse is skipped."""
        *lines, rest = (self._rest + data.decode("utf-8", "replace")).split("\n")
        self._rest = rest[:_LONGEST]
        for line in lines:
            record = _record(line)
            if record is None:
                continue
            held = self._fragment
            if "+" in record.flags and held is not None:
                text = (held.text + record.text)[:_LONGEST]
                self._fragment = Record(record.sequence, held.boot_us, held.flags, text)
                continue
            if held is not None:
                yield held
            self._fragment = record if "c" in record.flags else None
            if self._fragment is None:
                yield record

    def idle(self) -> Iterator[Record]:
        """Nothing more came: a line in fragments ends here."""
        held, self._fragment = self._fragment, None
        if held is not None:
            yield held


class KmsgWatcher:
    """Follows the kernel log.

    ``after`` is the sequence number reported last in this boot (None = none): the watcher begins behind it, or, the
    first time in a boot, with the records of the last ``look_back_s``. ``read`` stands in for os.read in tests.
    """

    name = "kmsg"
    deadline_s = 10.0

    def __init__(
        self,
        path: Path,
        clock: Clock,
        after: int | None = None,
        look_back_s: float = 86_400.0,
        read: Callable[[int, int], bytes] = os.read,
    ) -> None:
        self._reported = after
        """Sequence number of the last record that became a fact."""
        self._path = path
        self._clock = clock
        self._look_back_us = int(look_back_s * 1e6)
        self._read = read
        self._next: int | None = None
        """Sequence number expected next; what lies between is lost."""

    def watch(self, post: Post, alive: Callable[[], bool]) -> None:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(
                f"cannot read the kernel log {self._path}: {error.strerror}; "
                "run the agent as root or with CAP_SYSLOG, or leave kmsg out of the sources"
            ) from None
        try:
            self._follow(fd, post, alive)
        finally:
            os.close(fd)

    def _follow(self, fd: int, post: Post, alive: Callable[[], bool]) -> None:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        reader = RecordReader()
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        overran = False
        while alive():
            try:
                data = self._read(fd, _RECORD)
            except BlockingIOError:
                data = b""
            except OSError as error:
                if error.errno == errno.EPIPE:
                    overran = True
                    continue
                raise SourceError(f"reading {self._path} failed: {error.strerror}") from None
            if not data:
                for record in reader.idle():
                    self._report(record, post)
                if regular:
                    select.select([], [], [], 0.05)  # a file has no way to say that it grew
                else:
                    poller.poll(POLL_S * 1000)
                continue
            for record in reader.feed(data):
                if overran:
                    overran = False
                    self._say_overrun(record, post)
                self._next = record.sequence + 1
                self._report(record, post)

    def _say_overrun(self, record: Record, post: Post) -> None:
        lost = str(record.sequence - self._next) if self._next is not None else "an unknown number of"
        now = self._clock.wall_us()
        message = f"the kernel log overran: {lost} records were overwritten before they were read"
        post(Fact("source_down", "kmsg", now, value=self.name, message=message))
        post(Fact("source_up", "kmsg", now, value=self.name, message="reading the kernel log goes on", ended_at=now))

    def _report(self, record: Record, post: Post) -> None:
        if self._reported is not None and record.sequence <= self._reported:
            return
        if "Xid" not in record.text:
            return
        age_us = max(int(self._clock.mono_s() * 1e6) - record.boot_us, 0)
        if self._reported is None and age_us > self._look_back_us:
            return
        fact = parse(record.text, self._clock.wall_us() - age_us)
        if fact is not None:
            post(replace(fact, attributes={**fact.attributes, KERNEL_SEQUENCE: str(record.sequence)}))
            self._reported = record.sequence


def _record(line: str) -> Record | None:
    if line.startswith(" ") or ";" not in line:
        return None
    prefix, _, text = line.partition(";")
    parts = prefix.split(",")
    try:
        sequence, boot_us = int(parts[1]), int(parts[2])
    except (IndexError, ValueError):
        return None
    if not (0 <= sequence < 1 << 63 and 0 <= boot_us < 1 << 62):
        return None
    flags = parts[3] if len(parts) > 3 else "-"
    return Record(sequence, boot_us, flags, _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text))
