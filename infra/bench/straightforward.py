"""The baseline: a well-written straightforward pipeline over the same events.

Messages come from the same Kafka topics, fastavro decodes each event, its arrays are unrolled into one row per GPU (or
host, or NIC) and tick, columns are collected until a batch holds 100,000 rows or more, and clickhouse-connect inserts
the batch in its native columnar form. It keeps the metrics of both lanes, as the event tables do, no rollups and no
other kinds of events, and does nothing about exactness.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import fastavro
from clickhouse_connect.driver.client import Client
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from infra.bench.row_tables import GPU_SAMPLES, TABLES, Rows
from schemas import catalogue, framing

BATCH_ROWS = 100_000
VOID_BELOW = 25_000
"""Samples per CPU-second under which the machine is too slow or noisy for the ratio to mean anything."""
TOPICS = tuple(dict.fromkeys(table.topic for table in TABLES))


def create_tables(client: Client) -> None:
    """All of the pipeline's tables, empty."""
    for table in TABLES:
        table.create(client)


def messages(kafka: Mapping[str, Any], share: float = 1.0) -> Iterator[tuple[str, bytes]]:
    """(topic, framed value) from the beginning of each partition: the first ``share`` of what it holds.

    The same share of every partition, so that both lanes come in the proportion they were sent in. The whole is read
    until nothing more comes, since the embedded broker's end offset lies before the end.
    """
    consumer = Consumer({**kafka, "group.id": "gpufleet-bench-baseline", "enable.auto.commit": False})
    left: dict[tuple[str, int], int] = {}
    for topic in TOPICS:
        for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            if high > low:
                left[topic, partition] = max(1, round((high - low) * share)) if share < 1 else sys.maxsize
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in left])
    while left:
        some = consumer.consume(500, timeout=5.0)
        if not some:
            break
        for message in some:
            place, value = (message.topic() or "", message.partition() or 0), message.value()
            if message.error() is not None or place not in left:
                continue
            left[place] -= 1
            if not left[place]:
                del left[place]
                consumer.incremental_unassign([TopicPartition(*place)])
            if value is not None:
                yield place[0], value
    consumer.close()


def run(client: Client, values: Iterable[tuple[str, bytes]]) -> tuple[int, float]:
    """Decode and insert framed values of both lanes; GPU samples of the fast lane, and this process's CPU seconds."""
    started = time.process_time()
    schemas = {topic: catalogue.latest(topic).parsed for topic in TOPICS}
    batches = {topic: [(table, Rows(table)) for table in TABLES if table.topic == topic] for topic in TOPICS}
    samples = 0
    for topic, value in values:
        event: dict[str, Any] = fastavro.schemaless_reader(  # type: ignore[assignment]
            io.BytesIO(memoryview(value)[framing.PREFIX_BYTES :]), schemas[topic]
        )
        for table, rows in batches[topic]:
            rows.add(event)
            if rows.count >= BATCH_ROWS:
                samples += rows.insert(client) * (table is GPU_SAMPLES)
    for batch in batches.values():
        for table, rows in batch:
            samples += rows.insert(client) * (table is GPU_SAMPLES)
    return samples, time.process_time() - started
