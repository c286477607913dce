"""What a letter keeps of a message, and how it is called."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumers.batch import Bad
from consumers.dead_letters import HEADERS_BYTES_MAX, KEY_BYTES_MAX, letter, run_of
from consumers.errors import Reason
from consumers.letters import origin
from consumers.letters.judge import Again, Judge, again
from consumers.letters.letter import Key, Letter, Ref
from consumers.letters.origin import Origin
from consumers.letters.walk import walk
from consumers.settings import ConsumeSettings
from schemas import catalogue
from tests.consumers.fakes import FakeMessage
from tests.consumers.fleet import Node
from tests.security.support import SITE, consumer_signing, signed, site_keys

TS = 1_800_000_000_000_000
OWN = Node("n", "s").event("node-events", ts=TS).headers
FIRST = Origin("topic-id", 3, 10_542, TS)


def bad(**changes: object) -> Bad:
    sent = replace(Node("n", "s").event("node-events", ts=TS), **changes)  # type: ignore[arg-type]
    return Bad(FakeMessage(sent, 7, append_us=TS + 60_000_000), Reason.DECODE, "no", "n")


def test_a_letter_is_named_by_where_its_message_stood() -> None:
    assert Ref.parse("node-telemetry/3/10542") == Ref("node-telemetry", 3, 10_542)
    assert Ref.parse("node-telemetry/3/10542@77") == Ref("node-telemetry", 3, 10_542, 77)
    assert str(Ref("node-telemetry", 3, 10_542, 77)) == "node-telemetry/3/10542@77"
    for wrong in ("", "node-telemetry", "node-telemetry/3", "node-telemetry/x/1", "a/1/2/3"):
        with pytest.raises(ValueError, match="TOPIC/PARTITION/OFFSET"):
            Ref.parse(wrong)


def test_a_message_sent_again_makes_the_letter_that_is_there() -> None:
    headers = [*OWN, (origin.HEADER, origin.pack(FIRST))]
    who, record = letter(bad(headers=headers), "another-id", "s")
    assert (who.producer_id, who.run_id, who.seq, who.ts) == (
        "dlq/node-events/3", run_of("node-events", "topic-id"), 10_542, TS,
    )  # fmt: skip
    assert (record["source_partition"], record["source_offset"], record["source_topic_id"]) == (3, 10_542, "topic-id")
    assert record["append_ts"] == TS
    assert record["headers"] == {}, "the origin is no part of the message"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\1",
        origin.pack(FIRST)[:-40],
        b"\2" + origin.pack(FIRST)[1:],
        origin.pack(FIRST) + b"\xff",
        origin.pack(FIRST) + b"x" * 100,
        origin.pack(FIRST._replace(partition=-1)),
        origin.pack(FIRST._replace(offset=-1)),
        origin.pack(FIRST._replace(append_us=TS + 60_000_000)),
        origin.pack(FIRST._replace(append_us=TS + 10**15)),
    ],
    ids=["empty", "short", "cut", "version", "text", "long", "partition", "offset", "now", "future"],
)
def test_a_made_up_origin_counts_for_nothing(header: bytes) -> None:
    """Least of all one in the future: it would forestall a letter that is still to come."""
    who, _ = letter(bad(headers=[*OWN, (origin.HEADER, header)]), "id", "s")
    assert (who.producer_id, who.seq) == ("dlq/node-events/0", 7)


def test_who_did_not_prove_who_they_are_cannot_hide_their_letter() -> None:
    forged = [(origin.HEADER, origin.pack(FIRST))]
    for reason in (Reason.UNSIGNED, Reason.SIGNATURE, Reason.FOREIGN):
        who, _ = letter(replace(bad(headers=[*OWN, *forged]), reason=reason), "id", "s")
        assert (who.producer_id, who.seq) == ("dlq/node-events/0", 7), reason
    who, _ = letter(replace(bad(headers=forged), reason=Reason.IDENTITY), "id", "s")
    assert who.seq == 7


def test_a_signature_is_still_good_when_the_letter_is_sent_again() -> None:
    """Its key, header and value are what they were; the place it stood first is not signed, and need not be."""
    keys = site_keys()
    sent = signed(keys, Node("node-1", SITE).event("node-events", ts=TS))
    _, record = letter(Bad(FakeMessage(sent, 7), Reason.TOO_OLD, "no", "node-1"), "id", SITE)
    key = Key(SITE, "node-events", "dlq/node-events/0", 1, 7, TS)
    kept = Letter(
        key, "id", 0, TS, "too_old", "no", 301, record["key"], record["value"], record["identity"], record["headers"]
    )
    judge = Judge(ConsumeSettings(kafka={}, future_limit_s=1e9), signing=consumer_signing(keys))
    assert judge.verdict(again(kept)).reason is None
    unsigned = replace(kept, headers={})
    assert judge.verdict(again(unsigned)).reason is Reason.UNSIGNED
    other = replace(kept, value=kept.value[:-1] + bytes([kept.value[-1] ^ 1]))
    assert judge.verdict(again(other)).reason is Reason.SIGNATURE


def test_a_letter_stays_small_enough_for_the_broker() -> None:
    """Key and headers are as large as a producer likes: a letter that no broker takes would be tried for ever."""
    _, record = letter(bad(key=b"k" * 3_000_000, headers=[("h", b"x" * 2_000_000)]), "id", "s")
    assert len(record["key"]) == KEY_BYTES_MAX
    assert record["headers"] == {}
    assert "key cut from 3000000" in record["detail"]
    assert "headers left out" in record["detail"]
    many = [(f"h{i}", b"x" * 100) for i in range(1_000)]
    _, record = letter(bad(headers=many), "id", "s")
    assert sum(len(value) for value in record["headers"].values()) <= HEADERS_BYTES_MAX


def test_what_the_store_refused_is_judged_strictly() -> None:
    """fastavro takes any byte for true; the store does not."""
    schema = catalogue.latest("node-telemetry")
    sent = Node("n", "s").event("node-telemetry", ts=TS)
    at = next(span.start for span in walk(schema, sent.value).spans if span.path == "clock_synced")
    value = sent.value[:at] + b"\2" + sent.value[at + 1 :]
    message = Again(sent.topic, 0, sent.key, value, sent.headers, TS)
    judge = Judge(ConsumeSettings(kafka={}))
    assert judge.verdict(message).reason is None
    verdict = judge.verdict(message, strictly=True)
    assert verdict.reason is Reason.DECODE
    assert f"byte {at}, clock_synced: expected 00 or 01" in verdict.detail


def test_of_headers_with_one_name_the_first_is_kept() -> None:
    _, record = letter(bad(headers=[("a", b"1"), ("a", b"2"), ("b", b"3")]), "id", "s")
    assert record["headers"] == {"a": b"1", "b": b"3"}
