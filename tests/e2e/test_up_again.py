"""Starting, stopping and starting again; and everything that can be wrong at the start, in one clear line."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from producers import journal
from tests.e2e.support import COMMAND, KEYS, Up, environment, gpufleet, one_line, query, until

SHORT = ("--no-backfill", "--nodes", "4")


def test_ctrl_c_stops_cleanly_and_the_next_start_goes_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Up(data, *SHORT, "--json") as up:
        up.ready()
        second = gpufleet(tmp_path, "up", "--data", data, *SHORT)
        assert second.returncode == 2
        assert "another `gpufleet up` runs on" in one_line(second)
        check_wrong_passwords(data)
        up.interrupt()
        assert up.end() == 0
        first = up.result()
    assert first.keys() == KEYS
    [run] = {entry.run_id for entry in journal.read(data / "journals")}
    given = {(e.producer_id, e.topic): e.given for e in journal.read(data / "journals")}

    with Up(data, *SHORT, "--json") as up:
        up.ready()
        with up.client() as client:
            starts = (
                "SELECT producer_id, run_id, previous_run_id, previous_last_seq FROM node_events"
                f" WHERE event = 'agent_start' AND run_id > {run}"
            )
            until(lambda: len(query(client, starts)) >= 4)
            named = query(client, starts)
            assert len(named) == 4
            for start in named:
                assert start["previous_run_id"] == run
                for topic, last in start["previous_last_seq"].items():
                    assert given[start["producer_id"], topic] == last + 1
                assert start["previous_last_seq"].keys() == {
                    topic for producer, topic in given if producer == start["producer_id"]
                }
            [kept] = query(client, f"SELECT count() AS n FROM node_telemetry WHERE run_id = {run}")
            assert kept["n"] == first["produced"]["node-telemetry"]
        audit = gpufleet(tmp_path, "audit", "--data", data, "--json")
        assert audit.returncode == 0, audit.stdout
        report = json.loads(audit.stdout)
        assert (report["ok"], report["lost"], report["duplicated"]) == (True, 0, 0)
        assert report["stored"]["node-telemetry"] > first["produced"]["node-telemetry"]
        up.interrupt()
        assert up.end() == 0
        again = up.result()
    assert again.keys() == KEYS
    assert again["produced"] == again["stored"]


def test_ctrl_c_in_the_back_fill_stops_cleanly_and_the_next_start_goes_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Up(data, "--nodes", "64", "--backfill-hours", "24", "--json") as up:
        until(lambda: "back-fill" in up.stderr or up.process.poll() is not None, 90)
        up.interrupt()
        assert up.end() == 0, up.stderr
        first = up.result()
    assert "SQL endpoint" not in up.stderr, "it never went live"
    assert 0 < first["produced"]["node-telemetry"] < 64 * 60 * 24, "it was in the middle"
    assert first["produced"] == first["stored"]
    assert (first["lost"], first["duplicated"], first["freshness_p50_s"]) == (0, 0, None)
    with Up(data, "--nodes", "64", "--json") as up:
        up.ready()
        assert "back-fill" not in up.stderr, "only an empty folder is back-filled"
        up.interrupt()
        assert up.end() == 0, up.stderr
        again = up.result()
    assert again.keys() == KEYS, "the audit of both runs found nothing"
    assert again["produced"] == again["stored"]


def check_wrong_passwords(data: Path) -> None:
    """Whoever comes to the running store with a wrong password is told so: a reader, and the pipeline's own user."""
    wrong = data.parent / "wrong.password"
    wrong.write_text("not-the-password\n")
    wrong.chmod(0o600)
    for command, key in (
        (["sql", "SELECT 1"], "password_file"),
        (["consume"], "admin_password_file"),
        (["project"], "admin_password_file"),
    ):
        done = gpufleet(data.parent, *command, "--data", data, "--set", f"store.{key}={wrong}")
        assert done.returncode == 3, done.stderr
        said = one_line(done)
        assert "gpufleet" in said
        assert "password" in said.lower() or "authentication" in said.lower()
        assert "not-the-password" not in said


def test_on_a_terminal_it_draws_the_fleet_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "up", "--data", str(tmp_path / "data"), *SHORT],
        cwd=tmp_path,
        env={**environment(), "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    seen, asked = b"", False
    deadline = time.monotonic() + 240
    try:
        while time.monotonic() < deadline:
            if not select.select([screen], [], [], 1.0)[0]:
                continue
            try:
                piece = os.read(screen, 65536)
            except OSError:  # what Linux says when the other side is closed
                break
            if not piece:
                break
            seen += piece
            if not asked and b"GPUs reporting" in seen:
                process.send_signal(signal.SIGINT)
                asked = True
        assert process.wait(30) == 0, seen.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(screen)
    text = seen.decode(errors="replace")  # a picture may be cut off by the words that Ctrl-C brings up
    for words in ("lost / doubled", "freshness", "dead letters", "gpufleet sql", "Ctrl-C stops", "stored"):
        assert words in text, words
    assert "Traceback" not in text


def test_ports_in_use_are_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for key in ("store_port", "broker_port"):
            file = tmp_path / f"{key}.toml"
            file.write_text(f"[embedded]\n{key} = {port}\n")
            done = gpufleet(tmp_path, "up", "--data", tmp_path / key, "--config", file, *SHORT, "--for", "1s")
            assert done.returncode == 3, done.stderr
            last = done.stderr.splitlines()[-1]
            assert str(port) in last
            assert "in use" in last


def test_what_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    unwritable = gpufleet(tmp_path, "up", "--data", in_the_way / "data", *SHORT)
    assert unwritable.returncode == 2
    assert "--data" in one_line(unwritable)

    scenario = gpufleet(tmp_path, "up", "--data", tmp_path / "data", "--scenario", "smal")
    assert scenario.returncode == 2
    assert "small" in one_line(scenario)

    typo = tmp_path / "typo.toml"
    typo.write_text('[kafka]\nbootsrap = "localhost:9092"\n')
    config = gpufleet(tmp_path, "up", "--data", tmp_path / "data", "--config", typo)
    assert config.returncode == 2
    said = one_line(config)
    assert "kafka.bootsrap" in said
    assert "bootstrap" in said.replace("bootsrap", "")
    assert "typo.toml" in said

    command = gpufleet(tmp_path, "pu")
    assert command.returncode == 2
    assert "'up'" in command.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    done = gpufleet(tmp_path, "up", "--data", folder, *SHORT)
    assert done.returncode == 2
    assert str(folder) in one_line(done)


def test_commands_without_a_running_up_say_where_they_looked(tmp_path: Path) -> None:
    done = gpufleet(tmp_path, "sql", "SELECT 1", "--data", tmp_path / "nothing")
    assert done.returncode in (2, 3)
    assert str(tmp_path / "nothing") in one_line(done)
