"""What the consumer's tests send: events of every kind, with values that a decoder can be compared by."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fastavro
from confluent_kafka import Producer

from schemas import catalogue, framing, identity
from schemas.catalogue import KINDS, Schema
from schemas.identity import HEADER, Identity
from tests import topics

MINUTE_US = 60_000_000


def recently() -> int:
    """A time a minute ago, at the beginning of a second: microseconds since 1970."""
    return (time.time_ns() // 1_000_000_000 - 60) * 1_000_000


def value_for(kind: Any, salt: int) -> Any:
    """A value of an Avro type, different for different ``salt``."""
    if isinstance(kind, list):
        return value_for(kind[-1], salt)
    if isinstance(kind, dict):
        match kind["type"]:
            case "array":
                return [value_for(kind["items"], salt + i) for i in range(salt % 3)]
            case "map":
                return {f"k{salt % 5}": value_for(kind["values"], salt)}
            case "fixed":
                return bytes((salt + i) % 256 for i in range(kind["size"]))
            case "enum":
                return kind["symbols"][salt % len(kind["symbols"])]
            case "record":
                return {f["name"]: value_for(f["type"], salt + i) for i, f in enumerate(kind["fields"])}
            case other:
                return value_for(other, salt)
    return {
        "string": f"text-{salt}",
        "bytes": bytes([salt % 256, 0, 255]),
        "int": salt % 1000,
        "long": salt * 7,
        "float": salt / 4,
        "double": salt / 8,
        "boolean": bool(salt % 2),
    }[kind]


def datum(schema: Schema, record: Mapping[str, Any]) -> bytes:
    """Avro bytes of a record."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema.parsed, record)
    return out.getvalue()


@dataclass(frozen=True)
class Sent:
    """A message as it goes to Kafka."""

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    record: Mapping[str, Any]

    @property
    def identity(self) -> tuple[str, int, int]:
        return self.record["producer_id"], self.record["run_id"], self.record["seq"]


@dataclass
class Node:
    """A producer with sequence numbers of its own."""

    name: str
    site: str
    run_id: int = 1_700_000_000_000_000
    _next: dict[str, itertools.count[int]] = field(default_factory=dict)

    def event(self, topic: str, ts: int | None = None, schema: Schema | None = None, **fields: Any) -> Sent:
        """The node's next event on a topic; fields not given get values of their own."""
        seq = next(self._next.setdefault(topic, itertools.count()))
        schema = schema or catalogue.latest(topic)
        record = {f["name"]: value_for(f["type"], seq + i) for i, f in enumerate(schema.fields)}
        key = self.name if KINDS[topic].key == "node_id" else f"{self.name}/{seq % 2}"
        record |= {KINDS[topic].key: key, "site": self.site, "producer_id": self.name}
        record |= {"run_id": self.run_id, "seq": seq, "ts": recently() + seq * 1000 if ts is None else ts, **fields}
        return message(schema, record)


def message(schema: Schema, record: Mapping[str, Any]) -> Sent:
    """A record as a sound message."""
    who = Identity(record["producer_id"], record["run_id"], record["seq"], record["ts"], 1)
    return Sent(
        schema.kind.topic,
        str(record[schema.kind.key]).encode(),
        framing.prefix(schema.id) + datum(schema, record),
        [(HEADER, identity.pack(who))],
        record,
    )


def create_topics(bootstrap: str, partitions: int = 4, names: Iterable[str] = tuple(KINDS)) -> None:
    """The topics, with append times by the broker."""
    config = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "4000000"}
    topics.create(bootstrap, names, partitions, config)


class Sender:
    """Sends messages and waits for the broker."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "linger.ms": 5,
                "partitioner": "murmur2_random",
                "message.max.bytes": 4_000_000,
                "enable.idempotence": True,
            }
        )

    def send(self, messages: Iterable[Sent]) -> None:
        for one in messages:
            self._producer.produce(one.topic, one.value, one.key, headers=list(one.headers))
            self._producer.poll(0)
        assert self._producer.flush(30) == 0
