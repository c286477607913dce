"""A simulation into a list, and its messages decoded by fastavro."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro

from producers.encode import Message
from producers.journal import Journal
from producers.simulator import simulation
from producers.simulator.scenario import Faults, Jobs, Scenario, Story, load
from producers.simulator.simulation import Simulation
from schemas import catalogue, framing

HOUR_US = 3_600_000_000
NOON_US = 497_500 * HOUR_US
"""A whole hour, in October 2026."""
QUIET = Faults(
    rate_scale=0.0,
    bad_gpus=0,
    stragglers_per_day_1000_gpus=0.0,
    silent_per_day_1000_nodes=0.0,
    link_flaps_per_day_1000_nics=0.0,
)
NO_STORY = Story((), (), (), (), ())


def quiet(name: str = "small", full_load: bool = False, **changes: Any) -> Scenario:
    """A scenario in which nothing goes wrong by itself and no job ends soon."""
    scenario = load(name, nodes=changes.pop("nodes", None))
    jobs = replace(scenario.jobs, training_hours=10_000.0, full_load=full_load)
    return replace(scenario, faults=QUIET, story=NO_STORY, jobs=changes.pop("jobs", jobs), **changes)


def jobs(**values: Any) -> Jobs:
    return Jobs(training_hours=10_000.0, **values)


def simulate(scenario: Scenario, folder: Path, sink: Any = None, **options: Any) -> Simulation:
    """A simulation of the scenario with a journal in the folder."""
    journal = Journal.start(folder, scenario.site, simulation.producers(scenario), simulation.TOPICS)
    return Simulation(scenario, journal, sink or (lambda _message: None), **options)


def decoded(messages: Iterable[Message], topic: str) -> list[dict[str, Any]]:
    """The topic's events, by the schema that their framing names."""
    return [decode(message) for message in messages if message.topic == topic]


def decode(message: Message) -> dict[str, Any]:
    """One event; the whole of its value must be read."""
    schema = catalogue.by_id()[framing.schema_id(message.value)]
    datum = io.BytesIO(message.value[framing.PREFIX_BYTES :])
    record: Any = fastavro.schemaless_reader(datum, schema.parsed, schema.parsed)
    assert datum.read() == b""
    return dict(record)


def micros(event: dict[str, Any]) -> int:
    """An event's ts in microseconds since 1970."""
    stamp: float = event["ts"].timestamp()
    return round(stamp * 1e6)
