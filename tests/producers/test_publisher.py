"""The publisher without a broker: bounds, refusals, fatal errors and hopeless messages, with a scripted librdkafka."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from producers.journal import Journal
from producers.publisher import OVERHEAD_BYTES, KafkaOutbox
from tests.producers.brokers import TOPIC, acknowledged, message, until


class Delivered:
    """What librdkafka hands to a delivery callback: no headers."""

    def __init__(self, topic: str, value: bytes, key: bytes) -> None:
        self._parts = (topic, value, key)

    def topic(self) -> str:
        return self._parts[0]

    def value(self) -> bytes:
        return self._parts[1]

    def key(self) -> bytes:
        return self._parts[2]


class ScriptedProducer:
    """Stands in for confluent-kafka's producer: ``verdict`` says what becomes of each message once polled."""

    def __init__(self, config: dict[str, Any], script: Script) -> None:
        self.config, self.script = config, script
        self.queue: list[tuple[Any, ...]] = []
        script.made.append(self)

    def produce(self, topic: str, value: bytes, key: bytes, headers: Any, on_delivery: Callable[..., None]) -> None:
        error = self.script.on_produce(self, topic, value)
        if error is not None:
            raise error
        self.queue.append((topic, value, key, headers, on_delivery))

    def poll(self, timeout: float) -> int:
        self.script.gate.wait(5)
        served, self.queue = self.queue, []
        for topic, value, key, headers, on_delivery in served:
            error = self.script.verdict(self, topic, headers)
            if error is None:
                self.script.log.append(headers[0][1])
            on_delivery(error, Delivered(topic, value, key))
        if not served:
            threading.Event().wait(min(timeout, 0.005))
        return len(served)

    def purge(self) -> None:
        purged, self.queue = self.queue, []
        for topic, value, key, _headers, on_delivery in purged:
            on_delivery(KafkaError(KafkaError._PURGE_QUEUE), Delivered(topic, value, key))

    def flush(self, _timeout: float) -> int:
        return 0

    def list_topics(self, topic: str, timeout: float) -> None:
        self.script.looked_for.append(topic)


class Script:
    """What the scripted producers do, and what they saw."""

    def __init__(self) -> None:
        self.made: list[ScriptedProducer] = []
        self.log: list[bytes] = []
        self.looked_for: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.on_produce: Callable[[ScriptedProducer, str, bytes], Exception | None] = lambda *_: None
        self.verdict: Callable[[ScriptedProducer, str, Any], KafkaError | None] = lambda *_: None

    def make(self, config: dict[str, Any]) -> Any:
        return ScriptedProducer(config, self)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.start(tmp_path, "s", ["p", "q"], [TOPIC, "tenant-limits"])


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def outbox(journal: Journal, script: Script) -> Iterator[KafkaOutbox]:
    box = KafkaOutbox({}, journal, 100_000, make_producer=script.make, jitter=lambda: 1.0)
    yield box
    script.gate.set()
    script.on_produce = script.verdict = lambda *_: None
    box.close(5)


def test_the_bound_refuses_and_acknowledgements_make_room(
    outbox: KafkaOutbox, journal: Journal, script: Script
) -> None:
    script.gate.clear()  # nothing is acknowledged yet
    messages = [message(journal, size=1000) for _ in range(200)]
    one = 1000 + len(b"p") + len(messages[0].header) + OVERHEAD_BYTES
    room = 100_000 // one
    assert outbox.offer_many(messages) == room
    assert outbox.offer(messages[room]) is False
    assert outbox.held_bytes == room * one
    assert (outbox.counters.offered, outbox.counters.refused) == (room + 2, 2)
    script.gate.set()
    assert outbox.flush(5) == 0
    assert outbox.held_bytes == 0
    assert outbox.offer_many(messages[room : room + 10]) == 10
    assert outbox.flush(5) == 0
    assert len(script.log) == outbox.counters.acknowledged == acknowledged(journal) == room + 10


