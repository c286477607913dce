"""Processes of ours that never outlive the one that started them; foreign binaries: infra/embedded/child.py."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

PARENT_VARIABLE = "GPUFLEET_PARENT"


def follow_parent(poll_s: float = 0.5) -> None:
    """End this process soon after the one that started it is gone, be it by kill -9.

    Does nothing unless the parent asked for it by setting GPUFLEET_PARENT to its own process id. Waits for the parent's
    end where the kernel tells it (pidfd_open, Linux), and looks every ``poll_s`` elsewhere. The parent-death signal
    would not do: it comes when the parent's thread ends that started this process.
    """
    asked = os.environ.pop(PARENT_VARIABLE, "")
    if not asked.isdigit():
        return
    parent = int(asked)

    def watch() -> None:
        wait = threading.Event()
        _wait_for_end(parent)
        while os.getppid() == parent:
            wait.wait(poll_s)
        os.kill(os.getpid(), signal.SIGTERM)
        wait.wait(10)
        os._exit(1)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


def _wait_for_end(process: int) -> None:
    """Return when the process has ended, or at once where that cannot be waited for."""
    if sys.platform != "linux":
        return
    try:
        descriptor = os.pidfd_open(process)
    except OSError:  # gone already, or an old kernel
        return
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        ended.poll()
    finally:
        os.close(descriptor)
