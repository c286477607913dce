"""What a signature binds: every way to write what is not one's own is refused, each with its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from consumers.errors import FatalError, Reason
from consumers.signatures import NOTHING_GOOD, Policy, Refused, Verifier
from schemas import identity, signing
from schemas.identity import Identity
from schemas.signer import Signer
from schemas.signing import Scope
from schemas.signing_keys import Revoked, SiteKeys, Watched, parse_site_keys, render_site_keys
from tests.consumers.fakes import FakeMessage
from tests.consumers.fleet import Node, Sent, message
from tests.security.support import SITE, key_of, signed, signed_with, site_keys, still, with_signature, write_keys

KEYS = site_keys("one", "two")
LOG_APPEND = 2


class Appended(FakeMessage):
    """A message of a topic with LogAppendTime."""

    def timestamp(self) -> tuple[int, int]:
        return LOG_APPEND, super().timestamp()[1]


def verdicts(sent: list[Sent], keys: SiteKeys = KEYS, policy: Policy | None = None, **kwargs: Any) -> list[Refused]:
    """What is refused, each message seen twice: with care, then (where it was good) the straight way."""
    verifier = Verifier(still(keys), policy or Policy(), lambda: 0)
    topic = sent[0].topic
    messages = [Appended(one, at, **kwargs) for at, one in enumerate(sent)]
    first = verifier.on(topic)(messages)
    assert verifier.on(topic)(messages) == first
    return first


def reason(sent: Sent, **kwargs: Any) -> Reason | None:
    refused = verdicts([sent], **kwargs)
    return refused[0].reason if refused else None


def node(name: str = "n1") -> Node:
    return Node(name, SITE)


def test_what_the_producers_sign_is_good_for_every_kind() -> None:
    kinds: dict[str, dict[str, Any]] = {
        "node-telemetry": {},
        "node-counters": {},
        "node-events": {},
        "inventory": {},
        "tenant-usage": {"tenant": "acme"},
        "facility-telemetry": {"asset_id": "cdu-1"},
        "allocations": {"job_id": "j1"},
        "leases": {"lease_id": "l1"},
        "tenant-limits": {"tenant": "acme"},
        "dead-letters": {"source_topic": "leases"},
    }
    for topic, fields in kinds.items():
        sender = node()
        events = [signed(KEYS, sender.event(topic, **fields)) for _ in range(3)]
        assert verdicts(events) == [], topic


def test_a_node_s_agent_writes_that_node_and_nothing_else() -> None:
    key = key_of(KEYS, Scope.NODE, "n1")
    own = node().event("node-telemetry")
    assert reason(signed_with(key, own)) is None
    # the victim's messages, signed with the thief's key
    assert reason(signed_with(key, node("n2").event("node-telemetry"))) is Reason.SIGNATURE
    # as itself, about another: by Kafka key, by datum, by both
    assert reason(signed_with(key, replace(own, key=b"n2"))) is Reason.FOREIGN
    about_other = node().event("node-telemetry", node_id="n2")
    assert about_other.key == b"n2"
    assert reason(signed_with(key, about_other)) is Reason.FOREIGN
    assert reason(signed_with(key, replace(about_other, key=b"n1"))) is Reason.FOREIGN
    # other topics, other sites
    assert reason(signed_with(key, node().event("tenant-usage", tenant="n1"))) is Reason.FOREIGN
    assert reason(signed_with(key, node().event("leases", lease_id="n1"))) is Reason.FOREIGN
    assert reason(signed_with(key, Node("n1", "site-b").event("node-telemetry"))) is Reason.FOREIGN


def test_a_tenant_s_gateway_writes_its_own_usage_alone() -> None:
    key = key_of(KEYS, Scope.TENANT, "acme", "gateway/acme")
    gateway = node("gateway/acme")
    assert reason(signed_with(key, gateway.event("tenant-usage", tenant="acme"))) is None
    other = gateway.event("tenant-usage", tenant="nimbus")
    assert reason(signed_with(key, other)) is Reason.FOREIGN
    assert reason(signed_with(key, replace(other, key=b"acme"))) is Reason.FOREIGN
    assert reason(signed_with(key, node("gateway/nimbus").event("tenant-usage", tenant="acme"))) is Reason.SIGNATURE
    assert reason(signed_with(key, gateway.event("tenant-limits", tenant="acme"))) is Reason.FOREIGN
    assert reason(signed_with(key, gateway.event("node-telemetry", node_id="acme"))) is Reason.FOREIGN


def test_every_part_of_a_message_is_signed() -> None:
    one = signed(KEYS, node().event("node-telemetry"))
    later = dict(node().event("node-telemetry", ts=one.record["ts"] + 1).headers)[identity.HEADER]
    mark = dict(one.headers)[signing.HEADER]
    changed = {
        "a bit of the datum": replace(one, value=one.value[:-1] + bytes([one.value[-1] ^ 1])),
        "the schema id": replace(one, value=one.value[:4] + b"\x63" + one.value[5:]),
        "the datum's end": replace(one, value=one.value + b"\0"),
        "the key": replace(one, key=b"n10"),
        "the topic": replace(one, topic="node-counters"),
        "the identity": replace(one, headers=[(identity.HEADER, later), (signing.HEADER, mark)]),
        "a bit of the signature": with_signature(one, lambda s: s[:-1] + bytes([s[-1] ^ 1])),
        "the serial": with_signature(one, lambda s: s[:3] + b"\x01" + s[4:]),
        "the scope": with_signature(one, lambda s: s[:1] + bytes([Scope.OPERATOR]) + s[2:]),
        "a subject": with_signature(one, lambda s: s[:8] + b"n2" + s[8:]),
        "an unknown scope": with_signature(one, lambda s: s[:1] + b"\xff" + s[2:]),
        "an unknown version": with_signature(one, lambda s: b"\x02" + s[1:]),
        "an unknown key": with_signature(one, lambda s: s[:4] + b"abcd" + s[8:]),
        "a short signature": with_signature(one, lambda s: s[:20]),
        "an empty signature": with_signature(one, lambda s: b""),
        "a subject that is no text": with_signature(one, lambda s: s[:8] + b"\xff" + s[8:]),
    }
    for what, bad in changed.items():
        assert reason(bad) is Reason.SIGNATURE, what
    assert reason(replace(one, headers=[*one.headers, (identity.HEADER, later)])) is None, "the first one counts"
    assert reason(replace(one, headers=[(identity.HEADER, later), *one.headers])) is Reason.SIGNATURE


def test_the_verdict_on_a_message_does_not_depend_on_what_came_before_it() -> None:
    """The straight way is taken by producers that were good before: it must refuse what the careful way refuses."""
    good = [signed(KEYS, node().event("node-telemetry", ts=1_763_800_000_000_000 + i)) for i in range(3)]
    key = key_of(KEYS, Scope.NODE, "n1")
    bad = [
        replace(good[0], value=good[0].value[:-1] + bytes([good[0].value[-1] ^ 1])),
        replace(good[1], key=b"n2"),
        signed_with(key, replace(node().event("node-telemetry", node_id="n2"), key=b"n1")),
        signed_with(key, replace(Node("n1", "site-b").event("node-telemetry"), key=b"n1")),
        replace(good[2], headers=good[2].headers[:1]),
        with_signature(good[2], lambda s: s[:-1] + bytes([s[-1] ^ 128])),
    ]
    mixed = [good[0], bad[0], bad[1], good[1], bad[2], bad[3], bad[4], good[2], bad[5]]
    assert [one.position for one in verdicts(mixed)] == [1, 2, 4, 5, 6, 8]
    assert [one.reason for one in verdicts(mixed)] == [
        Reason.SIGNATURE, Reason.SIGNATURE, Reason.FOREIGN, Reason.FOREIGN, Reason.UNSIGNED, Reason.SIGNATURE,
    ]  # fmt: skip


def test_numbers_longer_than_they_need_be_hide_no_other_node() -> None:
    """Avro lets a number be written with bytes too many; the key behind it must still be found where it is."""
    name = "n1x"  # its Avro length, 6, is also the last byte of the event time: a reader one byte off takes it for one
    ts = 1_763_800_000_000_000
    own = node(name).event("node-telemetry", ts=ts)
    assert verdicts([signed(KEYS, own)]) == []
    victim = "1x" + "v" * 53
    forged = node(name).event("node-telemetry", ts=ts, node_id=victim)
    head = 5 + 1 + len(SITE) + 1 + len(name)
    assert forged.value[head + 8] == 0, "seq 0"
    assert forged.value[head + 16] == 2 * len(name)
    assert forged.value[head + 17 : head + 20] == b"n1x", "the length of the victim's name reads as a letter"
    stretched = forged.value[: head + 8] + b"\x80\x00" + forged.value[head + 9 :]
    key = key_of(KEYS, Scope.NODE, name)
    for value in (forged.value, stretched):
        one = signed_with(key, replace(forged, key=name.encode(), value=value))
        assert [v.reason for v in verdicts([signed(KEYS, own), one])] == [Reason.FOREIGN]


def test_unsigned_events_pass_until_the_site_asks_for_signatures() -> None:
    bare = node().event("node-telemetry")
    assert reason(bare, policy=Policy("require")) is Reason.UNSIGNED
    assert reason(bare, policy=Policy("accept")) is None
    assert reason(bare, policy=Policy("require", {SITE: "accept"})) is None
    assert reason(bare, policy=Policy("accept", {SITE: "require"})) is Reason.UNSIGNED
    since = bare.record["ts"]
    assert reason(bare, policy=Policy("require", {}, since + 1_000_000), append_us=since) is None
    assert reason(bare, policy=Policy("require", {}, since), append_us=since + 1_000_000) is Reason.UNSIGNED
    wrong = with_signature(signed(KEYS, bare), lambda s: s[:-1] + bytes([s[-1] ^ 1]))
    assert reason(wrong, policy=Policy("accept")) is Reason.SIGNATURE, "accept does not mean anything goes"


def test_unsigned_events_that_passed_are_counted() -> None:
    counted: list[str] = []
    verifier = Verifier(still(KEYS), Policy("accept"), lambda: 0, counted.append)
    sent = [node().event("node-telemetry"), signed(KEYS, node().event("node-telemetry"))]
    assert verifier.on("node-telemetry")([Appended(one, at) for at, one in enumerate(sent)]) == []
    assert counted == ["node-telemetry"]


def test_a_key_that_ended_is_judged_by_the_broker_s_time() -> None:
    end = 1_763_800_000_000_000
    old, new = site_keys("old"), site_keys("new")
    both = SiteKeys((replace(old.keys[0], until_us=end), *new.keys))
    one = signed(old, node().event("node-telemetry", ts=end - 5_000_000))
    assert reason(one, keys=both, append_us=end) is None
    assert reason(one, keys=both, append_us=end + 1_000) is Reason.SIGNATURE
    assert reason(signed(new, node().event("node-telemetry")), keys=both) is None
    assert reason(one, keys=new) is Reason.SIGNATURE, "a key that was taken away altogether"

    class Created(FakeMessage):
        """A topic whose times are the producer's own: they say nothing."""

    verifier = Verifier(still(both), Policy(), lambda: end + 1)
    [refused] = verifier.on("node-telemetry")([Created(one, 0, append_us=end - 1_000_000)])
    assert refused.reason is Reason.SIGNATURE


