"""From an event's fields to the outbox, and what happens when the outbox says no.

While it refuses, events wait here, in the order of their topics' worth: discrete facts, inventory, counters,
telemetry. Each has its bound; past it the oldest fast-lane event is given up first. What is given up keeps its
sequence number, so the audit names the gap, and an ``events_dropped`` event says what and why.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from producers.agent.facts import Fact
from producers.encode import EventEncoder, Message
from producers.publisher import Outbox
from producers.spool.outbox import SpoolOutbox

FACTS = ("node-events", "inventory")
SAMPLES = ("node-counters", "node-telemetry")
WORTH = (*FACTS, *SAMPLES)
"""Topics, the dearest first."""
FULL = "the outbox was full"


@dataclass(slots=True)
class Dropped:
    """What was given up on one topic since it was last reported."""

    events: int = 0
    first_ts: int = 0
    last_ts: int = 0
    why: str = ""


class Outgoing:
    """Encodes, offers, and keeps what was refused. One thread calls it."""

    def __init__(
        self, encoder: EventEncoder, outbox: Outbox, common: Mapping[str, Any], facts_bound: int, samples_bound: int
    ) -> None:
        self._encoder = encoder
        self._outbox = outbox
        self._disk_first = isinstance(outbox, SpoolOutbox)
        self._common = dict(common)
        self._bounds = dict.fromkeys(FACTS, facts_bound) | dict.fromkeys(SAMPLES, samples_bound)
        self._waiting: dict[str, deque[tuple[int, Message]]] = {topic: deque() for topic in WORTH}
        self._dropped: dict[str, Dropped] = {}
        self.sent = 0
        """Events the outbox took over."""
        self.dropped = 0
        """Events given up."""

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    def send(self, topic: str, ts: int, fields: Mapping[str, Any]) -> None:
        """Encode an event and hand it on, or keep it until the outbox takes it.

        One that does not fit its schema (a source read nonsense) is given up and told: it must not end the agent.
        """
        try:
            message = self._encoder.encode(topic, ts, {**self._common, **fields}, give=not self._disk_first)
        except (ValueError, OverflowError) as error:
            self._note(topic, ts, f"{error}"[:500])
            return
        queue = self._waiting[topic]
        queue.append((ts, message))
        self.retry()
        if self._disk_first:
            # Killed before the spool wrote it, the event never counted as sampled, and neither does its number.
            # Killed right after, the spool has it, and the next start raises the journal.
            self._encoder.give(message)
        if len(queue) > self._bounds[topic]:
            self._give_up(topic)

    def fact(self, fact: Fact) -> None:
        """Send a discrete fact."""
        self.send("node-events", fact.ts, fact.fields())

    def retry(self) -> bool:
        """Offer what waits, the dearest first; whether nothing waits any more."""
        for topic in WORTH:
            queue = self._waiting[topic]
            while queue:
                if not self._outbox.offer(queue[0][1]):
                    return False
                queue.popleft()
                self.sent += 1
        return True

    def report_dropped(self, now: int) -> None:
        """Say what was given up, once the outbox takes events again."""
        if not self._dropped or not self.retry():
            return
        dropped, self._dropped = self._dropped, {}
        for topic, what in dropped.items():
            self.fact(
                Fact(
                    "events_dropped",
                    "agent",
                    now,
                    value=topic,
                    occurrences=what.events,
                    message=f"{what.events} {topic} events were given up: {what.why}",
                    attributes={"first_ts": str(what.first_ts), "last_ts": str(what.last_ts)},
                )
            )

    def _give_up(self, topic: str) -> None:
        ts, _ = self._waiting[topic].popleft()
        self._note(topic, ts, FULL)

    def _note(self, topic: str, ts: int, why: str) -> None:
        what = self._dropped.setdefault(topic, Dropped(first_ts=ts, why=why))
        what.events += 1
        what.last_ts = ts
        self.dropped += 1
