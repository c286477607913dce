"""The broker: does it answer with these credentials, does it take a message, is its clock ours, are topics right?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import confluent_kafka
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from infra.config import KafkaSettings, Settings
from infra.doctor.report import Finding, Status, fail, ok, skip, warn
from infra.errors import GpufleetError
from infra.kafka.client import admin, librdkafka, unreachable
from infra.kafka.topics import Status as TopicStatus
from infra.kafka.topics import Topics, Wanted, wanted

AREA = "kafka"
PROBE = Wanted(
    "gpufleet-doctor",
    partitions=1,
    replication=-1,
    config={"message.timestamp.type": "LogAppendTime", "retention.ms": "3600000"},
)
"""Topic that takes one small message per examination: proof of writing, and the broker's time."""
SKEW_WARN_S = 0.5
SKEW_FAIL_S = 60.0


def check(settings: Settings, clock: Callable[[], float] = time.time) -> Iterator[Finding]:
    """UnreachableError when the broker does not answer: nothing else can be known then."""
    client = admin(settings.kafka)
    try:
        cluster = client.list_topics(timeout=settings.kafka.timeout_s)
    except KafkaException as error:
        raise unreachable(settings.kafka, error, client) from None
    brokers = ", ".join(f"{broker.host}:{broker.port}" for broker in cluster.brokers.values())
    yield ok(
        AREA,
        "reach",
        f"cluster {cluster.cluster_id}, brokers {brokers}; librdkafka {confluent_kafka.libversion()[0]}",
    )
    yield from _security(settings.kafka)
    yield from _probe(client, settings.kafka, clock)
    yield from _topics(client, settings)


def _security(kafka: KafkaSettings) -> Iterator[Finding]:
    local = all(
        server.rpartition(":")[0] in ("127.0.0.1", "localhost", "[::1]") for server in kafka.bootstrap.split(",")
    )
    if kafka.security_protocol == "sasl_plaintext" and kafka.sasl_mechanism == "PLAIN" and not local:
        yield warn(
            AREA, "security", "the password crosses the network in clear text", "use kafka.security_protocol = sasl_ssl"
        )
    elif kafka.security_protocol == "plaintext" and not local:
        yield warn(AREA, "security", "neither encrypted nor authenticated", "use kafka.security_protocol = sasl_ssl")
    else:
        yield ok(AREA, "security", kafka.security_protocol + (" (this machine only)" if local else ""))


def _probe(client: AdminClient, kafka: KafkaSettings, clock: Callable[[], float]) -> Iterator[Finding]:
    topics = Topics(client, kafka)
    try:
        topics.apply(topics.plan([PROBE]))
    except GpufleetError as error:
        advice = f"create the topic {PROBE.name}, or allow this user to, so that writing and clocks can be checked"
        yield warn(AREA, "write", error.format_message(), advice)
        return
    done = threading.Event()
    answer: list[tuple[KafkaError | None, tuple[int, int], float]] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        answer.append((error, message.timestamp(), clock()))
        done.set()

    producer = Producer(
        {**librdkafka(kafka, "producer"), "acks": "all", "linger.ms": 0, "message.timeout.ms": kafka.timeout_s * 1000}
    )
    producer.list_topics(PROBE.name, timeout=kafka.timeout_s)  # connect first, so that sending is one round trip
    sent = clock()
    producer.produce(PROBE.name, b"doctor", on_delivery=delivered)
    producer.flush(kafka.timeout_s + 1)
    if not done.is_set():
        yield fail(AREA, "write", "no acknowledgement in time", "check the broker's log and its disk")
        return
    refusal, (kind, milliseconds), acknowledged = answer[0]
    if refusal is not None:
        yield fail(AREA, "write", refusal.str(), "allow this user to write gpufleet's topics (docs/operations.md)")
        return
    yield ok(AREA, "write", f"acknowledged in {(acknowledged - sent) * 1000:.0f} ms")
    if kind != TIMESTAMP_LOG_APPEND_TIME:
        yield skip(AREA, "clock", "this broker does not stamp messages with its own time")
        return
    yield skew(AREA, milliseconds / 1000, sent, acknowledged)


def skew(area: str, theirs: float, before: float, after: float) -> Finding:
    """Compare a remote clock read between two readings of ours (seconds); only what the round trip cannot explain."""
    off = theirs - after if theirs > after else theirs - before if theirs < before else 0.0
    seen = f"{off:+.3f} s against this machine (round trip {after - before:.3f} s)"
    advice = "synchronise the clocks (chrony or NTP)"
    if abs(off) > SKEW_FAIL_S:
        return fail(area, "clock", seen, advice)
    if abs(off) > SKEW_WARN_S:
        return warn(area, "clock", seen, advice)
    return ok(area, "clock", seen)


def _topics(client: AdminClient, settings: Settings) -> Iterator[Finding]:
    steps = Topics(client, settings.kafka).plan(wanted(settings.kafka, settings.retention))
    missing = [step.wanted.name for step in steps if step.status is TopicStatus.CREATE]
    if missing:
        yield fail(AREA, "topics", f"missing: {', '.join(missing)}", "run `gpufleet topics apply`")
    for step in steps:
        if step.status in (TopicStatus.ALTER, TopicStatus.CONFLICT):
            advice = (
                "run `gpufleet topics apply`"
                if step.status is TopicStatus.ALTER
                else "set kafka.partitions and kafka.replication to what is there, or see docs/operations.md"
            )
            lost = any(
                difference.startswith(("message.timestamp.type", "retention.ms")) for difference in step.differences
            )
            status = Status.FAIL if lost else Status.WARN
            yield Finding(AREA, f"topic {step.wanted.name}", status, "; ".join(step.differences), advice)
    if all(step.status is TopicStatus.OK for step in steps):
        yield ok(AREA, "topics", f"all {len(steps)} as they should be")