def test_a_revoked_key_is_refused_and_the_producer_s_next_one_is_good() -> None:
    at = 1_763_800_000_000_000
    revoked = SiteKeys(KEYS.keys, (Revoked(SITE, Scope.NODE, "n1", "n1", 1, at),))
    stolen = key_of(KEYS, Scope.NODE, "n1")
    fresh = key_of(revoked, Scope.NODE, "n1")
    assert (stolen.claim.serial, fresh.claim.serial) == (0, 1)
    assert reason(signed_with(stolen, node().event("node-telemetry")), keys=revoked) is Reason.SIGNATURE
    assert reason(signed_with(fresh, node().event("node-telemetry")), keys=revoked) is None
    assert reason(signed(KEYS, node("n2").event("node-telemetry")), keys=revoked) is None
    # what the broker had before is as good as it was: reading the log again judges alike
    before = signed_with(stolen, node().event("node-telemetry", ts=at - 5_000_000))
    assert reason(before, keys=revoked, append_us=at - 1_000) is None
    verify = Verifier(still(revoked), Policy(), lambda: 0).on("node-telemetry")
    both = [Appended(before, 0, append_us=at - 1_000), Appended(before, 1, append_us=at)]
    assert [one.position for one in verify(both)] == [1]


def test_a_revocation_reaches_everybody_who_shares_the_keys(tmp_path: Path) -> None:
    """The consumer's own signer follows the same file; who looks first must not take the news away."""
    path = write_keys(tmp_path / "site.keys", render_site_keys(KEYS))
    now = [0.0]
    watched: Watched[SiteKeys] = Watched(parse_site_keys, path, every_s=1.0, monotonic=lambda: now[0])
    verify = Verifier(watched, Policy(), lambda: 0).on("node-telemetry")
    sign = Signer(watched, SITE, look_s=0.0)
    one = Appended(signed(KEYS, node().event("node-telemetry")), 0)
    assert verify([one]) == []
    write_keys(path, render_site_keys(SiteKeys(KEYS.keys, (Revoked(SITE, Scope.NODE, "n1", "n1", 1),))))
    now[0] = 2.0
    assert sign.key_for("node-telemetry", "n1", "n1").claim.serial == 0
    sign("node-telemetry", b"n1", bytes(26) + b"n1", b"")
    assert sign.key_for("node-telemetry", "n1", "n1").claim.serial == 1, "the signer has seen it"
    assert [refused.reason for refused in verify([one])] == [Reason.SIGNATURE]


