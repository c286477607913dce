"""No secret in any output: a plugin of pytest that searches, at the end of a session, what the whole session said.

Searched for: passwords that fixtures made recognisable (``recognisable``), and every random one that the code under
test wrote into a *.password or *.keys file below pytest's temporary folder; also in base64, as HTTP headers carry them.
Searched in: what tests wrote to stdout, stderr and the log, passed or failed; what commands printed through click's
test runner; all *.log files below the temporary folder (brokers, stores, consumers); command lines of every process
that was started, seen when a test started it or standing in /proc at a test's end.

A test that shows a secret on purpose says so: ``@pytest.mark.shows_secrets``. With pytest-xdist each process writes
down what it saw and the controlling one searches. Not seen: what a test keeps to itself of a process's output.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click.testing
import pytest

from tests.security.recognisable import PATTERN

SAID = "said.transcript"
"""File of a process in which it writes down what was said; one below each process's temporary folder."""
_RANDOM = re.compile(rb"(?=[\w-]*[0-9][\w-]*[0-9])(?=[\w-]*[a-zA-Z])[\w-]{20,}")
"""What looks made by a random generator; passwords that tests spell out are words."""
_WORD = re.compile(rb"[\w+/-]{16,}")
_LOGS = (".log", ".transcript")
_LARGEST = 256 << 20
_SHOWN = 10


class Listener:
    """Writes down what one process's tests say."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._purposely = False
        self._test = ""
        self._seen: set[bytes] = set()
        self._pending: list[bytes] = []
        self._installed = False

    def install(self) -> None:
        """Hear of processes that are started and of commands that click's runner runs."""
        if self._installed:
            return
        self._installed = True
        sys.addaudithook(self._audit)
        plain = click.testing.CliRunner.invoke
        listener = self

        def invoke(runner: click.testing.CliRunner, *arguments: Any, **named: Any) -> click.testing.Result:
            result = plain(runner, *arguments, **named)
            listener.heard(f"command {arguments[1:2]}", result.output)
            return result

        click.testing.CliRunner.invoke = invoke  # type: ignore[method-assign, assignment]  # for the session

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            command = arguments[1] if isinstance(arguments[1], list | tuple) else [arguments[1]]
            self._pending.append(b" ".join(os.fsencode(part) for part in command))

    def heard(self, where: str, text: str) -> None:
        """Write down, unless the test shows secrets on purpose."""
        if text and not self._purposely:
            with self._file().open("ab") as file:
                file.write(f"--- {where} ({self._test})\n{text}\n".encode(errors="replace"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.install()
        self._test = item.nodeid
        self._purposely = item.get_closest_marker("shows_secrets") is not None

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        lines = {*self._pending, *_command_lines()} - self._seen
        self._pending.clear()
        self._seen |= lines
        if lines:
            self.heard("command lines", b"\n".join(sorted(lines)).decode(errors="replace"))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        outcome: Any = yield
        for name, text in outcome.get_result().sections:
            if name.endswith(f" {call.when}"):
                self.heard(name, text)

    def _file(self) -> Path:
        folder: Path = self._config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # pytest's own
        return folder / SAID


class Searcher:
    """Searches once every process has ended, and fails the session."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.found: list[str] = []
        self.known = 0

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        factory = getattr(self._config, "_tmp_path_factory", None)
        if factory is None or factory._basetemp is None:
            return  # no test wrote anything
        folder = factory.getbasetemp()
        files = [Path(place) / name for place, _, names in os.walk(folder) for name in names]
        known = {secret for file in files for secret in _secrets_in(file)}
        self.known = len(known)
        forms = {form: secret for secret in known for form in (secret, *_in_base64(secret))}
        for file in files:
            if file.suffix in _LOGS:
                self.found += search(file, forms)
        if self.found and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.found:
            terminalreporter.section("secrets were shown", red=True, bold=True)
            for line in self.found[:_SHOWN]:
                terminalreporter.line(line)
            if len(self.found) > _SHOWN:
                terminalreporter.line(f"... and {len(self.found) - _SHOWN} more")
        elif self.known:
            terminalreporter.line(f"{self.known} secrets looked for in all output, none found")


def search(file: Path, forms: dict[bytes, bytes]) -> list[str]:
    """Places in a file at which a secret stands, the secret itself hidden."""
    try:
        if file.stat().st_size > _LARGEST:
            return [f"{file}: larger than {_LARGEST} bytes, not searched"]
        text = file.read_bytes()
    except OSError:
        return []
    found = []
    hits = [(match.start(), match.group()) for match in PATTERN.finditer(text)]
    words = b"\n".join(set(_WORD.findall(text)))  # a log says the same a thousand times: search it once
    hits += [(text.find(form), form) for form in forms if form in words]
    for at, form in hits:
        start = text.rfind(b"\n", 0, at) + 1
        end = text.find(b"\n", at)
        line = text[start : end if end >= 0 else None].replace(form, b"<SECRET>").decode(errors="replace")
        mark = text.rfind(b"\n--- ", 0, at) + 1
        told = text[mark : text.find(b"\n", mark)].decode(errors="replace") if file.name == SAID else str(file)
        found.append(f"{told}: {line[:300]}")
    return found


def _secrets_in(file: Path) -> Iterator[bytes]:
    if file.suffix not in (".password", ".keys", ".next"):
        return
    try:
        text = file.read_bytes()
    except OSError:
        return
    if file.suffix == ".keys":
        yield from re.findall(rb'secret = "([0-9a-f]{64})"', text)
    else:
        word = text.strip()
        if _RANDOM.fullmatch(word) or PATTERN.fullmatch(word):
            yield word


def _in_base64(secret: bytes) -> Iterator[bytes]:
    """The middle of the secret's base64, whatever stands before it."""
    for shift in range(3):
        yield base64.b64encode(b"\0" * shift + secret)[4 if shift else 0 : -4]


def _command_lines() -> Iterator[bytes]:
    """Of the processes that this one started, and those started: where there is a /proc."""
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):  # gone meanwhile
            parents[int(place.parent.name)] = int(place.read_text().rpartition(")")[2].split()[1])
    ours = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= grown
    for pid in ours - {os.getpid()}:
        with suppress(OSError):
            yield Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "shows_secrets: shows a secret on purpose; what it says is not searched")
    config.pluginmanager.register(Listener(config), "secrets-listener")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Searcher(config), "secrets-searcher")
