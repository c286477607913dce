"""The fleet's life between ticks: discrete changes in time order, the events they send, and the truth about them.

The world knows nothing of ticks: ``advance`` runs every change due by a time, so thirty days of faults take seconds
when nobody asks for samples.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from producers.simulator.counters import Counters
from producers.simulator.plant import Plant
from producers.simulator.randomness import generator
from producers.simulator.scheduler import MINUTE_US, Scheduler, leased_nodes, pools
from producers.simulator.state import SliceState
from producers.simulator.topology import Fleet, Node
from producers.simulator.truth import Truth
from producers.simulator.workload import Job, JobKind

SCHEDULER, OPERATOR, FACILITY = "scheduler", "operator", "facility"
"""Producers besides the nodes."""


class Emit(Protocol):
    """Sends one event: its topic, its producer, its time and its fields without the header."""

    def __call__(self, topic: str, producer: str, ts: int, fields: Mapping[str, Any]) -> None: ...


class World:
    """State of everything, and a queue of what happens next."""

    def __init__(self, fleet: Fleet, start_us: int, emit: Emit, truth: Truth, boots: list[str]) -> None:
        self.fleet, self.truth, self.now_us, self.boots = fleet, truth, start_us, boots
        self.start_us = start_us
        self._emit = emit
        self.rng = generator(fleet.scenario.seed, "world", start_us)
        self.states = [SliceState(fleet, number, start_us) for number in range(len(fleet.slices))]
        self.counters = [Counters(state, fleet.scenario.seed) for state in self.states]
        self.plant = Plant(fleet, start_us)
        self.scheduler = Scheduler(fleet)
        self.slice_of: NDArray[np.int32] = np.empty(len(fleet.nodes), np.int32)
        self.position_of: NDArray[np.int32] = np.empty(len(fleet.nodes), np.int32)
        for state in self.states:
            self.slice_of[state.nodes] = state.number
            self.position_of[state.nodes] = np.arange(len(state.nodes))
        self.leased = leased_nodes(fleet.scenario, fleet)
        self.out: dict[int, int] = {}
        """Nodes taken out of service, with how many reasons hold each."""
        self.silences: dict[int, int] = {}
        self.idle: dict[tuple[str, str], list[int]] = {}
        """Nodes for training without a job, by tenant and model."""
        self.pool_of: dict[int, tuple[str, str]] = {}
        self._queue: list[tuple[int, int, Callable[[int], None]]] = []
        self._order = itertools.count()

    # time

    def at(self, when_us: int, action: Callable[[int], None]) -> None:
        """Have ``action(now_us)`` run when the world comes to that time."""
        heapq.heappush(self._queue, (when_us, next(self._order), action))

    def advance(self, until_us: int) -> None:
        """Run everything due by ``until_us``, in order."""
        while self._queue and self._queue[0][0] <= until_us:
            when, _, action = heapq.heappop(self._queue)
            self.now_us = max(self.now_us, when)
            action(self.now_us)
        self.now_us = max(self.now_us, until_us)

    # events

    def emit(self, topic: str, producer: str, ts: int, fields: Mapping[str, Any]) -> None:
        self._emit(topic, producer, ts, fields)

    def node_event(
        self, now_us: int, node: Node, event: str, gpu: int | None = None, by: str = "", **fields: Any
    ) -> None:
        """Send a node-event. The node's agent sends it unless ``by`` names another; a silent node's agent cannot."""
        if not by and self.is_silent(node.index):
            return
        place: dict[str, Any] = {}
        if gpu is not None:
            place = {
                "gpu_index": gpu,
                "gpu_uuid": self.fleet.uuids[node.index, gpu].tobytes(),
                "pci_address": pci_address(gpu),
            }
        rack = self.fleet.racks[node.rack].rack_id
        record = {
            "node_id": node.node_id,
            "rack": rack,
            "host_boot_id": self.boots[node.index],
            "event": event,
            "source": "operator" if by else "simulator",
            **place,
            **fields,
        }
        self.emit("node-events", by or node.node_id, now_us, record)

    # places

    def where(self, node: int) -> tuple[SliceState, int]:
        """The slice's state that holds a node, and the node's position in it."""
        return self.states[self.slice_of[node]], int(self.position_of[node])

    def is_silent(self, node: int) -> bool:
        state, position = self.where(node)
        return bool(state.silent[position])

    def silence(self, node: int, on: bool) -> None:
        """A node is silent while anything keeps it so."""
        count = self.silences.get(node, 0) + (1 if on else -1)
        self.silences[node] = count
        state, position = self.where(node)
        state.silent[position] = count > 0

    # jobs

    def start_jobs(self, now_us: int) -> None:
        """Fill every tenant's nodes with work at the start."""
        tenants = {tenant.name: tenant for tenant in self.fleet.scenario.tenants}
        if self.fleet.scenario.jobs.full_load:
            for index in range(0, len(self.fleet.nodes), 512):
                members = list(range(index, min(index + 512, len(self.fleet.nodes))))
                self.start_job(JobKind.BURN, OPERATOR, members, now_us, None)
            return
        for name, nodes in self.leased.items():
            for pool in pools(self.fleet, tenants[name], nodes):
                if pool.serving:
                    self.start_job(JobKind.SERVING, name, pool.serving, now_us, None)
                key = (name, pool.model)
                self.idle[key] = list(pool.training)
                self.pool_of.update(dict.fromkeys(pool.training, key))
                self.place_training(key, now_us)

    def place_training(self, key: tuple[str, str], now_us: int) -> None:
        """Start training jobs on a tenant's idle training nodes of one model until none is left."""
        while free := sorted(node for node in self.idle.get(key, ()) if node not in self.out):
            size = self.scheduler.training_size(len(free))
            chosen = free[:size]
            self.idle[key] = [node for node in self.idle[key] if node not in set(chosen)]
            ends = now_us + self.scheduler.training_length_us()
            job = self.start_job(JobKind.TRAINING, key[0], chosen, now_us, ends)
            self.at(ends, lambda now, job=job: self.end_job(job, now, "completed"))  # type: ignore[misc]

    def start_job(self, kind: JobKind, tenant: str, nodes: list[int], now_us: int, ends_us: int | None) -> Job:
        job = self.scheduler.start(kind, tenant, nodes, now_us, ends_us)
        self.refresh(job)
        self.emit("allocations", SCHEDULER, now_us, self.allocation(job, "started"))
        self.truth.note("job", job_id=job.job_id, kind=kind.value, tenant=tenant, nodes=len(nodes), at=now_us)
        return job

    def end_job(self, job: Job, now_us: int, reason: str) -> None:
        """End a job that still runs and, for training, start the next on its nodes after a pause."""
        if self.scheduler.jobs.get(job.job_id) is not job:
            return
        self.scheduler.end(job)
        for node in job.nodes:
            state, position = self.where(node)
            state.row[position] = 0
        self.emit("allocations", SCHEDULER, now_us, {**self.allocation(job, "ended", reason), "ended_at": now_us})
        self.truth.note("job_end", job_id=job.job_id, reason=reason, at=now_us)
        if job.kind is not JobKind.TRAINING:
            return
        keys = set()
        for node in job.nodes:
            key = self.pool_of.get(node)
            if key is not None:
                self.idle[key].append(node)
                keys.add(key)
        pause = int(self.fleet.scenario.jobs.restart_minutes * MINUTE_US)
        for key in sorted(keys):
            self.at(now_us + pause, lambda now, key=key: self.place_training(key, now))  # type: ignore[misc]

    def refresh(self, job: Job) -> None:
        """Make the job's GPUs follow its rows of the load table, and the job its slowest GPU."""
        slowest = 1.0
        for node in job.nodes:
            state, position = self.where(node)
            if node in self.out:
                state.row[position] = 0
                continue
            slow = state.slow[position]
            state.row[position] = job.row + (slow > 1.001)
            slowest = max(slowest, float(slow.max()))
        job.slowdown = slowest

    def fail_job(self, node: int, now_us: int, reason: str) -> str:
        """A fault on the node stops its job, serving excepted (its load balancer goes round); the job's id or ''."""
        job = self.scheduler.job_of.get(node)
        if job is None:
            return ""
        if job.kind is JobKind.TRAINING:
            self.end_job(job, now_us, reason)
        return job.job_id

    def take_out(self, node: int) -> None:
        """The node takes no more work until ``bring_back``; a serving or burn job goes on without it."""
        self.out[node] = self.out.get(node, 0) + 1
        state, position = self.where(node)
        state.row[position] = 0

    def bring_back(self, node: int, now_us: int) -> None:
        self.out[node] -= 1
        if self.out[node]:
            return
        del self.out[node]
        job = self.scheduler.job_of.get(node)
        if job is not None:
            self.refresh(job)
        elif (key := self.pool_of.get(node)) is not None:
            self.place_training(key, now_us)

    def allocation(self, job: Job, state: str, reason: str = "") -> dict[str, Any]:
        """Fields of an allocations event, still without an end."""
        nodes = [self.fleet.nodes[index] for index in job.nodes]
        return {
            "job_id": job.job_id,
            "state": state,
            "job_kind": job.kind.value,
            "name": f"{job.tenant} {job.kind.value}",
            "scheduler": "simulator",
            "started_at": job.started_us,
            "ended_at": None,
            "nodes": [node.node_id for node in nodes],
            "gpu_mask": [(1 << node.gpus) - 1 for node in nodes],
            "exit_reason": reason,
        }


def pci_address(gpu: int) -> str:
    """PCI address of a GPU by its index: every fourth bus from 0x1b."""
    return f"0000:{0x1B + 0x10 * gpu:02x}:00.0"
