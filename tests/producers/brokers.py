"""Shared by the tests that talk to a broker: topics, messages, and what a topic holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from producers.encode import Message
from producers.journal import Journal
from schemas import identity
from schemas.identity import Identity
from tests import topics

TOPIC = "leases"


def create_topic(bootstrap: str, topic: str = TOPIC, config: dict[str, str] | None = None) -> None:
    topics.create(bootstrap, [topic], config=config)


def message(journal: Journal, producer: str = "p", *, topic: str = TOPIC, size: int = 50) -> Message:
    """The next message of a producer; its value is of no concern here."""
    row = journal.row(producer, topic)
    seq = journal.next(row)
    journal.give(row, seq)
    header = identity.pack(Identity(producer, journal.run_id, seq, 0, 1))
    return Message(topic, producer.encode(), bytes(size), header, row)


def stored(bootstrap: str, topic: str = TOPIC) -> list[tuple[str, int]]:
    """(producer, seq) of every message in the topic's one partition, in the order of the log.

    The end is where the broker says so in a fetch: asked for the log's end, the embedded one counts a batch as one.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "test-reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        found: list[tuple[str, int]] = []
        while True:
            item = consumer.poll(20)
            assert item is not None, f"nothing came for 20 s after {len(found)} messages"
            error = item.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                return found
            headers = item.headers()
            assert isinstance(headers, list)
            who = identity.of_message(headers)
            found.append((who.producer_id, who.seq))
    finally:
        consumer.close()


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Wait for a condition; a failure names it."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for: {what}"
        time.sleep(0.02)


def acknowledged(journal: Journal, producers: Sequence[str] = ("p",), topic: str = TOPIC) -> int:
    return sum(journal.table[2 * journal.row(name, topic) + 1] for name in producers)
