"""The search for secrets finds them wherever a session can show one, and says nothing where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUIET = """
import base64, logging, subprocess, sys
import click, pytest
from click.testing import CliRunner
from tests.security.recognisable import recognisable

RANDOM = "hT6k2Lq9vX4bN8mR3wZ7yA"

def test_quiet(tmp_path):
    (tmp_path / "store.password").write_text(RANDOM)
    (tmp_path / "site.keys").write_text(f'secret = "{"0a" * 32}"')
    assert recognisable() != recognisable()
"""
LEAKS = {
    "stdout": "print('connecting with', recognisable())",
    "stderr": "print(recognisable(), file=sys.stderr)",
    "log": "logging.getLogger('x').warning('refused: %s', recognisable())",
    "a server's log": "(tmp_path / 'kafka.log').write_text(f'user=x password={recognisable()}')",
    "a process's arguments": "subprocess.run(['true', '--password', recognisable()])",
    "a command's output": "CliRunner().invoke(click.Command('c', callback=lambda: click.echo(recognisable())))",
    "a generated password": "print(RANDOM)",
    "a site key": "print('0a' * 32)",
    "a header": "print(base64.b64encode(f'gpufleet:{RANDOM}'.encode()).decode())",
}


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Path]:
    """A folder for another session, whose findings are not this one's."""
    with tempfile.TemporaryDirectory(prefix="gpufleet-plugin-") as folder:
        yield Path(folder)


def run(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(code)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(folder / "test_it.py"), "-p", "tests.security.plugin", "-q"),
            *("--rootdir", str(folder), "-c", "/dev/null", "--basetemp", str(folder / "tmp"), "-p", "no:cacheprovider"),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env=environment,
    )


def test_a_session_that_shows_nothing_passes_and_what_is_shown_on_purpose_is_left_alone(session: Path) -> None:
    done = run(session, QUIET + "\n@pytest.mark.shows_secrets\ndef test_shown():\n    print(recognisable())\n")
    assert done.returncode == 0, done.stdout
    assert "2 secrets looked for in all output, none found" in done.stdout


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "two processes"])
def test_every_way_to_show_a_secret_fails_the_session(session: Path, processes: tuple[str, ...]) -> None:
    tests = [f"def test_leak_{at}(tmp_path):\n    {line}\n" for at, line in enumerate(LEAKS.values())]
    done = run(session, QUIET + "\n".join(tests), *processes)
    assert done.returncode == 1, done.stdout
    assert f"{len(LEAKS) + 1} passed" in done.stdout, done.stdout
    found = done.stdout.partition("secrets were shown")[2]
    for at, where in enumerate(LEAKS):
        assert f"test_leak_{at}" in found, where
    assert "<SECRET>" in found
    assert "gpfsecret-" not in done.stdout
    assert "hT6k2Lq9vX4bN8mR3wZ7yA" not in done.stdout
