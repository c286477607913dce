"""The pipeline's own board against what was sent while the story was told.

The ledger's time is the wall clock: how long an insert took nobody but the consumer knows. What it counted is known.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from infra.grafana.boards.ids import Pipeline
from tests.grafana.asking import Asking
from tests.grafana.day import MINUTE_US, Day
from tests.grafana.health import Health
from tests.story import Story

pytestmark = pytest.mark.store
NEWEST_S: Final = 300
"""Stats are of so much before the end of the range."""
STEP_S: Final = 10
"""Seconds of a point, in a range of less than hours."""
ROWS: Final = {
    "node-telemetry": "node_telemetry",
    "node-counters": "node_counters",
    "node-events": "node_events",
    "facility-telemetry": "facility_telemetry",
    "tenant-usage": "tenant_usage",
    "tenant-limits": "tenant_limits",
    "allocations": "allocations",
    "inventory": "inventory",
    "leases": "leases",
}
"""Topic -> table of its events."""


@pytest.fixture(scope="module")
def ask(story: Story) -> Asking:
    return Asking(story)


@pytest.fixture(scope="module")
def sent(story: Story) -> Counter[str]:
    """Events by topic, those of the replay among them."""
    return Counter({topic: count for topic, count in story.truth.events.items() if count}) + Counter(
        {"tenant-usage": story.replayed.events}
    )


@pytest.fixture(scope="module")
def told_s(story: Story) -> tuple[int, int]:
    """Whole seconds by the wall clock, before the first and after the last event was stored."""
    return story.told_at.from_ms // 1000, math.ceil(story.told_at.to_ms / 1000)


def hours(told_s: tuple[int, int]) -> float:
    """From a minute before it, and at least a quarter of an hour."""
    return max((told_s[1] - told_s[0] + 60) / 3600, 0.25)


def ends(told_s: tuple[int, int]) -> Iterator[int]:
    """Ends of spans of five minutes that hold all of the time, each second once."""
    begin, end = told_s
    for place in range(math.ceil((end - begin + 1) / NEWEST_S)):
        yield (begin - 1 + (place + 1) * NEWEST_S) * 1_000_000


def test_events_stored_by_topic_over_time(ask: Asking, sent: Counter[str], told_s: tuple[int, int]) -> None:
    """Events a second, times the seconds of a point."""
    rows = ask.rows(Pipeline.UID, Pipeline.EVENTS, told_s[1] * 1_000_000, hours(told_s))
    stored: Counter[str] = Counter()
    for row in rows:
        stored[row["series"]] += round(row["Value"] * STEP_S)
    assert stored == sent


def test_events_a_second_in_the_newest_minutes(ask: Asking, sent: Counter[str], told_s: tuple[int, int]) -> None:
    """Five minutes by five minutes, they add up to all that was sent; where nothing was stored it shows nothing."""
    stored = 0.0
    for at in ends(told_s):
        for row in ask.rows(Pipeline.UID, Pipeline.EVENTS_NOW, at, 0.25):
            stored += row["Events"] * NEWEST_S
    assert stored == pytest.approx(sum(sent.values()))
    assert not ask.rows(Pipeline.UID, Pipeline.EVENTS_NOW, (told_s[0] - 60) * 1_000_000, 0.25)


def test_messages_and_inserts(ask: Asking, sent: Counter[str], told_s: tuple[int, int]) -> None:
    """No message was looked up or found stored; there are fewer inserts than messages, and no insert without one."""
    at, span = told_s[1] * 1_000_000, hours(told_s)
    rows = ask.rows(Pipeline.UID, Pipeline.INSERTS, at, span)
    inserts = round(sum(row["inserts"] for row in rows) * STEP_S)
    by_topic = {row["topic"]: row["inserts"] for row in ask.rows(Pipeline.UID, Pipeline.TOPICS, at, span)}
    assert inserts == sum(by_topic.values())
    assert all(1 <= count <= sent[topic] for topic, count in by_topic.items())
    assert inserts < sum(sent.values()) / 10
    for row in ask.rows(Pipeline.UID, Pipeline.FILTERED, at, span):
        assert not row["stored already"]
    assert ask.number(Pipeline.UID, Pipeline.DEAD_LETTERS_NOW, at, span) == 0
    assert not ask.rows(Pipeline.UID, Pipeline.DEAD_LETTERS, at, span)


def test_nothing_that_is_back_filled_counts_for_freshness(ask: Asking, told_s: tuple[int, int]) -> None:
    """The day is months older than its telling: it says nothing about how fast events come through."""
    at, span = told_s[1] * 1_000_000, hours(told_s)
    assert not ask.rows(Pipeline.UID, Pipeline.FRESHNESS, at, span)
    for end in ends(told_s):
        assert not ask.rows(Pipeline.UID, Pipeline.FRESHNESS_NOW, end, 0.25)


def test_rows_of_each_table_are_the_events_sent(ask: Asking, sent: Counter[str]) -> None:
    """Without FINAL: no event was written twice."""
    stored = {row["name"]: row["stored"] for row in ask.rows(Pipeline.UID, Pipeline.PARTS)}
    assert {topic: stored[table] for topic, table in ROWS.items()} == sent


def test_disk_of_each_table_is_told_alike(ask: Asking) -> None:
    """The bars are the largest of the table's column, the largest first."""
    listed = {row["name"]: row["bytes"] for row in ask.rows(Pipeline.UID, Pipeline.PARTS)}
    bars = ask.rows(Pipeline.UID, Pipeline.STORAGE)
    assert {row["name"] for row in bars} >= {"node_telemetry", "node_counters"}
    for row in bars:
        assert row["On disk"] == listed[row["name"]]
    sizes = [row["On disk"] for row in bars]
    assert sizes == sorted(sizes, reverse=True)


def test_completeness_of_the_fleet(ask: Asking, day: Day, health: Health) -> None:
    """Of all GPUs in service, leased or not."""
    lived = health.nodes(day.nodes, range(day.start, day.end, MINUTE_US))
    found = ask.number(Pipeline.UID, Pipeline.COMPLETENESS, hours=24)
    assert found == pytest.approx(lived.reported / lived.accepted)
    assert found < 0.9995
