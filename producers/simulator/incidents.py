"""What can go wrong, how often, and what each thing does to the fleet, to its events and to the truth.

Rates are interruptions per GPU-hour of the Llama 3 405B pre-training run: counts of its table of 419 unexpected
interruptions over 21.23 million GPU-hours ("The Llama 3 Herd of Models", arXiv 2407.21783, table 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from producers.simulator.scheduler import HOUR_US, MINUTE_US
from producers.simulator.topology import Node
from producers.simulator.world import OPERATOR, World, pci_address

LLAMA3_GPU_HOURS = 21.23e6
SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Incident:
    """One thing that can go wrong. ``begin(world, now_us, node, gpu, duration_us)``; None = its usual duration."""

    name: str
    what: str
    begin: Callable[[World, int, Node, int, int | None], None]
    llama3_count: int = 0
    """Interruptions of this kind in the published run; 0 = not one of them."""

    @property
    def per_gpu_hour(self) -> float:
        return self.llama3_count / LLAMA3_GPU_HOURS


def _repair_us(world: World) -> int:
    hours = float(world.rng.gamma(2.0, world.fleet.scenario.faults.repair_hours / 2))
    return max(int(hours * HOUR_US), 10 * MINUTE_US)


def _note(world: World, name: str, now_us: int, node: Node, gpu: int | None, until_us: int | None, job: str) -> None:
    world.truth.note("fault", kind=name, node=node.node_id, gpu=gpu, at=now_us, until=until_us, job=job)


def _xid(world: World, now_us: int, node: Node, gpu: int, code: int, said: str, verdict: int, **more: Any) -> None:
    raw = f"NVRM: Xid (PCI:{pci_address(gpu)[:-2]}): {code}, {said}"
    world.node_event(
        now_us, node, "xid", gpu, code=code, recovery_action=verdict, message=said, raw=raw, attributes=more
    )
    state, position = world.where(node.index)
    if verdict:
        world.counters[state.number].gpu["recovery_action"][position, gpu] = verdict


def repair(world: World, now_us: int, node: Node, gpu: int | None, duration_us: int | None, reason: str) -> int:
    """Drain the node, repair it, reload its driver and bring it back; the time it is back."""
    length = duration_us or _repair_us(world)
    world.take_out(node.index)
    by = OPERATOR
    world.node_event(now_us, node, "lifecycle", by=by, value="draining", message=f"drained: {reason}")
    begin, back = now_us + length // 6, now_us + length

    def begin_maintenance(now: int) -> None:
        world.node_event(now, node, "maintenance_begin", gpu, by=by, message=f"repair: {reason}")
        world.node_event(now, node, "lifecycle", by=by, value="maintenance", message=f"repair: {reason}")

    def reload(now: int) -> None:
        state, position = world.where(node.index)
        found = gpu is not None and bool(state.lost[position, gpu])
        if gpu is not None:
            state.lost[position, gpu], state.resistance[position, gpu] = False, 1.0
        world.counters[state.number].driver_reload(position, None, now)
        world.node_event(now, node, "driver_reload", message="driver loaded again after repair")
        if found:
            world.node_event(now, node, "gpu_found", gpu, message="GPU answers again")

    def finish(now: int) -> None:
        world.node_event(now, node, "maintenance_end", gpu, by=by, ended_at=now, message=f"repaired: {reason}")
        world.node_event(now, node, "lifecycle", by=by, value="accepted", message="back in service")
        world.bring_back(node.index, now)

    world.at(begin, begin_maintenance)
    world.at(back - min(60 * SECOND_US, length // 12), reload)
    world.at(back, finish)
    world.truth.note("maintenance", node=node.node_id, at=begin, until=back, reason=reason)
    return back


def reset(world: World, now_us: int, node: Node, gpu: int, duration_us: int | None) -> int:
    """Reset one GPU within minutes: its driver state starts anew. The time it is back."""
    back = now_us + (duration_us or int(world.rng.uniform(3, 12) * MINUTE_US))
    world.take_out(node.index)

    def finish(now: int) -> None:
        state, position = world.where(node.index)
        world.counters[state.number].driver_reload(position, gpu, now)
        world.node_event(now, node, "driver_reload", gpu, message="GPU reset")
        world.bring_back(node.index, now)

    world.at(back, finish)
    return back


def gpu_lost(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    job = world.fail_job(node.index, now, "node_failure")
    said = "pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
    _xid(world, now, node, gpu, 79, said, 2)
    world.node_event(now, node, "gpu_lost", gpu, message="GPU does not answer")
    state, position = world.where(node.index)
    state.lost[position, gpu] = True
    until = repair(world, now, node, gpu, duration, "GPU has fallen off the bus")
    _note(world, "gpu_lost", now, node, gpu, until, job)


def hbm_dbe(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    job = world.fail_job(node.index, now, "failed")
    state, position = world.where(node.index)
    counters = world.counters[state.number].gpu
    for name in ("ecc_dbe_volatile", "ecc_dbe_aggregate", "remapped_rows_uncorrectable"):
        counters[name][position, gpu] += 1
    counters["row_remap_pending"][position, gpu] = 1
    failed = bool(world.rng.random() < 0.03)
    world.node_event(now, node, "ecc_dbe", gpu, message="uncorrectable error in device memory")
    _xid(world, now, node, gpu, 94, "pid=4711, name=python3, Contained: HBM (0x1,0x0). RST: No, D-RST: Yes", 0)
    if failed:
        counters["row_remap_failure"][position, gpu] = 1
        _xid(world, now, node, gpu, 64, "pid='<unknown>', name=<unknown>, Row Remapper: Error writing to InfoROM", 1)
        until = repair(world, now, node, gpu, duration, "row remap failed")
    else:
        _xid(
            world, now, node, gpu, 63, "pid='<unknown>', name=<unknown>, Row Remapper: New row marked for remapping", 0
        )
        world.node_event(now, node, "row_remap", gpu, message="row remap waits for a reset")
        until = reset(world, now, node, gpu, duration)
    _note(world, "hbm_dbe", now, node, gpu, until, job)


def sram_dbe(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    job = world.fail_job(node.index, now, "failed")
    state, position = world.where(node.index)
    counters = world.counters[state.number].gpu
    for name in ("ecc_dbe_volatile", "ecc_dbe_aggregate"):
        counters[name][position, gpu] += 1
    counters["ecc_sram_threshold"][position, gpu] = 1
    world.node_event(now, node, "ecc_dbe", gpu, message="uncorrectable error in SRAM")
    _xid(world, now, node, gpu, 95, "pid='<unknown>', name=<unknown>, Uncontained: L2. RST: Yes, D-RST: No", 1)
    _note(world, "sram_dbe", now, node, gpu, reset(world, now, node, gpu, duration), job)


def gsp_timeout(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    job = world.fail_job(node.index, now, "failed")
    said = "pid=4711, name=python3, Timeout after 45s of waiting for RPC response from GPU GSP!"
    _xid(world, now, node, gpu, 119, said, 1)
    _note(world, "gsp_timeout", now, node, gpu, reset(world, now, node, gpu, duration), job)


def software(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    job = world.fail_job(node.index, now, "failed")
    said = "pid=4711, name=python3, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC1 GPCCLIENT_T1_0 faulted"
    _xid(world, now, node, gpu, 31, said, 0)
    _note(world, "software", now, node, gpu, now, job)


def _nic_of(world: World, node: Node, gpu: int) -> int:
    return gpu % node.nics


def _link(world: World, now: int, node: Node, gpu: int, length: int) -> None:
    nic = _nic_of(world, node, gpu)
    state, position = world.where(node.index)
    nics = world.counters[state.number].nic
    nics["nic_link_up"][position, nic] = 0
    nics["nic_link_downed"][position, nic] += 1
    nics["nic_local_ack_timeout_err"][position, nic] += int(world.rng.integers(8, 200))
    port = {"nic": f"mlx5_{nic}/1"}
    world.node_event(now, node, "link_down", value=port["nic"], attributes=port, message="port lost its link")

    def up(then: int) -> None:
        nics["nic_link_up"][position, nic] = 1
        nics["nic_out_of_sequence"][position, nic] += int(world.rng.integers(20, 900))
        nics["nic_packet_seq_err"][position, nic] += int(world.rng.integers(5, 90))
        world.node_event(
            then, node, "link_up", value=port["nic"], attributes=port, ended_at=then, message="port has its link again"
        )

    world.at(now + length, up)


def network(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    job = world.fail_job(node.index, now, "failed")
    length = duration or int(world.rng.uniform(2, 40) * MINUTE_US)
    _link(world, now, node, gpu, length)
    _note(world, "network", now, node, gpu, now + length, job)


def link_flap(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    length = duration or int(world.rng.uniform(1, 8) * SECOND_US)
    _link(world, now, node, gpu, length)
    _note(world, "link_flap", now, node, gpu, now + length, "")


def nic(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    job = world.fail_job(node.index, now, "node_failure")
    until = repair(world, now, node, None, duration, "network adapter failed")
    _link(world, now, node, gpu, until - now - SECOND_US)
    _note(world, "nic", now, node, gpu, until, job)


def nvlink(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    job = world.fail_job(node.index, now, "failed")
    state, position = world.where(node.index)
    counters = world.counters[state.number].gpu
    counters["nvlink_links_active"][position, gpu] -= 1
    counters["nvlink_crc_data_errors"][position, gpu] += int(world.rng.integers(50, 5000))
    counters["nvlink_recovery_errors"][position, gpu] += 3
    link = int(world.rng.integers(state.shape.model.nvlinks))
    if state.shape.model.grace:
        said = f"NETIR_LINK_EVT  Fatal   XC0 i0 Link {link:02d} (0x004545c6 0x00000000 0x00000000 0x00000000)"
        _xid(world, now, node, gpu, 149, said, 1, unit="NETIR_LINK_EVT", status="0x004545c6")
    else:
        said = f"pid='<unknown>', name=<unknown>, NVLink: fatal error detected on link {link}(0x10000, 0x0)"
        _xid(world, now, node, gpu, 74, said, 1, link=str(link))
    world.node_event(now, node, "link_error", gpu, value=f"nvlink{link}", message="NVLink is down")
    until = reset(world, now, node, gpu, duration)
    links = counters["nvlink_links_active"]

    def retrained(_now: int) -> None:
        links[position, gpu] = state.shape.model.nvlinks

    world.at(until, retrained)
    _note(world, "nvlink", now, node, gpu, until, job)


def host_maintenance(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    job = world.fail_job(node.index, now, "pre-empted")
    _note(world, "host_maintenance", now, node, None, repair(world, now, node, None, duration, "host maintenance"), job)


def host(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    job = world.fail_job(node.index, now, "node_failure")
    length = duration or _repair_us(world)
    _silence(world, now, node, length - 2 * SECOND_US, "host down")
    _note(world, "host", now, node, None, repair(world, now, node, None, length, "host failed"), job)


def hang(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    """A collective that never ends: every GPU of the job spins until the watchdog ends it."""
    job = world.scheduler.job_of.get(node.index)
    length = duration or int(world.rng.uniform(8, 30) * MINUTE_US)
    name = ""
    if job is not None and job.kind.value == "training":
        job.hung, name = True, job.job_id
        world.at(now + length, lambda then: world.end_job(job, then, "hung"))
    _note(world, "hang", now, node, gpu, now + length, name)


def sdc(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    """Silent data corruption: nothing shows but a job that fails hours later."""
    job = world.scheduler.job_of.get(node.index)
    later = now + (duration or int(world.rng.uniform(1, 6) * HOUR_US))
    if job is not None and job.kind.value == "training":
        world.at(later, lambda then: world.end_job(job, then, "failed"))
    _note(world, "sdc", now, node, gpu, later, job.job_id if job else "")


def thermal(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    """Bad contact or a clogged cold plate: the GPU runs hot under load and throttles."""
    state, position = world.where(node.index)
    length = duration or int(world.rng.uniform(0.5, 3) * HOUR_US)
    state.resistance[position, gpu] = 2.6
    world.node_event(now, node, "throttle_begin", gpu, value="sw_thermal", message="clocks held down by temperature")

    def cool(then: int) -> None:
        state.resistance[position, gpu] = 1.0
        world.node_event(
            then, node, "throttle_end", gpu, value="sw_thermal", ended_at=then, message="temperature is normal again"
        )

    world.at(now + length, cool)
    _note(world, "thermal", now, node, gpu, now + length, "")


def straggler(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    """One GPU works slower than its peers: the whole synchronous job waits for it at every step."""
    state, position = world.where(node.index)
    length = duration or int(min(world.rng.exponential(20 * 60), 3 * 3600) * SECOND_US) + 2 * MINUTE_US
    slow = float(world.rng.uniform(1.25, 1.8))
    state.slow[position, gpu] = slow
    job = world.scheduler.job_of.get(node.index)
    if job is not None:
        world.refresh(job)

    def recover(_then: int) -> None:
        state.slow[position, gpu] = 1.0
        current = world.scheduler.job_of.get(node.index)
        if current is not None:
            world.refresh(current)

    world.at(now + length, recover)
    world.truth.note(
        "straggler",
        node=node.node_id,
        gpu=gpu,
        slowdown=round(slow, 3),
        at=now,
        until=now + length,
        job=job.job_id if job else "",
    )


def _silence(world: World, now: int, node: Node, length: int, why: str) -> None:
    world.silence(node.index, True)
    world.at(now + length, lambda _then: world.silence(node.index, False))
    world.truth.note("silent", node=node.node_id, at=now, until=now + length, why=why)


def silent(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    """The node's agent sends nothing: its management network or the agent itself is stuck. Its GPUs work on."""
    _silence(world, now, node, duration or int(world.rng.uniform(1, 20) * MINUTE_US), "agent stuck")


