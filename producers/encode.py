"""From an event's fields to the bytes of a Kafka message."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fastavro

from producers.journal import Journal
from schemas import catalogue, framing, identity
from schemas.identity import Identity


@dataclass(frozen=True, slots=True)
class Message:
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
    """

    def __init__(self, journal: Journal, producer_id: str, schema_ids: Mapping[str, int] | None = None) -> None:
        self._journal = journal
        self._producer_id = producer_id
        self._schema_ids = dict(schema_ids or {})

    def encode(self, topic: str, ts: int, fields: Mapping[str, Any]) -> Message:
        """A message for ``topic`` at event time ``ts`` (microseconds since 1970, UTC).

        ``fields`` holds the event without its header. ValueError names a field that does not fit the schema; no
        sequence number is used up by an event that cannot be encoded.
        """
        schema = catalogue.latest(topic)
        row = self._journal.row(self._producer_id, topic)
        who = Identity(
            self._producer_id, self._journal.run_id, self._journal.next(row), ts, int(fields.get("ticks", 1))
        )
        record = {
            **fields,
            "site": self._journal.site,
            "producer_id": who.producer_id,
            "run_id": who.run_id,
            "seq": who.seq,
            "ts": who.ts,
        }
        value = io.BytesIO()
        value.write(framing.prefix(self._schema_ids.get(topic, schema.id)))
        try:
            fastavro.schemaless_writer(value, schema.parsed, record, strict_allow_default=True)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ValueError(f"an event for {topic} does not fit its schema: {error}") from error
        header = identity.pack(who)
        self._journal.give(row, who.seq)
        return Message(topic, str(fields[schema.kind.key]).encode(), value.getvalue(), header, row)
