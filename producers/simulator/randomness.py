"""Random numbers by purpose: the same seed, purpose and place in time give the same numbers, whatever came before."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, purpose: str, *at: int) -> np.random.Generator:
    """A fresh generator for one purpose; ``at`` narrows it, e.g. to a slice of the fleet and a time.

    Purposes do not disturb each other: drawing more for one leaves every other as it was.
    """
    words = np.frombuffer(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), np.uint32).tolist()
    entropy = [seed & 0xFFFFFFFF, *words]
    for number in at:
        entropy += [number & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF]
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))


def stable_hash(text: str) -> int:
    """A 64-bit hash that is the same in every process (unlike ``hash``)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
