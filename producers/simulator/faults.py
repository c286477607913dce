"""When things go wrong: Poisson arrivals hour by hour, at the published rates and the scenario's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from producers.simulator.incidents import INCIDENTS, Incident
from producers.simulator.randomness import generator
from producers.simulator.scheduler import HOUR_US
from producers.simulator.topology import Fleet, Node
from producers.simulator.world import World

_TRIES = 8


@dataclass(frozen=True, slots=True)
class Rate:
    """How often an incident of one kind begins in the whole fleet, and where."""

    incident: Incident
    per_hour: float
    place: Callable[[np.random.Generator], tuple[Node, int]]


def rates(fleet: Fleet) -> list[Rate]:
    """Every kind that the scenario lets happen, with its rate for the whole fleet."""
    faults = fleet.scenario.faults
    gpus = sum(node.gpus for node in fleet.nodes)
    nics = sum(node.nics for node in fleet.nodes)

    def anywhere(rng: np.random.Generator) -> tuple[Node, int]:
        node = fleet.nodes[int(rng.integers(len(fleet.nodes)))]
        return node, int(rng.integers(node.gpus))

    bad = bad_gpus(fleet)

    def among_bad(rng: np.random.Generator) -> tuple[Node, int]:
        return bad[int(rng.integers(len(bad)))]

    made = [
        Rate(incident, incident.per_gpu_hour * gpus * faults.rate_scale, anywhere)
        for incident in INCIDENTS.values()
        if incident.llama3_count
    ]
    # Part of the run's "network switch/cable" trouble is inside the NVLink domain; link errors that stop jobs there
    # come on top at a tenth of that rate.
    made.append(Rate(INCIDENTS["nvlink"], INCIDENTS["network"].per_gpu_hour * 0.1 * gpus * faults.rate_scale, anywhere))
    if bad:
        made.append(Rate(INCIDENTS["uncontained"], len(bad) * faults.bad_gpu_errors_per_day / 24, among_bad))
    made.append(Rate(INCIDENTS["straggler"], faults.stragglers_per_day_1000_gpus * gpus / 24_000, anywhere))
    made.append(Rate(INCIDENTS["silent"], faults.silent_per_day_1000_nodes * len(fleet.nodes) / 24_000, anywhere))
    made.append(Rate(INCIDENTS["link_flap"], faults.link_flaps_per_day_1000_nics * nics / 24_000, anywhere))
    made.append(Rate(INCIDENTS["clock"], 0.05 * faults.silent_per_day_1000_nodes * len(fleet.nodes) / 24_000, anywhere))
    return made


def bad_gpus(fleet: Fleet) -> list[tuple[Node, int]]:
    """The few GPUs with most of the uncontained memory errors; always the same for a seed."""
    rng = generator(fleet.scenario.seed, "bad gpus")
    count = min(fleet.scenario.faults.bad_gpus, len(fleet.nodes))
    chosen = rng.choice(len(fleet.nodes), count, replace=False)
    return [(fleet.nodes[int(index)], int(rng.integers(fleet.nodes[int(index)].gpus))) for index in chosen]


def schedule(world: World) -> None:
    """Let faults arrive from now on. Each hour's arrivals depend on the seed and the hour alone."""
    table = rates(world.fleet)
    start = world.now_us
    seed = world.fleet.scenario.seed

    def draw(now: int) -> None:
        hour = now // HOUR_US
        rng = generator(seed, "faults", hour)
        for rate in table:
            for _ in range(int(rng.poisson(rate.per_hour))):
                at = hour * HOUR_US + int(rng.uniform(0, HOUR_US))
                node, gpu = _sound(world, rate, rng)
                if at >= start:
                    world.at(at, _begin(world, rate.incident, node, gpu))
        world.at((hour + 1) * HOUR_US, draw)

    world.at(start, draw)


def _begin(world: World, incident: Incident, node: Node, gpu: int) -> Callable[[int], None]:
    return lambda now: incident.begin(world, now, node, gpu, None)


def _sound(world: World, rate: Rate, rng: np.random.Generator) -> tuple[Node, int]:
    """A place that is in service, if a few draws find one: what is broken does not break again."""
    place = rate.place(rng)
    for _ in range(_TRIES):
        if place[0].index not in world.out:
            break
        place = rate.place(rng)
    return place
