"""Per (producer, run): up to which sequence number a partition's log has been read.

A seq above the watermark cannot be in the store yet and needs no look-up. A seq not above it may be, and takes the
identity filter. A (producer, run) met for the first time is *unknown*: everything of it takes the filter until the
store has said its max(seq). Starting at the first seq seen instead would double a run that is sent again after this
consumer took over.
"""

from __future__ import annotations

from collections.abc import Iterable

UNKNOWN = (1 << 63) - 1
"""Above every seq: nothing passes unchecked."""

Key = tuple[str, int]
"""(producer_id, run_id)"""


class Run:
    """What is known of one run of a producer on one partition."""

    __slots__ = ("head", "highest", "key", "watermark")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.watermark = UNKNOWN
        self.highest = -1
        """Highest seq read while the watermark was unknown."""
        self.head = b""
        """Avro bytes of (site, producer_id, run_id), with which every datum of the run begins; empty until seen."""


class Watermarks:
    """The runs of one partition, bounded: the longest unseen ones are forgotten, which only costs look-ups."""

    def __init__(self, limit: int = 100_000) -> None:
        self.runs: dict[tuple[bytes, int], Run] = {}
        """By producer_id in UTF-8, as the header has it, and run_id: a known run is found without decoding."""
        self._limit = limit

    def __len__(self) -> int:
        return len(self.runs)

    def meet(self, key: Key) -> Run:
        """A new, unknown run."""
        if len(self.runs) >= self._limit:
            for old in list(self.runs)[: max(1, self._limit // 10)]:
                del self.runs[old]
        run = self.runs[_raw(key)] = Run(key)
        return run

    def learn(self, stored: Iterable[tuple[Key, int]]) -> None:
        """Take over what the store holds: (key, its max(seq) or -1) of runs that were unknown."""
        for key, max_seq in stored:
            run = self.runs.get(_raw(key))
            if run is not None and run.watermark == UNKNOWN:
                run.watermark = max(max_seq, run.highest)


def _raw(key: Key) -> tuple[bytes, int]:
    return key[0].encode(), key[1]