def test_offering_goes_on_while_the_publisher_is_stuck(outbox: KafkaOutbox, journal: Journal, script: Script) -> None:
    script.gate.clear()
    done = threading.Event()

    def offer() -> None:
        for _ in range(50):
            assert outbox.offer(message(journal))
        done.set()

    threading.Thread(target=offer, daemon=True).start()
    assert done.wait(5), "offering waited for the publisher's thread"
    assert outbox.flush(0.05) == 50


def test_what_comes_back_is_sent_again_with_its_identity(outbox: KafkaOutbox, journal: Journal, script: Script) -> None:
    seen: set[bytes] = set()

    def verdict(_producer: ScriptedProducer, _topic: str, headers: Any) -> KafkaError | None:
        header = headers[0][1]
        if header in seen:
            return None
        seen.add(header)
        return KafkaError(KafkaError._MSG_TIMED_OUT)

    script.verdict = verdict
    sent = [message(journal) for _ in range(20)]
    assert outbox.offer_many(sent) == 20
    assert outbox.flush(5) == 0
    assert sorted(script.log) == sorted(item.header for item in sent)
    assert outbox.counters.retried == 20
    assert "_MSG_TIMED_OUT" in outbox.counters.last_error


def test_a_fatal_error_renews_the_producer_and_loses_nothing(
    outbox: KafkaOutbox, journal: Journal, script: Script
) -> None:
    fatal = KafkaError(KafkaError._FATAL, "sequence lost", fatal=True)
    script.gate.clear()
    sent = [message(journal) for _ in range(30)]
    outbox.offer_many(sent[:10])
    first = script.made[0]
    script.on_produce = lambda producer, *_: KafkaException(fatal) if producer is first else None
    outbox.offer_many(sent[10:])  # refused by the dead producer, but taken by the outbox
    script.verdict = lambda producer, *_: fatal if producer is first else None
    script.gate.set()
    assert outbox.flush(10) == 0
    assert len(script.made) == 2
    assert outbox.counters.renewed == 1
    assert sorted(script.log) == sorted(item.header for item in sent)
    assert acknowledged(journal) == 30


def test_purged_messages_of_an_ended_producer_are_sent_again(
    outbox: KafkaOutbox, journal: Journal, script: Script
) -> None:
    script.gate.clear()
    until(lambda: len(script.made) == 1, "a producer")
    sent = [message(journal) for _ in range(5)]
    outbox.offer_many(sent)
    script.made[0].config["error_cb"](KafkaError(KafkaError._FATAL, "fenced", fatal=True))
    # The first producer never answers: its messages come back only through the purge.
    held, script.made[0].queue = script.made[0].queue, []
    script.gate.set()
    script.made[0].queue.extend(held)
    assert outbox.flush(10) == 0
    assert sorted(script.log) == sorted(item.header for item in sent)


def test_a_full_queue_is_waited_for(outbox: KafkaOutbox, journal: Journal, script: Script) -> None:
    script.on_produce = lambda producer, *_: BufferError("Local: Queue full") if len(producer.queue) >= 3 else None
    sent = [message(journal) for _ in range(25)]
    assert outbox.offer_many(sent) == 25
    assert outbox.flush(20) == 0
    assert sorted(script.log) == sorted(item.header for item in sent)


def test_an_unknown_topic_is_said_and_holds_up_no_other(outbox: KafkaOutbox, journal: Journal, script: Script) -> None:
    script.verdict = lambda _producer, topic, _headers: (
        KafkaError(KafkaError._UNKNOWN_TOPIC) if topic == "tenant-limits" else None
    )
    assert outbox.offer(message(journal, topic="tenant-limits"))
    until(lambda: outbox.counters.retried > 0, "a second attempt")
    assert "'tenant-limits' does not exist" in outbox.counters.last_error
    assert outbox.offer(message(journal))
    until(lambda: outbox.counters.acknowledged == 1, "the other topic's message")
    assert outbox.waiting == 1
    script.verdict = lambda *_: None
    assert outbox.flush(10) == 0


