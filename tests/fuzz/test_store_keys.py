"""Keys and producers of every kind of text, in the real store: what is stored is found again by the identity filter."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.datum import place
from consumers.store import EventStore, Wanted
from infra.embedded.store.process import StoreProcess
from schemas import catalogue, framing
from schemas.catalogue import KINDS
from schemas.container import ContainerWriter, zigzag_varint
from tests.consumers.fleet import Node
from tests.consumers.running import client

pytestmark = pytest.mark.store
TOPIC = "node-events"
ODD = [
    "'",
    "\\",
    "\\'",
    "\0",
    "\n",
    "\t",
    "`",
    '"',
    "' OR 1=1 --",
    "{x:String}",
    "%s",
    "$1",
    "\u2028",
    "\U0001f600",
    "*/",
]
RUNS = itertools.count(1)


@pytest.fixture(scope="module")
def events(migrated_store: StoreProcess) -> EventStore:
    return EventStore(lambda: client(migrated_store), "gpufleet")


@pytest.mark.parametrize("key", [b"\xff\xfe", b"\xc3(", b"a\xed\xa0\x80'", b"\x00\xff\\", b"' \xff --"])
def test_a_key_that_is_not_utf8_is_found_as_the_bytes_it_is(events: EventStore, key: bytes) -> None:
    schema = catalogue.latest(TOPIC)
    node = Node("keys-node", f"keys-{key.hex()}")
    sent = node.event(TOPIC)
    plain = zigzag_varint(len(node.name)) + node.name.encode()
    value = sent.value.replace(plain, b"\x02P", 1).replace(plain, zigzag_varint(len(key)) + key, 1)
    value = value.replace(b"\x02P", plain, 1)
    events.insert(schema, ContainerWriter(schema).open([value], skip=framing.PREFIX_BYTES))
    where = place(value)
    producer, run_id, seq = sent.identity
    wanted = Wanted(where.site, where.key, sent.record["ts"], producer, run_id, seq)
    assert where.key.encode(errors="surrogateescape") == key
    assert events.stored(KINDS[TOPIC], [wanted]) == {sent.identity}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    text=st.one_of(st.sampled_from(ODD), st.text(min_size=1, max_size=20)), place_of=st.sampled_from(["key", "site"])
)
def test_whatever_a_producer_calls_itself_it_is_found_and_nobody_else(
    events: EventStore, text: str, place_of: str
) -> None:
    schema = catalogue.latest(TOPIC)
    name, site = (text, "keys") if place_of == "key" else ("keys-node", text)
    node = Node(name, site, run_id=1_700_000_000_000_000 + next(RUNS))
    one, other = node.event(TOPIC), node.event(TOPIC)
    events.insert(schema, ContainerWriter(schema).open([one.value], skip=framing.PREFIX_BYTES))
    wanted = [Wanted(site, name, sent.record["ts"], *sent.identity) for sent in (one, other)]
    assert events.stored(KINDS[TOPIC], wanted) == {one.identity}
    keys = [(name, node.run_id), ("nobody", node.run_id)]
    found = events.max_seq(KINDS[TOPIC], keys, one.record["ts"], own_key=True)
    assert found == {keys[0]: 0, keys[1]: -1}


def test_a_neighbour_at_the_same_place_and_time_is_not_named(events: EventStore) -> None:
    schema = catalogue.latest(TOPIC)
    one, other = (Node("twin", "keys", run_id=1_700_000_000_000_000 + next(RUNS)) for _ in range(2))
    at = time.time_ns() // 1000
    mine, another = one.event(TOPIC, ts=at), other.event(TOPIC, ts=at)
    values = [memoryview(sent.value)[framing.PREFIX_BYTES :] for sent in (mine, another)]
    events.insert(schema, ContainerWriter(schema).open(values))
    assert events.stored(KINDS[TOPIC], [Wanted("keys", "twin", at, *mine.identity)]) == {mine.identity}
