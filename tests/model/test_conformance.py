"""The consumer's own parts do what the model says, along its paths."""

from __future__ import annotations

import random

import pytest

from tests.model.explore import explore
from tests.model.protocol import Protocol
from tests.model.real import RealConsumer, view_of
from tests.model.state import ALL, Part

PATHS = 250


@pytest.mark.parametrize("script", [("a0", "a1", "a0"), ("a0", "b0", "a0")], ids=" ".join)
def test_the_consumers_parts_walk_with_the_model(script: Part) -> None:
    """Shortest ways to states picked at random: the same after every step."""
    explored = explore(Protocol(script, ALL, failures=1))
    assert explored.wrong is None
    states = list(explored.parents)
    for state in random.Random(5).sample(states, PATHS):
        real, before = RealConsumer(script), states[0]
        trail: list[str] = []
        for step, after in explored.path(state):
            real.take(step, before, after)
            trail.append(step.words)
            assert real.view() == view_of(after, script), "\n".join(trail)
            before = after
