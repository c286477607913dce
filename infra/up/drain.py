"""Waiting until everything that was sent is stored: Kafka's log ends against the ledger."""

from __future__ import annotations

from typing import Self

from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, TopicCollection, TopicPartition

from infra.config import KafkaSettings
from infra.kafka.client import admin, librdkafka
from schemas.catalogue import KINDS

# Grain: topic, its id and partition.
STORED = """
SELECT topic, topic_id, partition, max(last_offset) + 1 AS next
FROM ingest_ledger
GROUP BY topic, topic_id, partition
"""


class Backlog:
    """Events in the topics that the ledger does not account for yet."""

    def __init__(self, kafka: KafkaSettings, client: Client, topic_ids: dict[str, str]) -> None:
        """``topic_ids``: Kafka's id of each topic, so that a topic of the same name before it does not count."""
        self._client = client
        self._topic_ids = topic_ids
        self._reader = Consumer({**librdkafka(kafka), "group.id": "gpufleet-backlog", "enable.auto.commit": False})
        self._timeout_s = kafka.timeout_s

    @classmethod
    def of(cls, kafka: KafkaSettings, client: Client) -> Self:
        """The backlog of the topics as they are now."""
        described = admin(kafka).describe_topics(TopicCollection(list(KINDS)), request_timeout=kafka.timeout_s)
        ids = {name: str(future.result(kafka.timeout_s + 5).topic_id) for name, future in described.items()}
        return cls(kafka, client, ids)

    def ends(self) -> dict[tuple[str, int], int]:
        """Log end by (topic, partition), of partitions that hold anything."""
        ends = {}
        topics = self._reader.list_topics(timeout=self._timeout_s).topics
        for topic in self._topic_ids:
            for partition in topics[topic].partitions:
                _low, high = self._reader.get_watermark_offsets(
                    TopicPartition(topic, partition), timeout=self._timeout_s, cached=False
                )
                if high > 0:
                    ends[topic, partition] = high
        return ends

    def count(self) -> int:
        """Messages between what is stored and the log ends."""
        stored = {
            (topic, partition): next_offset
            for topic, topic_id, partition, next_offset in self._client.query(STORED).result_rows
            if self._topic_ids.get(topic) == topic_id
        }
        return sum(max(0, end - stored.get(place, 0)) for place, end in self.ends().items())

    def close(self) -> None:
        self._reader.close()
