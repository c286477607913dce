"""Incidents that every back-fill shows, at fixed fractions of its time, so that there is something to find."""

from __future__ import annotations

from producers.simulator.incidents import INCIDENTS
from producers.simulator.scheduler import MINUTE_US
from producers.simulator.tenancy import Tenancy
from producers.simulator.workload import Job, JobKind
from producers.simulator.world import World


def schedule(world: World, tenancy: Tenancy, start_us: int, end_us: int) -> None:
    """Queue the scenario's story over the period: each part a (begin, end) or (at) in fractions of it."""
    story = world.fleet.scenario.story

    def at(fraction: float) -> int:
        return start_us + int((end_us - start_us) * fraction) // MINUTE_US * MINUTE_US

    if story.straggler:
        begin, end = at(story.straggler[0]), at(story.straggler[-1])
        world.at(begin, lambda now: slow_down_a_job(world, now, end))
    if story.feed_trip:
        begin_trip, end_trip = at(story.feed_trip[0]), at(story.feed_trip[-1])
        world.at(begin_trip, lambda now: trip_feed(world, now, 0, end_trip))
    if story.coolant:
        begin_cool, end_cool = at(story.coolant[0]), at(story.coolant[-1])
        world.at(begin_cool, lambda now: fail_coolant(world, now, len(world.fleet.cdus) - 1, end_cool))
    if story.lease_handover:
        world.at(at(story.lease_handover[0]), tenancy.hand_over)
    if story.limit_raise:
        world.at(at(story.limit_raise[0]), tenancy.raise_limit)


def leak_coolant(world: World, now_us: int, cdu: int, until_us: int) -> None:
    """A loop leaks and loses a third of its flow."""
    fail_coolant(world, now_us, cdu, until_us, flow=0.65, leak=True)


def slow_down_a_job(world: World, now_us: int, until_us: int) -> None:
    """A straggler in the largest training job, whose job then goes on to the end of the straggler at least."""
    training = [job for job in world.scheduler.jobs.values() if job.kind is JobKind.TRAINING]
    if not training:
        return
    job: Job = max(training, key=lambda job: (len(job.nodes), job.job_id))
    node = world.fleet.nodes[job.nodes[len(job.nodes) // 2]]
    world.truth.note("story", part="straggler", node=node.node_id, gpu=node.gpus - 1, at=now_us, until=until_us)
    INCIDENTS["straggler"].begin(world, now_us, node, node.gpus - 1, until_us - now_us)


def trip_feed(world: World, now_us: int, feed: int, until_us: int) -> None:
    """A feed trips; its partner carries its racks and brakes them to stay within its cap. Without one, they go dark."""
    plant = world.plant
    plant.feed_tripped[feed] = True
    dark = (
        [node for node in world.fleet.nodes if world.fleet.feed_of[node.index] == feed]
        if plant.carrier(feed) is None
        else []
    )
    for node in dark:
        world.silence(node.index, True)
        world.truth.note("silent", node=node.node_id, at=now_us, until=until_us, why="no power")
    world.truth.note("feed_trip", feed=world.fleet.feeds[feed], at=now_us, until=until_us)

    def restore(_now: int) -> None:
        plant.feed_tripped[feed] = False
        for node in dark:
            world.silence(node.index, False)

    world.at(until_us, restore)


def fail_coolant(world: World, now_us: int, cdu: int, until_us: int, flow: float = 0.3, leak: bool = False) -> None:
    """A loop's pump fails to a fraction of its flow, or it leaks as well: its GPUs warm up and throttle."""
    plant = world.plant
    plant.flow[cdu], plant.leak[cdu] = flow, leak
    world.truth.note("coolant", cdu=world.fleet.cdus[cdu], flow=flow, leak=leak, at=now_us, until=until_us)

    def restore(_now: int) -> None:
        plant.flow[cdu], plant.leak[cdu] = 1.0, False

    world.at(until_us, restore)
