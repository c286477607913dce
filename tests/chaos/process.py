"""Processes that are cheap to start and can be killed, stopped and told what to do.

A fork server has everything imported: a new consumer takes milliseconds, and less than a tenth of the CPU of an
interpreter of its own.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from consumers import failpoints
from infra.clickhouse.client import ClickHouse

PRELOADED = ["tests.chaos.roles", "tests.chaos.producer", "clickhouse_connect", "confluent_kafka.admin", "fastavro"]
_context = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Where:
    """How a process reaches broker and store: through the proxies."""

    bootstrap: str
    store: ClickHouse
    folder: Path
    """Logs and journals."""


class Running:
    """One process. ``target`` is called with ``arguments`` and a connection to take orders from, last but for
    ``more``."""

    def __init__(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        os.environ.setdefault(failpoints.VARIABLE, "")  # read by the fork server when it starts
        _context.set_forkserver_preload(PRELOADED)
        self.name = name
        self._orders, theirs = _context.Pipe()
        self._process = _context.Process(target=target, args=(*arguments, theirs), name=name, daemon=True)
        self._process.start()
        theirs.close()
        self.stopped = False

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.exitcode

    def alive(self) -> bool:
        return self._process.is_alive()

    def order(self, *order: Any) -> None:
        """Tell it; a process that is gone hears nothing."""
        try:
            self._orders.send(order)
        except (BrokenPipeError, ConnectionResetError, OSError):
            return

    def ready(self, timeout_s: float) -> bool:
        """Wait for its first word; False when it says none in time."""
        try:
            return self._orders.poll(timeout_s) and self._orders.recv() == "ready"
        except (EOFError, OSError):
            return False

    def signal(self, number: signal.Signals) -> None:
        """Nothing for a process that is gone."""
        if self.alive():
            os.kill(self.pid, number)

    def stop(self) -> None:
        """SIGSTOP."""
        self.stopped = True
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.stopped = False
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, at once; gone when this returns."""
        self.signal(signal.SIGKILL)
        self._process.join()
        self._orders.close()

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended by itself in time."""
        self._process.join(timeout_s)
        return not self._process.is_alive()


def settle_in(where: Where, name: str) -> None:
    """At the start of every process: die with the parent, write to a log of its own."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends stopped processes as well
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = os.open(where.folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.register(signal.SIGUSR1)  # where it stands, when a schedule has failed
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(process)d %(levelname)s %(message)s", force=True
    )


def obey(orders: Connection, stop: Callable[[], None]) -> None:
    """Follow orders in a thread: ("arm", spec) or ("stop",)."""

    def run() -> None:
        while True:
            try:
                order, *rest = orders.recv()
            except (EOFError, OSError):
                return
            if order == "arm":
                failpoints.arm(rest[0])
            elif order == "stop":
                stop()

    threading.Thread(target=run, name="orders", daemon=True).start()
