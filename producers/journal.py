"""Which sequence numbers a run has given out, kept on disk so that a death cannot hide a loss.

A journal is two files in a folder: ``<run_id>.json`` (site, producers, topics) and ``<run_id>.seq``, a table of
little-endian int64 with one row per (producer, topic): given out, acknowledged. The table is memory-mapped: it
survives a killed process. After a power cut the durable spool, which holds the events themselves, amends it.

Threads: one thread at a time writes ``given`` (the one that encodes), one writes ``acknowledged`` (the publisher's).
They never write the same eight bytes, and each number is stored with one aligned write, so a process killed at any
instruction leaves whole numbers behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROW_BYTES = 16
"""A row of the table: given, acknowledged, both int64."""
_ROW = struct.Struct("<qq")
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
"""What a disk says that is full, or has turned read-only for its errors."""


class JournalError(RuntimeError):
    """A journal cannot be written, or what is on disk is not a whole journal; the message says what to do."""


class JournalInUseError(JournalError):
    """Another process holds the folder's lock."""


@dataclass(frozen=True, slots=True)
class Given:
    """What one producer's run gave out on one topic."""

    site: str
    producer_id: str
    run_id: int
    topic: str
    given: int
    """Sequence numbers 0 .. given-1 were given out."""
    acknowledged: int
    """Events the broker acknowledged."""


class Journal:
    """The open journal of one run of one process, which may speak for many producers (the simulator).

    ``table`` is the mapped file as int64: ``table[2 * row]`` is given, ``table[2 * row + 1]`` acknowledged; it is a
    writable buffer, so ``numpy.frombuffer(journal.table, "<i8")`` sees it without a copy.
    """

    def __init__(
        self,
        folder: Path,
        site: str,
        run_id: int,
        producers: Sequence[str],
        topics: Sequence[str],
        *,
        in_memory: bool = False,
    ) -> None:
        if sys.byteorder != "little":
            raise JournalError("the journal needs a little-endian machine (x86-64, arm64)")
        self.site, self.run_id = site, run_id
        self.producers = {name: i for i, name in enumerate(producers)}
        self.topics = {name: i for i, name in enumerate(topics)}
        if len(self.producers) != len(producers) or len(self.topics) != len(topics):
            raise ValueError("producer ids and topics must be distinct")
        if not producers or not topics:
            raise ValueError("a journal needs at least one producer and one topic")
        size = len(producers) * len(topics) * ROW_BYTES
        self._folder = folder
        self._described = {"site": site, "run_id": run_id, "producers": list(producers), "topics": list(topics)}
        self.unsaved = ""
        """Why it is in memory alone; empty = it is on disk."""
        self._moving: threading.Lock | None = None
        try:
            self._map = self._create(bytes(size))
        except OSError as error:
            why = f"cannot write the journal in {folder}: {error.strerror or error}; it needs {size} bytes there"
            if not in_memory or error.errno not in NO_ROOM:
                raise JournalError(why) from error
            self.unsaved, self._moving = why, threading.Lock()
            self._map = mmap.mmap(-1, size)
        self.table = memoryview(self._map).cast("q")

    @classmethod
    def start(
        cls, folder: Path, site: str, producers: Sequence[str], topics: Sequence[str], *, in_memory: bool = False
    ) -> Journal:
        """A journal for a new run, its run_id later than every run in the folder.

        The caller holds the folder's lock (see ``lock``) when several processes may use it. JournalError when the
        folder cannot be written. ``in_memory``: where that is for want of room, the journal begins in memory, and
        ``save`` moves it to the disk later: a full disk keeps no agent from sampling.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if not in_memory or error.errno not in NO_ROOM:
                raise JournalError(f"cannot make the journal folder {folder}: {error.strerror or error}") from error
        last = max(run_ids(folder), default=0)
        return cls(folder, site, max(time.time_ns() // 1000, last + 1), producers, topics, in_memory=in_memory)

    def save(self) -> bool:
        """Move a journal that began in memory to the disk; whether it is there now. The thread that gives calls it."""
        if self._moving is None or not self.unsaved:
            return True
        with self._moving:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                moved = self._create(bytes(self._map))
            except OSError as error:
                self.unsaved = f"cannot write the journal in {self._folder}: {error.strerror or error}"
                return False
            # The memory stays mapped for as long as somebody views it.
            self._map, self.table, self.unsaved = moved, memoryview(moved).cast("q"), ""
        return True

    def _create(self, content: bytes) -> mmap.mmap:
        stem = self._folder / str(self.run_id)
        try:
            return _create(stem.with_suffix(".seq"), content, stem.with_suffix(".json"), self._described)
        except OSError:
            for suffix in (".seq.partial", ".json.partial"):
                stem.with_suffix(suffix).unlink(missing_ok=True)
            raise

    def row(self, producer_id: str, topic: str) -> int:
        """Index of a (producer, topic) row. KeyError for one that the journal was not made for."""
        return self.producers[producer_id] * len(self.topics) + self.topics[topic]

    def rows(self, topic: str) -> range:
        """The rows of a topic, in the order of the producers."""
        return range(self.topics[topic], len(self.producers) * len(self.topics), len(self.topics))

    def next(self, row: int) -> int:
        """The sequence number that the row gives out next."""
        return self.table[2 * row]

    def give(self, row: int, seq: int) -> None:
        """Record that ``seq`` is given out; on disk before the event leaves the process. One thread a journal."""
        self.table[2 * row] = seq + 1

    def given(self, topic: str) -> NDArray[np.int64]:
        """How many each producer gave out on a topic, in the order of the producers: int64 (producers,).

        A writable view into the table: ``seq = view[some].copy(); view[some] += 1`` gives one number to each of
        some producers. Only the thread that gives may write. Needs numpy.
        """
        import numpy as np

        table = np.frombuffer(self.table, "<i8").reshape(len(self.producers), len(self.topics), 2)
        view: NDArray[np.int64] = table[:, self.topics[topic], 0]
        return view

    def give_many(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Give one number out on each of these rows; the numbers, in the order of the rows: int64, shape of rows.

        The rows must be distinct. Needs numpy.
        """
        import numpy as np

        given = np.frombuffer(self.table, "<i8")[0::2]
        seqs: NDArray[np.int64] = given[rows]
        given[rows] = seqs + 1
        return seqs

    def acknowledge(self, row: int) -> None:
        """Count one event of the row as acknowledged by the broker. One thread a journal, not that of ``give``."""
        if self._moving is None:
            self.table[2 * row + 1] += 1
        else:
            with self._moving:
                self.table[2 * row + 1] += 1

    def reject(self, row: int) -> None:
        """An event that no broker will take. It stays given out and not acknowledged: the audit names it."""

    def close(self) -> None:
        """Write the table to disk and let go of it. Nothing may be given or acknowledged afterwards."""
        if self._map.closed:
            return
        self._map.flush()
        self.table.release()
        with contextlib.suppress(BufferError):  # an array still views the table: the mapping goes with it
            self._map.close()


