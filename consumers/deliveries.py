"""Batches under way: in insert threads, or waiting to be tried again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from consumers.batch import Batch, Chunk, Limits, TopicPartition, pack
from consumers.delivery import Delivered, Delivery
from consumers.errors import ConsumerError

_NO_LIMITS = Limits(1 << 62, 1 << 62, 1 << 62)


@dataclass(frozen=True, slots=True)
class Failed:
    """A delivery that must be made again."""

    batch: Batch
    error: ConsumerError


class Deliveries:
    """A few insert threads; at most one batch with messages of a partition is under way."""

    def __init__(self, delivery: Delivery, threads: int) -> None:
        self._delivery, self._threads = delivery, threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="insert")
        self._running: dict[Future[Delivered], Batch] = {}
        self._began: dict[Future[Delivered], float] = {}
        self._again: list[tuple[float, Batch]] = []

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def free(self) -> bool:
        """Whether a thread is idle."""
        return len(self._running) < self._threads

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waiting."""
        return not self._running and not self._again

    @property
    def held_bytes(self) -> int:
        return sum(b.held_bytes for b in self._running.values()) + sum(b.held_bytes for _, b in self._again)

    def busy(self) -> set[TopicPartition]:
        """Partitions with a batch under way or waiting to be tried again."""
        batches = [*self._running.values(), *(batch for _, batch in self._again)]
        return {key for batch in batches for key in batch.partitions}

    def running_on(self, keys: set[TopicPartition]) -> list[Future[Delivered]]:
        """Deliveries in a thread that touch one of the partitions."""
        return [future for future, batch in self._running.items() if keys.intersection(batch.partitions)]

    @property
    def since(self) -> float | None:
        """When the oldest delivery under way began, on the monotonic clock."""
        return min(self._began.values(), default=None)

    def start(self, batch: Batch, now: float) -> None:
        """Deliver in a thread."""
        future = self._executor.submit(self._delivery.deliver, batch)
        self._running[future], self._began[future] = batch, now

    def later(self, batch: Batch, not_before: float) -> None:
        """Deliver again, not before a monotonic time."""
        self._again.append((not_before, batch))

    def due(self, now: float, counts: Callable[[Chunk], bool]) -> Batch | None:
        """A batch whose time to be tried again has come, less the chunks that no longer count."""
        running = {key for batch in self._running.values() for key in batch.partitions}
        self._forget(counts)
        for at, (not_before, batch) in enumerate(self._again):
            if not_before <= now and not running.intersection(batch.partitions):
                del self._again[at]
                return batch
        return None

    def collect(self) -> list[Delivered | Failed]:
        """Deliveries that ended since the last call. Bugs (errors that are no ConsumerError) are raised."""
        ended: list[Delivered | Failed] = []
        for future in [f for f in self._running if f.done()]:
            batch = self._running.pop(future)
            del self._began[future]
            error = future.exception()
            if error is None:
                ended.append(future.result())
            elif isinstance(error, ConsumerError):
                ended.append(Failed(batch, error))
            else:
                raise error
        return ended

    def wait(self, timeout_s: float) -> None:
        """Until a delivery ends, or the time is up."""
        if self._running:
            wait(self._running, timeout=timeout_s, return_when=FIRST_COMPLETED)

    def close(self) -> None:
        """Let go of the threads; an insert under way may end after this returns, one that had not begun never does."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        for future in [future for future in self._running if future.cancelled()]:
            del self._running[future], self._began[future]

    def _forget(self, counts: Callable[[Chunk], bool]) -> None:
        kept: list[tuple[float, Batch]] = []
        for not_before, batch in self._again:
            chunks = [chunk for chunk in batch.chunks if counts(chunk)]
            if len(chunks) == len(batch.chunks):
                kept.append((not_before, batch))
            elif chunks:
                rest = pack(batch.kind, chunks, _NO_LIMITS)
                rest.check_all, rest.pieces, rest.attempts = True, batch.pieces, batch.attempts
                kept.append((not_before, rest))
        self._again = kept
