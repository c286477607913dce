"""Messages to Kafka: at least once, in bounded memory, whatever the broker does.

librdkafka's idempotent producer orders and retries; what it gives back (a purge, a fatal error, an unknown topic) is
sent again with the same identity, which the consumer stores once. When the bound is reached ``offer`` says no and the
caller decides what to thin out; a durable spool can stand behind the same ``Outbox``.

Threads: any thread may offer; offering takes a lock that is never held across I/O. One thread, the publisher's, runs
every callback of librdkafka, sends again, and is the only one that acknowledges in the journal. What is taken is
counted by the offering side and what is released by the publisher's thread, so the two never write one number.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Delivered

from producers.encode import Message
from schemas import identity, signing
from schemas.signer import NoKeyError, Sign


class Outbox(Protocol):
    """Takes encoded events and answers for them. A durable spool implements the same promises."""

    def offer(self, message: Message) -> bool:
        """Take the message over; False when the bound is reached and it was not taken. Never blocks."""

    def offer_many(self, messages: Sequence[Message]) -> int:
        """Take messages over in order until the bound is reached; how many were taken. Never blocks."""

    def flush(self, timeout_s: float) -> int:
        """Wait until everything taken is acknowledged; the number still waiting when time is up."""


class Acknowledgements(Protocol):
    """Told what became of a message, by the ``row`` it carries: the journal, or a spool between it and the outbox."""

    def acknowledge(self, row: int) -> None:
        """The broker has it. Called in the publisher's thread."""

    def reject(self, row: int) -> None:
        """No broker will ever take it. Called in any thread; must not call the outbox."""


@dataclass(slots=True)
class Counters:
    """What became of the messages, since the start of the process."""

    offered: int = 0
    acknowledged: int = 0
    retried: int = 0
    """Given back by librdkafka and sent again."""
    refused: int = 0
    """Not taken, the bound being reached (or the outbox closed)."""
    rejected: int = 0
    """Taken, but no broker will ever accept them (too large, invalid): dropped, and ``last_error`` names the last.
    The journal never counts them as acknowledged, so the audit shows each as a gap."""
    renewed: int = 0
    """Fatal errors of the idempotent producer, each followed by a new one."""
    last_error: str = ""
    """The latest trouble, in words; stays after it is over."""


PRODUCER_DEFAULTS: Mapping[str, str | int | float | bool] = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",
    "linger.ms": 50,
    "message.timeout.ms": 0,  # retry for ever: the bound is memory, not time
    "queue.buffering.max.messages": 0,
    "partitioner": "murmur2_random",  # the placement of Java clients: tools agree on a key's partition
    "message.max.bytes": 4_000_000,
    "reconnect.backoff.max.ms": 5_000,
    "socket.keepalive.enable": True,
}

OVERHEAD_BYTES = 700
"""What a waiting message costs beside its own bytes, in librdkafka and here (measured: 400-650)."""

_HOPELESS = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_MSG})
_UNKNOWN = frozenset({KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART})


class _Held(NamedTuple):
    """A message that librdkafka gave back."""

    message: Message
    alone: bool = False
    """Send it in a batch of its own: a broker refuses whole batches, and one bad message must not doom the rest."""


