"""SASL, TLS and ACLs against a real Apache Kafka: what a person writes into the settings is enough, no role can do more
than its work takes, and what is wrong is told in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import KafkaError, KafkaException, Producer

from infra.cli.main import cli
from infra.config import Settings
from infra.embedded.store.process import StoreProcess
from infra.kafka.client import librdkafka
from producers.encode import Message
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from schemas.catalogue import KINDS
from tests.consumers.fleet import Node, Sent
from tests.consumers.running import KAFKA, client, eventually, running, settings, stored_as_sent
from tests.security.kafka import SecuredKafka

pytestmark = pytest.mark.kafka
ROLES = (
    *("--admin", "admin", "--agent", "agent", "--agent", "CN=n1", "--consumer", "consumer"),
    *("--operator", "operator", "--usage", "gateway"),
)
GROUP = "secured-group"
COMMAND = (sys.executable, "-m", "infra.cli.main")


@pytest.fixture(scope="module")
def allowed(secured: SecuredKafka) -> SecuredKafka:
    """The broker with the ACLs that `gpufleet topics acl` sets for one user of each role."""
    result = by_own_hands(secured, "topics", "acl", *ROLES, "--apply", "--json")
    assert result.exit_code == 0, result.output
    assert {row["status"] for row in json.loads(result.stdout)} == {"added"}
    return secured


def run(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--config", str(file)])


def by_own_hands(secured: SecuredKafka, *arguments: str) -> Result:
    own = ("--set", f"kafka.bootstrap={secured.kafka.bootstrap}", "--set", f"consume.group_id={GROUP}")
    return CliRunner().invoke(cli, [*arguments, *own])


def refusals(settings: Settings, topics: Sequence[str]) -> Mapping[str, int | None]:
    """What the broker says to one message on each topic: None = taken, else Kafka's code."""
    said: dict[str, int | None] = {}
    producer = Producer({**librdkafka(settings.kafka, "producer"), "message.timeout.ms": 60_000, "linger.ms": 0})
    for topic in topics:
        with suppress(KafkaException):
            producer.produce(
                topic, b"x", b"k", on_delivery=lambda e, m: said.__setitem__(m.topic() or "", e.code() if e else None)
            )
    assert producer.flush(90) == 0
    return said


def reads(settings: Settings, topic: str, group: str) -> KafkaError | None:
    """What the broker says to a member of the group that reads the topic: None = it may."""
    answer: list[KafkaError | None] = []
    consumer = KafkaConsumer(
        {**librdkafka(settings.kafka, "consumer"), "group.id": group, "auto.offset.reset": "earliest"},
        logger=None,
    )
    consumer.subscribe([topic], on_assign=lambda *_: answer.append(None))
    for _ in range(180):
        message = consumer.poll(0.5)
        if message is not None and message.error() is not None:
            answer.append(message.error())
        if answer:
            break
    consumer.close()
    assert answer, "neither assigned nor refused"
    return answer[0]


def test_scram_over_tls_from_the_settings_file_is_enough(allowed: SecuredKafka) -> None:
    planned = run(allowed.scram("admin"), "topics", "plan", "--json")
    assert planned.exit_code == 0, planned.output
    assert {step["status"] for step in json.loads(planned.stdout)} == {"ok"}
    for user in ("admin", "consumer"):
        examined = run(allowed.scram(user), "doctor", "--only", "kafka")
        assert examined.exit_code == 0, examined.output
        assert "security: sasl_ssl" in examined.output
        assert "write: acknowledged" in examined.output
        assert f"topics: all {len(KINDS)} as they should be" in examined.output


def test_a_client_certificate_is_enough(allowed: SecuredKafka) -> None:
    told = refusals(allowed.load(allowed.mutual("n1")), ["node-telemetry", "leases"])
    assert told == {"node-telemetry": None, "leases": KafkaError.TOPIC_AUTHORIZATION_FAILED}
    stranger = refusals(allowed.load(allowed.mutual("stranger")), ["node-telemetry"])
    assert stranger == {"node-telemetry": KafkaError.TOPIC_AUTHORIZATION_FAILED}


@pytest.mark.parametrize(
    ("user", "may"),
    [
        ("agent", {"node-telemetry", "node-counters", "node-events", "inventory"}),
        ("gateway", {"tenant-usage"}),
        ("operator", {"leases", "tenant-limits", "node-events", "inventory"}),
        ("consumer", {"dead-letters"}),
        ("nobody", set()),
    ],
)
def test_a_role_writes_its_own_topics_and_no_other(allowed: SecuredKafka, user: str, may: set[str]) -> None:
    told = refusals(allowed.load(allowed.scram(user)), list(KINDS))
    assert {topic for topic, code in told.items() if code is None} == may
    assert {code for code in told.values() if code is not None} == {KafkaError.TOPIC_AUTHORIZATION_FAILED}
    assert set(told) == set(KINDS)


def test_only_consumers_read_and_only_in_their_group(allowed: SecuredKafka) -> None:
    consumer = allowed.load(allowed.scram("consumer"))
    assert reads(consumer, "node-telemetry", GROUP) is None
    assert reads(consumer, "node-telemetry", f"{GROUP}-rebuild") is None
    refused = reads(consumer, "node-telemetry", "another-group")
    assert refused is not None
    assert refused.code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    agent = allowed.load(allowed.scram("agent"))
    refused = reads(agent, "node-telemetry", GROUP)
    assert refused is not None
    assert refused.code() == KafkaError.GROUP_AUTHORIZATION_FAILED


