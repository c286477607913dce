"""What no input may do, whatever it is: allocate far beyond its size, or keep the program busy."""

from __future__ import annotations

import faulthandler
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

MEMORY_BYTES = 256 << 20
"""More than this beside what the process has already is an allocation that an input claimed. Inputs are small."""
SECONDS = 20.0
"""Generous for a busy machine; what is not bounded by the input's size runs for hours."""


class HungError(AssertionError):
    """An input kept the program busy for longer than ``SECONDS``."""


@contextmanager
def bounded() -> Iterator[None]:
    """MemoryError where an allocation of ``MEMORY_BYTES`` or more is asked for; HungError after ``SECONDS``.

    In the main thread only.
    """

    def hung(_number: int, _frame: FrameType | None) -> None:
        faulthandler.dump_traceback()
        raise HungError(f"busy for more than {SECONDS:g} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
