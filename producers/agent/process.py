"""An agent's process: the state folder's lock, one run after the other, and a look without sending."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro

from producers import journal
from producers.agent.agent import TOPICS, Agent, journal_folder
from producers.agent.build import sources
from producers.agent.clock import Clock, ClockSteppedError, SystemClock
from producers.agent.settings import AgentSettings
from producers.encode import EventEncoder, Message
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from producers.spool.outbox import SpoolOutbox
from schemas import catalogue, framing
from schemas.signer import Sign

FLUSH_S = 10.0
"""How long the end of a run waits for the broker."""
LOOK_S = 15.0
"""How long a look waits for sources."""


@dataclass(frozen=True, slots=True)
class Run:
    """The run that is going on, for whoever looks at it from outside."""

    agent: Agent
    outbox: KafkaOutbox | SpoolOutbox


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an agent's process ended."""

    reason: str
    runs: int
    """More than one when the clock stepped far back."""
    sent: int
    dropped: int
    unacknowledged: int
    """Events still waiting for the broker at the end; the next start names them."""
    spooled: int
    """Of those, the ones on disk: the next start sends them."""


class AgentProcess:
    """Runs an agent until it is stopped; ``stop`` may be called from a signal handler."""

    def __init__(self, settings: AgentSettings, version: str = "", clock: Clock | None = None) -> None:
        self._settings = settings
        self._version = version
        self._clock = clock or SystemClock()
        self._stop_reason: str | None = None
        self._agent: Agent | None = None
        self._now: Run | None = None
        self.metrics_port = 0
        """Where /metrics is served while it runs; 0 = nowhere."""

    def stop(self, reason: str) -> None:
        """End soon."""
        self._stop_reason = self._stop_reason or reason
        if self._agent is not None:
            self._agent.stop(reason)

    def run(
        self,
        kafka: Mapping[str, Any],
        bound_bytes: int,
        schema_ids: Mapping[str, int] | None = None,
        for_s: float | None = None,
        *,
        sign: Sign | None = None,
    ) -> Outcome:
        """Send to Kafka (librdkafka's options) until stopped, or for ``for_s``.

        JournalInUseError when another agent works on the state folder, JournalError when it cannot be written.
        """
        settings, folder = self._settings, journal_folder(self._settings.state_dir)
        runs = sent = dropped = spooled = 0
        end = None if for_s is None else self._clock.mono_s() + for_s
        with _locked(folder), self._metrics():
            while True:
                runs += 1
                given = Journal.start(folder, settings.site, [settings.node_id], TOPICS, in_memory=True)
                outbox = self._outbox(kafka, given, bound_bytes, schema_ids or {}, sign)
                encoder = EventEncoder(given, settings.node_id, schema_ids)
                agent = Agent(
                    settings, self._clock, given, encoder, outbox, sources(settings, self._clock), self._version
                )
                self._agent, self._now = agent, Run(agent, outbox)
                if self._stop_reason is not None:
                    agent.stop(self._stop_reason)
                try:
                    reason = agent.run(None if end is None else end - self._clock.mono_s())
                    again = False
                except ClockSteppedError as stepped:
                    reason, again = str(stepped), self._stop_reason is None
                finally:
                    left = outbox.close(FLUSH_S)
                    self._now = None
                    if isinstance(outbox, SpoolOutbox):
                        spooled, dropped = outbox.spooled, dropped + outbox.health().given_up
                    given.close()
                sent, dropped = sent + agent.outgoing.sent, dropped + agent.outgoing.dropped
                if not spooled:  # a run that still waits on disk keeps its journal
                    journal.prune(folder, given.run_id)
                if not again:
                    return Outcome(reason, runs, sent, dropped, left + agent.outgoing.waiting, spooled)

    @contextmanager
    def _metrics(self) -> Iterator[None]:
        """The page for Prometheus, where the settings name a port for one."""
        port = self._settings.metrics_port
        if port is None:
            yield
            return
        from producers.agent.metrics import MetricsPage

        page = MetricsPage(self._settings.metrics_host, port, lambda: self._now)
        self.metrics_port = page.port
        try:
            yield
        finally:
            page.close()

    def _outbox(
        self,
        kafka: Mapping[str, Any],
        given: Journal,
        bound_bytes: int,
        schema_ids: Mapping[str, int],
        sign: Sign | None,
    ) -> KafkaOutbox | SpoolOutbox:
        """The publisher, behind a spool where the settings name a folder for one."""
        settings = self._settings
        if settings.spool_dir is None:
            return KafkaOutbox(kafka, given, bound_bytes, sign=sign)
        return SpoolOutbox(
            settings.spool_dir,
            given,
            journal_folder(settings.state_dir),
            lambda told: KafkaOutbox(kafka, told, bound_bytes, sign=sign),
            settings.spool,
            schema_ids=schema_ids,
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = journal.lock(folder)
    try:
        yield
    finally:
        os.close(descriptor)


class MemoryOutbox:
    """An ``Outbox`` that keeps what it is offered, for looking at."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def offer(self, message: Message) -> bool:
        self.messages.append(message)
        return True

    def offer_many(self, messages: Sequence[Message]) -> int:
        self.messages += messages
        return len(messages)

    def flush(self, timeout_s: float) -> int:
        return 0

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(topic, event) of everything offered, decoded."""
        for message in self.messages:
            yield message.topic, decode(message)


def decode(message: Message) -> dict[str, Any]:
    """The event in a message of this process."""
    schema = catalogue.latest(message.topic)
    record = fastavro.schemaless_reader(BytesIO(message.value[framing.PREFIX_BYTES :]), schema.parsed, None)
    assert isinstance(record, dict)
    return record


def look(settings: AgentSettings, version: str = "", clock: Clock | None = None) -> dict[str, list[dict[str, Any]]]:
    """What one tick of this agent would send, topic by topic. Sends nothing and leaves no trace.

    Rates and GPM need two samples, so it looks for two ticks in which every source has answered or failed, and shows
    the second; a source that does neither is waited for ``LOOK_S``.
    """
    clock = clock or SystemClock()
    outbox = MemoryOutbox()
    ticks, until = 0, clock.mono_s() + LOOK_S
    with tempfile.TemporaryDirectory() as folder:
        quick = replace(settings, state_dir=Path(folder), ticks=1, slow_interval_ms=settings.interval_ms, spread=0.0)
        given = Journal.start(journal_folder(quick.state_dir), quick.site, [quick.node_id], TOPICS)
        encoder = EventEncoder(given, quick.node_id)
        agent = Agent(quick, clock, given, encoder, outbox, sources(quick, clock), version)

        def on_tick() -> None:
            nonlocal ticks
            ticks += agent.introduced
            if ticks == 2 or clock.mono_s() > until:
                agent.stop("one tick was looked at")

        agent.on_tick = on_tick
        agent.run()
        given.close()
    shown: dict[str, list[dict[str, Any]]] = {topic: [] for topic in TOPICS}
    for topic, event in outbox.events():
        if topic in ("node-telemetry", "node-counters"):
            shown[topic] = [event]
        else:
            shown[topic].append(event)
    return shown
