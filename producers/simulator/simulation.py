"""A simulated fleet that runs: back-fills the past quickly, then lives by the wall clock.

scenario = load("small")
journal = Journal.start(folder, scenario.site, producers(scenario), TOPICS)
simulation = Simulation(scenario, journal, outbox, ticks=1)
simulation.backfill(start_us, end_us)
simulation.live(stop)
simulation.close()
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from producers.encode import EventEncoder, Message
from producers.journal import Journal, previous_of
from producers.publisher import Outbox
from producers.simulator import faults, injection, story, topology
from producers.simulator.inventory import inventory
from producers.simulator.lanes import SPREAD, Lanes
from producers.simulator.memory import Memory, Remembered
from producers.simulator.randomness import generator
from producers.simulator.scenario import Scenario
from producers.simulator.serving import demands
from producers.simulator.tenancy import Tenancy
from producers.simulator.truth import Truth
from producers.simulator.world import FACILITY, OPERATOR, SCHEDULER, World
from producers.spool.accounts import Account
from producers.spool.outbox import SpoolOutbox
from schemas.catalogue import KINDS

TOPICS = [topic for topic, kind in KINDS.items() if kind.dense]
"""Topics that a simulation writes to."""
MINUTE_US = 60_000_000
_REFUSED_PAUSE_S = 0.05
_SAVE_EVERY_S = 5.0

Sink = Outbox | Callable[[Message], Any]


def producers(scenario: Scenario) -> list[str]:
    """Every producer that a simulation of the scenario speaks for: its nodes, and the services around them."""
    nodes = [node.node_id for node in topology.build(scenario).nodes]
    return [*nodes, FACILITY, SCHEDULER, OPERATOR, *(f"gateway/{tenant.name}" for tenant in scenario.tenants)]


class Simulation:
    """One run of a scenario. One thread; ``live`` returns soon after its stop event is set.

    ``sink`` is an ``Outbox`` or anything callable with a message. ``ticks`` is K and ``tick_ms`` the length of a tick
    of the live fast lane: ticks * tick_ms must divide a minute. ``schema_ids`` maps topics to registry ids. ``state``
    is a folder for what outlives the run; with ``journals``, the journal's folder, each node's first event names its
    run before. ``truth_file`` gets the truth as JSON lines. ``clock`` gives microseconds since 1970.
    A stopped simulation offers for ``stop_patience_s`` more seconds what the outbox refuses. ``spool``: the sink, when
    it is one; what it wants told becomes node events.
    """

    def __init__(
        self,
        scenario: Scenario,
        journal: Journal,
        sink: Sink,
        ticks: int = 1,
        tick_ms: int = 1000,
        schema_ids: Mapping[str, int] | None = None,
        state: Path | None = None,
        journals: Path | None = None,
        truth_file: Path | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
        stop_patience_s: float = 5.0,
        spool: SpoolOutbox | None = None,
    ) -> None:
        if ticks < 1 or tick_ms < 1 or 60_000 % (ticks * tick_ms):
            raise ValueError(f"ticks * tick_ms must divide a minute (60000), found {ticks} * {tick_ms}")
        self.scenario, self.ticks, self.tick_ms = scenario, ticks, tick_ms
        self.truth = Truth(truth_file)
        self.now_us = 0
        """Event time up to which the simulation has come; 0 before it starts."""
        self._journal, self._journals, self._clock = journal, journals, clock
        self._offer_many = _offers(sink)
        self._schema_ids = dict(schema_ids or {})
        self._fleet = topology.build(scenario)
        self._memory = Memory(state) if state else None
        self._remembered = self._memory.load(self._fleet) if self._memory else None
        self._encoders: dict[str, EventEncoder] = {}
        self._pending: list[Message] = []
        self._saved_at = -_SAVE_EVERY_S
        self._patience_s = stop_patience_s
        self._spool = spool
        self._told: list[Account] = []

    @property
    def resumes_at(self) -> int | None:
        """Event time that the run before in this state folder reached; None for a first run."""
        return self._remembered.until_us if self._remembered else None

    def backfill(
        self, start_us: int, end_us: int, tick_s: int = 60, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Send ``start_us`` to ``end_us`` (whole minutes) with a sample every ``tick_s`` seconds, K = 1, at full speed.

        ``tick_s`` divides 60. The scenario's story happens in it. ``progress(done_us, total_us)`` after every tick.
        """
        if tick_s < 1 or 60 % tick_s:
            raise ValueError(f"tick_s must divide a minute, found {tick_s}")
        tick_us = tick_s * 1_000_000
        start_us, end_us = start_us // MINUTE_US * MINUTE_US, end_us // MINUTE_US * MINUTE_US
        if end_us <= start_us:
            return
        self._begin(start_us)
        story.schedule(self._world, self._tenancy, start_us, end_us)
        for at in range(start_us, end_us, tick_us):
            for messages in self._batch(at, 1, tick_us):
                self._send(messages, None)
            if progress:
                progress(at + tick_us - start_us, end_us - start_us)

    def live(self, stop: threading.Event, speed: float = 1.0, start_us: int | None = None) -> None:
        """Run by the wall clock until ``stop`` is set, going on where the back-fill ended (else: ``start_us``, or now).

        What lies between the back-fill's end and now is sent at once. Another ``speed`` runs that much faster, but
        never ahead of the clock, or slower.
        """
        batch_us = self.ticks * self.tick_ms * 1000
        if not self.now_us:
            self._begin((start_us or self._clock()) // batch_us * batch_us)
        self._until(stop, speed, batch_us)
        self._send(self._taken(), stop)  # they have their numbers, e.g. what the start of a run tells

    def _until(self, stop: threading.Event, speed: float, batch_us: int) -> None:
        """Batch after batch, each message when its time has come, until ``stop`` is set."""
        wall, origin = self._clock(), self.now_us
        while not stop.is_set():
            at, first = self.now_us, self.now_us + batch_us - self.tick_ms * 1000
            self._obey()
            slices = self._batch(at, self.ticks, self.tick_ms * 1000)
            count = len(self._world.states) * 2 + 1
            for number in range(count):
                event_us = first + int(SPREAD * batch_us * number / count)
                due = event_us if speed == 1 else max(event_us, wall + int((event_us - origin) / speed))
                if stop.wait(max(0.0, (due - self._clock()) / 1e6)):
                    return
                self._send(next(slices), stop)
            for messages in slices:
                self._send(messages, stop)

    def generate(self, start_us: int, end_us: int) -> Iterator[Message]:
        """Yield the messages of that time at full speed instead of sending them; K and tick as in ``live``."""
        batch_us = self.ticks * self.tick_ms * 1000
        start_us = start_us // batch_us * batch_us
        self._begin(start_us)
        for at in range(start_us, end_us, batch_us):
            for messages in self._batch(at, self.ticks, self.tick_ms * 1000):
                self.truth.sent(messages)
                yield from messages

    def close(self) -> None:
        """Remember where the simulation stands and end the truth. Close the outbox and the journal afterwards."""
        if self.now_us:
            self._save()
        self.truth.close()

    @property
    def world(self) -> World:
        """The world that lives; it exists from the first batch on."""
        return self._world

    # the run

    def _begin(self, start_us: int) -> None:
        if self.now_us:
            return
        rng = generator(self.scenario.seed, "boot", start_us)
        boots = [_uuid_text(rng.bytes(16)) for _ in self._fleet.nodes]
        world = self._world = World(self._fleet, start_us, self._emit, self.truth, boots)
        load = demands({tenant.name: tenant for tenant in self.scenario.tenants})
        self._tenancy = Tenancy(world, load)
        self._agents_start(start_us)
        if self._remembered:
            self._tenancy.restore(self._remembered.leases, self._remembered.limits)
            for job in self._remembered.jobs:
                world.emit("allocations", SCHEDULER, start_us, {**job, "ended_at": start_us})
        else:
            self._tenancy.grant_all(start_us // MINUTE_US * MINUTE_US)
        leased = {node for nodes in world.leased.values() for node in nodes}
        for producer, fields in inventory(self._fleet, boots, leased):
            world.emit("inventory", producer, start_us, fields)
        world.start_jobs(start_us)
        faults.schedule(world)
        self._lanes = Lanes(world, self._journal, load, self._schema_ids)
        if self._memory:
            self._memory.announce(self._fleet)
        self.now_us = start_us

    def _agents_start(self, start_us: int) -> None:
        """Each node's agent starts, and names the last sequence numbers of its run before."""
        names = [node.node_id for node in self._fleet.nodes]
        before = previous_of(self._journals, names, self._journal.run_id) if self._journals else {}
        for node in self._fleet.nodes:
            given = before.get(node.node_id, [])
            last = {row.topic: row.given - 1 for row in given}
            run = given[0].run_id if given else None
            fields: dict[str, Any] = {"previous_run_id": run, "previous_last_seq": last}
            self._world.node_event(start_us, node, "agent_start", message="simulated agent started", **fields)

    def _batch(self, at: int, ticks: int, tick_us: int) -> Iterator[list[Message]]:
        """The messages of a batch: events due, then each slice's two lanes, then slower readings."""
        self._world.advance(at)
        self._tell_of_spool(at)
        yield self._taken()
        for gpus, messages in self._lanes.batch(at, ticks, tick_us):
            self.truth.gpu_samples += gpus * ticks * len(messages)
            yield messages
        self.now_us = at + ticks * tick_us
        self._world.advance(self.now_us - 1)
        yield self._taken()
        if self._memory and time.monotonic() - self._saved_at >= _SAVE_EVERY_S:
            self._save()

    def _tell_of_spool(self, at: int) -> None:
        """Send what the spool wants told, under the name of the producer it is about."""
        if self._spool is None:
            return
        for told in self._told:  # the event about it was offered with the last batch
            self._spool.settle(told)
        self._told = []
        for notice, account in self._spool.notices():
            producer = notice.producer_id or self._fleet.nodes[0].node_id
            fields = {
                "node_id": producer,
                "event": notice.event,
                "source": "simulator",
                "value": notice.value,
                "occurrences": notice.occurrences,
                "message": notice.message,
                "attributes": dict(notice.attributes),
            }
            self._emit("node-events", producer, at, fields)
            if account is not None:
                self._told.append(account)

    def _emit(self, topic: str, producer: str, ts: int, fields: Mapping[str, Any]) -> None:
        encoder = self._encoders.get(producer)
        if encoder is None:
            encoder = self._encoders[producer] = EventEncoder(self._journal, producer, self._schema_ids)
        self._pending.append(encoder.encode(topic, ts, fields))

    def _taken(self) -> list[Message]:
        messages, self._pending = self._pending, []
        return messages

    def _send(self, messages: list[Message], stop: threading.Event | None) -> None:
        """Offer until everything is taken. A stopped simulation gives up in time and takes the numbers back."""
        self.truth.sent(messages)
        taken, gives_up = self._offer_many(messages), None
        while taken < len(messages):
            time.sleep(_REFUSED_PAUSE_S)
            if stop is not None and stop.is_set():
                gives_up = gives_up or time.monotonic() + self._patience_s
                if time.monotonic() > gives_up:
                    break
            taken += self._offer_many(messages[taken:])
        for message in reversed(messages[taken:]):
            self._journal.give(message.row, self._journal.next(message.row) - 2)
        self.truth.unsent(messages[taken:])

    def _obey(self) -> None:
        """Begin the faults that were asked for."""
        for request in self._memory.requests() if self._memory else ():
            if not injection.begin(self._world, self.now_us, request):
                self.truth.note("refused", at=self.now_us, request=request)

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if self._memory is None:
            return
        stored = self._tenancy.stored()
        jobs = [self._world.allocation(job, "ended", "pre-empted") for job in self._world.scheduler.jobs.values()]
        self._memory.save(
            Remembered(
                self.scenario.name, len(self._fleet.nodes), self.now_us, stored["leases"], stored["limits"], jobs
            )
        )


def _offers(sink: Sink) -> Callable[[Sequence[Message]], int]:
    """How many of the messages the sink takes."""
    many: Callable[[Sequence[Message]], int] | None = getattr(sink, "offer_many", None)
    if many is not None:
        return many
    call: Any = sink

    def each(messages: Sequence[Message]) -> int:
        for message in messages:
            call(message)
        return len(messages)

    return each


def _uuid_text(raw: bytes) -> str:
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
