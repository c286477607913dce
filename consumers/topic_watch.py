"""Tells when a topic that is being read was deleted and made anew: its offsets then count something else.

librdkafka reads on at the old position if the new log is long enough by the time it looks, which would skip the
beginning of the new log without a word. Kafka gives every topic an id; a broker that gives none cannot be watched.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence

from consumers.clock import Clock
from consumers.errors import KafkaUnavailableError, OffsetsOutOfRangeError

NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"
"""How a broker without ids shows one."""


def differs(known: str, now: str) -> bool:
    """Whether both ids are known and are not the same."""
    return known != now and not {known, now} & {"", NO_ID}


def explain_anew(topics: Sequence[str]) -> str:
    """What to tell a person about topics whose offsets mean nothing any more."""
    return (
        f"{', '.join(topics)}: the topic was deleted and made anew, so the offsets that the group has read to count for"
        " nothing. Events of the old one that were not read are lost. To read the new one from its beginning, start"
        " once with --accept-lost; `gpufleet audit` names the events that are missing"
    )


class TopicWatch:
    """Asks the broker now and then, in a thread of its own."""

    def __init__(self, ask: Callable[[Sequence[str]], Mapping[str, str]], every_s: float, clock: Clock) -> None:
        self._ask, self._every_s, self._clock = ask, every_s, clock
        self._asked: Mapping[str, str] = {}
        self._answer: Mapping[str, str] = {}
        self._thread: threading.Thread | None = None
        self._next = clock.monotonic() + every_s

    def turn(self, reading: Mapping[str, str]) -> None:
        """``reading``: id of each topic as it was assigned. OffsetsOutOfRangeError when one is another topic now."""
        if self._thread is None:
            if reading and self._clock.monotonic() >= self._next:
                self._asked = dict(reading)
                self._thread = threading.Thread(target=self._look, name="topics", daemon=True)
                self._thread.start()
            return
        if self._thread.is_alive():
            return
        self._thread, self._next = None, self._clock.monotonic() + self._every_s
        # What was assigned meanwhile is judged next time.
        still = [(topic, known) for topic, known in sorted(self._asked.items()) if reading.get(topic) == known]
        anew = [topic for topic, known in still if differs(known, self._answer.get(topic, ""))]
        if anew:
            raise OffsetsOutOfRangeError(explain_anew(anew))

    def _look(self) -> None:
        self._answer = {}
        with contextlib.suppress(KafkaUnavailableError):
            self._answer = self._ask(sorted(self._asked))
