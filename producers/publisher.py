"""Messages to Kafka: at least once, in bounded memory, whatever the broker does.

librdkafka's idempotent producer orders and retries; what it gives back (a purge, a fatal error) is sent again with
the same identity, which the consumer stores once. When the bound is reached ``offer`` says no and the caller
decides what to thin out; a durable spool can stand behind the same ``Outbox``.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Delivered

from producers.encode import Message
from producers.journal import Journal
from schemas.identity import HEADER


class Outbox(Protocol):
    """Takes encoded events and answers for them. A durable spool implements the same two promises."""

    def offer(self, message: Message) -> bool:
        """Take the message over; False when the bound is reached and it was not taken. Never blocks."""

    def flush(self, timeout_s: float) -> int:
        """Wait until everything taken is acknowledged; the number still waiting when time is up."""


@dataclass(slots=True)
class Counters:
    """What became of the messages, since the start of the process."""

    offered: int = 0
    acknowledged: int = 0
    retried: int = 0
    """Given back by librdkafka and sent again."""
    refused: int = 0
    """Not taken, the bound being reached."""
    last_error: str = ""


PRODUCER_DEFAULTS: Mapping[str, str | int | float | bool] = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",
    "linger.ms": 50,
    "message.timeout.ms": 0,  # retry for ever: the bound is memory, not time
    "queue.buffering.max.messages": 0,
    "partitioner": "murmur2_random",  # the placement of Java clients: tools agree on a key's partition
    "message.max.bytes": 4_000_000,
}


class KafkaOutbox:
    """An ``Outbox`` in memory over confluent-kafka's producer.

    ``config`` is librdkafka's, laid over ``PRODUCER_DEFAULTS``. ``bound_bytes`` limits keys, values and headers not
    yet acknowledged; librdkafka keeps a copy, so the process holds at most twice that.
    """

    def __init__(self, config: Mapping[str, Any], journal: Journal, bound_bytes: int = 256 << 20) -> None:
        self._config = {
            **PRODUCER_DEFAULTS,
            "queue.buffering.max.kbytes": min(2_097_151, (bound_bytes >> 10) + 1024),
            **config,
            "error_cb": self._on_error,
        }
        self._journal = journal
        self._bound = bound_bytes
        self._held_bytes = 0
        self._waiting = 0
        self._again: deque[Message] = deque()
        self._fatal = False
        self.counters = Counters()
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._producer = Producer(self._config)
        self._thread = threading.Thread(target=self._serve, name="publisher", daemon=True)
        self._thread.start()

    def offer(self, message: Message) -> bool:
        size = _size(message)
        with self._lock:
            self.counters.offered += 1
            if self._held_bytes + size > self._bound:
                self.counters.refused += 1
                return False
            self._held_bytes += size
            self._waiting += 1
            self._produce(message)
        return True

    def flush(self, timeout_s: float) -> int:
        deadline = threading.Event()
        timer = threading.Timer(timeout_s, deadline.set)
        timer.start()
        try:
            while self._waiting and not deadline.wait(0.02):
                pass
        finally:
            timer.cancel()
        return self._waiting

    def close(self, timeout_s: float = 10.0) -> int:
        """Flush, then let go; the number of messages that were not acknowledged in time."""
        left = self.flush(timeout_s)
        self._stop.set()
        self._thread.join()
        return left

    def _produce(self, message: Message) -> None:
        try:
            self._producer.produce(
                message.topic,
                message.value,
                message.key,
                headers=[(HEADER, message.header)],
                on_delivery=partial(self._on_delivery, message),
            )
        except (BufferError, KafkaException) as error:
            self.counters.last_error = str(error)
            self._again.append(message)

    def _on_delivery(self, message: Message, error: KafkaError | None, _delivered: Delivered) -> None:
        with self._lock:
            if error is None:
                self._held_bytes -= _size(message)
                self._waiting -= 1
                self.counters.acknowledged += 1
                self._journal.acknowledge(message.row)
            else:
                self.counters.last_error = error.str()
                self._again.append(message)

    def _on_error(self, error: KafkaError) -> None:
        self.counters.last_error = error.str()
        self._fatal = self._fatal or error.fatal()

    def _serve(self) -> None:
        while not self._stop.is_set():
            if self._producer.poll(0.05) == 0 and self._again:
                self._stop.wait(0.2)
            with self._lock:
                if self._fatal:
                    self._renew()
                for _ in range(len(self._again)):
                    self.counters.retried += 1
                    self._produce(self._again.popleft())
        self._producer.poll(0)

    def _renew(self) -> None:
        """A fatal error ends an idempotent producer: take back what it holds and start another."""
        self._fatal = False
        self._producer.purge()
        self._producer.flush(5)  # hands every purged message to _on_delivery
        self._producer = Producer(self._config)


def _size(message: Message) -> int:
    return len(message.key) + len(message.value) + len(message.header)
