"""Waiting until everything that was sent is stored: the ends of Kafka's log against the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, TopicCollection, TopicPartition

from infra.config import KafkaSettings
from infra.kafka.client import admin, librdkafka
from schemas.catalogue import KINDS

# Grain: topic. Messages of this topic's log that the ledger accounts for, from its beginning.
STORED = """
SELECT topic, topic_id, sum(next) AS messages
FROM
(
    SELECT topic, topic_id, partition, max(last_offset) + 1 AS next
    FROM ingest_ledger
    GROUP BY topic, topic_id, partition
)
GROUP BY topic, topic_id
"""


class Backlog:
    """Messages in the topics that the ledger does not account for yet.

    ``ends`` gives the messages each topic has ever held. Topics are told apart by Kafka's ids, so that one of the same
    name that stood there before does not count.
    """

    def __init__(self, kafka: KafkaSettings, client: Client, ends: Callable[[], Mapping[str, int]]) -> None:
        # Kept: librdkafka aborts the process when a client's last reference dies in one of its own threads.
        self._admin = admin(kafka)
        described = self._admin.describe_topics(TopicCollection(list(KINDS)), request_timeout=kafka.timeout_s)
        self._ids = {name: str(future.result().topic_id) for name, future in described.items()}
        self._client = client
        self._ends = ends

    def count(self) -> int:
        """Messages between what is stored and what was sent."""
        stored = {
            topic: int(messages)
            for topic, topic_id, messages in self._client.query(STORED).result_rows
            if self._ids.get(topic) == topic_id
        }
        return sum(max(0, end - stored.get(topic, 0)) for topic, end in self._ends().items())


def log_ends(kafka: KafkaSettings) -> Callable[[], dict[str, int]]:
    """The brokers' own word on how long each topic's log is.

    Not for the embedded broker: it answers with the base offset of the newest batch plus one.
    """
    reader = Consumer({**librdkafka(kafka, "consumer"), "group.id": "gpufleet-backlog", "enable.auto.commit": False})

    def ends() -> dict[str, int]:
        topics = reader.list_topics(timeout=kafka.timeout_s).topics
        return {
            topic: sum(
                reader.get_watermark_offsets(TopicPartition(topic, p), timeout=kafka.timeout_s, cached=False)[1]
                for p in topics[topic].partitions
            )
            for topic in KINDS
            if topic in topics
        }

    return ends
