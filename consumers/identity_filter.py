"""Leaves out of a batch what the store holds already, and what the batch holds twice.

Only suspects are looked up (see ``intake``): in the steady state there are none and the batch goes through untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from consumers.batch import Batch, Chunk, Group, Insert, Message
from consumers.datum import HeadError, place
from consumers.store import Wanted
from consumers.watermark import Key
from schemas import identity as wire
from schemas.catalogue import EventKind
from schemas.identity import Identity


class Lookup(Protocol):
    """What the filter asks of the store."""

    def stored(self, kind: EventKind, wanted: list[Wanted]) -> set[tuple[str, int, int]]: ...

    def max_seq(self, kind: EventKind, keys: list[Key], since_us: int, *, own_key: bool) -> dict[Key, int]: ...


def learn(batch: Batch, store: Lookup) -> dict[Key, int]:
    """The store's max(seq) of every run in the batch that was unknown when it was read.

    Asked when everything read before the batch is stored, since one batch of a partition is in flight at a time.
    """
    unknown = {key for chunk in batch.chunks for key in chunk.unknown}
    if not unknown:
        return {}
    named_alike: set[Key] = set(unknown)
    for _, _, message in _messages(batch):
        who = identity_of(message)
        key = (who.producer_id, who.run_id)
        if key in named_alike and _key(message) != who.producer_id:
            named_alike.discard(key)
    since = min(group.ts_min for chunk in batch.chunks for group in chunk.groups.values())
    found: dict[Key, int] = {}
    if named_alike:
        found |= store.max_seq(batch.kind, sorted(named_alike), since, own_key=True)
    if unknown - named_alike:
        found |= store.max_seq(batch.kind, sorted(unknown - named_alike), since, own_key=False)
    return found


def survivors(batch: Batch, store: Lookup) -> dict[int, list[Message]]:
    """Messages to insert, by id() of their group. Groups without suspects keep their own list, uncopied."""
    suspects = _suspects(batch)
    if not suspects:
        return {id(group): group.messages for insert in batch.inserts for _, group in insert.groups}
    wanted: list[Wanted] = []
    for message, who in suspects.values():
        try:
            where = place(message.value() or b"")
        except HeadError:
            continue  # no reader can take it: the insert will say so, and quarantine will find it
        wanted.append(Wanted(where.site, where.key, who.ts, who.producer_id, who.run_id, who.seq))
    seen = store.stored(batch.kind, wanted)
    seen |= _certain(batch, suspects, {(one.producer_id, one.run_id) for one in wanted})
    kept: dict[int, list[Message]] = {}
    doubles: set[int] = set()
    # Log order within a partition decides which of two copies is kept; any would do, being equal.
    for message, who in suspects.values():
        identity = (who.producer_id, who.run_id, who.seq)
        if identity in seen:
            doubles.add(id(message))
        seen.add(identity)
    for insert in batch.inserts:
        for _, group in insert.groups:
            kept[id(group)] = [m for m in group.messages if id(m) not in doubles]
    return kept


def _key(message: Message) -> str | None:
    try:
        return place(message.value() or b"").key
    except HeadError:
        return None


def identity_of(message: Message) -> Identity:
    """The identity of a message that passed the intake."""
    return wire.of_message(message.headers())  # type: ignore[arg-type]  # list is invariant


def _suspects(batch: Batch) -> dict[int, tuple[Message, Identity]]:
    """Messages that take the filter, by id(), in the order of the log."""
    chosen: list[tuple[int, int, Message]] = []
    for insert in batch.inserts:
        for chunk, group in insert.groups:
            positions = range(len(group.messages)) if batch.check_all else group.suspects
            chosen.extend((chunk.partition, group.messages[i].offset() or 0, group.messages[i]) for i in positions)
    chosen.sort(key=lambda one: one[:2])
    return {id(message): (message, identity_of(message)) for _, _, message in chosen}


def _certain(batch: Batch, suspects: dict[int, tuple[Message, Identity]], keys: set[Key]) -> set[tuple[str, int, int]]:
    """Identities in the batch that are inserted in any case, as far as a suspect could repeat one."""
    certain = set()
    for _, _, message in _messages(batch):
        if id(message) not in suspects:
            who = identity_of(message)
            if (who.producer_id, who.run_id) in keys:
                certain.add((who.producer_id, who.run_id, who.seq))
    return certain


def _messages(batch: Batch) -> Iterator[tuple[Insert, tuple[Chunk, Group], Message]]:
    for insert in batch.inserts:
        for pair in insert.groups:
            for message in pair[1].messages:
                yield insert, pair, message
