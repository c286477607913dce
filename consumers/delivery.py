"""Delivers one batch: filter, insert, quarantine. Runs in an insert thread and owns the batch meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from consumers import identity_filter, ledger, quarantine, table_order
from consumers.batch import Bad, Batch, Insert, Message
from consumers.clock import Clock
from consumers.errors import Reason, RefusedError, StoreMemoryError, StoreUnavailableError, TableBehindError
from consumers.failpoints import failpoint
from consumers.identity_filter import Lookup
from consumers.intake import producer_of
from consumers.ledger import Entry, Lateness
from consumers.metrics import Metrics
from consumers.stall import StallGuard
from consumers.watermark import Key
from schemas.catalogue import Schema
from schemas.container import Container, ContainerWriter
from schemas.framing import PREFIX_BYTES


class Inserts(Lookup, Protocol):
    """What a delivery asks of the store."""

    def insert(self, schema: Schema, body: Container) -> None: ...


class Letters(Protocol):
    """Takes messages that cannot be stored."""

    def write(self, bad: Sequence[tuple[Bad, str]]) -> None: ...


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of a batch: every message of it is stored, was stored before, or is a dead letter."""

    batch: Batch
    entries: list[Entry]
    learned: dict[Key, int]
    """Stored max(seq) of runs that were unknown."""
    bad: list[Bad]


class Delivery:
    """Delivers batches. Thread-safe as far as the store and the letters are."""

    def __init__(
        self,
        store: Inserts,
        letters: Letters,
        guard: StallGuard,
        clock: Clock,
        metrics: Metrics,
        lateness: Lateness,
    ) -> None:
        self._store, self._letters, self._guard, self._clock = store, letters, guard, clock
        self._metrics, self._lateness = metrics, lateness

    def deliver(self, batch: Batch) -> Delivered:
        """All of the batch, or an error after which the whole batch is delivered again with ``check_all``.

        Raises TransientError, TableBehindError.
        """
        began = self._clock.monotonic()
        learned = identity_filter.learn(batch, self._store)
        kept = identity_filter.survivors(batch, self._store)
        if learned or any(group.suspects for insert in batch.inserts for _, group in insert.groups):
            self._metrics.lookup_seconds.observe(self._clock.monotonic() - began)
        failpoint("looked up")
        for insert in batch.inserts:
            messages = [kept[id(group)] for _, group in insert.groups]
            stored = self._insert(batch, insert, messages)
            if stored is not None:
                for (_, group), some in zip(insert.groups, messages, strict=True):
                    kept[id(group)] = [message for message in some if id(message) in stored]
        failpoint("inserted")
        bad = [one for chunk in batch.chunks for one in chunk.bad]
        self._letters.write([(one, chunk.topic_id) for chunk in batch.chunks for one in chunk.bad])
        return Delivered(batch, ledger.entries(batch, kept, self._lateness), learned, bad)

    def _insert(self, batch: Batch, insert: Insert, messages: list[list[Message]]) -> set[int] | None:
        """Store the messages, less the bad ones, which move to their chunks' ``bad``.

        None when all are stored, else the id() of those that are.
        """
        everything = [message for some in messages for message in some]
        if not everything:
            return None
        table_order.sort(insert, everything)
        began = self._clock.monotonic()
        try:
            self._send(insert.schema, everything, batch.pieces)
        except StoreMemoryError:
            # Never a reason for a dead letter, but a datum that claims a huge array is bad by its own schema. Whether
            # anything was stored is not known: deliver again.
            self._bury(insert, quarantine.find_bad(insert.schema, everything))
            raise
        except RefusedError as error:
            bad = quarantine.find_bad(insert.schema, everything)
            if batch.pieces > 1:
                self._bury(insert, bad)
                batch.pieces = 1
                raise StoreUnavailableError(f"a piece was refused, others may be stored: {error}") from error
            sound = [m for m in everything if id(m) not in {id(one.message) for one in bad}]
            stored, refused = quarantine.bisect(sound, lambda some: self._refusal(insert.schema, some))
            if refused and not stored:
                # Nothing passes although all of it is sound by its schema: the table is at fault, not the messages.
                raise TableBehindError(batch.kind.topic, f"the store refuses sound events: {refused[0][1]}") from error
            bad += [Bad(m, Reason.DECODE, f"refused by the store: {why}", producer_of(m)) for m, why in refused]
            self._bury(insert, bad)
            return {id(message) for message in stored}
        finally:
            insert.seconds = self._clock.monotonic() - began
        path = "filter" if batch.check_all or any(group.suspects for _, group in insert.groups) else "steady"
        self._metrics.inserts.labels(batch.kind.topic, path).inc()
        self._metrics.insert_seconds.labels(batch.kind.topic).observe(insert.seconds)
        return None

    def _send(self, schema: Schema, messages: Sequence[Message], pieces: int = 1) -> None:
        step = -(-len(messages) // pieces)
        writer = ContainerWriter(schema)
        for at in range(0, len(messages), step):
            body = writer.open([message.value() or b"" for message in messages[at : at + step]], skip=PREFIX_BYTES)
            failpoint("framed")
            self._guard.check()
            self._store.insert(schema, body)

    def _refusal(self, schema: Schema, messages: Sequence[Message]) -> str | None:
        if messages:
            try:
                self._send(schema, messages)
            except RefusedError as error:
                return str(error)
        return None

    @staticmethod
    def _bury(insert: Insert, bad: Sequence[Bad]) -> None:
        """Move bad messages from their groups to their chunks' dead letters."""
        by_message = {id(one.message): one for one in bad}
        for chunk, group in insert.groups:
            gone = [by_message[id(m)] for m in group.messages if id(m) in by_message]
            if gone:
                chunk.bad.extend(gone)
                suspects = {id(group.messages[i]) for i in group.suspects}
                group.messages = [m for m in group.messages if id(m) not in by_message]
                group.suspects = [i for i, m in enumerate(group.messages) if id(m) in suspects]
