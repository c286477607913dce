"""Which sequence numbers a run has given out, kept on disk so that a death cannot hide a loss.

A journal is two files in a folder: ``<run_id>.json`` (site, producers, topics) and ``<run_id>.seq``, a table of
little-endian int64 with one row per (producer, topic): given out, acknowledged. The table is memory-mapped: it
survives a killed process (not a power cut; that takes the durable spool).
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_ROW = struct.Struct("<qq")
_ONE = struct.Struct("<q")


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


class JournalInUseError(RuntimeError):
    """Another process holds the folder's lock."""


class Journal:
    """The open journal of one run of one process, which may speak for many producers (the simulator)."""

    def __init__(self, folder: Path, site: str, run_id: int, producers: Sequence[str], topics: Sequence[str]) -> None:
        self.site, self.run_id = site, run_id
        self.producers = {name: i for i, name in enumerate(producers)}
        self.topics = {name: i for i, name in enumerate(topics)}
        if len(self.producers) != len(producers):
            raise ValueError("producer ids must be distinct")
        size = len(producers) * len(topics) * _ROW.size
        described = {"site": site, "run_id": run_id, "producers": list(producers), "topics": list(topics)}
        partial = folder / f"{run_id}.seq.partial"
        with partial.open("w+b") as table:
            table.truncate(size)
            self.table = mmap.mmap(table.fileno(), size)
        (folder / f"{run_id}.json").write_text(json.dumps(described))
        partial.rename(folder / f"{run_id}.seq")

    @classmethod
    def start(cls, folder: Path, site: str, producers: Sequence[str], topics: Sequence[str]) -> Journal:
        """A journal for a new run, its run_id later than every run in the folder.

        The caller holds the folder's lock (see ``lock``) when several processes may use it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        last = max((int(path.stem) for path in folder.glob("*.json")), default=0)
        return cls(folder, site, max(time.time_ns() // 1000, last + 1), producers, topics)

    def row(self, producer_id: str, topic: str) -> int:
        """Index of a (producer, topic) row. KeyError for one that the journal was not made for."""
        return self.producers[producer_id] * len(self.topics) + self.topics[topic]

    def next(self, row: int) -> int:
        """The sequence number that the row gives out next."""
        given: int = _ONE.unpack_from(self.table, row * _ROW.size)[0]
        return given

    def give(self, row: int, seq: int) -> None:
        """Record that ``seq`` is given out; on disk before the event leaves the process. One thread a journal."""
        _ONE.pack_into(self.table, row * _ROW.size, seq + 1)

    def acknowledge(self, row: int) -> None:
        """Count one event of the row as acknowledged by the broker."""
        at = row * _ROW.size + _ONE.size
        _ONE.pack_into(self.table, at, _ONE.unpack_from(self.table, at)[0] + 1)

    def close(self) -> None:
        self.table.flush()
        self.table.close()


def read(folder: Path) -> Iterator[Given]:
    """What every run in the folder gave out, oldest run first; rows that gave out nothing are left out."""
    for path in sorted(folder.glob("*.json"), key=lambda p: int(p.stem)):
        described = json.loads(path.read_text())
        try:
            table = path.with_suffix(".seq").read_bytes()
        except FileNotFoundError:
            continue  # died before its first event
        rows = _ROW.iter_unpack(table)
        for producer in described["producers"]:
            for topic in described["topics"]:
                given, acknowledged = next(rows)
                if given:
                    yield Given(described["site"], producer, described["run_id"], topic, given, acknowledged)


def previous(folder: Path, producer_id: str, before: int) -> list[Given]:
    """Per topic, what the latest run of this producer before ``before`` gave out; empty for a first run."""
    runs = [g for g in read(folder) if g.producer_id == producer_id and g.run_id < before]
    last = max((g.run_id for g in runs), default=None)
    return [g for g in runs if g.run_id == last]


def lock(folder: Path) -> int:
    """Hold the folder for this process until it ends; JournalInUseError when another one does."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise JournalInUseError(f"{folder} is in use by another process of gpufleet") from None
    return descriptor
