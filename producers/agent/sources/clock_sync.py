"""How far the host's clock is off, and whether the kernel holds it synchronised.

The kernel's own view comes from adjtimex, read-only. Its offset is only what a phase-locked loop still has to slew;
chrony steers frequency instead and keeps the real figure to itself, so it is asked once a minute where it is there.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from typing import Any

UNSYNCHRONISED = 0x0040
NANOSECONDS = 0x2000
PHASE_LOCKED = 0x0001
ASK_CHRONY_EVERY_S = 60.0


class _Timex(ctypes.Structure):
    """struct timex of Linux, 64 bit; ``modes`` = 0 only reads."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time_sec", ctypes.c_long),
        ("time_usec", ctypes.c_long),
        ("tick", ctypes.c_long),
        ("rest", ctypes.c_long * 20),
    )


class ClockSync:
    """Offset and state of the host's clock."""

    def __init__(self, chronyc: str | None = None) -> None:
        self._chronyc = chronyc if chronyc is not None else shutil.which("chronyc")
        self._libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._chrony_offset: float | None = None
        self._asked_at: float | None = None

    def read(self, now_s: float) -> tuple[float, bool]:
        """(host minus reference in seconds, NaN when unknown; synchronised). ``now_s`` is monotonic.

        Forks chronyc at most once a minute.
        """
        kernel_offset, synchronised = self._kernel()
        if self._chronyc and (self._asked_at is None or now_s - self._asked_at >= ASK_CHRONY_EVERY_S):
            self._asked_at = now_s
            self._chrony_offset = self._ask_chrony(self._chronyc)
        if self._chrony_offset is not None:
            return self._chrony_offset, synchronised
        return kernel_offset, synchronised

    def _kernel(self) -> tuple[float, bool]:
        if self._libc is None:
            return float("nan"), False
        timex = _Timex()
        if self._libc.adjtimex(ctypes.byref(timex)) < 0:
            return float("nan"), False
        synchronised = not timex.status & UNSYNCHRONISED
        if not synchronised or not timex.status & PHASE_LOCKED:
            return float("nan"), synchronised
        # What is still to be added to the host's clock: the host is behind by it.
        return -timex.offset / (1e9 if timex.status & NANOSECONDS else 1e6), True

    @staticmethod
    def _ask_chrony(chronyc: str) -> float | None:
        try:
            answer = subprocess.run(
                [chronyc, "-c", "tracking"], capture_output=True, text=True, timeout=2.0, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            return None
        return chrony_offset(answer)


def chrony_offset(tracking: str) -> float | None:
    """Host minus reference from ``chronyc -c tracking``: its fifth column is how slow the host's clock is."""
    columns = tracking.strip().split(",")
    try:
        return -float(columns[4]) if len(columns) > 12 and int(columns[2]) < 16 else None
    except ValueError:
        return None
