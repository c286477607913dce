"""One file of a log: records while it is written, compressed once it has to wait, and beside it what was acknowledged.

``LOG-NUMBER.log`` holds records as they came. A file that waits for long becomes ``LOG-NUMBER.z``: a header, and
frames of some 128 KiB of records each, deflated. Both carry the same records under the same ordinals; where a crash
left both, ``.z`` counts, since it got its name when it was whole. ``LOG-NUMBER.acks`` names the ordinals that the
broker acknowledged, and whether the rest of the file may have been handed to its client: losing it costs a resend.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from producers.encode import Message
from producers.spool.record import LARGEST_BODY, Damage, Record, pack, scan
from schemas import identity

FRAME_BYTES = 128 << 10
"""Records of a frame, before deflating: what a flipped bit can cost, and what a reader holds in memory."""
LEVEL = 6
LARGEST_FRAME = FRAME_BYTES + LARGEST_BODY
"""A frame that claims more holds something else than records."""
LARGEST_FILE = 4 * LARGEST_BODY
"""Of a longer file only so much is read: none that a spool wrote comes near."""
_HEADER = struct.Struct("<4sII")
_HEADER_MAGIC = b"gps\x01"
_FRAME = struct.Struct("<4sIII")
_FRAME_MAGIC = b"\xe5\x9a\x02\x0d"
_ACKS = struct.Struct("<II")
_OPENED, _UNOPENED = 0xFFFF_FFFF, 0xFFFF_FFFE
"""First entry of the acknowledgements."""
Stream = tuple[str, str, int]
"""(topic, producer_id, run_id)"""


class Span:
    """What a file holds of one stream: first and last sequence number, and how many events."""

    __slots__ = ("events", "first", "last")

    def __init__(self, seq: int) -> None:
        self.first = self.last = seq
        self.events = 0


class Segment:
    """One file and what is known of it. The caller keeps threads apart; ``records`` may run beside the rest."""

    def __init__(self, folder: Path, log: str, number: int, *, durable: bool) -> None:
        self.number = number
        self._folder, self._durable = folder, durable
        self._raw = folder / f"{log}-{number:09d}.log"
        self._packed = self._raw.with_suffix(".z")
        self._acks = self._raw.with_suffix(".acks")
        self._file = -1
        self._dirty = False
        self._unwritten: list[int] = []
        self.packed = False
        """Compressed."""
        self.bytes = 0
        """On disk, without the acknowledgements."""
        self.next_ordinal = 0
        self.left = 0
        """Records that wait for the broker's acknowledgement."""
        self.flying: set[int] = set()
        """Ordinals of those that the broker's client has now."""
        self.opened = False
        """Whether any of its records may have been handed to the broker's client by the reader of the backlog."""
        self.acked: set[int] = set()
        self.first_ts = self.last_ts = 0
        """Range of event times, microseconds since 1970."""
        self.thinned_ms = 0
        """Ticks of its fast lane were thinned to this interval; 0 = not thinned."""
        self.barren_ms = 0
        """Thinning to this interval was tried and gained nothing."""
        self.spans: dict[Stream, Span] = {}
        self.closed_at = float("-inf")
        """When it was closed, on the log's clock; before that for a file of an earlier process."""
        self.stranded = False
        """A live event was not taken by the broker's client after all: who read past it must read again."""
        self.failures = 0
        """How often reading it failed."""

    # being written

    def create(self) -> None:
        """Begin the file. OSError when it cannot be made."""
        self._file = os.open(self._raw, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        # Made now, to be overwritten in place: a full disk must not keep anybody from noting what was handed out.
        self._acks.write_bytes(_entry([_UNOPENED]))
        self._sync_folder()

    @property
    def active(self) -> bool:
        """Whether records can be appended."""
        return self._file >= 0

    def append(self, message: Message, *, offered: bool) -> int:
        """Write one event; its ordinal. OSError when it is not on disk: then the file is as it was before."""
        ordinal = self.next_ordinal
        data = pack(ordinal, message, offered=offered)
        try:
            written = os.write(self._file, data)
            while written < len(data):  # a disk that fills up, or a signal
                written += os.write(self._file, data[written:])
        except OSError:
            os.ftruncate(self._file, self.bytes)
            raise
        self._dirty = True
        self.bytes += len(data)
        self._take(Record(ordinal, offered, message))
        return ordinal

    def sync(self) -> bool:
        """Have the disk hold what was appended; whether there was anything. OSError."""
        if self._file < 0 or not self._dirty:
            return False
        os.fsync(self._file)
        self._dirty = False
        return True

    def take_dirty(self) -> int:
        """A descriptor to sync, which the caller closes, when there is something to sync; else -1. OSError."""
        if self._file < 0 or not self._dirty:
            return -1
        self._dirty = False
        return os.dup(self._file)

    def seal(self) -> None:
        """Nothing is appended any more."""
        if self._file < 0:
            return
        try:
            if self._durable:
                self.sync()
        finally:
            os.close(self._file)
            self._file = -1

    # being read

    def recover(self, *, look_only: bool = False) -> int:
        """Learn from the disk what the file holds; how many spans of it are damaged (not counting a torn tail)."""
        self.packed = self._packed.exists()
        if self.packed and not look_only:
            self._raw.unlink(missing_ok=True)
        path = self._packed if self.packed else self._raw
        self.bytes = path.stat().st_size
        self._read_acks()
        damages = 0
        seen: set[int] = set()
        for piece in self._pieces(path):
            if isinstance(piece, Damage):
                # A raw file ends in a torn record when the process died as it wrote: that event was never taken.
                damages += self.packed or piece.end < self.bytes
            elif piece.ordinal in seen:
                damages += 1  # not ours: an ordinal names one record
            elif piece.ordinal not in self.acked:
                seen.add(piece.ordinal)
                self._take(piece)
            else:
                self.next_ordinal = max(self.next_ordinal, piece.ordinal + 1)
        return damages

    def records(self) -> Iterator[Record]:
        """Every record that can be read, acknowledged ones included, in the order they came; each ordinal once."""
        seen: set[int] = set()
        for piece in self._pieces(self._packed if self.packed else self._raw):
            if isinstance(piece, Record) and piece.ordinal not in seen:
                seen.add(piece.ordinal)
                yield piece

    # what the broker acknowledged

    def mark_opened(self) -> None:
        """Note on disk that its records may be handed out from here on. OSError."""
        if self.opened:
            return
        with self._acks.open("r+b") as file:
            file.write(_entry([_OPENED]))
            if self._durable:
                file.flush()
                os.fsync(file.fileno())
        self.opened = True

    def acknowledge(self, ordinal: int) -> None:
        """One record is done with. On disk with the next ``flush_acks``."""
        if ordinal not in self.acked:
            self.acked.add(ordinal)
            self._unwritten.append(ordinal)
            self.left -= 1

    def flush_acks(self) -> None:
        """Write what was acknowledged since. OSError; a power cut may take it, which costs a resend."""
        if self._unwritten:
            ordinals, self._unwritten = self._unwritten, []
            with self._acks.open("ab") as file:
                file.write(_entry(ordinals))

    # being rewritten

    def compress(self) -> None:
        """Turn a sealed raw file into a compressed one. OSError: then it stays as it was."""
        if not self.packed:
            self._rewrite((record for record in self.records() if record.ordinal not in self.acked), self.thinned_ms)

    def replace(self, records: Iterable[Record], thinned_ms: int) -> None:
        """Have the disk hold these records instead, their ordinals a part of those before; ``adopt`` follows.

        OSError: then it stays as it was.
        """
        self._rewrite(records, thinned_ms)

    def adopt(self, kept: Iterable[Record], thinned_ms: int) -> None:
        """Count anew what ``replace`` put on disk."""
        self.thinned_ms = thinned_ms
        self.left, self.spans = 0, {}
        self.first_ts = self.last_ts = 0
        for record in kept:
            if record.ordinal not in self.acked:
                self._take(record)

    def remove(self) -> None:
        """Delete its files: nothing of it is needed any more."""
        self.seal()
        self._raw.unlink(missing_ok=True)
        self._packed.unlink(missing_ok=True)
        # Last: without it the records would be sent again.
        self._acks.unlink(missing_ok=True)

    def _take(self, record: Record) -> None:
        who = identity.unpack(record.message.header)
        self.next_ordinal = max(self.next_ordinal, record.ordinal + 1)
        self.left += 1
        self.first_ts = min(self.first_ts or who.ts, who.ts)
        self.last_ts = max(self.last_ts, who.ts)
        stream = (record.message.topic, who.producer_id, who.run_id)
        span = self.spans.get(stream)
        if span is None:
            span = self.spans[stream] = Span(who.seq)
        span.first, span.last = min(span.first, who.seq), max(span.last, who.seq)
        span.events += 1

    def _pieces(self, path: Path) -> Iterator[Record | Damage]:
        with path.open("rb") as file:
            data = file.read(min(LARGEST_FILE, os.fstat(file.fileno()).st_size))
        if path == self._raw:
            yield from scan(data)
            return
        if len(data) >= _HEADER.size:
            magic, version, thinned_ms = _HEADER.unpack_from(data)
            if (magic, version) == (_HEADER_MAGIC, zlib.crc32(data[8 : _HEADER.size])):
                self.thinned_ms = thinned_ms
        at = _HEADER.size
        while at < len(data):
            records = _frame(data, at)
            if records is None:
                start, at = at, data.find(_FRAME_MAGIC, at + 1)
                at = len(data) if at < 0 else at
                yield Damage(start, at)
                continue
            size, raw = records
            yield from scan(raw)
            at += size

    def _rewrite(self, records: Iterable[Record], thinned_ms: int) -> None:
        partial = self._raw.with_suffix(".partial")
        thinned = struct.pack("<I", thinned_ms)
        try:
            with partial.open("wb") as file:
                file.write(_HEADER.pack(_HEADER_MAGIC, zlib.crc32(thinned), thinned_ms))
                for raw in _batched(records):
                    file.write(_deflated(raw))
                file.flush()
                if self._durable:
                    os.fsync(file.fileno())
                size = file.tell()
            partial.rename(self._packed)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        self._sync_folder()
        self.packed, self.bytes = True, size
        self._raw.unlink(missing_ok=True)

    def _read_acks(self) -> None:
        """Where the entries cannot be read, anything may have been handed out."""
        try:
            data = self._acks.read_bytes()
        except FileNotFoundError:
            data = b""
        self.opened = not data
        at = 0
        while at < len(data):
            body = b""
            if at + _ACKS.size <= len(data):
                checksum, size = _ACKS.unpack_from(data, at)
                body = data[at + _ACKS.size : at + _ACKS.size + size]
            if not body or len(body) != size or size % 4 or zlib.crc32(body) != checksum:
                self.opened = True
                return
            ordinals = set(memoryview(body).cast("I"))
            self.opened = self.opened or _OPENED in ordinals
            self.acked |= ordinals - {_OPENED, _UNOPENED}
            at += _ACKS.size + size

    def _sync_folder(self) -> None:
        if self._durable:
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def number_of(path: Path) -> int | None:
    """The number in the name of one of a log's files; None for a file that is none of them."""
    digits = path.stem.rpartition("-")[2]
    return int(digits) if len(digits) == 9 and digits.isascii() and digits.isdigit() else None


def _entry(ordinals: list[int]) -> bytes:
    body = struct.pack(f"<{len(ordinals)}I", *ordinals)
    return _ACKS.pack(zlib.crc32(body), len(body)) + body


def _batched(records: Iterable[Record]) -> Iterator[bytes]:
    batch: list[bytes] = []
    size = 0
    for record in records:
        batch.append(pack(record.ordinal, record.message, offered=record.offered, merged=record.merged))
        size += len(batch[-1])
        if size >= FRAME_BYTES:
            yield b"".join(batch)
            batch, size = [], 0
    if batch:
        yield b"".join(batch)


def _deflated(raw: bytes) -> bytes:
    body = zlib.compress(raw, LEVEL)
    sizes = struct.pack("<II", len(raw), len(body))
    return _FRAME_MAGIC + struct.pack("<I", zlib.crc32(body, zlib.crc32(sizes))) + sizes + body


def _frame(data: bytes, at: int) -> tuple[int, bytes] | None:
    """(bytes on disk, records) of the frame at ``at``; None when it is not whole."""
    if len(data) - at < _FRAME.size:
        return None
    magic, checksum, raw_size, size = _FRAME.unpack_from(data, at)
    end = at + _FRAME.size + size
    if magic != _FRAME_MAGIC or end > len(data):
        return None
    body = data[at + _FRAME.size : end]
    if zlib.crc32(body, zlib.crc32(data[at + 8 : at + _FRAME.size])) != checksum:
        return None
    if raw_size > LARGEST_FRAME:
        return None
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(body, raw_size + 1)
    except zlib.error:
        return None
    return (end - at, raw) if len(raw) == raw_size and inflate.eof else None
