"""Every window of the story's day equals what its events say when they are all there: nothing hangs on arrival."""

from __future__ import annotations

import pytest

from consumers.audit.windows import compare
from consumers.projector.windows import HOUR_S, Range
from tests.story import Story

pytestmark = pytest.mark.store
PART_S = 4 * HOUR_S


def test_every_window_equals_its_recomputation(story: Story) -> None:
    """The audit's comparison over the whole day: GPUs, racks, fleet, usage, health, sick GPUs, jobs, facility."""
    start, end = story.range.from_ms // 1000, story.range.to_ms // 1000
    parts = [Range(at, at + PART_S) for at in range(start, end, PART_S)]
    assert [str(finding) for part in parts for finding in compare(story.admin, part)] == []
