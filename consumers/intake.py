"""The hot loop: sorts one partition's messages into chunks by framing and identity header alone.

Nothing is decoded. Per message: the framing's five bytes choose the group, the header gives identity and time, the
first bytes of the datum are compared with it (see ``datum``), the watermark says whether the store must be asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from consumers.batch import Bad, Chunk, Group, Limits, Message
from consumers.clock import Clock
from consumers.datum import HeadError, check_sequel, read_head, sequel
from consumers.errors import BadMessageError, Reason
from consumers.failpoints import failpoint
from consumers.schema_book import SchemaBook
from consumers.settings import ConsumeSettings
from consumers.signatures import Refused, Verify
from consumers.watermark import UNKNOWN, Watermarks
from schemas import identity as wire
from schemas.catalogue import EventKind, Retention
from schemas.framing import PREFIX_BYTES
from schemas.identity import FIXED_BYTES, HEADER, VERSION, Identity, IdentityError

HISTORY_FLOOR_US = 946_684_800_000_000
"""2000-01-01: histories may be imported from long ago, but a clock at 1970 is a broken clock."""
LATEST_US = 4_102_444_800_000_000
"""2100-01-01: a later time, even the broker's (where topics take the producer's for it), is no time."""
PRODUCER_TEXT_MAX = 255
"""Characters kept of whoever sent a refused message: its key may be megabytes."""
DEAD_LETTERS = "dead-letters"
MINUTE_US = 60_000_000
DAY_MINUTES = 1_440

Decodes = Callable[[Message, "Group"], str | None]
"""Decodes a message of a suspected producer; says what is wrong, or None."""


class PartitionIntake:
    """Messages of one partition on their way into chunks. One thread."""

    def __init__(
        self,
        kind: EventKind,
        partition: int,
        topic_id: str,
        start: int,
        filter_until: int,
        *,
        settings: ConsumeSettings,
        book: SchemaBook,
        clock: Clock,
        sick: set[str],
        decodes: Decodes,
        verify: Verify | None = None,
    ) -> None:
        self.kind, self.partition, self.topic_id = kind, partition, topic_id
        self.next_offset = start
        """Offset that comes next; lower ones are ignored."""
        self.filter_until = filter_until
        """Messages below this offset take the filter whatever their seq."""
        self.waiting: deque[Chunk] = deque()
        """Chunks not yet in a batch, oldest first. The last one is still open to messages."""
        self.waiting_bytes = 0
        self.watermarks = Watermarks()
        self.reading = object()
        self._settings, self._book, self._clock, self._sick, self._decodes = settings, book, clock, sick, decodes
        self._limits = Limits(settings.flush_bytes, settings.flush_messages, settings.days_per_insert)
        telemetry = kind.retention is Retention.TELEMETRY
        self._past_us = int(settings.past_limit_s * 1e6) if telemetry else None
        # Dead letters are judged neither by size nor by time: a letter about a letter would follow, without end.
        self._judged = kind.topic != DEAD_LETTERS
        self._verify = verify
        self._part_of: dict[int, int] = {}
        self._by_month = not telemetry

    def take(self, messages: Sequence[Message], since: float | None = None) -> int:
        """Sort messages, consecutive in the log; how many were taken. They may have waited ``since`` that monotonic
        time (None: now).

        Fewer than all only when RegistryUnavailableError is raised: then ``next_offset`` is the first not taken.
        FatalError when signatures are asked for and no message ever had a good one.
        """
        at = 0
        if since is None:
            since = self._clock.monotonic()
        for refused in self._verify(messages) if self._verify is not None else ():
            if refused.position > at:
                self._sort(messages[at : refused.position], since)
            self._refuse(messages[refused.position], refused, since)
            at = refused.position + 1
        if at < len(messages):
            self._sort(messages[at:] if at else messages, since)
        return len(messages)

    def _sort(self, messages: Sequence[Message], since: float) -> None:
        failpoint("polled")
        settings = self._settings
        future_us = int(settings.future_limit_s * 1e6) if self._judged else 1 << 62
        floor_us = HISTORY_FLOOR_US if self._judged else 0
        too_large = settings.message_max_bytes if self._judged else 1 << 62
        filter_until, past_us, sick = self.filter_until, self._past_us, self._sick
        limit_bytes, limit_count = self._limits.size, self._limits.messages
        runs, meet = self.watermarks.runs, self.watermarks.meet
        fixed = wire.unpack_fixed
        chunk = self._open_chunk()
        groups = chunk.groups
        for message in messages:
            offset = message.offset()
            if offset is None or offset < self.next_offset:
                continue  # delivered before a seek took effect
            value = message.value()
            size = len(value) if value is not None else 0
            if chunk.count and (chunk.size + size > limit_bytes or chunk.count >= limit_count):
                chunk = self._open_chunk(fresh=True)
                groups = chunk.groups
            try:
                group = groups.get(value[:PREFIX_BYTES]) if value is not None else None
                if group is None:
                    group = self._group(chunk, value)
                assert value is not None
                headers = message.headers()
                header = headers[0][1] if headers and headers[0][0] == HEADER else None
                run = None
                if type(header) is bytes and len(header) > FIXED_BYTES:
                    version, _, run_id, seq, ts = fixed(header)
                    if version == VERSION and seq >= 0:
                        run = runs.get((header[FIXED_BYTES:], run_id))
                if run is None:
                    who = wire.of_message(headers)  # type: ignore[arg-type]  # list is invariant
                    producer, run_id, seq, ts, _ = who
                if size > too_large:
                    raise BadMessageError(Reason.TOO_LARGE, f"expected at most {too_large} bytes, found {size}")
                append = message.timestamp()[1] * 1000
                if not 0 < append < LATEST_US:
                    append = self._clock.now_us()
                age = append - ts
                if -age > future_us or ts > LATEST_US:
                    raise BadMessageError(Reason.IN_FUTURE, _times(ts, append))
                if ts < floor_us or (past_us is not None and age > past_us):
                    raise BadMessageError(Reason.TOO_OLD, _times(ts, append))
                if run is None:
                    run = runs.get((producer.encode(), run_id)) or meet((producer, run_id))
                head = run.head
                if not (head and value.startswith(head, PREFIX_BYTES)):
                    run.head = head = read_head(value, wire.of_message(headers))  # type: ignore[arg-type]
                if not value.startswith(sequel(seq, ts), PREFIX_BYTES + len(head)):
                    check_sequel(value, head, wire.of_message(headers))  # type: ignore[arg-type]
                if sick and run.key[0] in sick:
                    wrong = self._decodes(message, group)
                    if wrong:
                        raise BadMessageError(Reason.DECODE, wrong)
            except (BadMessageError, IdentityError, HeadError) as error:
                self._bad(chunk, message, error)
            else:
                minute = ts // MINUTE_US
                if minute not in group.minutes:
                    part = self._part(minute)
                    if part not in chunk.days and len(chunk.days) >= self._limits.days:
                        chunk = self._open_chunk(fresh=True)
                        groups = chunk.groups
                        group = self._group(chunk, value)
                    chunk.days.add(part)
                    group.minutes.add(minute)
                if seq > run.watermark:
                    run.watermark = seq
                    if offset < filter_until:
                        group.suspects.append(len(group.messages))
                else:
                    group.suspects.append(len(group.messages))
                    if run.watermark == UNKNOWN:
                        chunk.unknown.add(run.key)
                    if seq > run.highest:
                        run.highest = seq
                if not group.messages:
                    group.first_offset = offset
                group.messages.append(message)
                group.last_offset = offset
                group.size += size
                if ts < group.ts_min:
                    group.ts_min = ts
                if ts > group.ts_max:
                    group.ts_max = ts
                if append > group.append_max:
                    group.append_max = append
            if not chunk.count:
                chunk.first_offset, chunk.opened_at = offset, since
            chunk.count += 1
            chunk.size += size
            self.waiting_bytes += size
            chunk.next_offset = self.next_offset = offset + 1

    def _refuse(self, message: Message, refused: Refused, since: float) -> None:
        """A message that nobody proved to have written: a dead letter, before anything of it is looked at."""
        offset = message.offset()
        if offset is None or offset < self.next_offset:
            return
        chunk = self._open_chunk()
        size = len(message.value() or b"")
        if chunk.count and (chunk.size + size > self._limits.size or chunk.count >= self._limits.messages):
            chunk = self._open_chunk(fresh=True)
        self._bad(chunk, message, BadMessageError(refused.reason, refused.detail))
        if not chunk.count:
            chunk.first_offset, chunk.opened_at = offset, since
        chunk.count += 1
        chunk.size += size
        self.waiting_bytes += size
        chunk.next_offset = self.next_offset = offset + 1

    @property
    def held_bytes(self) -> int:
        """Memory that the waiting messages take."""
        return sum(chunk.held_bytes for chunk in self.waiting)

    def take_chunk(self) -> Chunk:
        """Remove the oldest waiting chunk, for a batch."""
        chunk = self.waiting.popleft()
        self.waiting_bytes -= chunk.size
        return chunk

    def rewind(self, offset: int) -> None:
        """Read again from ``offset``: everything up to here takes the filter, deliveries under way count no more."""
        self.waiting.clear()
        self.waiting_bytes = 0
        self.filter_until = max(self.filter_until, self.next_offset)
        self.next_offset = offset
        self.reading = object()

    def _open_chunk(self, *, fresh: bool = False) -> Chunk:
        if self.waiting and not fresh:
            return self.waiting[-1]
        chunk = Chunk(self.kind, self.topic_id, self.partition, self.next_offset, self.reading)
        self.waiting.append(chunk)
        return chunk

    def _group(self, chunk: Chunk, value: bytes | None) -> Group:
        """The chunk's group of the value's schema. BadMessageError when it has none that fits."""
        schema = self._book.schema(value, self.kind.topic)
        assert value is not None
        return chunk.groups.setdefault(value[:PREFIX_BYTES], Group(schema))

    def _part(self, minute: int) -> int:
        """The table partition a minute falls in: its day, or for histories its month."""
        day = minute // DAY_MINUTES
        if not self._by_month:
            return day
        if day not in self._part_of:
            date = datetime.fromtimestamp(day * 86_400, tz=UTC)
            self._part_of[day] = date.year * 12 + date.month
        return self._part_of[day]

    def _bad(self, chunk: Chunk, message: Message, error: Exception) -> None:
        if isinstance(error, BadMessageError):
            reason, detail = error.reason, error.detail
        else:
            reason, detail = Reason.IDENTITY, str(error)
        chunk.bad.append(Bad(message, reason, detail, producer_of(message)))


def identity_of(message: Message) -> Identity | None:
    """The identity in the message's header, if it can be read."""
    try:
        return wire.of_message(message.headers())  # type: ignore[arg-type]  # list is invariant
    except IdentityError:
        return None


def producer_of(message: Message) -> str:
    """Who sent a message, as well as can be told: the header's producer, else the Kafka key."""
    who = identity_of(message)
    return who.producer_id if who else (message.key() or b"")[:PRODUCER_TEXT_MAX].decode(errors="replace")


def _times(ts: int, append: int) -> str:
    days = (append - ts) / 86_400e6
    return f"event time {_iso(ts)} is {days:.3f} days before the broker's append time {_iso(append)}"


def _iso(us: int) -> str:
    try:
        return datetime.fromtimestamp(us / 1e6, tz=UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{us} us since 1970"
