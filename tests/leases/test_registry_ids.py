"""With a schema registry, the commands that write a few events put its ids on the wire, and read them back by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from infra.cli.main import cli
from schemas import catalogue, framing
from tests.leases.test_cli import LEASE, LIMIT
from tests.producers.brokers import create_topic
from tests.schemas.fake_registry import FakeRegistry

if TYPE_CHECKING:
    from infra.embedded.broker import EmbeddedBroker

pytest.importorskip("confluent_kafka.schema_registry")
REQUESTS = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:17:00.0,10,5\n"


def wire_ids(bootstrap: str, topic: str) -> set[int]:
    """The schema ids in front of the topic's messages."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "wire-ids", "enable.partition.eof": True})
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        found = set()
        while (item := consumer.poll(20)) is not None and item.error() is None:
            value = item.value()
            assert value is not None
            found.add(framing.schema_id(value))
        assert item is not None, "the log does not end"
        return found
    finally:
        consumer.close()


def test_usage_leases_and_limits_bear_the_registrys_ids(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    for topic in ("leases", "tenant-limits", "tenant-usage"):
        create_topic(embedded_broker.bootstrap, topic)
    files = {"lease": LEASE, "limit": LIMIT, "usage": REQUESTS}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with FakeRegistry() as fake:
        options = [
            *("--set", f"kafka.bootstrap={embedded_broker.bootstrap}", "--set", f"registry.url={fake.url}"),
            *("--set", f"agent.state_dir={tmp_path / 'state'}"),
        ]

        def run(*arguments: str) -> str:
            result = CliRunner().invoke(cli, [*arguments, *options])
            assert result.exit_code == 0, result.output
            return result.stdout

        early = CliRunner().invoke(cli, ["lease", "apply", str(tmp_path / "lease"), "--yes", *options])
        assert early.exit_code == 3
        assert "gpufleet schema register" in early.output
        ids = json.loads(run("schema", "register", "--json"))
        for command in ("lease", "limit"):
            run(command, "apply", str(tmp_path / command), "--yes")
            assert "unchanged" in run(command, "apply", str(tmp_path / command), "--yes", "--json")
            assert "acme" in run(command, "list")
        run("usage", "replay", str(tmp_path / "usage"), "--tenant", "acme")
    known = {topic: ids.get(topic) for topic in ("leases", "tenant-limits", "tenant-usage")}
    assert all(number >= fake.first_id != catalogue.latest(topic).id for topic, number in known.items())
    assert {topic: wire_ids(embedded_broker.bootstrap, topic) for topic in known} == {
        topic: {number} for topic, number in known.items()
    }