def test_a_topic_refused_at_once_is_looked_for_again(outbox: KafkaOutbox, journal: Journal, script: Script) -> None:
    unknown = KafkaException(KafkaError(KafkaError._UNKNOWN_TOPIC))
    script.on_produce = lambda *_: unknown
    assert outbox.offer(message(journal))
    until(lambda: TOPIC in script.looked_for, "a look at the cluster's topics")
    script.on_produce = lambda *_: None
    assert outbox.flush(10) == 0


def test_a_message_too_large_for_us_is_rejected_and_named(
    outbox: KafkaOutbox, journal: Journal, script: Script
) -> None:
    too_large = KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    script.on_produce = lambda _producer, _topic, value: too_large if len(value) > 10_000 else None
    assert outbox.offer(message(journal, size=20_000))
    assert outbox.offer(message(journal))
    assert outbox.flush(5) == 0
    assert (outbox.counters.rejected, outbox.counters.acknowledged, outbox.held_bytes) == (1, 1, 0)
    assert "event 0 of p" in outbox.counters.last_error
    assert "20000 bytes" in outbox.counters.last_error
    assert acknowledged(journal) == 1, "the journal shows the gap"


def test_a_message_beyond_the_bound_is_rejected_rather_than_refused_for_ever(
    outbox: KafkaOutbox, journal: Journal
) -> None:
    assert outbox.offer(message(journal, size=200_000))
    assert outbox.counters.rejected == 1
    assert "bound of 100000 bytes" in outbox.counters.last_error
    assert outbox.waiting == 0


def test_a_bad_message_is_given_up_and_its_neighbours_in_the_batch_are_not(
    outbox: KafkaOutbox, journal: Journal, script: Script
) -> None:
    sent = [message(journal) for _ in range(5)]
    bad = sent[2].header

    def verdict(producer: ScriptedProducer, _topic: str, headers: Any) -> KafkaError | None:
        in_a_batch = producer.config.get("batch.num.messages") != 1
        return KafkaError(KafkaError.MSG_SIZE_TOO_LARGE) if in_a_batch or headers[0][1] == bad else None

    script.verdict = verdict
    outbox.offer_many(sent)
    assert outbox.flush(10) == 0
    assert sorted(script.log) == sorted(item.header for item in sent if item.header != bad)
    assert (outbox.counters.rejected, outbox.counters.acknowledged, outbox.held_bytes) == (1, 4, 0)
    assert "event 2 of p" in outbox.counters.last_error


def test_close_says_what_is_left_and_takes_nothing_more(journal: Journal, script: Script) -> None:
    outbox = KafkaOutbox({}, journal, make_producer=script.make)
    script.verdict = lambda *_: KafkaError(KafkaError._MSG_TIMED_OUT)
    outbox.offer_many([message(journal) for _ in range(4)])
    assert outbox.close(0.1) == 4
    assert outbox.close() == 4
    assert outbox.offer(message(journal)) is False
    assert outbox.offer_many([message(journal)]) == 0
    assert acknowledged(journal) == 0
    journal.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_publisher_takes_nothing_more_and_says_why(journal: Journal, script: Script) -> None:
    outbox = KafkaOutbox({}, journal, make_producer=script.make)

    def broken(*_: object) -> KafkaError | None:
        raise OSError("journal's disk is gone")

    script.verdict = broken
    outbox.offer(message(journal))
    until(lambda: not outbox.offer(message(journal)), "a refusal")
    assert "disk is gone" in outbox.counters.last_error
    outbox._thread.join(10)  # or its last words come up in the next test, which does not expect them


def test_many_threads_may_offer(outbox: KafkaOutbox, journal: Journal, script: Script) -> None:
    prepared = {name: [message(journal, name, size=1) for _ in range(500)] for name in ("p", "q")}

    def offer(name: str) -> None:
        for item in prepared[name]:
            while not outbox.offer(item):
                threading.Event().wait(0.001)

    threads = [threading.Thread(target=offer, args=(name,)) for name in prepared]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outbox.flush(10) == 0
    assert len(set(script.log)) == len(script.log) == 1000
    assert acknowledged(journal, ("p", "q")) == 1000