def uncontained(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    """A bad GPU's memory error that the driver could not contain: XID 95, again and again on the same GPU."""
    job = world.fail_job(node.index, now, "failed")
    state, position = world.where(node.index)
    for name in ("ecc_dbe_volatile", "ecc_dbe_aggregate"):
        world.counters[state.number].gpu[name][position, gpu] += 1
    said = "pid='<unknown>', name=<unknown>, Uncontained: LTC TAG (0x1e,0x0). RST: Yes, D-RST: No"
    _xid(world, now, node, gpu, 95, said, 1)
    _note(world, "uncontained", now, node, gpu, reset(world, now, node, gpu, duration), job)


def clock(world: World, now: int, node: Node, gpu: int, duration: int | None) -> None:
    """The host's clock runs away from its reference."""
    state, position = world.where(node.index)
    before = float(state.clock_offset[position])
    length = duration or int(world.rng.uniform(10, 60) * MINUTE_US)
    state.clock_offset[position], state.clock_synced[position] = float(world.rng.uniform(0.6, 2.0)), False

    def sync(_then: int) -> None:
        state.clock_offset[position], state.clock_synced[position] = before, True

    world.at(now + length, sync)
    _note(world, "clock", now, node, None, now + length, "")


INCIDENTS: dict[str, Incident] = {
    incident.name: incident
    for incident in (
        Incident("gpu_lost", "a GPU falls off the bus (XID 79)", gpu_lost, 148),
        Incident("hbm_dbe", "uncorrectable memory error, row remap (XID 94, 63)", hbm_dbe, 72),
        Incident("software", "an application faults (XID 31), its job ends", software, 54),
        Incident("network", "a network link is down for minutes, the job ends", network, 35),
        Incident("host_maintenance", "unplanned maintenance of the host", host_maintenance, 32),
        Incident("sram_dbe", "uncorrectable SRAM error (XID 95)", sram_dbe, 19),
        Incident("gsp_timeout", "the GPU's system processor hangs (XID 119)", gsp_timeout, 17),
        Incident("host", "a host fails: power supply, CPU, memory, disk", host, 16),
        Incident("nic", "a network adapter fails", nic, 7),
        Incident("hang", "a collective hangs: the whole job spins", hang, 7),
        Incident("sdc", "silent data corruption: only the job shows it", sdc, 6),
        Incident("thermal", "a GPU runs hot and throttles", thermal, 6),
        Incident("nvlink", "an NVLink goes down (XID 74, on GB200 149)", nvlink),
        Incident("uncontained", "uncontained memory error of a bad GPU (XID 95)", uncontained),
        Incident("straggler", "a GPU works slower than its peers", straggler),
        Incident("link_flap", "a network link flaps for seconds", link_flap),
        Incident("silent", "the node's agent sends nothing", silent),
        Incident("clock", "the host's clock is off by more than half a second", clock),
    )
}