def test_the_operator_reads_leases_back_and_no_telemetry(allowed: SecuredKafka) -> None:
    listed = run(allowed.scram("operator"), "lease", "list", "--json")
    assert listed.exit_code == 0, listed.output
    refused = run(allowed.scram("agent"), "lease", "list")
    assert refused.exit_code in (2, 3)
    assert len(refused.output.strip().splitlines()) == 1


@pytest.mark.store
def test_publisher_and_consumer_work_with_no_more_than_their_acls(
    allowed: SecuredKafka, migrated_store: StoreProcess, tmp_path: Path
) -> None:
    """The whole way as two users with a password each: publisher, group, offsets, topic ids, dead letters."""
    site = "secured-way"
    good = [Node(f"{site}-{i}", site).event("node-telemetry") for i in range(20)]
    bad = Node(f"{site}-bad", site).event("node-telemetry")
    journal = Journal.start(tmp_path / "journal", site, ["x"], ["node-telemetry"])
    agent, consumer = allowed.load(allowed.scram("agent")), allowed.load(allowed.scram("consumer"))
    given = settings(
        "", group=GROUP, site=site, kafka={**KAFKA, **librdkafka(consumer.kafka, "consumer")},
        kafka_writing=librdkafka(consumer.kafka, "producer"), topics=("node-telemetry", "dead-letters"),
    )  # fmt: skip
    ch = client(migrated_store)
    with (
        KafkaOutbox({**librdkafka(agent.kafka, "producer"), "linger.ms": 5}, journal) as outbox,
        running(migrated_store, given),
    ):
        outbox.offer_many([_message(one) for one in [*good, _cut(bad)]])
        assert outbox.flush(90) == 0
        eventually(lambda: stored_as_sent(ch, good, site), timeout_s=90)
        letters = f"SELECT count() FROM gpufleet.dead_letters WHERE source_producer_id = '{site}-bad'"
        eventually(lambda: ch.query(letters).result_rows == [(1,)], timeout_s=90)
    ch.close()
    journal.close()


def _message(sent: Sent) -> Message:
    return Message(sent.topic, sent.key, sent.value, dict(sent.headers)["gpufleet"], 0)


def _cut(sent: Sent) -> Sent:
    return replace(sent, value=sent.value[:-9])


def test_what_is_wrong_is_told_in_one_line_without_a_secret(allowed: SecuredKafka) -> None:
    """All at once, for each waits until its patience is over."""
    cases = {
        allowed.scram("admin", password="wrong"): ("sasl_ssl with SCRAM-SHA-512", "invalid credentials"),
        allowed.scram("admin", ca="other-ca.pem"): ("its certificate is refused:", "kafka.ssl_ca names who may sign"),
        allowed.scram("admin", listener="expired"): ("its certificate is refused: certificate has expired",),
        allowed.mutual("late"): ("it refuses our certificate", "late.pem", "is it valid and known?"),
        allowed.mutual("forger"): ("it refuses our certificate", "forger.pem"),
    }
    started = [
        subprocess.Popen(
            [*COMMAND, "topics", "list", "--config", str(file), "--set", "kafka.timeout_s=8"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for file in cases
    ]
    for process, expected in zip(started, cases.values(), strict=True):
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 3, output
        assert len(output.strip().splitlines()) == 1, output
        assert all(words in output for words in expected), output
        assert not any(allowed.password(user) in output for user in ("admin", "wrong"))


def test_what_is_not_allowed_is_told_as_such(allowed: SecuredKafka) -> None:
    result = run(allowed.scram("nobody"), "topics", "acl", "--agent", "x", "--apply")
    assert result.exit_code == 1
    assert "this user may not see or set ACLs" in result.output
    denied = run(allowed.scram("agent"), "topics", "apply")
    assert denied.exit_code in (1, 3)
    assert "uthorization failed" in denied.output


def test_acls_are_printed_without_a_broker_and_set_once(allowed: SecuredKafka) -> None:
    printed = CliRunner().invoke(cli, ["topics", "acl", "--agent", "CN=n7,O=fleet", "--set", "kafka.bootstrap=none:1"])
    assert printed.exit_code == 0, printed.output
    assert "allow User:CN=n7,O=fleet write topic node-telemetry" in printed.output
    assert "tenant-usage" not in printed.output
    again = by_own_hands(allowed, "topics", "acl", *ROLES, "--apply", "--json")
    assert {row["status"] for row in json.loads(again.stdout)} == {"there"}
    user = ("topics", "acl", "--agent", "fickle", "--apply", "--json")
    by_own_hands(allowed, "topics", "acl", "--usage", "fickle", "--apply")
    surplus = [row for row in json.loads(by_own_hands(allowed, *user).stdout) if row["status"] == "surplus"]
    assert {row["name"] for row in surplus} == {"tenant-usage"}
    pruned = [row for row in json.loads(by_own_hands(allowed, *user, "--prune").stdout) if row["status"] == "removed"]
    assert pruned == [{**row, "status": "removed"} for row in surplus]
    assert {row["status"] for row in json.loads(by_own_hands(allowed, *user).stdout)} == {"there"}
