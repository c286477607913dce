"""Child processes that never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

PARENT_VARIABLE = "GPUFLEET_PARENT"


def follow_parent(poll_s: float = 0.5) -> None:
    """End this process soon after the one that started it is gone, be it by kill -9.

    Does nothing unless the parent asked for it by setting GPUFLEET_PARENT to its own process id. Works by watching
    the parent's id, since the kernel's parent-death signal is Linux only and ends with the parent's thread.
    """
    asked = os.environ.pop(PARENT_VARIABLE, "")
    if not asked.isdigit():
        return
    parent = int(asked)

    def watch() -> None:
        wait = threading.Event()
        while os.getppid() == parent:
            wait.wait(poll_s)
        os.kill(os.getpid(), signal.SIGTERM)
        wait.wait(10)
        os._exit(1)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


class Child:
    """A gpufleet command running beside this process, its output in a log file."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None):
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "infra.cli.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {}), PARENT_VARIABLE: str(os.getpid())},
                start_new_session=True,  # Ctrl-C goes to the parent alone, which stops its children in order
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, timeout_s: float = 30.0) -> int:
        """Ask the child to finish, wait, and insist when it does not; its exit code."""
        if self.alive():
            self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def tail(self, lines: int = 5) -> str:
        """The last lines of the log, for an error message."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""
