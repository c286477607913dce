"""From stored to committed: rounds of bookkeeping, commits trailing by the horizon, and the way back.

Owns what the group has reached; the main loop calls it every turn.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumers import batch
from consumers.assignment import Partition
from consumers.bookkeeping import Bookkeeper, Report
from consumers.clock import Clock
from consumers.commit import CommitHorizon
from consumers.errors import FatalError, StoreCredentialsError
from consumers.failpoints import failpoint
from consumers.metrics import Metrics
from consumers.stall import StallGuard
from consumers.store_state import LEDGER, StoreState

log = logging.getLogger("gpufleet.consume")

BUSY_ROUNDS = 3
"""While the store is busy there are so many times fewer rounds; each costs it some 20 ms of CPU."""
RESTARTED = "store restarted"


class Progress:
    """Commits of one consumer. ``kafka`` is set once it exists: its configuration names ``on_commit``."""

    kafka: Consumer

    def __init__(
        self,
        partitions: dict[batch.TopicPartition, Partition],
        bookkeeper: Bookkeeper,
        guard: StallGuard,
        metrics: Metrics,
        clock: Clock,
        round_s: float,
        store: StoreState,
    ) -> None:
        self._partitions, self._guard, self._metrics, self._clock = partitions, guard, metrics, clock
        self._round_s, self._store = round_s, store
        self._next_round = 0.0
        self._hasty = False
        """Whether the next round shall come at once."""
        self._rewind_next = False
        """Whether everything is to be read again from the next turn on; until then nothing is committed. While
        partitions are given back, Kafka's client must not be told to seek: what it hands over next is from before."""
        self._in_round: list[tuple[CommitHorizon, int]] = []
        """Up to which offset the round that runs writes the ledger."""
        self.bookkeeper = bookkeeper

    def hasten(self) -> None:
        """Much was stored: whoever waits for it looks at the ledger."""
        self._hasty = True

    def turn(self, *, store_waiting: bool, store_busy: bool = False) -> None:
        """Close a round that ended, begin the next when it is time and the store is not being waited for."""
        now = self._clock.monotonic()
        if self._rewind_next:
            self.rewind(RESTARTED)
        report = self.bookkeeper.ended()
        if report is not None:
            self._next_round = now + self._round_s * (BUSY_ROUNDS if store_busy else 1)
            self._close(report)
            self._hasty = self._hasty and report.error is None
        due = now >= self._next_round or self._hasty
        if due and not self.bookkeeper.busy and not store_waiting:
            self._hasty = False
            self._begin(now)
            if self._guard.fenced:
                self._prove_membership()

    def finish(self, timeout_s: float) -> None:
        """A last round and a commit that waits: before partitions are given back."""
        if self._rewind_next:
            return
        deadline = self._clock.monotonic() + timeout_s
        report = self.bookkeeper.ended(timeout_s)
        if self.bookkeeper.busy:
            log.warning("the store did not take the ledger in %.0f s: nothing more is committed", timeout_s)
            return
        if report is not None and not self._close(report, wait=True):
            return
        self._begin(self._clock.monotonic())
        report = self.bookkeeper.ended(max(0.1, deadline - self._clock.monotonic()))
        if report is not None:
            self._close(report, wait=True)

    def rewind(self, why: str) -> None:
        """Read every partition again from the committed offset, through the filter."""
        self._rewind_next = False
        for partition in self._partitions.values():
            offset = partition.horizon.rewind()
            partition.intake.rewind(offset)
            try:
                self.kafka.seek(TopicPartition(partition.topic, partition.number, offset))
            except KafkaException as error:
                raise FatalError(f"cannot seek {partition.topic}[{partition.number}]: {error}") from error
            self._metrics.rewinds.labels(why).inc()

    def on_commit(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        """Kafka's answer to a commit.

        What failed (an old generation during a rebalance, a broker away) is still committable and tried again next
        round, if the partition is still ours then.
        """
        if error is not None and not partitions:
            self._metrics.commit_failures.labels(error.name()).inc()
        for one in partitions:
            failure = one.error or error
            partition = self._partitions.get((one.topic, one.partition))
            if failure is not None:
                self._metrics.commit_failures.labels(failure.name()).inc()
            elif partition is not None:
                partition.horizon.was_committed(one.offset)
                self._metrics.commits.inc()
                self._guard.confirm()

    def _close(self, report: Report, *, wait: bool = False) -> bool:
        """End a round; False when everything has to be read again."""
        if report.error is not None:
            if isinstance(report.error, StoreCredentialsError) and not self.bookkeeper.known:
                raise report.error
            delay = self._store.failed(report.error, LEDGER)
            log.warning("ledger not written, again in %.1f s: %s", delay, report.error)
            return True
        self._store.answered(LEDGER)
        if report.restarted:
            log.warning("the store was restarted: reading again from the committed offsets")
            if wait:
                self._rewind_next = True  # for the partitions that stay; whoever gets the others does the same
            else:
                self.rewind(RESTARTED)
            return False
        now = self._clock.monotonic()
        for horizon, offset in self._in_round:
            horizon.recorded(offset, now)
        self._commit([(key, offset) for key, offset in report.offsets.items() if key in self._partitions], wait=wait)
        return True

    def _begin(self, now: float) -> None:
        self._in_round = [(one.horizon, one.horizon.stored_next) for one in self._partitions.values()]
        self.bookkeeper.begin(self._committable(now))

    def _committable(self, now: float) -> dict[batch.TopicPartition, int]:
        found = {key: partition.horizon.committable(now) for key, partition in self._partitions.items()}
        return {key: offset for key, offset in found.items() if offset is not None}

    def _commit(self, offsets: Sequence[tuple[batch.TopicPartition, int]], *, wait: bool = False) -> None:
        if not offsets:
            return
        # Whose offsets they are is kept with them: a topic that is made anew has another id.
        ids = {key: partition.intake.topic_id for key, partition in self._partitions.items()}
        partitions = [TopicPartition(*key, offset, ids.get(key, "")) for key, offset in offsets]
        failpoint("to commit")
        try:
            if wait:
                # Without a callback of its own a waiting commit returns the answers; on_commit is not called for it.
                self.on_commit(None, self.kafka.commit(offsets=partitions, asynchronous=False) or [])
            else:
                self.kafka.commit(offsets=partitions, asynchronous=True)
        except KafkaException as error:
            self.on_commit(error.args[0], [])
        failpoint("committed")

    def _prove_membership(self) -> None:
        """Commit what is committed already: only a member of the current generation can."""
        self._commit([(key, partition.horizon.resume) for key, partition in self._partitions.items()])
        if not self._partitions:
            self._guard.confirm()
