"""Shared by the tests that talk to a broker: topics, messages, and what a topic holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from producers.encode import Message
from producers.journal import Journal
from schemas import identity
from schemas.identity import Identity

TOPIC = "leases"


def create_topic(bootstrap: str, topic: str = TOPIC, config: dict[str, str] | None = None) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, 1, 1, config=config or {})]).values():
        future.result(30)


def message(journal: Journal, producer: str = "p", *, topic: str = TOPIC, size: int = 50) -> Message:
    """The next message of a producer; its value is of no concern here."""
    row = journal.row(producer, topic)
    seq = journal.next(row)
    journal.give(row, seq)
    header = identity.pack(Identity(producer, journal.run_id, seq, 0, 1))
    return Message(topic, producer.encode(), bytes(size), header, row)


def stored(bootstrap: str, topic: str = TOPIC) -> list[tuple[str, int]]:
    """(producer, seq) of every message in the topic's one partition, in the order of the log."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test-reader", "enable.auto.commit": False})
    try:
        partition = TopicPartition(topic, 0)
        low, high = consumer.get_watermark_offsets(partition, timeout=30)
        partition.offset = low
        consumer.assign([partition])
        found: list[Any] = []
        while not found or found[-1].offset() < high - 1:
            if high == low:
                break
            item = consumer.poll(10)
            assert item is not None, f"nothing came for 10 s after {len(found)} messages"
            assert item.error() is None, item.error()
            found.append(item)
        identities = [identity.of_message(item.headers()) for item in found]
        return [(who.producer_id, who.seq) for who in identities]
    finally:
        consumer.close()


def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait for a condition; a failure names it."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for: {what}"
        time.sleep(0.02)


def acknowledged(journal: Journal, producers: Sequence[str] = ("p",), topic: str = TOPIC) -> int:
    return sum(journal.table[2 * journal.row(name, topic) + 1] for name in producers)
