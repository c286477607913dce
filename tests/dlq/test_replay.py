"""Letters that can be stored by now are, once, however often they are sent; the others stay one letter each."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from consumers.audit import Expected, audit
from consumers.letters.judge import Again, Judge
from consumers.letters.replay import Repair, Sender
from infra.embedded.store.process import StoreProcess
from schemas import catalogue
from schemas.catalogue import Schema
from tests.consumers.fleet import Node, Sent
from tests.consumers.fleet import Sender as Fleet
from tests.consumers.running import counts, eventually, identities, running, settings
from tests.dlq.support import TOPIC, Desk, with_id, with_value

pytestmark = pytest.mark.store
DAY_US = 86_400_000_000
groups = itertools.count()


def desk(store: StoreProcess, bootstrap: str, site: str, **options: Any) -> Desk:
    """The site's desk; its consumers share one group, so that each goes on where the last ended."""
    given = settings(
        bootstrap,
        group=f"dlq-{next(groups)}",
        site=site,
        quarantine_share_limit=1.0,
        topics=(TOPIC, "dead-letters"),
        **options,
    )
    return Desk(store, bootstrap, given)


def quarantined(store: StoreProcess, at: Desk, sent: Sequence[Sent], letters: int, **consumer: Any) -> None:
    """Send messages and run a consumer until so many letters of the site are in the store."""
    Fleet(at.bootstrap).send(sent)
    with running(store, at.settings, **consumer):
        eventually(lambda: len(at.letters()) == letters, why=f"{len(at.letters())} letters")


def test_letters_of_a_schema_that_is_known_by_now_are_stored_once(migrated_store: StoreProcess, bootstrap: str) -> None:
    """The registry did not know the id when the messages came, and knows it now."""
    site = "dlq-schema"
    known: dict[int, Schema] = {1001: catalogue.latest("dead-letters")}
    at = desk(migrated_store, bootstrap, site)
    nodes = [Node(f"{site}-{i}", site) for i in range(3)]
    sent = [with_id(node.event(TOPIC), 777) for node in nodes for _ in range(2)]
    quarantined(migrated_store, at, sent, 6, ask_registry=known.get, dead_letter_id=lambda _: 1001)
    assert {one.reason for one in at.letters()} == {"unknown_schema"}

    refused = at.replay(judge=Judge(at.settings, known.get))
    assert (refused.refused, refused.sent) == ({"unknown_schema": 6}, 0)

    known[777] = catalogue.latest(TOPIC)
    judge = Judge(at.settings, known.get)
    rehearsed = at.replay(judge=judge, dry_run=True)
    assert (rehearsed.sent, rehearsed.stored) == (6, 0)
    assert counts(at.client, TOPIC, site) == (0, 0)

    with running(migrated_store, at.settings, ask_registry=known.get, dead_letter_id=lambda _: 1001):
        outcome = at.replay(judge=judge)
        assert (outcome.letters, outcome.stored, outcome.waiting) == (6, 6, [])
        assert identities(at.client, TOPIC, site) == sorted(one.identity for one in sent)
        assert at.replay(judge=judge).letters == 0, "none is open any more"
        # All of them once more, as if nothing had been marked.
        again = at.replay(at.letters(), judge=judge)
        assert (again.already, again.sent) == (6, 0)
    assert counts(at.client, TOPIC, site) == (6, 6)
    assert [one.state for one in at.letters()] == ["replayed"] * 6
    for node in nodes:
        given_out = [Expected(node.name, node.run_id, TOPIC, 2, ended=True)]
        report = audit(at.client, given_out, node=node.name, compare_windows="none")
        assert (report.lost, report.duplicated) == (0, 0)
    assert "by ann: test" in at.letters()[0].marked


def test_a_limit_that_was_raised_lets_old_letters_in(migrated_store: StoreProcess, bootstrap: str) -> None:
    site = "dlq-limit"
    at = desk(migrated_store, bootstrap, site, past_limit_s=3_600.0)
    now = time.time_ns() // 1000
    node = Node(f"{site}-node", site)
    sent = [node.event(TOPIC, ts=now - 7_200_000_000 + i) for i in range(3)]
    quarantined(migrated_store, at, sent, 3)
    assert at.replay().refused == {"too_old": 3}
    at.settings = replace(at.settings, past_limit_s=DAY_US / 1e6)
    with running(migrated_store, at.settings):
        assert at.replay().stored == 3
    assert identities(at.client, TOPIC, site) == sorted(one.identity for one in sent)


