"""From an event's fields to the bytes of a Kafka message."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import fastavro

from producers.journal import Journal
from schemas import catalogue, framing, identity
from schemas.identity import Identity

_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1


class Message(NamedTuple):
    """One event, ready for Kafka."""

    topic: str
    key: bytes
    value: bytes
    """Confluent framing and Avro datum."""
    header: bytes
    """The identity header's bytes."""
    row: int
    """The journal's row of (producer, topic), for the acknowledgement."""


class EventEncoder:
    """Stamps events of one producer with (producer, run, seq) and encodes them with the newest schemas.

    ``schema_ids`` maps topics to the ids of a schema registry; topics it lacks use the catalogue's ids.
    One thread at a time may encode with a journal.
    """

    def __init__(self, journal: Journal, producer_id: str, schema_ids: Mapping[str, int] | None = None) -> None:
        self._journal = journal
        self._producer_id = producer_id
        self._schema_ids = dict(schema_ids or {})

    def encode(self, topic: str, ts: int, fields: Mapping[str, Any], *, give: bool = True) -> Message:
        """A message for ``topic`` at event time ``ts`` (microseconds since 1970, UTC).

        ``fields`` holds the event without its header. ValueError says what does not fit the schema (a missing or
        unknown field, a wrong type, a number out of range); no sequence number is used up by an event that cannot be
        encoded. KeyError for a topic that is not in the catalogue, or not in the journal.

        Without ``give`` the number is not given out yet: the caller does so (``give``) before it encodes another.
        """
        schema = catalogue.latest(topic)
        row = self._journal.row(self._producer_id, topic)
        ticks = int(fields.get("ticks", 1))
        who = Identity(self._producer_id, self._journal.run_id, self._journal.next(row), ts, ticks)
        record = {
            **fields,
            "site": self._journal.site,
            "producer_id": who.producer_id,
            "run_id": who.run_id,
            "seq": who.seq,
            "ts": who.ts,
        }
        header = identity.pack(who)
        value = io.BytesIO()
        value.write(framing.prefix(self._schema_ids.get(topic, schema.id)))
        try:
            fastavro.schemaless_writer(value, schema.parsed, record, strict_allow_default=True)
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
            reason = _misfit(schema, record, error)
            raise ValueError(f"an event for {topic} does not fit its schema: {reason}") from error
        for name in _int_fields(topic):
            _check_range(topic, name, record.get(name))
        key = str(record[schema.kind.key]).encode()
        message = Message(topic, key, value.getvalue(), header, row)
        if give:
            self.give(message)
        return message

    def give(self, message: Message) -> None:
        """Record that the message's number is given out."""
        self._journal.give(message.row, identity.unpack(message.header).seq)


@cache
def _int_fields(topic: str) -> tuple[str, ...]:
    """Fields of Avro int or arrays of it: fastavro writes larger numbers without a word, and no reader takes them."""
    names = []
    for field in catalogue.latest(topic).fields:
        kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
        items = [kind["items"] if isinstance(kind, dict) and kind.get("type") == "array" else kind for kind in kinds]
        if any((item["type"] if isinstance(item, dict) else item) == "int" for item in items):
            names.append(field["name"])
    return tuple(names)


def _check_range(topic: str, name: str, value: Any) -> None:
    low, high = (min(value, default=0), max(value, default=0)) if isinstance(value, list | tuple) else (value, value)
    if low is not None and (low < _INT_MIN or high > _INT_MAX):
        raise ValueError(
            f"an event for {topic} does not fit its schema: field {name!r} is beyond 32 bits: {low}..{high}"
        )


def _misfit(schema: catalogue.Schema, record: Mapping[str, Any], error: Exception) -> str:
    """The first field that does not fit, since the encoder's own message names none for a wrong type."""
    for field in schema.fields:
        if field["name"] not in record:
            if "default" not in field:
                return f"field {field['name']!r} is missing"
            continue
        try:
            fastavro.schemaless_writer(io.BytesIO(), field["type"], record[field["name"]])
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as reason:
            return f"field {field['name']!r} holds {record[field['name']]!r:.80}: {reason}"
    return str(error)