def test_a_site_s_key_is_no_other_site_s() -> None:
    a, b = site_keys("a"), site_keys("b", site="site-b")
    both = SiteKeys((*a.keys, *b.keys))
    assert reason(signed(both, Node("n1", "site-b").event("node-telemetry"), "site-b"), keys=both) is None
    stolen = key_of(a, Scope.OPERATOR, "lease@a")
    foreign = Node("lease@a", "site-b").event("leases", lease_id="l")
    assert reason(signed_with(stolen, foreign), keys=both) is Reason.FOREIGN


def test_messages_that_cannot_be_read_are_refused_with_the_reason_they_always_had() -> None:
    one = signed(KEYS, node().event("node-telemetry"))
    key = key_of(KEYS, Scope.NODE, "n1")
    assert reason(replace(one, headers=[])) is Reason.IDENTITY
    assert reason(replace(one, headers=[(identity.HEADER, b"x")])) is Reason.IDENTITY
    assert reason(signed_with(key, replace(one, value=b""))) is Reason.FRAMING
    assert reason(signed_with(key, replace(one, value=one.value[:12]))) is Reason.IDENTITY
    none: Any = None
    assert reason(replace(one, value=none, key=none)) is Reason.SIGNATURE
    assert reason(replace(one, headers=[(identity.HEADER, none), (signing.HEADER, none)])) is Reason.IDENTITY


