"""Servers that are not ours (a broker's binary, a Java process) as child processes that cannot outlive us."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_WATCH = 'while kill -0 "$2" 2>/dev/null; do kill -0 "$1" 2>/dev/null || { kill -9 "$2"; exit; }; sleep 1; done'
"""Ends the child when the parent is gone, and itself when the child is. A process beside the child and not the
kernel's parent-death signal: that is Linux only, and fires when the starting *thread* ends."""


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on, all different: one after the other, the system may name the same twice."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on at this moment."""
    return free_ports(1, host)[0]


def port_in_use(host: str, port: int, *, reuse: bool = False) -> bool:
    """Whether a server could not listen there now; ``reuse`` for servers that set SO_REUSEADDR."""
    with socket.socket() as probe:
        if reuse:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError:
            return True
    return False


class Child:
    """One server process: its own session (Ctrl-C does not reach it), output appended to ``log``."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Start it. FileNotFoundError or PermissionError when the program cannot be run."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "watch", str(os.getpid()), str(self.process.pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_for_port(self, host: str, port: int, timeout_s: float) -> bool:
        """Wait until the server accepts connections; False when it ended or time ran out."""
        deadline = time.monotonic() + timeout_s
        while self.alive() and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=0.5):
                return True
            time.sleep(0.02)
        return False

    def stop(self, timeout_s: float) -> None:
        """Ask the server to end, insist after ``timeout_s``."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._end_watcher()

    def kill(self) -> None:
        """End it at once, as a crash would (SIGKILL)."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        self._end_watcher()

    def tail(self, lines: int = 5) -> str:
        """The last lines it wrote, for an error message."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _signal(self, number: signal.Signals) -> None:
        if self.alive():
            self.process.send_signal(number)

    def _end_watcher(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._watcher.pid, signal.SIGKILL)
        self._watcher.wait()
