"""What stands between "stored" and "committed": the ledger is written, and the store is the one that stored it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from consumers.batch import TopicPartition
from consumers.boot import BootWatch
from consumers.errors import ConsumerError
from consumers.failpoints import failpoint
from consumers.ledger import Entry, Ledger
from consumers.store import Boot


class BootStore(Protocol):
    """Tells which start of the server answers."""

    def boot(self) -> Boot: ...


@dataclass(frozen=True, slots=True)
class Report:
    """How a round of bookkeeping went."""

    offsets: Mapping[TopicPartition, int]
    """What may be committed now; of no use when the store was restarted or the round failed."""
    restarted: bool = False
    error: ConsumerError | None = None


class Bookkeeper:
    """Rounds of bookkeeping, one at a time, in a thread of its own so that a slow store does not stop the polling."""

    def __init__(self, store: BootStore, ledger: Ledger) -> None:
        self._store, self._ledger = store, ledger
        self._watch = BootWatch()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="bookkeeping")
        self._round: Future[Report] | None = None
        self._entries: list[Entry] = []
        self.known = False
        """Whether the store was seen at all: nothing may be inserted before, or a restart could go unnoticed."""

    def record(self, entries: Sequence[Entry]) -> None:
        """Entries for the next round."""
        self._entries.extend(entries)
        failpoint("recorded")

    @property
    def busy(self) -> bool:
        return self._round is not None

    def begin(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Start a round. ``offsets``: what may be committed once the entries recorded so far are in the ledger."""
        entries, self._entries = self._entries, []
        self._round = self._executor.submit(self._run, entries, dict(offsets))

    def ended(self, timeout_s: float = 0.0) -> Report | None:
        """The report of the round, when it has ended within the time."""
        if self._round is None:
            return None
        try:
            report = self._round.result(timeout_s)
        except TimeoutError:
            return None
        self._round = None
        self.known = self.known or report.error is None
        return report

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, entries: list[Entry], offsets: Mapping[TopicPartition, int]) -> Report:
        try:
            self._ledger.write(entries)
            failpoint("ledger written")
            # After the ledger: a restart in between is seen, and the offsets are not committed.
            return Report(offsets, restarted=self._watch.restarted(self._store.boot()))
        except ConsumerError as error:
            return Report({}, error=error)
