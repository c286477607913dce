"""`gpufleet bench signing`: what signing costs a producer, and verifying the consumer, per message.

Real messages: the simulator's fast lane through the embedded broker, read by confluent-kafka. Beside verifying stands
what the consumer's process does with a message anyway on its steady path (fetch, sort, frame; the HTTP client's work is
left out, so shares are of a little less than the whole). CPU time of the whole process, best of a few rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition

from consumers.clock import SystemClock
from consumers.intake import PartitionIntake
from consumers.quarantine import decodes
from consumers.schema_book import SchemaBook
from consumers.settings import ConsumeSettings
from consumers.signatures import Policy, Verifier
from producers.encode import Message as Encoded
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from producers.simulator import scenario as scenarios
from producers.simulator.simulation import TOPICS, Simulation, producers
from schemas import catalogue
from schemas.container import ContainerWriter
from schemas.framing import PREFIX_BYTES
from schemas.signer import Signer
from schemas.signing_keys import SiteKey, SiteKeys, Watched, parse_site_keys, render_site_keys

TOPIC = "node-telemetry"
TICKS = 5
POLL = 2_000
ROUNDS = 5


def signing(folder: Path, bootstrap: str, nodes: int, messages: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Microseconds of CPU per message, by step. ``bootstrap``: a broker with the topic, one partition."""
    fleet = scenarios.load("colossus1", nodes=nodes)
    keys = Watched(
        parse_site_keys, None, render_site_keys(SiteKeys((SiteKey(fleet.site, b"bench-only-" + bytes(21)),)))
    )
    sign = Signer(keys, fleet.site)
    journal = Journal.start(folder / "journal", fleet.site, producers(fleet), TOPICS)
    say(f"{messages:,} events of {fleet.nodes:,} nodes")
    events = _events(fleet, journal, messages)
    with KafkaOutbox({"bootstrap.servers": bootstrap}, journal, 1 << 30, sign=sign) as outbox:
        outbox.offer_many(events)
        left = outbox.flush(60)
    if left:
        raise RuntimeError(f"{left} of {len(events)} messages were not taken by the broker")
    say("signing, verifying, sorting, framing")
    signed_us = _best(lambda: [sign(m.topic, m.key, m.header, m.value) for m in events], len(events))
    fetched, fetch_us = _fetch(bootstrap, len(events))
    verifier = Verifier(keys, Policy(), lambda: time.time_ns() // 1000)
    verify = verifier.on(TOPIC)
    polls = [fetched[at : at + POLL] for at in range(0, len(fetched), POLL)]
    refused = [one for poll in polls for one in verify(poll)]  # type: ignore[arg-type]  # fits the protocol
    if refused:
        raise RuntimeError(f"{len(refused)} messages were refused: {refused[0]}")
    verify_us = _best(lambda: [verify(poll) for poll in polls], len(fetched))  # type: ignore[arg-type]
    sort_us = _best(lambda: _sort(polls), len(fetched))
    frame_us = _best(lambda: _frame(fetched), len(fetched))
    journal.close()
    steady = fetch_us + sort_us + frame_us
    return {
        "messages": len(fetched),
        "value_bytes_mean": sum(len(m.value() or b"") for m in fetched) // len(fetched),
        "sign_us": round(signed_us, 2),
        "verify_us": round(verify_us, 2),
        "fetch_us": round(fetch_us, 2),
        "sort_us": round(sort_us, 2),
        "frame_us": round(frame_us, 2),
        "verify_share_of_consumer": round(verify_us / (steady + verify_us), 3),
        "verify_cores_at_220160_gpus": round(verify_us * 30_040 / TICKS / 1e6, 3),
    }


def _events(fleet: scenarios.Scenario, journal: Journal, wanted: int) -> list[Encoded]:
    """The fast lane's next events."""
    simulation = Simulation(fleet, journal, lambda _message: None, ticks=TICKS)
    start_us = (time.time_ns() // 60_000_000_000 - 60) * 60_000_000
    events = []
    for message in simulation.generate(start_us, start_us + 3_500_000_000):
        if message.topic == TOPIC:
            events.append(message)
        if len(events) == wanted:
            break
    return events


def _fetch(bootstrap: str, count: int) -> tuple[list[Message], float]:
    """All messages of the partition, and what reading one took, librdkafka's threads included."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", "enable.auto.commit": False})
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    fetched: list[Message] = []
    cpu, deadline = time.process_time(), time.monotonic() + 60
    while len(fetched) < count and time.monotonic() < deadline:
        fetched += [message for message in consumer.consume(POLL, 0.5) if message.error() is None]
    cpu = time.process_time() - cpu
    consumer.close()
    if len(fetched) < count:
        raise RuntimeError(f"{len(fetched)} of {count} messages came back")
    return fetched, cpu * 1e6 / count


def _sort(polls: Sequence[Sequence[Message]]) -> None:
    clock = SystemClock()
    intake = PartitionIntake(
        catalogue.KINDS[TOPIC], 0, "", 0, 0,
        settings=ConsumeSettings(kafka={}), book=SchemaBook(catalogue.by_id(), None, clock, 30.0), clock=clock,
        sick=set(), decodes=decodes,
    )  # fmt: skip
    for poll in polls:
        intake.take(poll)  # type: ignore[arg-type]  # fits the protocol
    if any(chunk.bad for chunk in intake.waiting):
        raise RuntimeError("a message was refused")


def _frame(messages: Sequence[Message]) -> None:
    writer = ContainerWriter(catalogue.latest(TOPIC))
    for at in range(0, len(messages), 4_000):
        for _piece in writer.open([m.value() or b"" for m in messages[at : at + 4_000]], PREFIX_BYTES):
            pass


def _best(run: Callable[[], object], messages: int) -> float:
    """Microseconds of CPU per message."""
    best = float("inf")
    for _ in range(ROUNDS):
        cpu = time.process_time()
        run()
        best = min(best, time.process_time() - cpu)
    return best * 1e6 / messages