def test_what_the_consumer_refuses_again_stays_one_letter(migrated_store: StoreProcess, bootstrap: str) -> None:
    """The command believes in a limit that the consumer does not have: sent again and again, one letter each."""
    site = "dlq-again"
    at = desk(migrated_store, bootstrap, site, past_limit_s=3_600.0)
    now = time.time_ns() // 1000
    node = Node(f"{site}-node", site)
    quarantined(migrated_store, at, [node.event(TOPIC, ts=now - 7_200_000_000 + i) for i in range(2)], 2)
    before = at.letters()
    hopeful = Judge(replace(at.settings, past_limit_s=DAY_US / 1e6))
    marker = Node(f"{site}-marker", site)
    with running(migrated_store, at.settings) as it:
        for turn in range(2):
            outcome = at.replay(judge=hopeful, wait_s=0.0)
            assert (outcome.sent, outcome.stored, len(outcome.waiting)) == (2, 0, 2)
            eventually(partial(refused, it, 2 * (turn + 1)))
        # What comes after them in the same topics is stored: so the second letters were looked at, and dropped.
        Fleet(bootstrap).send([with_value(one := marker.event(TOPIC), one.value[:-3])])
        eventually(lambda: len(at.letters()) >= 3)
    assert at.letters()[:2] == before
    assert len(at.letters()) == 3
    rows = at.client.query(f"SELECT count() FROM gpufleet.dead_letters WHERE site = '{site}'").result_rows
    assert rows == [(3,)], "not even for a moment: the filter leaves them out"


def refused(it: Any, count: int) -> bool:
    samples = [s for metric in it.consumer.metrics.dead_letters.collect() for s in metric.samples]
    seen = sum(float(s.value) for s in samples if s.name.endswith("_total") and s.labels["topic"] == TOPIC)
    return seen >= count


def test_a_replay_that_dies_after_sending_is_made_good_by_the_next(
    migrated_store: StoreProcess, bootstrap: str
) -> None:
    site = "dlq-dies"
    at = desk(migrated_store, bootstrap, site)
    sent = [with_id(Node(f"{site}-{i}", site).event(TOPIC), 999_999) for i in range(3)]
    quarantined(migrated_store, at, sent, 3)
    repair = Repair(schema_id=catalogue.latest(TOPIC).id)
    real = Sender({"bootstrap.servers": bootstrap})

    def dies(messages: Sequence[Again]) -> None:
        real(messages)
        raise KeyboardInterrupt

    for _ in range(2):  # killed twice: everything is in the topic twice, nothing is marked
        with pytest.raises(KeyboardInterrupt):
            at.replay(repair=repair, send=dies)
    assert [one.state for one in at.letters()] == ["open"] * 3
    with running(migrated_store, at.settings):
        outcome = at.replay(repair=repair)
        assert outcome.stored + outcome.already == 3
        eventually(lambda: counts(at.client, TOPIC, site) == (3, 3))
        time.sleep(0.5)
    assert identities(at.client, TOPIC, site) == sorted(one.identity for one in sent)
    assert [one.state for one in at.letters()] == ["replayed"] * 3


def test_a_letter_whose_producer_sent_a_sound_copy_is_not_stored_twice(
    migrated_store: StoreProcess, bootstrap: str
) -> None:
    """Two letters of one event, and the event itself."""
    site = "dlq-copy"
    at = desk(migrated_store, bootstrap, site)
    one = Node(f"{site}-node", site).event(TOPIC)
    quarantined(migrated_store, at, [with_id(one, 999_999), with_id(one, 999_999), one], 2)
    repair = Repair(schema_id=catalogue.latest(TOPIC).id)
    outcome = at.replay(repair=repair)
    assert (outcome.letters, outcome.already, outcome.sent) == (2, 2, 0)
    assert counts(at.client, TOPIC, site) == (1, 1)


def test_a_header_that_is_missing_is_made_from_the_datum(migrated_store: StoreProcess, bootstrap: str) -> None:
    site = "dlq-header"
    at = desk(migrated_store, bootstrap, site)
    one = Node(f"{site}-node", site).event(TOPIC)
    stranger = Node(f"{site}-stranger", site).event(TOPIC)
    quarantined(migrated_store, at, [replace(one, headers=[]), replace(stranger, headers=one.headers)], 2)
    assert at.replay().refused == {"identity": 2}
    with running(migrated_store, at.settings):
        outcome = at.replay(repair=Repair(identity=True))
    assert (outcome.stored, outcome.refused) == (1, {"identity": 1}), "a header that says something else is kept"
    assert identities(at.client, TOPIC, site) == [one.identity]


def test_headers_of_the_message_go_with_it(migrated_store: StoreProcess, bootstrap: str) -> None:
    site = "dlq-headers"
    at = desk(migrated_store, bootstrap, site)
    one = with_id(Node(f"{site}-node", site).event(TOPIC), 999_999)
    signed = replace(one, headers=[*one.headers, ("gpufleet-sig", b"\x01\xff"), ("trace", b"abc")])
    quarantined(migrated_store, at, [signed], 1)
    (letter,) = at.letters()
    assert letter.headers == {"gpufleet-sig": b"\x01\xff", "trace": b"abc"}
    sent: list[Again] = []
    at.replay(repair=Repair(schema_id=catalogue.latest(TOPIC).id), send=sent.extend, wait_s=0.0)
    assert sent[0].headers()[:3] == signed.headers
    assert sent[0].key() == signed.key
