"""A simulated fleet that runs: back-fills the past quickly, then lives by the wall clock.

scenario = load("small")
journal = Journal.start(folder, scenario.site, producers(scenario), TOPICS)
simulation = Simulation(scenario, journal, outbox, ticks=1)
simulation.backfill(start_us, end_us)
simulation.live(stop)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from producers.encode import Message
from producers.journal import Journal
from producers.publisher import Outbox
from producers.simulator import hosts, physics, topology, workload
from producers.simulator.events import Sequences
from producers.simulator.randomness import generator
from producers.simulator.scenario import Scenario
from producers.simulator.scheduler import Scheduler, leased_nodes, pools
from producers.simulator.state import SliceState
from producers.simulator.telemetry import TelemetryEncoder
from producers.simulator.truth import Truth
from producers.simulator.workload import JobKind
from schemas.catalogue import KINDS

TOPICS = [topic for topic, kind in KINDS.items() if kind.dense]
"""Topics that a simulation writes to."""
MINUTE_US = 60_000_000
SPREAD = 0.6
"""Share of an event's time over which its sending is spread."""

Sink = Outbox | Callable[[Message], Any]


def producers(scenario: Scenario) -> list[str]:
    """Every producer that a simulation of the scenario speaks for: its nodes, and the services around them."""
    nodes = [node.node_id for node in topology.build(scenario).nodes]
    return [*nodes, "facility", "scheduler", "operator", *(f"gateway/{tenant.name}" for tenant in scenario.tenants)]


class Simulation:
    """One run of a scenario. One thread; ``live`` returns soon after its stop event is set.

    ``sink`` is an ``Outbox`` or anything callable with a message. ``ticks`` is K and ``tick_ms`` the length of a tick
    of the live fast lane: ticks * tick_ms must divide a minute. ``schema_ids`` maps topics to registry ids. ``state``
    is a folder for what outlives the run. ``clock`` gives microseconds since 1970.
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
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        if ticks < 1 or tick_ms < 1 or 60_000 % (ticks * tick_ms):
            raise ValueError(f"ticks * tick_ms must divide a minute (60000), found {ticks} * {tick_ms}")
        self.scenario, self.ticks, self.tick_ms = scenario, ticks, tick_ms
        self.truth = Truth()
        self.now_us = 0
        """Event time up to which the simulation has come; 0 before it starts."""
        self._journal, self._clock = journal, clock
        self._offer: Callable[[Message], Any] = getattr(sink, "offer", sink)
        self._schema_ids = dict(schema_ids or {})
        self._sequences = Sequences(journal)
        self._fleet = topology.build(scenario)
        self._states: list[SliceState] = []
        self._encoders: list[TelemetryEncoder] = []

    def backfill(
        self,
        start_us: int,
        end_us: int,
        tick_s: int = 60,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Send ``start_us`` to ``end_us`` (rounded down to whole ticks) at coarse ticks, K = 1, at full speed."""
        if tick_s < 1 or 60 % tick_s:
            raise ValueError(f"tick_s must divide a minute, found {tick_s}")
        tick_us = tick_s * 1_000_000
        start_us, end_us = start_us // MINUTE_US * MINUTE_US, end_us // tick_us * tick_us
        self._begin(start_us)
        for at in range(start_us, end_us, tick_us):
            for messages in self._batch(at, 1, tick_us):
                self._send(messages)
            if progress:
                progress(at + tick_us - start_us, end_us - start_us)

    def live(self, stop: threading.Event, speed: float = 1.0) -> None:
        """Run by the wall clock until ``stop`` is set, going on where the back-fill ended (else: from now)."""
        batch_us = self.ticks * self.tick_ms * 1000
        if not self.now_us:
            self._begin(self._clock() // batch_us * batch_us)
        wall, origin = self._clock(), self.now_us
        while not stop.is_set():
            at = self.now_us
            slices = self._batch(at, self.ticks, self.tick_ms * 1000)
            count = len(self._states)
            for number in range(count):
                event_us = at + batch_us - self.tick_ms * 1000 + int(SPREAD * batch_us * number / count)
                due = max(event_us, wall + int((event_us - origin) / speed))
                if stop.wait(max(0.0, (due - self._clock()) / 1e6)):
                    return
                self._send(next(slices))
            for messages in slices:
                self._send(messages)

    def generate(self, start_us: int, end_us: int) -> Iterator[Message]:
        """Yield the messages of that time at full speed instead of sending them; K and tick as in ``live``."""
        tick_us = self.tick_ms * 1000
        batch_us = self.ticks * tick_us
        start_us = start_us // batch_us * batch_us
        self._begin(start_us)
        for at in range(start_us, end_us, batch_us):
            for messages in self._batch(at, self.ticks, tick_us):
                self._count(messages)
                yield from messages

    def close(self) -> None:
        """Let go of the journal and end the truth."""
        self._sequences.release()
        self.truth.close()

    def _begin(self, start_us: int) -> None:
        if self.now_us:
            return
        self.now_us = start_us
        fleet = self._fleet
        rng = generator(self.scenario.seed, "boot", start_us)
        boots = [rng.bytes(16).hex() for _ in fleet.nodes]
        boots = [f"{b[:8]}-{b[8:12]}-{b[12:16]}-{b[16:20]}-{b[20:]}" for b in boots]
        self._states = [SliceState(fleet, number, start_us) for number in range(len(fleet.slices))]
        self._encoders = [
            TelemetryEncoder(
                self._journal, self._sequences, fleet, state, boots, self._schema_ids.get("node-telemetry")
            )
            for state in self._states
        ]
        self._scheduler = Scheduler(fleet)
        for name, nodes in leased_nodes(self.scenario, fleet).items():
            tenant = next(tenant for tenant in self.scenario.tenants if tenant.name == name)
            for pool in pools(fleet, tenant, nodes):
                if pool.serving:
                    self._scheduler.start(JobKind.SERVING, name, pool.serving, start_us, None)
                left = list(pool.training)
                while left:
                    size = self._scheduler.training_size(len(left))
                    self._scheduler.start(JobKind.TRAINING, name, left[:size], start_us, None)
                    left = left[size:]
        for state in self._states:
            for position, index in enumerate(state.nodes.tolist()):
                job = self._scheduler.job_of.get(index)
                if job:
                    state.row[position] = job.row

    def _batch(self, at: int, ticks: int, tick_us: int) -> Iterator[list[Message]]:
        tick_s = tick_us / 1e6
        demand = {t.name: np.full(ticks, 0.6, np.float32) for t in self.scenario.tenants}
        jobs = list(self._scheduler.jobs.values())
        loads = workload.loads(jobs, self._scheduler.rows, at, ticks, tick_s, demand)
        for state, encoder in zip(self._states, self._encoders, strict=True):
            n = len(state.nodes)
            rng = generator(self.scenario.seed, "samples", state.number, at)
            one = np.ones(n, np.float32)
            environment = physics.Environment(one * np.float32(self.scenario.cooling.supply_c), one, one)
            gpu = physics.step(state, loads, environment, ticks, tick_s, rng)
            host = hosts.host_metrics(state, loads, at, ticks, tick_s, rng)
            chosen = np.flatnonzero(~state.silent) if state.silent.any() else None
            yield encoder.encode(chosen, at, ticks, tick_us // 1000, gpu.values, host)
        self.now_us = at + ticks * tick_us

    def _count(self, messages: list[Message]) -> None:
        for message in messages:
            self.truth.events[message.topic] += 1

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            while self._offer(message) is False:
                time.sleep(0.05)
        self._count(messages)
