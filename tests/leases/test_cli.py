"""``gpufleet lease`` and ``gpufleet limit`` against brokers: the log is the truth, and nothing is sent for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from infra.cli import lease as lease_cli
from infra.cli import limit as limit_cli
from producers import journal
from producers.leases.model import Lease, event_fields, held_leases
from producers.log import LogEvent, read_topic
from producers.session import Session
from tests.producers.brokers import create_topic

if TYPE_CHECKING:
    from infra.embedded.apache_kafka import ApacheKafka
    from infra.embedded.broker import EmbeddedBroker

Run = Callable[..., Result]
LEASE = """
[[lease]]
id = "a1"
tenant = "acme"
nodes = ["n[1-4]"]
from = 2099-01-01T00:00:00Z
price = 2.5
"""


def runner(bootstrap: str, state: Path) -> Run:
    options = ["--set", f"kafka.bootstrap={bootstrap}", "--set", f"agent.state_dir={state}", "--set", "site.name=here"]

    def run(command: str, *arguments: str | Path) -> Result:
        group = {"lease": lease_cli.command, "limit": limit_cli.command}[command]
        verb, *rest = map(str, arguments)
        return CliRunner().invoke(group, [verb, *options, *rest])

    return run


def log(bootstrap: str, topic: str = "leases") -> list[LogEvent]:
    return list(read_topic({"bootstrap.servers": bootstrap}, topic))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "declared.toml"
    path.write_text(LEASE)
    return path


def test_a_leases_life(embedded_broker: EmbeddedBroker, tmp_path: Path, file: Path) -> None:
    bootstrap, state = embedded_broker.bootstrap, tmp_path / "state"
    create_topic(bootstrap, "leases", {"max.message.bytes": "4000000"})
    run = runner(bootstrap, state)
    assert run("lease", "list").stdout == "no leases\n"

    dry = run("lease", "apply", file, "--dry-run")
    assert dry.exit_code == 0
    assert "granted: a1 (revision 1)" in dry.stdout
    unasked = run("lease", "apply", file)
    assert unasked.exit_code == 2
    assert "say --yes" in unasked.stderr
    assert log(bootstrap) == []

    sent = run("lease", "apply", file, "--yes", "--json", "--reason", "contract 7")
    assert sent.exit_code == 0, sent.output
    assert json.loads(sent.stdout)["sent"] == 1
    again = run("lease", "apply", file, "--yes", "--json")
    assert json.loads(again.stdout) == {"changes": [], "unchanged": 1, "left_alone": 0, "sent": 0, "dry_run": False}

    file.write_text(LEASE.replace("2.5", "3.0") + "to = 2099-06-01T00:00:00Z\n")
    assert run("lease", "apply", file, "--yes").exit_code == 0
    events = log(bootstrap)
    assert [(e.fields["revision"], e.fields["action"]) for e in events] == [(1, "granted"), (2, "changed")]
    assert events[0].fields["reason"] == "contract 7"
    assert events[0].identity.producer_id.startswith("lease-cli@")
    [listed] = json.loads(run("lease", "list", "--json").stdout)
    assert (listed["price"], listed["revision"], listed["nodes"]) == (3.0, 2, ["n1", "n2", "n3", "n4"])
    assert listed["state"] == "to come"

    given = list(journal.read(state / "lease-cli"))
    assert [(g.topic, g.given, g.acknowledged) for g in given] == [("leases", 1, 1)] * 2, "dense, for the audit"
    assert len({g.run_id for g in given}) == 2


def test_the_past_changes_only_with_a_reason(embedded_broker: EmbeddedBroker, tmp_path: Path, file: Path) -> None:
    create_topic(embedded_broker.bootstrap, "leases")
    run = runner(embedded_broker.bootstrap, tmp_path / "state")
    begun = LEASE.replace("2099", "2020")
    file.write_text(begun)
    assert "reaches into time gone by" in run("lease", "apply", file, "--yes").stdout
    file.write_text(begun.replace("2020-01-01T00:00", "2020-01-01T05:00"))
    refused = run("lease", "apply", file, "--yes")
    assert refused.exit_code == 2
    assert "another from would change time gone by" in refused.stderr
    assert "--reason" in run("lease", "correct", file, "--yes").stderr
    assert run("lease", "correct", file, "--yes", "--reason", "signed later").exit_code == 0
    last = log(embedded_broker.bootstrap)[-1].fields
    assert (last["revision"], last["action"], last["reason"]) == (2, "corrected", "signed later")


def test_a_wrong_file_or_a_missing_topic_sends_nothing(
    embedded_broker: EmbeddedBroker, tmp_path: Path, file: Path
) -> None:
    run = runner(embedded_broker.bootstrap, tmp_path / "state")
    no_topic = run("lease", "apply", file, "--yes")
    assert (no_topic.exit_code, "topic 'leases' does not exist" in no_topic.stderr) == (2, True)
    create_topic(embedded_broker.bootstrap, "leases")
    file.write_text(LEASE.replace("00:00Z", "00:30Z"))
    wrong = run("lease", "apply", file, "--yes")
    assert (wrong.exit_code, "whole minute" in wrong.stderr, "declared.toml" in wrong.stderr) == (2, True, True)
    file.write_text(LEASE + LEASE.replace("a1", "b1").replace("acme", "other"))
    overlap = run("lease", "apply", file, "--yes")
    assert overlap.exit_code == 2
    assert "'a1'" in overlap.stderr
    assert "'b1'" in overlap.stderr
    assert "n1" in overlap.stderr
    assert log(embedded_broker.bootstrap) == []


def test_an_unreachable_broker_is_one_line_and_exit_code_3(tmp_path: Path, file: Path) -> None:
    for command in ("lease", "limit"):
        file.write_text(LEASE if command == "lease" else LIMIT)
        result = runner("127.0.0.1:1", tmp_path)(command, "apply", file, "--yes", "--set", "kafka.timeout_s=0.5")
        assert result.exit_code == 3
        assert len(result.stderr.strip().splitlines()) == 1


def test_two_runs_at_once_are_kept_apart(embedded_broker: EmbeddedBroker, tmp_path: Path, file: Path) -> None:
    create_topic(embedded_broker.bootstrap, "leases")
    run = runner(embedded_broker.bootstrap, tmp_path / "state")
    held = journal.lock(tmp_path / "state" / "lease-cli")
    busy = run("lease", "apply", file, "--yes")
    assert busy.exit_code == 3
    assert "in use by another process" in busy.stderr
    assert held


def test_a_garbled_message_in_the_log_is_named_and_left_out(
    embedded_broker: EmbeddedBroker, tmp_path: Path, file: Path
) -> None:
    from confluent_kafka import Producer

    create_topic(embedded_broker.bootstrap, "leases")
    run = runner(embedded_broker.bootstrap, tmp_path / "state")
    producer = Producer({"bootstrap.servers": embedded_broker.bootstrap})
    producer.produce("leases", b"garbage")
    producer.flush(10)
    result = run("lease", "apply", file, "--yes")
    assert result.exit_code == 0
    assert "leases/0 at offset 0 is not an event" in result.stderr
    [listed] = json.loads(run("lease", "list", "--json").stdout)
    assert listed["lease_id"] == "a1"


def check_thirty_thousand_nodes(bootstrap: str, tmp_path: Path) -> None:
    file = tmp_path / "large.toml"
    nodes = 'nodes = ["colossus-1-memphis-hall-a-row-0001-rack-[0001-3750]-node-[1-8]"]'
    file.write_text(LEASE.replace('nodes = ["n[1-4]"]', nodes))
    sent = runner(bootstrap, tmp_path / "state")("lease", "apply", file, "--yes")
    assert sent.exit_code == 0, sent.output
    events = log(bootstrap)
    [held] = held_leases(events, "here").values()
    assert len(held.lease.nodes) == 30_000
    assert held.lease.nodes[0] == "colossus-1-memphis-hall-a-row-0001-rack-0001-node-1"


def test_thirty_thousand_nodes_fit_one_event(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    create_topic(embedded_broker.bootstrap, "leases", {"max.message.bytes": "4000000"})
    check_thirty_thousand_nodes(embedded_broker.bootstrap, tmp_path)


@pytest.mark.kafka
def test_thirty_thousand_nodes_fit_one_event_in_apache_kafka(fresh_apache_kafka: ApacheKafka, tmp_path: Path) -> None:
    create_topic(fresh_apache_kafka.bootstrap, "leases", {"max.message.bytes": "4000000"})
    check_thirty_thousand_nodes(fresh_apache_kafka.bootstrap, tmp_path)


LIMIT = '[[limit]]\ntenant = "acme"\nname = "requests"\nwindow = "1m"\nvalue = 100\n'


def test_a_limits_life(embedded_broker: EmbeddedBroker, tmp_path: Path, file: Path) -> None:
    create_topic(embedded_broker.bootstrap, "tenant-limits")
    run = runner(embedded_broker.bootstrap, tmp_path / "state")
    for text, action in [
        (LIMIT, "set"),
        (LIMIT, None),
        (LIMIT.replace("100", "500"), "raised"),
        (LIMIT.replace("100", "50"), "lowered"),
        (LIMIT.replace("value = 100", "remove = true"), "removed"),
    ]:
        file.write_text(text)
        result = run("limit", "apply", file, "--yes", "--json")
        assert result.exit_code == 0, result.output
        assert [change["action"] for change in json.loads(result.stdout)["changes"]] == ([action] if action else [])
        if action == "raised":
            [listed] = json.loads(run("limit", "list", "--json").stdout)
            assert (listed["value"], listed["state"], listed["window_s"]) == (500.0, "holds", 60)
            assert run("limit", "list", "--tenant", "other").stdout == "no limits\n"
    fields = [event.fields for event in log(embedded_broker.bootstrap, "tenant-limits")]
    assert [(f["action"], f["previous_value"], f["limit_value"]) for f in fields] == [
        ("set", None, 100.0),
        ("raised", 100.0, 500.0),
        ("lowered", 500.0, 50.0),
        ("removed", 50.0, 0.0),
    ]
    assert run("limit", "list").stdout == "no limits\n"


def test_a_rival_change_at_the_same_moment_is_noticed(
    embedded_broker: EmbeddedBroker, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading and sending, somebody on another machine grants the same lease."""
    bootstrap = embedded_broker.bootstrap
    create_topic(bootstrap, "leases")

    def rival_first(*_: object) -> None:
        rival = event_fields(Lease("a1", "rival", ("n1",), 60_000_000), 2, "granted", "at the same time")
        with Session(tmp_path / "rival", "here", "rival", ["leases"], {"bootstrap.servers": bootstrap}) as session:
            session.send("leases", 1, rival)
            session.finish()

    monkeypatch.setattr(lease_cli, "confirm", rival_first)
    result = runner(bootstrap, tmp_path / "state")("lease", "apply", file)
    assert result.exit_code == 1
    assert "somebody else changed a1" in result.stderr
