"""A batch's rows arrive in the order of their table: the store has nothing to sort."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import fastavro
import pytest

from consumers.store import EventStore
from infra.embedded.store.process import StoreProcess
from schemas import catalogue
from schemas.catalogue import Schema
from schemas.container import Container, ContainerWriter
from schemas.framing import PREFIX_BYTES
from tests.consumers.fakes import FakeStore
from tests.consumers.fleet import Node, Sent, recently
from tests.consumers.running import client
from tests.consumers.test_units import batch_of, delivery, fed

MINUTE_US = 60_000_000
TS = 1_800_000_000_000_000 // MINUTE_US * MINUTE_US
Row = tuple[int, str, str, int, int]


class Seeing(FakeStore):
    """Keeps each insert's rows as they came: (minute, node, producer, run, seq)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[Row]] = []

    def insert(self, schema: Schema, body: Container) -> None:
        super().insert(schema, body)
        records: list[Any] = list(fastavro.reader(io.BytesIO(bytes(body))))
        self.seen.append(
            [
                (int(r["ts"].timestamp()) // 60, r[schema.kind.key], r["producer_id"], r["run_id"], r["seq"])
                for r in records
            ]
        )


def delivered(sent: Sequence[Sent]) -> list[Row]:
    store = Seeing()
    delivery(store).deliver(batch_of(fed(list(sent))))
    [rows] = store.seen
    assert len(rows) == len(sent)
    return rows


@pytest.mark.parametrize("topic", ["node-telemetry", "node-counters", "facility-telemetry"])
@pytest.mark.parametrize("minutes", [1, 3])
def test_telemetry_comes_by_minute_node_and_number(topic: str, minutes: int) -> None:
    nodes = [Node(name, "s") for name in ("n-9", "n-10", "a", "n-1")]
    times = [TS + minute * MINUTE_US + second for minute in range(minutes) for second in (0, 7_000_000)]
    rows = delivered([node.event(topic, ts=ts) for ts in times for node in nodes])
    assert rows == sorted(rows)
    assert rows != [], "and there are some"


def test_histories_stay_in_the_order_of_the_log() -> None:
    nodes = [Node(name, "s") for name in ("b", "a")]
    rows = delivered([node.event("node-events", ts=TS) for _ in range(2) for node in nodes])
    assert [row[1] for row in rows] == ["b", "a", "b", "a"]


@pytest.mark.store
def test_the_engine_finds_nothing_to_sort(migrated_store: StoreProcess) -> None:
    """By its own counters, for a batch of many nodes over two minutes."""
    site = "table-order"
    nodes = [Node(f"{site}-{i * 37 % 100}", site) for i in range(100)]
    minute = recently() // MINUTE_US * MINUTE_US
    sent = [node.event("node-telemetry", ts=ts) for ts in (minute - MINUTE_US, minute) for node in nodes]
    ch = client(migrated_store)

    def counted() -> dict[str, int]:
        names = ("MergeTreeDataWriterBlocks", "MergeTreeDataWriterBlocksAlreadySorted")
        rows = ch.query(f"SELECT event, value FROM system.events WHERE event IN {names}").result_rows
        return {event: int(value) for event, value in rows}

    def inserted(insert: Callable[[EventStore], object]) -> dict[str, int]:
        before = counted()
        insert(EventStore(lambda: client(migrated_store), "gpufleet"))
        return {name: value - before.get(name, 0) for name, value in counted().items()}

    found = inserted(lambda store: delivery(store).deliver(batch_of(fed(sent))))
    assert found["MergeTreeDataWriterBlocksAlreadySorted"] == found["MergeTreeDataWriterBlocks"] > 0
    schema = catalogue.latest("node-telemetry")
    late = [node.event("node-telemetry", ts=minute).value for node in nodes]
    found = inserted(lambda store: store.insert(schema, ContainerWriter(schema).open(late, skip=PREFIX_BYTES)))
    assert found["MergeTreeDataWriterBlocksAlreadySorted"] < found["MergeTreeDataWriterBlocks"], "else nothing is shown"