def _create(table: Path, content: bytes, description: Path, described: dict[str, Any]) -> mmap.mmap:
    """Both files, each complete before it has its name; the table last, since a run without one gave out nothing."""
    partial = table.with_suffix(".seq.partial")
    with partial.open("w+b") as file:
        # Zeros, not a hole: a full disk must be an error here, not a SIGBUS at the first event.
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        mapped = mmap.mmap(file.fileno(), len(content))
    partial_description = description.with_suffix(".json.partial")
    with partial_description.open("w") as file:
        file.write(json.dumps(described))
        file.flush()
        os.fsync(file.fileno())  # a name without content, after a power cut, would be a broken journal
    partial_description.rename(description)
    partial.rename(table)
    entries = os.open(table.parent, os.O_RDONLY)
    try:
        os.fsync(entries)  # the next run must find this one's id, and begin above it
    finally:
        os.close(entries)
    return mapped


def run_ids(folder: Path) -> Iterable[int]:
    """The runs that have a description in the folder, in no order. Other files are passed over."""
    return (int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit())


def read(folder: Path) -> Iterator[Given]:
    """What every run in the folder gave out, oldest run first; rows that gave out nothing are left out.

    A run that is still going on may be read at any time. JournalError for a file that is torn or not a journal.
    """
    for run_id in sorted(run_ids(folder)):
        yield from _read_run(folder, run_id)


def previous(folder: Path, producer_id: str, before: int) -> list[Given]:
    """Per topic, what the latest run of this producer before ``before`` gave out; empty for a first run."""
    return previous_of(folder, [producer_id], before).get(producer_id, [])


