"""An insert is one block, so one part per table partition it touches, written whole or not at all."""

from __future__ import annotations

import pytest

from consumers.intake import DAY_MINUTES
from consumers.store import EventStore
from infra.embedded.store.process import StoreProcess
from schemas import catalogue
from schemas.container import ContainerWriter
from schemas.framing import PREFIX_BYTES
from tests.consumers.fleet import Node, recently
from tests.consumers.running import client, counts

pytestmark = pytest.mark.store
TOPIC = "facility-telemetry"


def test_a_large_insert_makes_one_part_a_day(migrated_store: StoreProcess) -> None:
    site = "one-block"
    node = Node(f"{site}-node", site)
    day_us = DAY_MINUTES * 60_000_000
    midnight = recently() // day_us * day_us
    sent = [node.event(TOPIC, ts=midnight - i % 3 * day_us + i) for i in range(20_000)]
    body = ContainerWriter(catalogue.latest(TOPIC)).open([one.value[PREFIX_BYTES:] for one in sent])
    ch = client(migrated_store)
    ch.command("SYSTEM STOP MERGES gpufleet.facility_telemetry")
    try:
        store = EventStore(lambda: client(migrated_store), "gpufleet")
        before = {name for (name,) in parts(ch)}
        store.insert(catalogue.latest(TOPIC), body)
        new = [name for (name,) in parts(ch) if name not in before]
        assert counts(ch, TOPIC, site) == (len(sent), len(sent))
        assert len(new) == 3
    finally:
        ch.command("SYSTEM START MERGES gpufleet.facility_telemetry")


def parts(ch: object) -> list[tuple[str]]:
    """Active parts of the table."""
    text = "SELECT name FROM system.parts WHERE database = 'gpufleet' AND table = 'facility_telemetry' AND active"
    rows: list[tuple[str]] = ch.query(text).result_rows  # type: ignore[attr-defined]
    return rows
