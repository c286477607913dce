"""Leases and limits of the tenants, and their changes: a hand-over of nodes, a raise of a limit."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from producers.simulator.scenario import Tenant
from producers.simulator.scheduler import MINUTE_US, pools
from producers.simulator.serving import Demand
from producers.simulator.workload import JobKind
from producers.simulator.world import OPERATOR, World

HANDED_OVER = 0.2
"""Share of a tenant's nodes that a hand-over moves, leased apart from the start."""
WEEK_S, FIVE_HOURS_S = 604_800, 18_000


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as its last event left it; times in microseconds since 1970, whole minutes."""

    lease_id: str
    tenant: str
    nodes: tuple[str, ...]
    valid_from: int
    valid_to: int | None = None
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Limit:
    tenant: str
    limit_name: str
    window_s: int
    product: str
    value: float


@dataclass
class Tenancy:
    """Every lease and limit that holds; ``restore`` takes over those of an earlier run."""

    world: World
    demands: dict[str, Demand]
    leases: dict[str, Lease] = field(default_factory=dict)
    limits: dict[tuple[str, str, int, str], Limit] = field(default_factory=dict)

    def grant_all(self, now_us: int) -> None:
        """Lease every tenant its nodes, in two leases so that the second can change hands, and set its limits."""
        names = [node.node_id for node in self.world.fleet.nodes]
        for tenant in self.world.fleet.scenario.tenants:
            nodes = [names[index] for index in self.world.leased[tenant.name]]
            apart = int(len(nodes) * HANDED_OVER)
            for number, part in enumerate((nodes[: len(nodes) - apart], nodes[len(nodes) - apart :]), start=1):
                if part:
                    lease = Lease(f"lease-{tenant.name}-{number}", tenant.name, tuple(part), now_us)
                    self._lease(lease, "granted", now_us, "contract")
            self._first_limits(tenant, now_us, len(nodes))

    def restore(self, leases: list[dict[str, Any]], limits: list[dict[str, Any]]) -> None:
        """Go on with the leases and limits of an earlier run; nothing is sent."""
        places = {node.node_id: node.index for node in self.world.fleet.nodes}
        held: dict[str, list[int]] = {tenant.name: [] for tenant in self.world.fleet.scenario.tenants}
        for stored in leases:
            lease = Lease(**{**stored, "nodes": tuple(stored["nodes"])})
            self.leases[lease.lease_id] = lease
            if lease.valid_to is None and lease.tenant in held:
                held[lease.tenant] += [places[name] for name in lease.nodes if name in places]
        self.world.leased = {name: sorted(nodes) for name, nodes in held.items()}
        for stored in limits:
            self._keep(Limit(**stored))

    def stored(self) -> dict[str, list[dict[str, Any]]]:
        """What ``restore`` takes."""
        return {
            "leases": [asdict(lease) for lease in self.leases.values()],
            "limits": [asdict(limit) for limit in self.limits.values()],
        }

    def hand_over(self, now_us: int) -> None:
        """End the first tenant's second lease at this whole minute and grant its nodes to the next tenant.

        Their jobs end, and the new tenant's begin. Nothing happens when there is no such lease or tenant.
        """
        world = self.world
        now_us = -(-now_us // MINUTE_US) * MINUTE_US
        tenants = world.fleet.scenario.tenants
        giver = next((le for le in self.leases.values() if le.lease_id.endswith("-2") and le.valid_to is None), None)
        taker = next((tenant for tenant in tenants if giver and tenant.name != giver.tenant), None)
        if giver is None or taker is None:
            return
        self._lease(replace(giver, valid_to=now_us, revision=giver.revision + 1), "ended", now_us, "handed over")
        number = 1 + sum(lease.tenant == taker.name for lease in self.leases.values())
        taken = Lease(f"lease-{taker.name}-{number}", taker.name, giver.nodes, now_us)
        self._lease(taken, "granted", now_us, f"taken over from {giver.lease_id}")
        places = {node.node_id: node.index for node in world.fleet.nodes}
        moved = [places[name] for name in giver.nodes]
        self._move_work(giver.tenant, taker, moved, now_us)
        world.truth.note(
            "lease_handover", at=now_us, nodes=list(giver.nodes), from_tenant=giver.tenant, to_tenant=taker.name
        )

    def raise_limit(self, now_us: int, factor: float = 1.6) -> None:
        """Raise the first tenant's limit of input tokens a minute, and with it what its users get."""
        name = self.world.fleet.scenario.tenants[0].name
        old = self.limits.get((name, "input_tokens", 60, ""))
        if old is None:
            return
        new = replace(old, value=float(math.ceil(old.value * factor)))
        self._limit(new, old.value, now_us, "raised", "more capacity arrived")
        self.world.truth.note("limit_raise", at=now_us, tenant=name, limit="input_tokens", old=old.value, new=new.value)

    def _move_work(self, giver: str, taker: Tenant, moved: list[int], now_us: int) -> None:
        world, chosen = self.world, set(moved)
        for job in [job for job in world.scheduler.jobs.values() if chosen & set(job.nodes)]:
            left = [node for node in job.nodes if node not in chosen]
            world.end_job(job, now_us, "pre-empted")
            if job.kind is JobKind.SERVING and left:
                world.start_job(JobKind.SERVING, giver, left, now_us, None)
        for node in moved:
            key = world.pool_of.pop(node, None)
            if key is not None and node in world.idle[key]:
                world.idle[key].remove(node)
        world.leased[giver] = [node for node in world.leased[giver] if node not in chosen]
        world.leased[taker.name] = sorted(world.leased[taker.name] + moved)
        for pool in pools(world.fleet, taker, moved):
            if pool.serving:
                world.start_job(JobKind.SERVING, taker.name, pool.serving, now_us, None)
            key = (taker.name, pool.model)
            world.pool_of.update(dict.fromkeys(pool.training, key))
            world.idle.setdefault(key, []).extend(pool.training)
            world.place_training(key, now_us)

    def _first_limits(self, tenant: Tenant, now_us: int, nodes: int) -> None:
        demand = self.demands[tenant.name]
        mean = demand.trace.per_second() * 60 * tenant.usage_scale
        gpus = sum(self.world.fleet.nodes[index].gpus for index in self.world.leased[tenant.name])
        watts = sum(
            self.world.fleet.nodes[index].gpus * self.world.fleet.model(self.world.fleet.nodes[index]).all_in_w
            for index in self.world.leased[tenant.name]
        )
        wanted = [
            ("input_tokens", 60, "", float(demand.input_limit)),
            ("output_tokens", 60, "", float(math.ceil(mean[2] * 1.6))),
            ("requests", 60, "", float(math.ceil(mean[0] * 1.8))),
            ("gpu_quota", 0, "", float(gpus)),
            ("power_cap", 0, "", float(round(watts))),
        ]
        for product in tenant.products:
            if product in ("pro", "max", "app"):
                share = 1 / len(tenant.products)
                wanted.append(("messages", FIVE_HOURS_S, product, float(math.ceil(mean[0] * 300 * share * 1.3))))
                wanted.append(("input_tokens", WEEK_S, product, float(math.ceil(mean[1] * 10_080 * share * 1.3))))
        for name, window, product, value in wanted:
            self._limit(Limit(tenant.name, name, window, product, value), None, now_us, "set", "contract")

    def _limit(self, limit: Limit, previous: float | None, now_us: int, action: str, reason: str) -> None:
        self._keep(limit)
        fields = {**asdict(limit), "previous_value": previous, "valid_from": now_us, "action": action, "reason": reason}
        fields["limit_value"] = fields.pop("value")
        self.world.emit("tenant-limits", OPERATOR, now_us, fields)

    def _keep(self, limit: Limit) -> None:
        self.limits[limit.tenant, limit.limit_name, limit.window_s, limit.product] = limit
        if (limit.limit_name, limit.window_s, limit.product) == (
            "input_tokens",
            60,
            "",
        ) and limit.tenant in self.demands:
            self.demands[limit.tenant].input_limit = int(limit.value)

    def _lease(self, lease: Lease, action: str, now_us: int, reason: str) -> None:
        self.leases[lease.lease_id] = lease
        tenant = next(tenant for tenant in self.world.fleet.scenario.tenants if tenant.name == lease.tenant)
        fields = {
            **asdict(lease),
            "nodes": list(lease.nodes),
            "action": action,
            "lease_kind": "reserved",
            "price_per_gpu_hour": tenant.price_per_gpu_hour,
            "sla_target": tenant.sla_target,
            "operator_reads_usage": tenant.operator_reads_usage,
            "reason": reason,
        }
        self.world.emit("leases", OPERATOR, now_us, fields)
        self.world.truth.note(
            "lease", lease_id=lease.lease_id, action=action, tenant=lease.tenant, nodes=len(lease.nodes), at=now_us
        )
