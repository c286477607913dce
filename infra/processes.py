"""Processes of ours that never outlive the one that started them; foreign binaries: infra/embedded/child.py."""

from __future__ import annotations

import os
import signal
import threading

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
