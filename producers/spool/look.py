"""A look into a spool's folder from outside, while its process may be at work: reads, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from producers.spool.record import Record
from producers.spool.segment import Segment, Stream, number_of
from producers.spool.thin import flattened
from schemas import identity


@dataclass(slots=True)
class Waiting:
    """What waits in a spool of one stream."""

    topic: str
    producer_id: str
    run_id: int
    ranges: list[tuple[int, int]]
    """Sequence numbers, both ends inclusive."""
    events: int
    bytes: int
    """Of the events' values, uncompressed."""
    oldest_us: int
    """Event time of the oldest, microseconds since 1970."""


def look(folder: Path) -> list[Waiting]:
    """What waits, stream by stream. Empty for a folder that is none or holds nothing. OSError."""
    seqs: dict[Stream, set[int]] = {}
    sums: dict[Stream, tuple[int, int]] = {}
    for record in _records(folder):
        who = identity.unpack(record.message.header)
        stream = (record.message.topic, who.producer_id, who.run_id)
        seqs.setdefault(stream, set()).add(who.seq)
        size, oldest = sums.get(stream, (0, who.ts))
        sums[stream] = (size + len(record.message.value), min(oldest, who.ts))
    return [
        Waiting(*stream, list(flattened(sorted(numbers))), len(numbers), *sums[stream])
        for stream, numbers in sorted(seqs.items())
    ]


def folders(root: Path) -> list[Path]:
    """Folders below ``root``, at any depth, that look like spools."""
    return sorted({path.parent for log in ("facts", "samples") for path in root.rglob(f"{log}-*.acks")})


def size(folder: Path) -> int:
    """Bytes that the spool takes on disk."""
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue  # sent and deleted meanwhile
    return total


def _records(folder: Path) -> Iterator[Record]:
    for log in ("facts", "samples"):
        for path in sorted(folder.glob(f"{log}-*.acks")):
            number = number_of(path)
            if number is None:
                continue
            segment = Segment(folder, log, number, durable=False)
            try:
                segment.recover(look_only=True)
                for record in segment.records():
                    if record.ordinal not in segment.acked:
                        yield record
            except FileNotFoundError:
                continue  # sent and deleted meanwhile
