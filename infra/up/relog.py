"""Puts leases and limits back into a broker that forgets.

`lease apply` and `limit apply` compare with the log, for the log is the truth. The embedded broker keeps its log in
memory: after a restart it would be an empty truth. The events are sent again as they were, under their own identities,
so that the consumer stores none of them twice.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import fastavro
from clickhouse_connect.driver.client import Client
from confluent_kafka import Producer

from producers.publisher import PRODUCER_DEFAULTS
from schemas import catalogue, framing, identity, signing
from schemas.catalogue import Schema
from schemas.identity import Identity
from schemas.signer import Sign

TOPICS = ("leases", "tenant-limits")
"""What commands read back from the log."""


def put_back(client: Client, kafka: Mapping[str, Any], sign: Sign | None = None) -> Counter[str]:
    """Send every stored event of TOPICS again; how many, by topic. RuntimeError when the broker does not take them."""
    sent: Counter[str] = Counter()
    producer = Producer({**PRODUCER_DEFAULTS, **kafka})
    for topic in TOPICS:
        schema = catalogue.latest(topic)
        for event in _stored(client, schema):
            who = Identity(event["producer_id"], event["run_id"], event["seq"], event["ts"], 1)
            datum = io.BytesIO()
            fastavro.schemaless_writer(datum, schema.parsed, event)
            key, header = str(event[schema.kind.key]).encode(), identity.pack(who)
            value = framing.prefix(schema.id) + datum.getvalue()
            headers: list[tuple[str, str | bytes | None]] = [(identity.HEADER, header)]
            if sign is not None:
                headers.append((signing.HEADER, sign(topic, key, header, value)))
            producer.produce(topic, value, key, headers=headers)
            sent[topic] += 1
    left = producer.flush(30)
    if left:
        raise RuntimeError(f"the broker did not take {left} leases and limits of earlier runs within 30 s")
    return sent


def _stored(client: Client, schema: Schema) -> Iterator[dict[str, Any]]:
    """The events of a history table as they were sent, in the order they were sent; times as microseconds."""
    names = [field["name"] for field in schema.fields]
    times = {f["name"] for f in schema.fields if "timestamp-micros" in str(f["type"])}
    columns = ", ".join(f"toUnixTimestamp64Micro({name})" if name in times else name for name in names)
    order = "ts, producer_id, run_id, seq"
    for row in client.query(f"SELECT {columns} FROM {schema.kind.table} FINAL ORDER BY {order}").result_rows:
        event = dict(zip(names, row, strict=True))
        assert not any(isinstance(value, datetime) for value in event.values())
        yield event
