"""Every window of the story's day equals what its events say when they are all there: nothing hangs on arrival."""

from __future__ import annotations

import pytest

from consumers.audit.windows import compare
from consumers.projector.windows import HOUR_S, Range
from infra.grafana.expand import TimeRange, expand, run
from infra.grafana.query import SICK_SUMS
from tests.story import Story

pytestmark = pytest.mark.store
PART_S = 4 * HOUR_S


def test_every_window_equals_its_recomputation(story: Story) -> None:
    """The audit's comparison over the whole day: GPUs, racks, fleet, usage, health, sick GPUs, jobs, facility."""
    start, end = story.range.from_ms // 1000, story.range.to_ms // 1000
    parts = [Range(at, at + PART_S) for at in range(start, end, PART_S)]
    assert [str(finding) for part in parts for finding in compare(story.admin, part)] == []


@pytest.mark.parametrize(("late_s", "early_s"), [(0, 0), (754, 1234), (3_600, 3_600), (0, 20 * HOUR_S + 61)])
def test_sums_of_long_ranges_are_those_of_every_minute(story: Story, late_s: int, early_s: int) -> None:
    """From hours where whole ones are there, and from the minutes of the first and the last."""
    start, end = story.range.from_ms // 1000 + late_s, story.range.to_ms // 1000 - early_s
    spells = SICK_SUMS.rows("reason, minutes", fine="reason, 1 AS minutes")
    sums = f"SELECT toString(reason), sum(minutes) FROM {spells} GROUP BY reason ORDER BY reason"
    found = run(story.admin, expand(sums, TimeRange(start * 1000, end * 1000), {}, 60_000)).rows
    wanted = story.admin.query(
        "SELECT toString(reason), count() FROM gpufleet.sick_1m FINAL WHERE ts >= toDateTime({from:UInt32}, 'UTC')"
        " AND ts <= toDateTime({to:UInt32}, 'UTC') GROUP BY reason ORDER BY reason",
        parameters={"from": start, "to": end - 60},
    ).result_rows
    assert [tuple(row) for row in found] == [tuple(row) for row in wanted]
    assert early_s > HOUR_S or len(wanted) > 3
