"""Signed events from the publisher to the store: what is good is stored, the rest is a dead letter, none is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from consumers.signatures import Policy
from infra.embedded.broker import EmbeddedBroker
from infra.embedded.store.process import StoreProcess
from producers.encode import EventEncoder
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from schemas.signer import Signer
from schemas.signing import Scope
from schemas.signing_keys import (
    ProducerKey,
    SiteKeys,
    Watched,
    parse_producer_keys,
    parse_site_keys,
    render_producer_keys,
    render_site_keys,
)
from tests.consumers.fleet import Node, Sender, create_topics, recently
from tests.consumers.running import client, counts, running, settings, stored_as_sent
from tests.consumers.running import eventually as within
from tests.security.support import consumer_signing, key_of, signed, signed_with, site_keys, with_signature, write_keys

pytestmark = pytest.mark.store
TELEMETRY, USAGE = "node-telemetry", "tenant-usage"
eventually = partial(within, timeout_s=90)


@pytest.fixture
def broker(embedded_broker: EmbeddedBroker) -> str:
    """A broker of the test's own: every consumer reads all that is in the topics."""
    create_topics(embedded_broker.bootstrap, partitions=2)
    return embedded_broker.bootstrap


@pytest.fixture
def ch(migrated_store: StoreProcess) -> Iterator[Any]:
    connection = client(migrated_store)
    yield connection
    connection.close()


def fields_of(name: str) -> dict[str, Any]:
    """An event of the fast lane without its header."""
    header = ("site", "producer_id", "run_id", "seq", "ts")
    record = Node(name, "").event(TELEMETRY, ticks=1).record
    return {field: value for field, value in record.items() if field not in header}


def letters(ch: Any, site: str) -> dict[tuple[str, str], str]:
    """(source producer, reason) -> detail of a site's dead letters."""
    rows = ch.query(
        f"SELECT source_producer_id, reason, detail FROM gpufleet.dead_letters FINAL WHERE site = '{site}'"
    ).result_rows
    return {(producer, reason): detail for producer, reason, detail in rows}


def test_what_is_signed_is_stored_and_everything_else_is_a_dead_letter_with_its_reason(
    broker: str,
    migrated_store: StoreProcess,
    ch: Any,
) -> None:
    site = "signed-a"
    keys = site_keys("a", site=site)
    thief = key_of(keys, Scope.NODE, f"{site}-thief")
    acme = key_of(keys, Scope.TENANT, "acme", f"{site}-gateway")
    good = [signed(keys, Node(f"{site}-{i}", site).event(TELEMETRY), site) for i in range(12)]
    gateway = Node(f"{site}-gateway", site)
    good += [signed_with(acme, gateway.event(USAGE, tenant="acme"))]
    # before the producer's own event comes: the same identity, unsigned and with other values
    value = good[6].value[:-1] + bytes([good[6].value[-1] ^ 1])
    squatter = replace(good[6], value=value, headers=good[6].headers[:1])
    wrong = signed(keys, Node(f"{site}-wrong", site).event(TELEMETRY), site)
    about_another = Node(f"{site}-thief", site).event(TELEMETRY, node_id="n2")
    bad = [
        Node(f"{site}-unsigned", site).event(TELEMETRY),
        squatter,
        with_signature(wrong, lambda s: s[:-1] + bytes([s[-1] ^ 1])),
        signed_with(thief, Node(f"{site}-victim", site).event(TELEMETRY)),
        signed_with(thief, replace(about_another, key=f"{site}-thief".encode())),
        signed_with(acme, gateway.event(USAGE, tenant="nimbus")),
    ]
    consumer = running(
        migrated_store, settings(broker, group=site, site=site), signing=consumer_signing(keys, site=site)
    )
    sender = Sender(broker)
    with consumer:
        sender.send([*good[:6], *bad, *good[6:]])
        eventually(lambda: len(letters(ch, site)) == len(bad) and stored_as_sent(ch, good, site))
        sender.send(good[:3])  # captured and sent again: the same events, and stored already
        again = consumer.consumer.metrics.duplicates.labels(TELEMETRY)
        eventually(lambda: again._value.get() >= 3)
    found = letters(ch, site)
    assert set(found) == {
        (f"{site}-unsigned", "unsigned"),
        (good[6].record["producer_id"], "unsigned"),
        (f"{site}-wrong", "signature"),
        (f"{site}-victim", "signature"),
        (f"{site}-thief", "foreign"),
        (f"{site}-gateway", "foreign"),
    }
    assert "gpufleet keys derive" in found[f"{site}-unsigned", "unsigned"]
    assert "keyed 'nimbus'" in found[f"{site}-gateway", "foreign"]
    assert counts(ch, TELEMETRY, site) == (12, 12)
    [sick] = consumer.consumer.metrics.quarantined.collect()
    assert sick.samples[0].value == 0, "what anybody may have written makes no producer sick"
    assert "secret" not in str(found)
    assert thief.secret.hex() not in str(found)


