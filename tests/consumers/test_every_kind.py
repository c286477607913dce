"""Every kind of event goes from Kafka into its table with the values that a decoder finds in the log."""

from __future__ import annotations

import io
import math
from datetime import UTC, datetime
from typing import Any

import fastavro
import pytest

from infra.embedded.broker import EmbeddedBroker
from infra.embedded.store.process import StoreProcess
from schemas import catalogue
from schemas.catalogue import KINDS
from tests.consumers.fleet import Node, Sender, Sent, create_topics
from tests.consumers.running import client, eventually, running, settings, stored_as_sent

pytestmark = pytest.mark.store
SITE = "every-kind"


def decoded(one: Sent) -> dict[str, Any]:
    """The datum as fastavro reads it, in the store's types."""
    schema = catalogue.latest(one.topic)
    record = fastavro.schemaless_reader(io.BytesIO(one.value[5:]), schema.parsed)
    assert isinstance(record, dict)
    raw = {field["name"] for field in schema.fields if field["type"] == "bytes"}
    found = {name: text(value) if name in raw else plain(value) for name, value in record.items()}
    for name, value in found.items():
        if isinstance(value, dict) and any(isinstance(one, bytes) for one in value.values()):
            found[name] = {key: text(one) for key, one in value.items()}  # as String columns, see ``text``
    return found


def text(value: Any) -> str:
    """A String column as clickhouse-connect shows it: as text, or in hex when it is not UTF-8."""
    try:
        return str(value.decode())
    except UnicodeDecodeError:
        return str(value.hex())


def plain(value: Any) -> Any:
    """A value in a form in which equal means equal."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def test_every_kind_is_stored_once_with_the_values_in_the_log(
    embedded_broker: EmbeddedBroker, migrated_store: StoreProcess
) -> None:
    create_topics(embedded_broker.bootstrap)
    nodes = [Node(f"node-{i}", SITE) for i in range(3)]
    sent = [node.event(topic) for topic in KINDS for node in nodes for _ in range(5)]
    Sender(embedded_broker.bootstrap).send(sent)
    ch = client(migrated_store)
    with running(migrated_store, settings(embedded_broker.bootstrap)):
        eventually(lambda: stored_as_sent(ch, sent, SITE), why="not everything was stored")
    for topic, kind in KINDS.items():
        columns = [f["name"] for f in catalogue.latest(topic).fields]
        result = ch.query(
            f"SELECT {', '.join(columns)} FROM gpufleet.{kind.table} WHERE site = '{SITE}'",
            column_formats={},
            query_formats={"FixedString": "bytes"},
        )
        stored = {
            (row["producer_id"], row["run_id"], row["seq"]): {k: plain(v) for k, v in row.items()}
            for row in result.named_results()
        }
        for one in sent:
            if one.topic == topic:
                assert stored[one.identity] == decoded(one), one.topic
