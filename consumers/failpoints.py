"""Named places between two steps of the hot path at which a test may end, delay or fail the process.

In normal operation ``failpoint`` is an empty function: whether there is more is decided once, when this module is
imported with ``GPUFLEET_TEST_FAILPOINTS`` in the environment. The variable may arm points at once
(``insert answered=kill@2, polled=sleep:0.5``: the second time, ...); ``arm`` arms them later. A point fires once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass

from consumers.errors import StoreUnavailableError

VARIABLE = "GPUFLEET_TEST_FAILPOINTS"
ACTIONS = ("kill", "raise", "sleep")


@dataclass(slots=True)
class _Armed:
    action: str
    seconds: float
    left: int
    """Passes until it fires."""


_armed: dict[str, _Armed] = {}
_lock = threading.Lock()


def arm(spec: str) -> None:
    """Arm points: ``NAME=ACTION[:SECONDS][@NTH]``, several by commas. ValueError for anything else.

    ``kill`` ends the process as kill -9 does, ``raise`` raises StoreUnavailableError, ``sleep`` waits.
    """
    for one in filter(None, (part.strip() for part in spec.split(","))):
        name, equals, rest = one.partition("=")
        rest, _, nth = rest.partition("@")
        action, _, seconds = rest.partition(":")
        if not equals or action not in ACTIONS:
            raise ValueError(f"expected NAME=kill|raise|sleep:SECONDS[@NTH], found {one!r}")
        with _lock:
            _armed[name] = _Armed(action, float(seconds or 0), int(nth or 1))


def _absent(name: str) -> None:
    """The normal path."""


def _reached(name: str) -> None:
    armed = _armed.get(name)
    if armed is None:
        return
    with _lock:
        armed.left -= 1
        if armed.left > 0 or _armed.get(name) is not armed:
            return
        del _armed[name]
    if armed.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if armed.action == "sleep":
        time.sleep(armed.seconds)
    if armed.action == "raise":
        raise StoreUnavailableError(f"failpoint {name!r}")


if VARIABLE in os.environ:
    failpoint = _reached
    if "=" in os.environ[VARIABLE]:
        arm(os.environ[VARIABLE])
else:
    failpoint = _absent
