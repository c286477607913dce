"""The story's day, worked out once for all files that compare a board with it."""

from __future__ import annotations

import pytest

from tests.grafana.day import Day
from tests.grafana.health import Health
from tests.story import Story


@pytest.fixture(scope="session")
def day(story: Story) -> Day:
    return Day(story)


@pytest.fixture(scope="session")
def health(day: Day) -> Health:
    return Health(day)
