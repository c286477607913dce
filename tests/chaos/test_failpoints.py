"""Failpoints: nothing at all in the normal path, and what they do when a test asks for them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import consumers
from consumers import failpoints
from consumers.errors import StoreUnavailableError
from tests.chaos.plan import KILL_POINTS, PROJECTOR_POINTS


def python(code: str, armed: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != failpoints.VARIABLE}
    if armed is not None:
        environment[failpoints.VARIABLE] = armed
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_without_the_variable_a_failpoint_is_an_empty_function_that_nothing_arms() -> None:
    code = """
from consumers import failpoints
failpoints.arm("framed=kill")
failpoints.failpoint("framed")
print(len(failpoints.failpoint.__code__.co_code), failpoints.failpoint.__code__.co_names)
"""
    done = python(code, None)
    assert done.returncode == 0, done.stderr
    size, names = done.stdout.split(" ", 1)
    assert int(size) <= 8, "three instructions: resume, load None, return"
    assert names.strip() == "()"


def test_kill_ends_the_process_the_nth_time() -> None:
    code = "from consumers.failpoints import failpoint as f\nfor n in range(5): print(n, flush=True); f('framed')"
    done = python(code, "framed=kill@3")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1", "2"]


def test_raise_and_sleep_fire_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_armed", {})
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    failpoints.arm("polled=raise, committed=sleep:0.5@2")
    with pytest.raises(StoreUnavailableError, match="'polled'"):
        failpoints._reached("polled")
    failpoints._reached("polled")
    for _ in range(4):
        failpoints._reached("committed")
    assert slept == [0.5]
    with pytest.raises(ValueError, match="nonsense"):
        failpoints.arm("nonsense")


def test_every_failpoint_that_plans_draw_is_in_the_code_and_the_other_way_round() -> None:
    root = Path(consumers.__file__).parent
    found = {name for path in root.rglob("*.py") for name in re.findall(r'failpoint\("([^"]+)"\)', path.read_text())}
    assert found == {*KILL_POINTS, *PROJECTOR_POINTS}
