"""What can go wrong for somebody who makes events, by what they can do about it.

InputError              a file or an argument is wrong: the message says where, what was expected and found
└── ConflictError       it contradicts what the log holds, or somebody else changed the log meanwhile
NotDeliveredError       the broker did not acknowledge in time: it may or may not have the events
LogUnreadableError      the log cannot be read now, or holds what this version cannot read
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A file or an argument is wrong."""


class ConflictError(InputError):
    """What is asked for contradicts what is there."""


class NotDeliveredError(RuntimeError):
    """Events were not acknowledged in time, or refused for good."""


class LogUnreadableError(RuntimeError):
    """A topic cannot be read to its end."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the valid one that looks most like it, else all of them."""
    names = sorted(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}?" if match else f"known are {', '.join(names)}"
