"""One command's run as a producer: journal, encoder and outbox together, for programs that send a little and end.

Unlike an agent, a command waits: for room in the outbox, and at the end for every acknowledgement.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from producers import journal as journals
from producers.encode import EventEncoder, Message
from producers.errors import NotDeliveredError
from producers.journal import Journal
from producers.publisher import Counters, KafkaOutbox
from schemas.signer import Sign


class Session:
    """Sends events of one producer and answers for them.

    ``folder`` is the producer's journal folder, held for as long as the session lasts (JournalInUseError when another
    run holds it). ``kafka`` is librdkafka's configuration. ``patience_s`` is how long nothing may be acknowledged
    before the broker counts as away: NotDeliveredError.
    """

    def __init__(
        self,
        folder: Path,
        site: str,
        producer_id: str,
        topics: Sequence[str],
        kafka: Mapping[str, Any],
        *,
        schema_ids: Mapping[str, int] | None = None,
        patience_s: float = 30.0,
        bound_bytes: int = 64 << 20,
        sign: Sign | None = None,
        make_outbox: Callable[..., KafkaOutbox] = KafkaOutbox,
    ) -> None:
        self._patience_s = patience_s
        self._lock = journals.lock(folder)
        try:
            self.journal = Journal.start(folder, site, [producer_id], topics)
            self._outbox = make_outbox(kafka, self.journal, bound_bytes, sign=sign)
        except BaseException:
            os.close(self._lock)
            raise
        self._encoder = EventEncoder(self.journal, producer_id, schema_ids)
        self.sent = 0

    @property
    def counters(self) -> Counters:
        """What became of the messages."""
        return self._outbox.counters

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outbox.close(0.0 if error else self._patience_s)
        self.journal.close()
        os.close(self._lock)

    def send(self, topic: str, ts: int, fields: Mapping[str, Any]) -> Message:
        """Encode and take over one event; waits while the outbox is full. ValueError as ``EventEncoder.encode``."""
        message = self._encoder.encode(topic, ts, fields)
        self._wait(lambda: self._outbox.offer(message), f"no room for another event of {topic}")
        self.sent += 1
        self._refuse_rejected()
        return message

    def finish(self) -> None:
        """Wait until the broker acknowledged everything. NotDeliveredError says what is missing and why."""
        self._wait(lambda: self._outbox.flush(0.2) == 0, "not every event was acknowledged")
        self._refuse_rejected()

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        counters = self._outbox.counters
        seen, since = counters.acknowledged, time.monotonic()
        while not done():
            if counters.acknowledged != seen:
                seen, since = counters.acknowledged, time.monotonic()
            elif time.monotonic() - since > self._patience_s:
                raise NotDeliveredError(
                    f"{what} within {self._patience_s:g} s: {counters.acknowledged} of {self.sent} acknowledged, "
                    f"{self._outbox.waiting} waiting; last error: {counters.last_error or 'none'}"
                )
            time.sleep(0.005)

    def _refuse_rejected(self) -> None:
        if self._outbox.counters.rejected:
            raise NotDeliveredError(self._outbox.counters.last_error)
