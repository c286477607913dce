"""A dead letter as it is kept, the name people give it, and what they ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from consumers.batch import Headers
from consumers.dead_letters import KEY_BYTES_MAX, VALUE_BYTES_MAX
from consumers.letters import origin
from consumers.letters.origin import Origin
from schemas.identity import HEADER

_REF = re.compile(r"(?P<topic>[A-Za-z0-9._-]+)/(?P<partition>\d+)/(?P<offset>\d+)(@(?P<run>\d+))?")


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """The name of a letter: TOPIC/PARTITION/OFFSET, where its message stood.

    A topic that was deleted and made anew uses offsets again: ``@RUN``, the letter's run_id, then tells them apart.
    """

    topic: str
    partition: int
    offset: int
    run: int | None = None

    @classmethod
    def parse(cls, text: str) -> Ref:
        """ValueError, saying what is expected, for anything else."""
        found = _REF.fullmatch(text.strip())
        if found is None:
            raise ValueError(
                f"expected a letter as TOPIC/PARTITION/OFFSET such as node-telemetry/3/10542, found {text!r}"
            )
        run = int(found["run"]) if found["run"] else None
        return cls(found["topic"], int(found["partition"]), int(found["offset"]), run)

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}" + (f"@{self.run}" if self.run is not None else "")


@dataclass(frozen=True, slots=True)
class Key:
    """The identity of a letter in its table, with what the sorting key needs."""

    site: str
    topic: str
    producer_id: str
    run_id: int
    seq: int
    ts_us: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, whole. Times in microseconds since 1970."""

    key: Key
    topic_id: str
    partition: int
    append_us: int
    reason: str
    detail: str
    schema_id: int | None
    message_key: bytes
    value: bytes
    identity: bytes
    """The raw identity header."""
    headers: dict[str, bytes]
    """The message's other headers."""
    state: str = "open"
    marked: str = ""
    """When, by whom and why it was dealt with."""

    @property
    def ref(self) -> Ref:
        return Ref(self.key.topic, self.partition, self.key.seq)

    @property
    def cut(self) -> bool:
        """Whether a part of the message was too large to be kept: then it cannot be sent again."""
        return len(self.value) >= VALUE_BYTES_MAX or len(self.message_key) >= KEY_BYTES_MAX

    @property
    def origin(self) -> Origin:
        return Origin(self.topic_id, self.partition, self.key.seq, self.append_us)

    def message_headers(self) -> Headers:
        """The headers it came with, the identity first, and where it stood."""
        own = [(HEADER, self.identity)] if self.identity else []
        return [*own, *sorted(self.headers.items()), (origin.HEADER, origin.pack(self.origin))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which letters are meant: those that fit everything that is given."""

    refs: tuple[Ref, ...] = ()
    topic: str | None = None
    reason: str | None = None
    schema_id: int | None = None
    producer: str | None = None
    since: datetime | None = None
    """Appended by the broker from then on ..."""
    until: datetime | None = None
    """... and before then."""
    states: tuple[str, ...] = ("open",)

    @property
    def narrowed(self) -> bool:
        """Whether anything is given at all."""
        given = (self.topic, self.reason, self.schema_id, self.producer, self.since, self.until)
        return bool(self.refs) or any(one is not None for one in given)


@dataclass(frozen=True, slots=True)
class Group:
    """Letters that are alike."""

    values: dict[str, str | int | None]
    """What they have in common: topic, reason, schema_id, producer, as asked."""
    letters: int
    producers: int
    """How many are known: a message without a readable header may name none."""
    first: datetime
    last: datetime
    example: Ref
    detail: str
    """What the example says."""
    states: dict[str, int] = field(default_factory=dict)
