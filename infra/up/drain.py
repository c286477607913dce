"""Waiting until everything that was sent is stored: Kafka's log ends against the ledger."""

from __future__ import annotations

from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, TopicPartition

from infra.config import KafkaSettings
from infra.kafka.client import librdkafka
from schemas.catalogue import KINDS

STORED = """
SELECT topic, partition, max(last_offset) + 1 AS next
FROM ingest_ledger
WHERE topic_id = {topic_id:String} AND topic = {topic:String}
GROUP BY topic, partition
"""


class Backlog:
    """Events in the topics that the ledger does not account for yet."""

    def __init__(self, kafka: KafkaSettings, client: Client, topic_ids: dict[str, str]) -> None:
        """``topic_ids``: Kafka's id of each topic, so that a topic of the same name before it does not count."""
        self._client = client
        self._topic_ids = topic_ids
        self._reader = Consumer({**librdkafka(kafka), "group.id": "gpufleet-backlog", "enable.auto.commit": False})
        self._timeout_s = kafka.timeout_s

    def ends(self) -> dict[tuple[str, int], int]:
        """Log end by (topic, partition), of partitions that hold anything."""
        ends = {}
        topics = self._reader.list_topics(timeout=self._timeout_s).topics
        for topic in KINDS:
            for partition in topics[topic].partitions if topic in topics else ():
                _low, high = self._reader.get_watermark_offsets(
                    TopicPartition(topic, partition), timeout=self._timeout_s, cached=False
                )
                if high > 0:
                    ends[topic, partition] = high
        return ends

    def count(self) -> int:
        """Messages between what is stored and the log ends."""
        stored: dict[tuple[str, int], int] = {}
        for topic, topic_id in self._topic_ids.items():
            rows = self._client.query(STORED, parameters={"topic": topic, "topic_id": topic_id}).result_rows
            stored.update({(str(name), int(partition)): int(nxt) for name, partition, nxt in rows})
        return sum(max(0, end - stored.get(place, 0)) for place, end in self.ends().items())

    def close(self) -> None:
        self._reader.close()
