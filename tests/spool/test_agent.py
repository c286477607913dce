"""``gpufleet agent`` with its spool: killed in an outage, started again, and every event arrives."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

from infra.embedded.broker import EmbeddedBroker
from producers.spool.look import look
from tests.agent.support import until
from tests.agent.test_process import command, create_topics, environment, given, running, stored


def test_an_agent_killed_in_an_outage_leaves_its_events_to_its_successor(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    spool = tmp_path / "elsewhere"
    more = ("--sources", "host", "--spool", str(spool), "--set", "agent.spool.drain_jitter_s=0")
    arguments = command(tmp_path, f"127.0.0.1:{port}", *more)
    with running(arguments) as first:
        until(lambda: [g for g in given(tmp_path) if g.topic == "node-telemetry" and g.given > 20])
        first.send_signal(signal.SIGKILL)
        first.wait(10)
    died = {g.topic: g for g in given(tmp_path)}
    waits = {each.topic: each for each in look(spool)}
    # An event is written first and its number given out next: a kill may come in between.
    written = {topic: each.events for topic, each in waits.items()}
    assert all(written[topic] - died[topic].given in (0, 1) for topic in written), (written, died)
    with EmbeddedBroker(tmp_path / "broker", port=port) as late:
        create_topics(late.bootstrap)
        with running(arguments) as second:
            until(lambda: {"spool_drained"} <= {fact["event"] for fact in stored(late.bootstrap, "node-events")}, 40)
            second.send_signal(signal.SIGTERM)
            assert second.wait(20) == 0
        telemetry = stored(late.bootstrap, "node-telemetry")
        facts = stored(late.bootstrap, "node-events")
    old = died["node-telemetry"].run_id
    assert {e["seq"] for e in telemetry if e["run_id"] == old} == set(range(written["node-telemetry"]))
    (start,) = [f for f in facts if f["event"] == "agent_start" and f["run_id"] != old]
    assert start["previous_last_seq"] == {topic: count - 1 for topic, count in written.items()}
    backlog = {f["value"]: f["attributes"] for f in facts if f["event"] == "spool_backlog"}
    assert backlog["node-telemetry"]["run"] == str(old)
    assert (backlog["node-telemetry"]["first_seq"], backlog["node-events"]["first_seq"]) == ("0", "0")
    assert look(spool) == []


def test_an_agent_stopped_in_an_outage_ends_well_since_its_events_are_on_disk(tmp_path: Path) -> None:
    arguments = command(tmp_path, "127.0.0.1:1", "--sources", "host", "--for", "1s")
    ended = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "wait in the spool for the next start" in ended.stderr
    waits = look(tmp_path / "state" / "agent" / "spool")
    assert {each.topic for each in waits} >= {"node-events", "node-telemetry"}
    without = subprocess.run(
        [*arguments, "--set", "agent.spool.enabled=false", "--set", f"agent.state_dir={tmp_path / 'other'}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert without.returncode == 1
    assert not os.path.lexists(tmp_path / "other" / "agent" / "spool")
