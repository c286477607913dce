"""Which messages of a refused batch are bad, and when there are too many of them.

The verdict is fastavro's, never the store's memory limit or a timeout: the same message is judged alike whatever
stands beside it in the batch.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Sequence

import fastavro

from consumers.batch import Bad, Group, Message
from consumers.clock import Clock
from consumers.errors import UNPROVEN, QuarantineLimitError, Reason
from consumers.intake import producer_of
from consumers.letters.walk import walk
from schemas.catalogue import Schema
from schemas.framing import PREFIX_BYTES

EXPLAINED = 10
EXPLAINED_BYTES = 64 << 10
"""So many messages of a refused batch, and no larger ones, are read field by field to name the byte that is wrong:
that takes milliseconds each. `gpufleet dlq show` explains every letter."""


def decode_error(schema: Schema, value: bytes, *, explain: bool = False) -> str | None:
    """What is wrong with a framed datum: None, or what was found. ``explain``: with byte and field."""
    datum = io.BytesIO(value)
    datum.seek(PREFIX_BYTES)
    try:
        # Text that is not UTF-8 is stored as it is: the store does not mind, so neither must this.
        fastavro.schemaless_reader(datum, schema.parsed, handle_unicode_errors="replace")
    except Exception as error:  # noqa: BLE001  # random bytes make fastavro raise nearly anything
        where = _where(schema, value, error, explain=explain)
        return f"cannot be decoded with {schema.definition['name']} v{schema.version}: {where}"
    left = len(value) - datum.tell()
    return f"{left} bytes follow the datum of {schema.definition['name']} v{schema.version}" if left else None


def _where(schema: Schema, value: bytes, error: Exception, *, explain: bool) -> str:
    """Byte and field for people; else the error's name alone, since fastavro's words hold addresses of objects."""
    stop = walk(schema, value).stop if explain else None
    if stop is None:
        return type(error).__name__
    return f"byte {stop.at}, {stop.path}: {stop.why}" if stop.path else f"byte {stop.at}: {stop.why}"


def decodes(message: Message, group: Group) -> str | None:
    """``decode_error`` of a message of a group, for the intake of suspected producers."""
    return decode_error(group.schema, message.value() or b"")


def find_bad(schema: Schema, messages: Sequence[Message]) -> list[Bad]:
    """The messages that fastavro cannot decode to the last byte."""
    bad: list[Bad] = []
    for message in messages:
        value = message.value() or b""
        wrong = decode_error(schema, value, explain=len(bad) < EXPLAINED and len(value) <= EXPLAINED_BYTES)
        if wrong:
            bad.append(Bad(message, Reason.DECODE, wrong, producer_of(message)))
    return bad


def bisect(
    messages: Sequence[Message], refused: Callable[[Sequence[Message]], str | None]
) -> tuple[list[Message], list[tuple[Message, str]]]:
    """Insert what can be inserted of a batch that fastavro decodes and the store refuses.

    ``refused`` tries to insert messages and returns the store's words when it refused them. Returns (inserted,
    refused with the words), after at most 2 n log n tries of which the refused ones store nothing.
    """
    stored: list[Message] = []
    left: list[tuple[Message, str]] = []
    pending = [messages]
    while pending:
        part = pending.pop()
        words = refused(part)
        if words is None:
            stored.extend(part)
        elif len(part) == 1:
            left.append((part[0], words))
        else:
            middle = len(part) // 2
            pending += [part[middle:], part[:middle]]
    return stored, left


class Ward:
    """The producers whose messages were refused lately.

    Their further messages are decoded before they join a batch, so that one sick producer does not make every batch
    fail; and when they become too many, the fault is likely on this side.
    """

    def __init__(self, share_limit: float, producers_min: int, window_s: float, clock: Clock) -> None:
        self._share_limit, self._producers_min = share_limit, producers_min
        self._window_s, self._clock = window_s, clock
        self._entries: deque[tuple[float, str]] = deque()
        self._count: dict[str, int] = {}
        self.sick: set[str] = set()
        """Shared with the intakes."""

    def admit(self, bad: Sequence[Bad]) -> None:
        """Note the producers of refused messages, as far as it is proven that they are theirs."""
        now = self._clock.monotonic()
        for producer in {one.producer for one in bad if one.reason not in UNPROVEN}:
            self._entries.append((now, producer))
            self._count[producer] = self._count.get(producer, 0) + 1
            self.sick.add(producer)

    def discharge(self) -> None:
        """Let go of producers that had nothing refused for a window."""
        until = self._clock.monotonic() - self._window_s
        while self._entries and self._entries[0][0] < until:
            _, producer = self._entries.popleft()
            self._count[producer] -= 1
            if not self._count[producer]:
                del self._count[producer]
                self.sick.discard(producer)

    def check(self, producers_known: int) -> None:
        """QuarantineLimitError when the share of sick producers is past the limit."""
        sick = len(self.sick)
        known = max(producers_known, sick)
        if sick >= self._producers_min and sick > self._share_limit * known:
            raise QuarantineLimitError(
                f"{sick} of {known} producers had messages refused within {self._window_s:.0f} s, more than the limit "
                f"of {self._share_limit:.0%}: the fault is likely in a schema or in this consumer. They are whole "
                "in the topic dead-letters; look at gpufleet.dead_letters, then raise consume.quarantine_share_limit"
            )