def test_dead_letters_are_signed_themselves_and_pass_a_consumer_that_wants_signatures(
    broker: str,
    migrated_store: StoreProcess,
    ch: Any,
) -> None:
    """The letter about an unsigned letter would be unsigned, too, and so on without end."""
    site = "signed-letters"
    keys = site_keys("l", site=site)
    bare = Node(f"{site}-bare", site).event(TELEMETRY)
    with running(migrated_store, settings(broker, group=site, site=site), signing=consumer_signing(keys, site=site)):
        Sender(broker).send([bare])
        eventually(lambda: len(letters(ch, site)) == 1)
        threading.Event().wait(1.0)
    assert list(letters(ch, site)) == [(f"{site}-bare", "unsigned")]


def test_keys_change_under_running_producers_and_consumers_without_a_gap(
    broker: str,
    migrated_store: StoreProcess,
    ch: Any,
    tmp_path: Path,
) -> None:
    """New key to the consumer, then to the producer, then the old one ends: no event is refused on the way."""
    site, name = "rotated", "rotated-n1"
    old, both = site_keys("old", site=site), site_keys("old", "new", site=site)
    consumer_file = write_keys(tmp_path / "site.keys", render_site_keys(old))
    agent_file = write_keys(tmp_path / "agent.keys", render_producer_keys([key_of(old, Scope.NODE, name)]))
    watched: Watched[SiteKeys] = Watched(parse_site_keys, consumer_file, every_s=0.1)
    handed: Watched[tuple[ProducerKey, ...]] = Watched(parse_producer_keys, agent_file, every_s=0.0)
    sign = Signer(handed, site, look_s=0.0)
    journal = Journal.start(tmp_path / "journal", site, [name], [TELEMETRY])
    encoder = EventEncoder(journal, name)
    given = settings(broker, group=site, site=site)
    events = 0

    def send(count: int) -> None:
        nonlocal events
        for _ in range(count):
            assert outbox.offer(encoder.encode(TELEMETRY, recently() + events * 1_000_000, fields_of(name)))
            events += 1
        assert outbox.flush(90) == 0

    with (
        KafkaOutbox({"bootstrap.servers": broker, "linger.ms": 5}, journal, sign=sign) as outbox,
        running(migrated_store, given, signing=consumer_signing(watched, site=site)),
    ):
        send(3)
        write_keys(consumer_file, render_site_keys(both))
        send(3)  # still the old key
        write_keys(agent_file, render_producer_keys([key_of(both, Scope.NODE, name)]))
        send(3)
        eventually(lambda: counts(ch, TELEMETRY, site) == (9, 9))
        assert letters(ch, site) == {}
        gone = SiteKeys((replace(both.keys[0], until_us=1), both.keys[1]))
        write_keys(consumer_file, render_site_keys(gone))
        stolen = Node(f"{site}-late", site).event(TELEMETRY)
        eventually(lambda: watched.value == gone or bool(watched.refresh()))
        Sender(broker).send([signed_with(key_of(old, Scope.NODE, f"{site}-late"), stolen)])
        send(3)
        eventually(lambda: counts(ch, TELEMETRY, site) == (12, 12) and len(letters(ch, site)) == 1)
    assert list(letters(ch, site)) == [(f"{site}-late", "signature")]
    journal.close()


def test_an_event_without_a_key_waits_for_one(tmp_path: Path, broker: str) -> None:
    """An operator's slip with a key file delays events; it loses none, and says what is wrong."""
    site, name = "keyless", "keyless-n1"
    keys = site_keys("k", site=site)
    file = write_keys(tmp_path / "agent.keys", render_producer_keys([key_of(keys, Scope.NODE, "another-node")]))
    sign = Signer(Watched(parse_producer_keys, file, every_s=0.0), site, look_s=0.0)
    journal = Journal.start(tmp_path / "journal", site, [name], [TELEMETRY])
    message = EventEncoder(journal, name).encode(TELEMETRY, recently(), fields_of(name))
    with KafkaOutbox({"bootstrap.servers": broker, "linger.ms": 5}, journal, sign=sign) as outbox:
        assert outbox.offer(message)
        assert outbox.flush(0.3) == 1
        assert "no signing key for producer 'keyless-n1'" in outbox.counters.last_error
        assert "another-node" in outbox.counters.last_error
        write_keys(file, render_producer_keys([key_of(keys, Scope.NODE, name)]))
        assert outbox.flush(90) == 0
    journal.close()


def test_a_site_moves_from_unsigned_to_signed_without_a_gap(
    broker: str,
    migrated_store: StoreProcess,
    ch: Any,
) -> None:
    site = "moving"
    keys = site_keys("m", site=site)
    before, after = Node(f"{site}-old", site), Node(f"{site}-new", site)
    mixed = [before.event(TELEMETRY), signed(keys, after.event(TELEMETRY), site), before.event(TELEMETRY)]
    running_one = running(
        migrated_store,
        settings(broker, group=site, site=site),
        signing=consumer_signing(keys, Policy("accept"), site=site),
    )
    with running_one:
        Sender(broker).send(mixed)
        eventually(lambda: stored_as_sent(ch, mixed, site))
    assert letters(ch, site) == {}
    [unsigned] = running_one.consumer.metrics.unsigned.collect()
    assert sum(s.value for s in unsigned.samples if s.name.endswith("_total") and s.labels == {"topic": TELEMETRY}) >= 2
