"""Every command that sends events signs them, with a site's keys or with its own; and says so when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from consumers.signatures import Policy, Verifier
from infra.cli.main import cli
from infra.embedded.broker import EmbeddedBroker
from schemas.catalogue import KINDS
from schemas.signing import Scope
from schemas.signing_keys import render_producer_keys, render_site_keys
from tests.consumers.fleet import create_topics
from tests.security.support import key_of, site_keys, still, write_keys

SITE = "memphis-lab"
"""Of the scenario that the simulator plays by default."""
KEYS = site_keys("commands", site=SITE)
LIMIT = '[[limit]]\ntenant = "acme"\nname = "requests"\nwindow = "60s"\nvalue = 50\n'
LEASE = '[[lease]]\nid = "a1"\ntenant = "acme"\nnodes = ["n1"]\nfrom = 2099-01-01T00:00:00Z\nprice = 2.5\n'
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2026-01-01 00:00:00.1,10,20\n2026-01-01 00:00:09.2,30,40\n"


class Commands:
    """Runs commands against a broker with the site's keys, or with others."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.bootstrap, self.folder = bootstrap, folder
        self.site_keys = write_keys(folder / "site.keys", render_site_keys(KEYS))

    def run(self, *arguments: str, keys: str | None = None) -> Result:
        flags = {
            "kafka.bootstrap": self.bootstrap,
            "site.name": SITE,
            "agent.state_dir": str(self.folder / "state"),
            "simulate.state_dir": str(self.folder / "state"),
            "signing.mode": "require",
        }
        given = [f"--set={name}={value}" for name, value in flags.items()]
        return CliRunner().invoke(cli, [*arguments, *given, keys or f"--set=signing.site_keys_file={self.site_keys}"])

    def own(self, scope: Scope, subject: str, producer_id: str) -> str:
        """The option for a key handed to one producer."""
        file = write_keys(self.folder / "own.keys", render_producer_keys([key_of(KEYS, scope, subject, producer_id)]))
        return f"--set=signing.key_file={file}"

    def sent(self) -> dict[str, list[Message]]:
        """Everything in the topics."""
        found: dict[str, list[Message]] = {}
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "look",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        consumer.assign([TopicPartition(topic, 0, 0) for topic in KINDS])
        reading = set(KINDS)
        while reading:
            for message in consumer.consume(1_000, 0.2):
                error, topic = message.error(), message.topic() or ""
                assert error is None or error.code() == KafkaError._PARTITION_EOF, error
                if error is not None:
                    reading.discard(topic)
                else:
                    found.setdefault(topic, []).append(message)
        consumer.close()
        return found

    def refused(self) -> list[object]:
        """What a consumer of the site would not store."""
        verifier = Verifier(still(KEYS), Policy(), lambda: 0)
        return [one for topic, messages in self.sent().items() for one in verifier.on(topic)(messages)]  # type: ignore[arg-type]


@pytest.fixture
def commands(embedded_broker: EmbeddedBroker, tmp_path: Path) -> Commands:
    create_topics(embedded_broker.bootstrap, partitions=1)
    return Commands(embedded_broker.bootstrap, tmp_path)


def test_the_simulator_signs_for_every_producer_of_its_site(commands: Commands) -> None:
    done = commands.run("simulate", "--nodes", "3", "--for", "2s", "--speed", "60")
    assert done.exit_code == 0, done.output
    assert commands.refused() == []
    topics = set(commands.sent())
    assert topics >= {"node-telemetry", "node-counters", "inventory", "leases", "tenant-limits", "facility-telemetry",
                      "tenant-usage", "node-events", "allocations"}  # fmt: skip


def test_the_simulator_signs_what_a_spool_held_back(commands: Commands) -> None:
    done = commands.run("simulate", "--nodes", "2", "--for", "2s", "--speed", "60", "--link-schedule", "20s/60s+30s")
    assert done.exit_code in (0, 1), done.output
    assert len(commands.sent()["node-telemetry"]) > 20
    assert commands.refused() == []


def test_leases_limits_and_usage_are_signed_with_the_site_s_keys_or_with_a_key_of_their_own(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "ops-1")
    files = {name: commands.folder / name for name in ("leases.toml", "limits.toml", "trace.csv")}
    for path, text in zip(files.values(), (LEASE, LIMIT, TRACE), strict=True):
        path.write_text(text)
    lease = ("lease", "apply", str(files["leases.toml"]), "--yes")
    limit = ("limit", "apply", str(files["limits.toml"]), "--yes")
    usage = ("usage", "replay", str(files["trace.csv"]), "--tenant", "acme", "--keep-times")
    for command in (lease, limit, usage):
        done = commands.run(*command)
        assert done.exit_code == 0, done.output
    own_usage = commands.own(Scope.TENANT, "acme", "usage-replay@ops-1")
    assert commands.run(*usage, keys=own_usage).exit_code == 0
    sent = commands.sent()
    assert [len(sent[topic]) for topic in ("leases", "tenant-limits")] == [1, 1]
    assert len(sent["tenant-usage"]) >= 2
    assert commands.refused() == []

    wrong = commands.run(*usage[:-2], "nimbus", "--keep-times", keys=own_usage)
    assert wrong.exit_code == 2
    assert "no signing key for producer 'usage-replay@ops-1'" in wrong.output
    assert "as tenant acme" in wrong.output
    files["leases.toml"].write_text(LEASE.replace("2.5", "3.5"))
    refused = commands.run(*lease, keys=own_usage)
    assert refused.exit_code == 2
    assert "may write leases" in refused.output


def test_an_agent_signs_with_the_key_of_its_node_and_starts_with_no_other(commands: Commands) -> None:
    agent = ("agent", "--node", "n1", "--sources", "host", "--for", "3s")
    other = commands.run(*agent, keys=commands.own(Scope.NODE, "n2", "n2"))
    assert other.exit_code == 2
    assert "no signing key for producer 'n1'" in other.output
    none = commands.run(*agent, keys="--set=agent.ticks_per_event=1")
    assert none.exit_code == 2
    assert "signing.mode is require and there is no key to sign with" in none.output
    assert len(none.output.strip().splitlines()) == 1
    open_to_all = write_keys(commands.folder / "open.keys", "x", 0o644)
    told = commands.run(*agent, keys=f"--set=signing.key_file={open_to_all}")
    assert told.exit_code == 2
    assert "can be used by others (mode 644): `chmod 600" in told.output
    done = commands.run(*agent, keys=commands.own(Scope.NODE, "n1", "n1"))
    assert done.exit_code == 0, done.output
    assert commands.sent()["node-telemetry"]
    assert commands.refused() == []


def test_a_consumer_without_usable_keys_does_not_start(commands: Commands, tmp_path: Path) -> None:
    bare = commands.run("consume", keys="--set=consume.projector=false")
    assert bare.exit_code == 2
    assert "signing.mode is require and there are no site keys" in bare.output
    elsewhere = write_keys(tmp_path / "elsewhere.keys", render_site_keys(site_keys("x", site="elsewhere")))
    foreign = commands.run("consume", keys=f"--set=signing.site_keys_file={elsewhere}")
    assert foreign.exit_code == 2
    assert "no signing key of site 'memphis-lab'" in foreign.output
