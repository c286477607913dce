"""What is read and not yet stored: chunks of one partition's messages, and batches of chunks that go in together.

    Chunk   consecutive messages of one partition, grouped by schema
    Group   the messages of one schema in a chunk
    Batch   one chunk each of several partitions of a topic; one insert per schema

A batch takes a topic's partitions together because a small insert costs as much as a large one. At most one batch
with messages of a partition is in flight at a time, so that they are stored in the order of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from consumers.errors import Reason
from schemas.catalogue import EventKind, Schema

TopicPartition = tuple[str, int]
MESSAGE_OVERHEAD_BYTES = 600
"""What a held message costs beside its value: the client's record, its header, lists (measured: 500 to 600)."""
Headers = list[tuple[str, bytes]]


class Message(Protocol):
    """What is used of confluent-kafka's Message."""

    def topic(self) -> str | None: ...

    def partition(self) -> int | None: ...

    def offset(self) -> int | None: ...

    def key(self) -> bytes | None: ...

    def value(self) -> bytes | None: ...

    def headers(self) -> Headers | None: ...

    def timestamp(self) -> tuple[int, int]: ...


@dataclass(slots=True)
class Bad:
    """A message on its way to the dead letters."""

    message: Message
    reason: Reason
    detail: str
    producer: str
    """Who sent it, as well as can be told: the header's producer, else the Kafka key."""


@dataclass(slots=True, eq=False)
class Group:
    """Messages of one schema, in the order of the log."""

    schema: Schema
    messages: list[Message] = field(default_factory=list)
    suspects: list[int] = field(default_factory=list)
    """Positions in ``messages`` that take the identity filter."""
    first_offset: int = -1
    last_offset: int = -1
    size: int = 0
    """Bytes of the values."""
    ts_min: int = 1 << 62
    ts_max: int = 0
    append_max: int = 0
    minutes: set[int] = field(default_factory=set)
    """UTC minutes touched: minutes since 1970."""


@dataclass(slots=True, eq=False)
class Chunk:
    """Messages of one partition between two offsets, every one of them in a group or bad."""

    kind: EventKind
    topic_id: str
    partition: int
    first_offset: int
    reading: object
    """Which reading of the partition it belongs to: after a rewind or a revoke what became of it counts no more."""
    opened_at: float = 0.0
    """Monotonic time since which its first message may have waited to be stored."""
    next_offset: int = 0
    """One past its last message."""
    count: int = 0
    size: int = 0
    """Bytes of the values."""
    groups: dict[bytes, Group] = field(default_factory=dict)
    """By the framing's five bytes."""
    bad: list[Bad] = field(default_factory=list)
    days: set[int] = field(default_factory=set)
    """Table partitions touched."""
    unknown: set[tuple[str, int]] = field(default_factory=set)
    """(producer, run) whose stored max(seq) is wanted."""

    @property
    def held_bytes(self) -> int:
        """Memory it takes: small messages cost more than their values."""
        return self.size + self.count * MESSAGE_OVERHEAD_BYTES

    @property
    def topic_partition(self) -> TopicPartition:
        return self.kind.topic, self.partition


@dataclass(slots=True, eq=False)
class Insert:
    """The part of a batch that goes in as one container block."""

    schema: Schema
    groups: list[tuple[Chunk, Group]]
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Batch:
    """Chunks of a topic that are delivered together."""

    kind: EventKind
    chunks: list[Chunk]
    inserts: list[Insert]
    check_all: bool = False
    """Whether every message takes the filter: an earlier attempt's outcome is not known."""
    pieces: int = 1
    """Into how many inserts each is cut, after the store ran out of memory."""
    attempts: int = 0

    @property
    def size(self) -> int:
        return sum(chunk.size for chunk in self.chunks)

    @property
    def held_bytes(self) -> int:
        return sum(chunk.held_bytes for chunk in self.chunks)

    @property
    def count(self) -> int:
        return sum(chunk.count for chunk in self.chunks)

    @property
    def partitions(self) -> list[TopicPartition]:
        return [chunk.topic_partition for chunk in self.chunks]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one chunk, and one batch, may hold at most."""

    size: int
    messages: int
    days: int


def pack(kind: EventKind, heads: Iterable[Chunk], limits: Limits) -> Batch:
    """A batch of the given chunks, as many as fit: the first always does.

    ``heads`` are the oldest waiting chunks of different partitions of one topic.
    """
    chosen: list[Chunk] = []
    size = count = 0
    days: set[int] = set()
    for chunk in heads:
        fits = (
            size + chunk.size <= limits.size
            and count + chunk.count <= limits.messages
            and len(days | chunk.days) <= limits.days
        )
        if chosen and not fits:
            continue
        chosen.append(chunk)
        size += chunk.size
        count += chunk.count
        days |= chunk.days
    return Batch(kind, chosen, list(_inserts(chosen)))


def _inserts(chunks: list[Chunk]) -> Iterator[Insert]:
    by_prefix: dict[bytes, Insert] = {}
    for chunk in chunks:
        for prefix, group in chunk.groups.items():
            if not group.messages:
                continue  # all of them bad
            insert = by_prefix.get(prefix)
            if insert is None:
                by_prefix[prefix] = insert = Insert(group.schema, [])
            insert.groups.append((chunk, group))
    yield from by_prefix.values()
