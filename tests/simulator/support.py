"""A simulation into a list, and its messages decoded by fastavro."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fastavro

from producers.encode import Message
from producers.journal import Journal
from producers.simulator import simulation
from producers.simulator.scenario import Scenario
from producers.simulator.simulation import Simulation
from schemas import catalogue, framing

NOON_US = 1_790_000_040_000_000 // 60_000_000 * 60_000_000
"""A whole minute, some time in 2026."""


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
