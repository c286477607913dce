"""One batch of the whole fleet: every slice's samples, what the plant makes of them, and the slower readings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from producers.encode import Message
from producers.journal import Journal
from producers.simulator import facility, hosts, physics, usage, workload
from producers.simulator.randomness import generator
from producers.simulator.serving import Demand
from producers.simulator.slowlane import SLOW_TICK_US, CountersEncoder
from producers.simulator.state import SliceState
from producers.simulator.telemetry import TelemetryEncoder
from producers.simulator.throttles import Throttles
from producers.simulator.world import FACILITY, World

MINUTE_US = 60_000_000
FACILITY_US = 10_000_000
SPREAD = 0.6
"""Share of an event's time over which its sending is spread."""


class Lanes:
    """Turns the world's state into messages, batch by batch in time order."""

    def __init__(
        self, world: World, journal: Journal, demands: dict[str, Demand], schema_ids: Mapping[str, int]
    ) -> None:
        self.world, self._demands = world, demands
        fleet, boots = world.fleet, world.boots
        self._fast = [
            TelemetryEncoder(journal, fleet, state, boots, schema_ids.get("node-telemetry")) for state in world.states
        ]
        self._slow = [
            CountersEncoder(journal, fleet, state, counters, boots, world.start_us, schema_ids.get("node-counters"))
            for state, counters in zip(world.states, world.counters, strict=True)
        ]
        self._throttles = [Throttles(state) for state in world.states]
        self._slow_done = [world.start_us // MINUTE_US * MINUTE_US] * len(world.states)
        """Up to when each slice's counters have been sent."""
        self._usage_done = -(-world.start_us // MINUTE_US) * MINUTE_US

    def batch(self, at: int, ticks: int, tick_us: int) -> Iterator[tuple[int, list[Message]]]:
        """(GPUs per message, messages) of each slice for ticks at ``at`` + i * ``tick_us``; then the plant follows.

        GPUs per message is 0 for messages that are not of the fast lane.
        """
        world, tick_s = self.world, tick_us / 1e6
        seed = world.fleet.scenario.seed
        loads = self._loads(at, ticks, tick_s)
        power = np.zeros(len(world.fleet.nodes))
        for number, state in enumerate(world.states):
            rng = generator(seed, "samples", number, at)
            environment = world.plant.environment(state, state.resistance)
            gpu = physics.step(state, loads, environment, ticks, tick_s, rng)
            host = hosts.host_metrics(state, loads, at, ticks, tick_s, rng)
            world.counters[number].throttled(gpu.values["clock_event_reasons"], tick_s)
            power[state.nodes] = node_power_w(state)
            yield (
                state.shape.gpus,
                self._fast[number].encode(_speaking(state), at, ticks, tick_us // 1000, gpu.values, host),
            )
            yield 0, self._counters(number, at, ticks * tick_us)
        end = at + ticks * tick_us
        for throttles in self._throttles:
            throttles.see(world, end)
        world.plant.follow(power, ticks * tick_s)
        self._readings(at, ticks * tick_us)

    def _loads(self, at: int, ticks: int, tick_s: float) -> workload.Loads:
        scheduler = self.world.scheduler
        demand = {name: demand.level(at, ticks, tick_s) for name, demand in self._demands.items()}
        return workload.loads(list(scheduler.jobs.values()), scheduler.rows, at, ticks, tick_s, demand)

    def _counters(self, number: int, at: int, batch_us: int) -> list[Message]:
        """The slice's counters: of nodes on which a state changed, and of the last minute when its turn has come.

        In fine steps the slices take turns over the first part of the minute; a coarse step sends all at once.
        """
        now, done, state = at + batch_us, self._slow_done[number], self.world.states[number]
        seed, slow, speaking = self.world.fleet.scenario.seed, self._slow[number], ~state.silent
        messages: list[Message] = []
        coarse = batch_us >= MINUTE_US
        tick = (now - 1) // SLOW_TICK_US * SLOW_TICK_US
        if tick >= at and not coarse:
            messages += slow.changes(tick, speaking, self._slow_loads, generator(seed, "changes", number, tick))
        turn = 0 if coarse else int(SPREAD * MINUTE_US * number / len(self._slow))
        if now < done + MINUTE_US + turn:
            return messages
        self._slow_done[number] = done + MINUTE_US
        loads = self._coarse_loads(done, 1) if coarse else self._slow_loads(done, MINUTE_US // SLOW_TICK_US)
        self.world.counters[number].minute(done, MINUTE_US / 1e6, loads.mean["nic"][state.row[:, 0]].mean(axis=1))
        rng = generator(seed, "counters", number, done)
        if coarse:
            return slow.coarse(done, speaking, loads, rng)
        return messages + slow.minute(done + MINUTE_US, speaking, self._slow_loads, rng)

    def _slow_loads(self, at: int, ticks: int) -> workload.Loads:
        return self._loads(at, ticks, SLOW_TICK_US / 1e6)

    def _coarse_loads(self, at: int, ticks: int) -> workload.Loads:
        return self._loads(at, ticks, MINUTE_US / 1e6)

    def _readings(self, at: int, batch_us: int) -> None:
        """Facility readings and usage windows that fall due in this batch."""
        world = self.world
        scenario = world.fleet.scenario
        interval = max(FACILITY_US, batch_us)
        if at % interval < batch_us:
            rng = generator(scenario.seed, "facility", at)
            for fields in facility.readings(world.plant, interval // 1000, rng):
                world.emit("facility-telemetry", FACILITY, at, fields)
        while self._usage_done + MINUTE_US <= at + batch_us:
            for tenant, window in usage.windows(scenario, self._demands, self._usage_done):
                world.emit("tenant-usage", f"gateway/{tenant}", self._usage_done, window)
            self._usage_done += MINUTE_US


def node_power_w(state: SliceState) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """All-in power of each node: its GPUs, and host, network and cooling that grow with their load."""
    model, g = state.shape.model, state.shape.gpus
    gpus = np.where(state.lost, 0, state.gpu_power_w).sum(axis=1, dtype=np.float64)
    load = np.clip((gpus / g - model.idle_w) / (model.tdp_w - model.idle_w), 0, 1)
    overhead = g * (model.all_in_w - model.tdp_w) * (model.idle_overhead + (1 - model.idle_overhead) * load)
    return np.asarray(gpus + overhead, np.float64)


def _speaking(state: SliceState) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None:
    """Positions of the nodes that send; None = all."""
    return np.flatnonzero(~state.silent) if state.silent.any() else None
