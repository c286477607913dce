"""Which jobs run where: each tenant's leased nodes divided into serving pools, training jobs and idle nodes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from producers.simulator.randomness import generator
from producers.simulator.scenario import Scenario, Tenant
from producers.simulator.topology import Fleet
from producers.simulator.workload import Job, JobKind

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US


@dataclass(slots=True)
class Pool:
    """Nodes of one tenant and model, by use."""

    tenant: Tenant
    model: str
    training: list[int]
    serving: list[int]
    free: list[int] = field(default_factory=list)
    """Nodes of ``training`` without a job."""


class Scheduler:
    """Starts and ends jobs; keeps the rows of the load table and which job each node has."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.jobs: dict[str, Job] = {}
        self.job_of: dict[int, Job] = {}
        """Job by node index."""
        self.rows = 1
        """Rows of the load table in use, row 0 being idle."""
        self._free_rows: list[int] = []
        self._number = 0
        self._rng = generator(fleet.scenario.seed, "jobs")

    def start(self, kind: JobKind, tenant: str, nodes: list[int], now_us: int, ends_us: int | None) -> Job:
        """A new job on these nodes, which must have none."""
        scenario, rng = self.fleet.scenario, self._rng
        self._number += 1
        if self._free_rows:
            row = self._free_rows.pop()
        else:
            row, self.rows = self.rows, self.rows + 2
        job = Job(
            f"{kind.value}-{tenant}-{now_us // 1_000_000:x}-{self._number}",
            kind,
            tenant,
            sorted(nodes),
            now_us,
            ends_us,
            step_s=float(rng.uniform(*scenario.jobs.step_s)),
            compute=float(rng.uniform(*scenario.jobs.compute_share)),
            intensity=float(rng.uniform(0.94, 1.03)),
            memory=float(rng.uniform(0.72, 0.94)),
            phase=float(rng.uniform()),
            row=row,
        )
        self.jobs[job.job_id] = job
        for node in job.nodes:
            self.job_of[node] = job
        return job

    def end(self, job: Job) -> None:
        """Take the job off its nodes."""
        del self.jobs[job.job_id]
        for node in job.nodes:
            del self.job_of[node]
        self._free_rows.append(job.row)

    def training_length_us(self) -> int:
        """Length of a training job: exponential, at least ten minutes."""
        hours = float(self._rng.exponential(self.fleet.scenario.jobs.training_hours))
        return max(int(hours * HOUR_US), 10 * MINUTE_US)

    def training_size(self, available: int) -> int:
        sizes = self.fleet.scenario.jobs.training_nodes
        return min(int(sizes[int(self._rng.integers(len(sizes)))]), available)


def leased_nodes(scenario: Scenario, fleet: Fleet) -> dict[str, list[int]]:
    """Node indices per tenant: consecutive nodes of each group by the tenants' shares, in the scenario's order."""
    leased: dict[str, list[int]] = {tenant.name: [] for tenant in scenario.tenants}
    for number, _group in enumerate(scenario.groups):
        members = [node.index for node in fleet.nodes if node.group == number]
        edges = np.cumsum([0.0, *(tenant.share for tenant in scenario.tenants)]) * len(members)
        for tenant, start, end in zip(scenario.tenants, edges, edges[1:], strict=False):
            leased[tenant.name] += members[round(start) : round(end)]
    return leased


def pools(fleet: Fleet, tenant: Tenant, nodes: list[int]) -> list[Pool]:
    """A tenant's nodes per model, the first of them serving, the next training, the rest idle."""
    by_model: dict[str, list[int]] = {}
    for index in nodes:
        by_model.setdefault(fleet.model(fleet.nodes[index]).name, []).append(index)
    made = []
    for model, members in by_model.items():
        serving = round(tenant.serving * len(members))
        training = round((tenant.serving + tenant.training) * len(members))
        made.append(Pool(tenant, model, members[serving:training], members[:serving]))
    return made
