"""Topics for tests, made with one request that a slow broker may have answered too late."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic


def create(bootstrap: str, topics: Iterable[str], partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
    """Make the topics; one that is there by the time its request was asked again is as good."""
    wanted = [NewTopic(topic, partitions, 1, config=dict(config or {})) for topic in topics]
    made_by(AdminClient({"bootstrap.servers": bootstrap}), wanted)


def made_by(admin: AdminClient, wanted: list[NewTopic]) -> None:
    """Make them with this client, and wait for the broker."""
    for future in admin.create_topics(wanted).values():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
