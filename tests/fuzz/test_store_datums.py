"""Hostile datums in the real store: each is stored or refused for what it is, so that no message holds up the rest.

A refusal that reads like a store in trouble would be tried again for ever, and all of a partition would wait behind.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from consumers.errors import RefusedError, StoreMemoryError
from consumers.quarantine import decode_error
from consumers.store import EventStore
from infra.embedded.store.process import StoreProcess
from schemas import catalogue, framing
from schemas.catalogue import Schema
from schemas.container import Container, ContainerWriter, zigzag_varint
from tests.consumers.fleet import Node
from tests.consumers.running import client

pytestmark = pytest.mark.store
CLAIMS = [zigzag_varint(claim) for claim in (1 << 31, 1 << 40, (1 << 63) - 1, -1, -(1 << 40), -(1 << 63))]
"""Lengths and counts that nothing stands behind."""
TOPICS = ("node-telemetry", "node-events", "tenant-usage", "dead-letters")
EACH = 30


def damaged(rng: random.Random, value: bytes) -> Iterator[bytes]:
    """The datum with a claim, with random bytes, with a piece missing or doubled, cut short or with more behind."""
    for _ in range(EACH):
        at = rng.randrange(framing.PREFIX_BYTES, len(value))
        how = rng.randrange(5)
        if how <= 1:
            yield value[:at] + rng.choice(CLAIMS) + value[at + 1 :]
        elif how == 2:
            yield value[:at] + rng.randbytes(rng.randrange(1, 9)) + value[at + rng.randrange(9) :]
        elif how == 3:
            yield value[:at]
        else:
            yield value[:at] + value[at - 5 :]


@pytest.fixture(scope="module")
def events(migrated_store: StoreProcess) -> EventStore:
    return EventStore(lambda: client(migrated_store), "gpufleet")


@pytest.mark.parametrize("topic", TOPICS)
def test_a_hostile_datum_is_stored_or_refused_and_never_looks_like_a_store_in_trouble(
    events: EventStore, topic: str
) -> None:
    schema = catalogue.latest(topic)
    rng = random.Random(topic)
    refused, missed = 0, list[str]()
    node = Node("fuzz-node", "fuzz-datums")
    for value in damaged(rng, node.event(topic).value):
        sound = node.event(topic).value
        try:
            events.insert(schema, _framed(schema, [sound, value, sound]))
        except RefusedError:
            refused += 1
        except StoreMemoryError:
            missed.extend([] if decode_error(schema, value) else [value.hex()])
            refused += 1
    assert missed == [], "the store runs out of memory over them, and quarantine would not find them"
    assert refused > EACH / 2


def _framed(schema: Schema, values: list[bytes]) -> Container:
    return ContainerWriter(schema).open(values, skip=framing.PREFIX_BYTES)