def previous_of(folder: Path, producers: Collection[str], before: int) -> dict[str, list[Given]]:
    """``previous`` of many producers, each run read once, newest first, until every producer is found.

    Producers without an earlier run that gave something out are absent.
    """
    wanted = set(producers)
    found: dict[str, list[Given]] = {}
    for run_id in sorted((run for run in run_ids(folder) if run < before), reverse=True):
        if not wanted:
            break
        for given in _read_run(folder, run_id):
            if given.producer_id in wanted:
                found.setdefault(given.producer_id, []).append(given)
        wanted.difference_update(found)
    return found


def prune(folder: Path, before: int, *, dry_run: bool = False) -> list[int]:
    """Delete the runs before ``before`` whose every event the broker acknowledged; their run_ids, oldest first.

    Kept are: runs with anything unacknowledged (the audit needs them), and the newest run of each producer (its next
    start names it). The caller holds the folder's lock, so that no run goes on meanwhile.
    """
    seen: set[str] = set()
    gone = []
    for run_id in sorted(run_ids(folder), reverse=True):
        rows = list(_read_run(folder, run_id))
        speakers = {row.producer_id for row in rows}
        if run_id < before and speakers <= seen and all(row.acknowledged >= row.given for row in rows):
            gone.append(run_id)
            if not dry_run:
                # The table first: a description without a table reads as a run that gave out nothing.
                (folder / f"{run_id}.seq").unlink(missing_ok=True)
                (folder / f"{run_id}.json").unlink(missing_ok=True)
        seen |= speakers
    return gone[::-1]


RowKey = tuple[int, str, str]
"""(run_id, producer_id, topic)"""


def amend(folder: Path, given: Mapping[RowKey, int], acknowledged: Mapping[RowKey, int]) -> None:
    """Correct the journals of earlier runs: at least so many given out, so many more acknowledged.

    Runs and rows that the folder does not know are passed over. The caller holds the folder's lock; the run that goes
    on may be named in ``given`` by its own thread only. JournalError as ``read``.
    """
    for run_id in sorted({run for run, _, _ in (*given, *acknowledged)}):
        path = folder / f"{run_id}.json"
        rows = {(row.producer_id, row.topic): row for row in _read_run(folder, run_id)}
        if not path.exists() or not path.with_suffix(".seq").exists():
            continue
        described = json.loads(path.read_bytes())
        width = len(described["topics"])
        with path.with_suffix(".seq").open("r+b") as table:
            for run, producer, topic in {*given, *acknowledged}:
                if run != run_id or producer not in described["producers"] or topic not in described["topics"]:
                    continue
                before = rows.get((producer, topic))
                numbers = (
                    max(before.given if before else 0, given.get((run, producer, topic), 0)),
                    (before.acknowledged if before else 0) + acknowledged.get((run, producer, topic), 0),
                )
                place = described["producers"].index(producer) * width + described["topics"].index(topic)
                table.seek(place * ROW_BYTES)
                table.write(_ROW.pack(*numbers))


def _read_run(folder: Path, run_id: int) -> Iterator[Given]:
    path = folder / f"{run_id}.json"
    try:
        described = json.loads(path.read_bytes())
        site, producers, topics = described["site"], described["producers"], described["topics"]
        named = isinstance(producers, list) and isinstance(topics, list) and isinstance(site, str)
        if described["run_id"] != run_id or not named or not all(isinstance(n, str) for n in (*producers, *topics)):
            raise ValueError("its run_id, producers or topics are wrong")
    except FileNotFoundError:
        return  # pruned meanwhile
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise JournalError(
            f"{path} is not a journal's description ({error}); restore it, or move {run_id}.* away: "
            "the audit can then not tell what that run gave out"
        ) from None
    try:
        content = path.with_suffix(".seq").read_bytes()
    except FileNotFoundError:
        return  # died before its first event
    size = len(producers) * len(topics) * ROW_BYTES
    if len(content) != size:
        raise JournalError(
            f"{path.with_suffix('.seq')} has {len(content)} bytes, expected {size} for {len(producers)} producers "
            f"and {len(topics)} topics; it was cut or mixed up: restore it, or move {run_id}.* away"
        )
    table = memoryview(content).cast("q")
    at = 0
    for producer in producers:
        for topic in topics:
            given = table[at]
            if given:
                yield Given(site, producer, run_id, topic, given, table[at + 1])
            at += 2


def lock(folder: Path) -> int:
    """Hold the folder for this process until it ends; the descriptor, which the caller may close to let go.

    JournalInUseError when another process holds it, JournalError when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise JournalError(f"cannot write the journal folder {folder}: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise JournalInUseError(f"{folder} is in use by another process of gpufleet") from None
    return descriptor