def test_times_before_1970_are_looked_at_with_care() -> None:
    schema_event = node().event("node-telemetry")
    old = message_at(schema_event, -5)
    assert reason(signed(KEYS, old)) is None
    moved = replace(message_at(node().event("node-telemetry", node_id="n2"), -5), key=b"n1")
    assert reason(signed_with(key_of(KEYS, Scope.NODE, "n1"), moved)) is Reason.FOREIGN


def message_at(sent: Sent, ts: int) -> Sent:
    from schemas import catalogue

    record = {**sent.record, "ts": ts}
    made = message(catalogue.latest(sent.topic), record)
    assert identity.unpack(dict(made.headers)[identity.HEADER]) == Identity(
        record["producer_id"], record["run_id"], record["seq"], ts, 1
    )
    return made


def test_a_consumer_with_the_wrong_keys_stops_before_it_fills_the_dead_letters() -> None:
    verifier = Verifier(still(site_keys("other")), Policy(), lambda: 0)
    verify = verifier.on("node-telemetry")
    one = Appended(signed(KEYS, node().event("node-telemetry")), 0)
    for _ in range(NOTHING_GOOD // 100 - 1):
        assert len(verify([one] * 100)) == 100
    with pytest.raises(FatalError, match="none of the first 1000 messages has a good signature"):
        verify([one] * 100)


def test_one_good_message_is_enough_for_a_flood_of_bad_ones_to_stop_nobody() -> None:
    verifier = Verifier(still(KEYS), Policy(), lambda: 0)
    verify = verifier.on("node-telemetry")
    good, bad = signed(KEYS, node().event("node-telemetry")), node("n2").event("node-telemetry")
    assert len(verify([Appended(bad, 0)] * 900)) == 900
    assert verify([Appended(good, 0)]) == []
    assert len(verify([Appended(bad, 0)] * 2_000)) == 2_000


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
def test_no_change_of_a_signed_message_gets_through_and_none_makes_the_verifier_fall(data: st.DataObject) -> None:
    one = signed(KEYS, node().event("node-telemetry", ts=1_763_800_000_000_000))
    parts = {"key": one.key, "value": one.value, **dict(one.headers)}
    name = data.draw(st.sampled_from(sorted(parts)))
    old = parts[name]
    at = data.draw(st.integers(0, len(old)))
    parts[name] = data.draw(
        st.one_of(
            st.binary(max_size=80),
            st.binary(min_size=1, max_size=4).map(lambda some: old[:at] + some + old[at:]),
            st.binary(min_size=1, max_size=4).map(lambda some: old[:at] + some + old[at + len(some) :]),
            st.integers(0, 8).map(lambda size: old[:at] + old[at + size :]),
        )
    )
    hypothesis.assume(parts[name] != old)
    headers = [(identity.HEADER, parts[identity.HEADER]), (signing.HEADER, parts[signing.HEADER])]
    changed = replace(one, key=parts["key"], value=parts["value"], headers=headers)
    assert [refused.position for refused in verdicts([one, changed, one])] == [1]


@pytest.mark.parametrize("scope", list(Scope))
def test_no_scope_writes_what_is_not_its_own(scope: Scope) -> None:
    key = key_of(KEYS, scope, "x", "x")
    for topic in ("node-telemetry", "inventory", "tenant-usage", "facility-telemetry", "allocations", "leases",
                  "tenant-limits", "dead-letters"):  # fmt: skip
        fields: dict[str, Any] = {} if topic in ("node-telemetry", "inventory") else {_key_of(topic): "x"}
        one = signed_with(key, Node("x", SITE).event(topic, **fields))
        assert reason(one) is (None if topic in signing.TOPICS[scope] else Reason.FOREIGN), topic


def _key_of(topic: str) -> str:
    from schemas.catalogue import KINDS

    return KINDS[topic].key
