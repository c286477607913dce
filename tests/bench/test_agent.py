"""The agent's benchmark runs the real agent and counts what it sent. Its figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from infra.bench import node
from infra.bench.stub_nvml import compile_stub
from infra.errors import UsageError
from tests.agent.support import until
from tests.conftest import missing

COMMAND = [sys.executable, "-m", "infra.cli.main", "bench", "agent"]


def test_the_agents_cost_comes_with_every_event_it_sent(tmp_path: Path) -> None:
    if compile_stub(tmp_path) is None:
        missing("cc", "the stand-in of NVML needs a C compiler")
    done = subprocess.run(
        [*COMMAND, "--seconds", "6", "--ticks", "1", "--gpus", "3", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["driver"] != "stub" or report["gpus"] == 3
    assert 0 < report["cpu_s"] < report["wall_s"] * report["machine"]["cores"]
    assert report["core_percent_steady"] >= 0
    memory = report["rss_mib"]
    assert 0 < memory["start"] <= memory["peak"]
    assert memory["end"] <= memory["peak"]
    sent = report["acknowledged"]
    assert sent == report["on_broker"]
    assert sent["inventory"] == 1
    assert sent["node-events"] == 2  # it started and it stopped
    assert 4 <= sent["node-telemetry"] <= 7
    assert "0 given up, 0 not acknowledged" in report["said"]


def test_the_stand_in_moves_like_a_busy_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if compile_stub(tmp_path) is None:
        missing("cc", "the stand-in of NVML needs a C compiler")
    monkeypatch.setattr(node, "_driver", lambda: None)
    with node.node(tmp_path / "node", 2) as here:
        assert (here.driver, here.gpus) == ("stub", 2)
        received = Path(here.settings["agent.nic.sysfs"]) / "class/infiniband/mlx5_7/ports/1/counters/port_rcv_data"
        before = int(received.read_text())
        until(lambda: int(received.read_text()) > before)


def test_without_a_driver_and_a_compiler_it_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_driver", lambda: None)
    monkeypatch.setattr(node, "compile_stub", lambda _folder: None)
    with pytest.raises(UsageError, match="C compiler"), node.node(tmp_path / "node", 2):
        raise AssertionError("there is nothing to watch")
