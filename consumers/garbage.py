"""Garbage collection of a process that holds many short-lived messages."""

from __future__ import annotations

import gc

YOUNG = 400_000
"""Net allocations between two collections of the youngest objects (Python's own figure is 700)."""


def settle() -> None:
    """Collect seldom, and never look at what was there from the start. Call when all modules are imported.

    A message, its headers and identity hold no cycles: counting references frees them. Yet each is an allocation that
    the collector counts, and with tens of thousands of them waiting for their insert it walked all of them again and
    again: more than a third of what the consumer's Python threads did at the rate of a full fleet.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)
