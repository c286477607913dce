"""What cannot be stored becomes a dead letter, whole and with the reason; what stands beside it is stored."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from consumers.consumer import Consumer
from consumers.datum import read_head, sequel
from consumers.errors import QuarantineLimitError
from infra.embedded.broker import EmbeddedBroker
from infra.embedded.store.process import StoreProcess
from schemas import catalogue, framing, identity
from tests.consumers.fleet import Node, Sender, Sent, create_topics, message, recently
from tests.consumers.running import client, counts, eventually, running, settings, stored_as_sent

pytestmark = pytest.mark.store
TOPIC = "node-telemetry"
DAY_US = 86_400_000_000


@pytest.fixture
def bootstrap(embedded_broker: EmbeddedBroker) -> str:
    create_topics(embedded_broker.bootstrap, partitions=2)
    return embedded_broker.bootstrap


def letters(ch: Any, site: str) -> list[dict[str, Any]]:
    return list(
        ch.query(
            "SELECT source_producer_id, source_seq, reason, detail, hex(value) AS value, schema_id, flaws, site"
            f" FROM gpufleet.dead_letters WHERE site = '{site}' ORDER BY source_topic, source_partition, source_offset"
        ).named_results()
    )


def with_value(one: Sent, value: bytes) -> Sent:
    return replace(one, value=value)


def with_id(one: Sent, schema_id: int) -> Sent:
    return with_value(one, framing.prefix(schema_id) + one.value[5:])


def _key_at(one: Sent) -> int:
    """Where the length of the datum's key stands: after the header's five fields."""
    who = identity.unpack(one.headers[0][1])
    return framing.PREFIX_BYTES + len(read_head(one.value, who)) + len(sequel(who.seq, who.ts))


def noise(length: int) -> bytes:
    return (hashlib.sha256(b"noise").digest() * (length // 32 + 1))[:length]


def test_bad_messages_become_dead_letters_and_the_others_are_stored(
    bootstrap: str, migrated_store: StoreProcess
) -> None:
    site = "bad-messages"
    good = [Node(f"{site}-good-{i}", site).event(TOPIC) for i in range(12)]
    sick = iter([Node(f"{site}-sick-{i}", site) for i in range(20)])

    def event(**fields: Any) -> Sent:
        return next(sick).event(TOPIC, **fields)

    whole, other = event(), event()
    now = time.time_ns() // 1000
    head = len(whole.value) // 2
    bad = {
        "truncated": (with_value(whole, whole.value[:-7]), "decode"),
        "cut in its key": (with_value(o := event(), o.value[: _key_at(o) + 3]), "decode"),
        "over-long": (with_value(o := event(), o.value + b"\0\0\0"), "decode"),
        "random tail": (with_value(o := event(), o.value[:120] + noise(head)), "decode"),
        "random datum": (with_value(o := event(), o.value[:5] + noise(200)), "identity"),
        "no framing": (with_value(o := event(), b"\x01" + o.value[1:]), "framing"),
        "empty": (with_value(event(), b""), "framing"),
        "unknown schema": (with_id(event(), 999_999), "unknown_schema"),
        "schema of another kind": (with_id(event(), catalogue.latest("leases").id), "wrong_kind"),
        "no identity": (replace(event(), headers=[]), "identity"),
        "another's identity": (replace(event(), headers=other.headers), "identity"),
        "in 1970": (event(ts=1_000_000), "too_old"),
        "nine days old": (event(ts=now - 9 * DAY_US), "too_old"),
        "an hour ahead": (event(ts=now + 3_600_000_000), "in_future"),
    }  # fmt: skip
    sent = list(good)
    for at, (one, _) in enumerate(bad.values()):
        sent.insert(2 * at, one)
    Sender(bootstrap).send(sent)
    ch = client(migrated_store)
    given = settings(bootstrap, site=site, consumer_id=site, quarantine_share_limit=0.9)
    with running(migrated_store, given) as it:
        eventually(lambda: len(letters(ch, site)) >= len(bad), why=f"{len(letters(ch, site))} letters")
        eventually(lambda: stored_as_sent(ch, good, site))
        time.sleep(0.3)
        found = letters(ch, site)
        assert {letter["value"]: letter["reason"] for letter in found} == {
            one.value.hex().upper(): reason for one, reason in bad.values()
        }
        assert len(found) == len(bad)
        assert all(letter["flaws"] == 0 for letter in found)
        ledger = (
            "SELECT sum(messages), sum(rows), sum(duplicates), sum(dead_letters) FROM gpufleet.ingest_ledger"
            f" WHERE consumer = '{given.consumer_id}' AND topic = '{TOPIC}'"
        )
        eventually(lambda: it.consumer.health.problems() == [])
        eventually(lambda: bool(ch.query(ledger).result_rows == [(len(sent), len(good), 0, len(bad))]))


def test_dead_letters_are_stored_once_however_often_a_message_is_read(
    bootstrap: str, migrated_store: StoreProcess
) -> None:
    site = "letters-twice"
    one = Node(f"{site}-node", site).event(TOPIC)
    Sender(bootstrap).send([with_value(one, one.value[:-3])])
    ch = client(migrated_store)
    for group, letters_read in (("first", 1), ("second", 2)):
        with running(migrated_store, settings(bootstrap, group=group, site=site)) as it:
            eventually(partial(drained, it.consumer, "dead-letters", letters_read))
            assert dead(it.consumer, TOPIC) == {"decode": 1}
    assert [(letter["reason"], letter["source_seq"]) for letter in letters(ch, site)] == [("decode", 0)]


def drained(consumer: Consumer, topic: str, messages: int) -> bool:
    stored = [p.horizon.stored_next for p in consumer._partitions.values() if p.topic == topic]
    return sum(stored) >= messages


def dead(consumer: Consumer, topic: str) -> dict[str, float]:
    """Dead letters by reason, from the metrics."""
    samples = [s for metric in consumer.metrics.dead_letters.collect() for s in metric.samples]
    return {s.labels["reason"]: s.value for s in samples if s.name.endswith("_total") and s.labels["topic"] == topic}


def test_one_sick_producer_does_not_stop_the_others(bootstrap: str, migrated_store: StoreProcess) -> None:
    site = "one-sick"
    nodes = [Node(f"{site}-{i}", site) for i in range(10)]
    ill = Node(f"{site}-ill", site)
    good: list[Sent] = []
    ch = client(migrated_store)
    sender = Sender(bootstrap)
    with running(migrated_store, settings(bootstrap, site=site)) as it:
        for _ in range(4):
            fresh = [node.event(TOPIC) for node in nodes]
            broken = [with_value(o, o.value[:-1]) for o in (ill.event(TOPIC), ill.event(TOPIC))]
            good += fresh
            sender.send([broken[0], *fresh, broken[1]])
            eventually(partial(stored_as_sent, ch, good, site))
        eventually(lambda: len(letters(ch, site)) == 8)
        assert dead(it.consumer, TOPIC) == {"decode": 8}


def test_the_consumer_stops_when_too_many_producers_are_refused(bootstrap: str, migrated_store: StoreProcess) -> None:
    site = "too-many-sick"
    broken = [with_value(o := Node(f"{site}-{i}", site).event(TOPIC), o.value[:-1]) for i in range(30)]
    Sender(bootstrap).send(broken)
    with running(migrated_store, settings(bootstrap, site=site), expect_error=True) as it:
        error = it.ended()
    assert isinstance(error, QuarantineLimitError)
    assert "producers had messages refused" in str(error)
    assert any("stopped" in problem for problem in it.consumer.health.problems())


def test_absurd_but_readable_events_are_stored_with_their_flaws(bootstrap: str, migrated_store: StoreProcess) -> None:
    site = "absurd"
    node = Node(f"{site}-node", site)
    sound = node.event(TOPIC, **shaped(gpus=2, ticks=1))
    ragged = node.event(TOPIC, **{**shaped(gpus=2, ticks=1), "power_w": [1.0, 2.0, 3.0]})
    huge = node.event(TOPIC, **{**shaped(gpus=2, ticks=1), "gpu_index": list(range(10_000))})
    Sender(bootstrap).send([sound, ragged, huge])
    ch = client(migrated_store)
    with running(migrated_store, settings(bootstrap, site=site)):
        eventually(lambda: counts(ch, TOPIC, site) == (3, 3))
    flaws = ch.query(
        f"SELECT seq, flaws != 0, length(gpu_index) FROM gpufleet.node_telemetry WHERE site = '{site}' ORDER BY seq"
    ).result_rows
    assert flaws == [(0, 0, 2), (1, 1, 2), (2, 1, 10_000)]


def test_a_message_too_large_is_kept_as_a_dead_letter(bootstrap: str, migrated_store: StoreProcess) -> None:
    site = "too-large"
    node = Node(f"{site}-node", site)
    Sender(bootstrap).send([node.event(TOPIC, gpu_index=list(range(200_000))), small := node.event(TOPIC)])
    ch = client(migrated_store)
    with running(migrated_store, settings(bootstrap, site=site, message_max_bytes=100_000)):
        eventually(lambda: [letter["reason"] for letter in letters(ch, site)] == ["too_large"])
        eventually(lambda: counts(ch, TOPIC, site) == (1, 1))
    assert small.identity[2] == 1


def shaped(gpus: int, ticks: int) -> dict[str, Any]:
    """Every array of a telemetry event in its right length."""
    lengths = {"gpu": gpus, "gpu_tick": gpus * ticks, "tick": ticks, "nic": 1, "nic_tick": ticks}
    fields: dict[str, Any] = {"ticks": ticks, "interval_ms": 1000, "ts": recently()}
    for field in catalogue.latest(TOPIC).fields:
        length = lengths.get(field.get("shape", ""))
        if length is not None:
            items = field["type"]["items"]
            one: Any = bytes(16) if isinstance(items, dict) else 1.0 if items in ("float", "double") else 1
            fields[field["name"]] = [one] * length
    return {**fields, "gpu_index": list(range(gpus))}


def test_a_message_helper_makes_what_the_catalogue_says() -> None:
    """The helper above is itself worth nothing if its sound messages are not sound."""
    one = Node("n", "s").event(TOPIC)
    assert framing.schema_id(one.value) == catalogue.latest(TOPIC).id
    assert message(catalogue.latest(TOPIC), one.record).value == one.value
