"""Reading a topic from its beginning to its end: the log is the truth, so a command asks it what holds.

Without a consumer group: partitions are assigned by hand and nothing is committed.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from producers.errors import LogUnreadableError
from schemas import catalogue, framing, identity
from schemas.catalogue import Schema
from schemas.identity import Identity


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event as the log holds it."""

    partition: int
    offset: int
    identity: Identity
    fields: dict[str, Any]
    """The whole event, header fields included; times as microseconds since 1970."""


OnUnreadable = Callable[[str], None]
"""Told about a message that is no event (the consumer makes a dead letter of it); it is left out."""

SchemaById = Callable[[int], Schema | None]
"""The published schema behind an id on the wire; None for an id that is not known."""


def read_topic(
    kafka: Mapping[str, Any],
    topic: str,
    *,
    start: Mapping[int, int] | None = None,
    on_unreadable: OnUnreadable = lambda _why: None,
    schema_by_id: SchemaById = lambda number: catalogue.by_id().get(number),
    patience_s: float = 30.0,
) -> Iterator[LogEvent]:
    """Every event of a topic up to the end seen now, in order within a partition.

    ``start`` gives offsets to begin at by partition; others begin at the beginning. LogUnreadableError when the
    broker gives nothing for ``patience_s``, the topic is missing, or an event's schema is not known here: what holds
    cannot be told then.
    """
    consumer = Consumer(
        {
            **kafka,
            "group.id": "gpufleet-log-reader",  # librdkafka wants a name; no group is joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 20,  # the end of an empty partition is told after this wait
        }
    )
    try:
        partitions = _partitions(consumer, topic, patience_s)
        consumer.assign(
            [
                TopicPartition(
                    topic, number, (start or {}).get(number, _beginning(consumer, topic, number, patience_s))
                )
                for number in partitions
            ]
        )
        open_partitions = set(partitions)
        heard = time.monotonic()
        while open_partitions:
            message = consumer.poll(1.0)
            if message is None:
                if time.monotonic() - heard > patience_s:
                    raise LogUnreadableError(f"topic {topic!r} gave nothing for {patience_s:g} s: is the broker there?")
                continue
            heard = time.monotonic()
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    open_partitions.discard(message.partition() or 0)
                    continue
                if error.retriable() or error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                    continue
                raise LogUnreadableError(f"topic {topic!r} cannot be read: {error.str()}")
            if message.partition() in open_partitions:
                event = _event(topic, message, schema_by_id, on_unreadable)
                if event:
                    yield event
    except KafkaException as error:
        raise LogUnreadableError(f"topic {topic!r} cannot be read: {error.args[0].str()}") from None
    finally:
        consumer.close()


def end_offsets(kafka: Mapping[str, Any], topic: str, patience_s: float = 30.0) -> dict[int, int]:
    """The offset after the last event of every partition, now."""
    consumer = Consumer({**kafka, "group.id": "gpufleet-log-reader", "enable.auto.commit": False})
    try:
        return {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=patience_s)[1]
            for number in _partitions(consumer, topic, patience_s)
        }
    except KafkaException as error:
        raise LogUnreadableError(f"topic {topic!r} cannot be read: {error.args[0].str()}") from None
    finally:
        consumer.close()


def _partitions(consumer: Consumer, topic: str, patience_s: float) -> list[int]:
    found = consumer.list_topics(topic, timeout=patience_s).topics.get(topic)
    if found is None or found.error is not None or not found.partitions:
        raise LogUnreadableError(f"topic {topic!r} does not exist: `gpufleet topics apply` creates it")
    return sorted(found.partitions)


def _beginning(consumer: Consumer, topic: str, partition: int, patience_s: float) -> int:
    low: int = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=patience_s)[0]
    return low


def _event(topic: str, message: Any, schema_by_id: SchemaById, on_unreadable: OnUnreadable) -> LogEvent | None:
    where = f"{topic}/{message.partition()} at offset {message.offset()}"
    value: bytes = message.value() or b""
    try:
        who = identity.of_message(message.headers())
        number = framing.schema_id(value)
        schema = schema_by_id(number)
        if schema is None:
            raise LogUnreadableError(
                f"{where}: schema id {number} is not known to this version of gpufleet: upgrade it"
            )
        if schema.kind.topic != topic:
            raise ValueError(f"schema id {number} is that of {schema.kind.topic}")
        fields = _decode(value[framing.PREFIX_BYTES :], schema)
    except (identity.IdentityError, framing.FramingError, ValueError, EOFError, IndexError, TypeError) as error:
        on_unreadable(f"{where} is not an event: {error}")
        return None
    return LogEvent(message.partition(), message.offset(), who, fields)


def _decode(datum: bytes, schema: Schema) -> dict[str, Any]:
    body = io.BytesIO(datum)
    # Fields that came with a newer version get its defaults.
    writer, reader = _numbers(schema), _numbers(catalogue.latest(schema.kind.topic))
    fields = fastavro.schemaless_reader(body, writer, reader)
    if not isinstance(fields, dict) or body.tell() != len(datum):
        raise ValueError(f"{len(datum) - body.tell()} bytes too many")
    return fields


def _numbers(schema: Schema) -> Any:
    """The schema with times left as the numbers they are."""
    return _parsed_without_logical_types(schema.text)


@cache
def _parsed_without_logical_types(text: str) -> Any:
    return fastavro.parse_schema(_without_logical_types(json.loads(text)))


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_logical_types(value) for key, value in node.items() if key != "logicalType"}
    if isinstance(node, list):
        return [_without_logical_types(item) for item in node]
    return node