class KafkaOutbox:
    """An ``Outbox`` in memory over confluent-kafka's producer.

    ``config`` is librdkafka's, laid over ``PRODUCER_DEFAULTS``. ``bound_bytes`` limits what is not yet acknowledged:
    key, value and header of each message plus ``OVERHEAD_BYTES``. A message is held once, by librdkafka or (given
    back) here, so the process grows by at most ``bound_bytes`` and one batch per broker in flight.

    ``sign`` makes the signature header. A message is signed each time it is sent, not when it is made or spooled: a
    backlog of days goes out under the key of today, what was thinned is signed as it is, and no signature is on disk.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        journal: Acknowledgements,
        bound_bytes: int = 256 << 20,
        *,
        sign: Sign | None = None,
        make_producer: Callable[[dict[str, Any]], Producer] = Producer,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._sign = sign
        self._config = {
            **PRODUCER_DEFAULTS,
            "queue.buffering.max.kbytes": min(2_097_151, (bound_bytes >> 10) + 1024),
            "logger": _logger(),
            **config,
            "error_cb": self._on_error,
        }
        self._journal = journal
        self._bound = bound_bytes
        self._make_producer = make_producer
        self._jitter = jitter
        self._taken = self._taken_bytes = 0  # written under the lock, by whoever offers
        self._released = self._released_bytes = 0  # written by the publisher's thread
        self._again: deque[_Held] = deque()
        self._failures = 0
        self._retry_at = 0.0
        self._fatal = self._closed = False
        self.counters = Counters()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._producer = make_producer(self._config)
        self._careful: Producer | None = None
        self._thread = threading.Thread(target=self._serve, name="publisher", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """Messages taken and neither acknowledged nor rejected."""
        return self._taken - self._released

    @property
    def held_bytes(self) -> int:
        """What counts against the bound now."""
        return self._taken_bytes - self._released_bytes

    def offer(self, message: Message) -> bool:
        """See ``Outbox``. A message that no broker would take counts as taken and is rejected at once."""
        with self._lock:
            return self._take(message)

    def offer_many(self, messages: Sequence[Message]) -> int:
        """See ``Outbox``. One lock for all of them."""
        with self._lock:
            for number, message in enumerate(messages):
                if not self._take(message):
                    return number
        return len(messages)

    def flush(self, timeout_s: float) -> int:
        """See ``Outbox``. What was rejected is not waited for: look at ``counters.rejected``."""
        deadline = time.monotonic() + timeout_s
        while self.waiting and time.monotonic() < deadline and self._thread.is_alive():
            self._stop.wait(0.01)
        return self.waiting

    def close(self, timeout_s: float = 10.0) -> int:
        """Flush, then let go; the number of messages that were not acknowledged in time.

        Those are dropped here and stay unacknowledged in the journal. Close the journal after the outbox.
        """
        if self._closed:
            return self.waiting
        left = self.flush(timeout_s)
        with self._lock:
            self._closed = True
        self._stop.set()
        self._thread.join()
        for producer in (self._producer, self._careful):
            if producer:
                producer.purge()
                producer.flush(1)
        del self._producer, self._careful, producer  # threads and connections end here
        self._again.clear()
        return min(left, self.waiting)

    def _take(self, message: Message) -> bool:
        self.counters.offered += 1
        size = _size(message)
        if self._closed or (self._taken_bytes - self._released_bytes + size > self._bound and size <= self._bound):
            self.counters.refused += 1
            return False
        if size > self._bound:
            self._reject(message, f"is larger than the outbox's bound of {self._bound} bytes")
            return True
        self._taken += 1
        self._taken_bytes += size
        try:
            self._produce(self._producer, message)
        except (BufferError, NoKeyError) as error:  # without a key it waits for one: an operator's slip loses nothing
            self.counters.last_error = str(error)
            self._again.append(_Held(message))
        except KafkaException as error:
            reason = error.args[0]
            if reason.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                self._taken -= 1
                self._taken_bytes -= size
                self._reject(message, f"is larger than message.max.bytes, {self._config['message.max.bytes']}")
            else:
                self._note(reason, message.topic)
                self._again.append(_Held(message))
        return True

    def _produce(self, producer: Producer, message: Message, again: bool = False, alone: bool = False) -> None:
        # The callback keeps what a delivery report lacks (the headers); key and value come back in the report, so
        # only librdkafka's copy lives on.
        producer.produce(
            message.topic,
            message.value,
            message.key,
            headers=self._headers(message),
            on_delivery=partial(self._on_delivery, message.row, _size(message), message.header, again, alone),
        )

    def _headers(self, message: Message) -> list[tuple[str, str | bytes | None]]:
        headers: list[tuple[str, str | bytes | None]] = [(identity.HEADER, message.header)]
        if self._sign is not None:
            signature = self._sign(message.topic, message.key, message.header, message.value)
            headers.append((signing.HEADER, signature))
        return headers

    def _on_delivery(
        self,
        row: int,
        size: int,
        header: bytes,
        again: bool,
        alone: bool,
        error: KafkaError | None,
        delivered: Delivered,
    ) -> None:
        if error is None:
            self._journal.acknowledge(row)
            self.counters.acknowledged += 1
            self._released_bytes += size
            self._released += 1
            if again:
                self._failures = 0
            return
        message = Message(delivered.topic() or "", delivered.key() or b"", delivered.value() or b"", header, row)
        hopeless = error.code() in _HOPELESS
        if hopeless and alone:
            self._released_bytes += size
            self._released += 1
            with self._lock:
                self._reject(message, f"was refused by the broker: {error.str()}")
            return
        self._note(error, message.topic)
        self._again.append(_Held(message, alone=hopeless or alone))

    def _on_error(self, error: KafkaError) -> None:
        self._note(error, "")

    def _note(self, error: KafkaError, topic: str) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._fatal = True
        if error.code() in _UNKNOWN:
            self.counters.last_error = (
                f"topic {topic!r} does not exist on the broker: `gpufleet topics apply` creates it"
            )
        elif error.code() not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
            self.counters.last_error = f"{error.name()}: {error.str()}"

    def _reject(self, message: Message, why: str) -> None:
        who = identity.unpack(message.header)
        self._journal.reject(message.row)
        self.counters.rejected += 1
        self.counters.last_error = (
            f"event {who.seq} of {who.producer_id} (run {who.run_id}) for {message.topic}, {len(message.value)} bytes, "
            f"{why}; it is dropped"
        )

    def _serve(self) -> None:
        try:
            while not self._stop.is_set():
                self._producer.poll(0.1)
                if self._careful:
                    self._careful.poll(0)
                if time.monotonic() < self._retry_at:
                    continue
                if self._fatal:
                    self._renew()
                elif self._again:
                    self._send_again()
        except BaseException as error:
            self._closed = True  # nobody would acknowledge what is taken from here on
            self.counters.last_error = f"the publisher's thread died: {error!r}"
            raise

    def _send_again(self) -> None:
        """Give librdkafka back what it gave back, once over; a topic that fails is left for the next time."""
        failed: set[str] = set()
        for _ in range(len(self._again)):
            held = self._again.popleft()
            if held.message.topic in failed:
                self._again.append(held)
                continue
            try:
                producer = self._careful_producer() if held.alone else self._producer
                self._produce(producer, held.message, True, held.alone)
                self.counters.retried += 1
            except BufferError as error:
                self.counters.last_error = str(error)
                self._again.appendleft(held)
                break
            except NoKeyError as error:
                self.counters.last_error = str(error)
                self._again.append(held)
                failed.add(held.message.topic)
            except KafkaException as error:
                self._note(error.args[0], held.message.topic)
                self._again.append(held)
                failed.add(held.message.topic)
        self._back_off()
        for topic in failed:
            self._look_for(topic)

    def _careful_producer(self) -> Producer:
        """Sends one message a batch; made when the first message needs it."""
        if self._careful is None:
            self._careful = self._make_producer({**self._config, "batch.num.messages": 1})
        return self._careful

    def _look_for(self, topic: str) -> None:
        """librdkafka remembers for minutes that a topic was missing; asking makes it look again."""
        try:
            self._producer.list_topics(topic, timeout=2)
        except KafkaException as error:
            self._note(error.args[0], topic)

    def _renew(self) -> None:
        """A fatal error ends an idempotent producer: start another, and take back what the old one holds."""
        with self._lock:
            self._fatal = False
            ended, self._producer = self._producer, self._make_producer(self._config)
        self.counters.renewed += 1
        for producer in (ended, self._careful):
            if producer:
                producer.purge()
                producer.flush(5)  # hands every purged message to _on_delivery
        self._careful = None
        self._fatal = False  # what the ended one still had to say about itself
        self._back_off()

    def _back_off(self) -> None:
        """0.1 s, doubled with every failure in a row up to 5 s, less up to a half."""
        pause = min(5.0, 0.1 * 2 ** min(self._failures, 10))
        self._failures += 1
        self._retry_at = time.monotonic() + pause * (1 - self._jitter() / 2)


def _logger() -> logging.Logger:
    """Where librdkafka's own lines go: nowhere, unless the program configures logging. Counters have the gist."""
    logger = logging.getLogger("gpufleet.kafka")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


def _size(message: Message) -> int:
    return len(message.key) + len(message.value) + len(message.header) + OVERHEAD_BYTES
