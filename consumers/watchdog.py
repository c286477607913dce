"""Ends a consumer whose main loop hangs, so that a supervisor starts another.

A library that never comes back (librdkafka's seek and assignment have no time limit) leaves a member in the group that
keeps its partitions and reads nothing; /health says so, but not every supervisor asks.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
from collections.abc import Callable

log = logging.getLogger("gpufleet.consume")

HUNG = 70
"""Exit code: EX_SOFTWARE of sysexits."""
TICK_S = 1.0


def _end() -> None:
    faulthandler.dump_traceback()
    os._exit(HUNG)  # nothing that waits for the main loop would end


class Watchdog:
    """Looks at a heartbeat in a thread of its own.

    Counts its own ticks rather than the clock's: while the process or the machine stands still, neither moves.
    """

    def __init__(self, last_beat: Callable[[], object], limit_s: float, end: Callable[[], None] = _end) -> None:
        self._last_beat, self._limit_s, self._end_process = last_beat, limit_s, end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        seen, idle = self._last_beat(), 0.0
        while not self._stop.wait(TICK_S):
            beat = self._last_beat()
            idle = idle + TICK_S if beat == seen else 0.0
            seen = beat
            if idle >= self._limit_s:
                log.critical("the main loop has not moved for %.0f s: this process ends", idle)
                self._end_process()
                return
