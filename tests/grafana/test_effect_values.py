"""What new capacity did, as the board shows it, against the same worked out in Python (day.py, health.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from infra.grafana.boards.ids import Effect
from tests.grafana.asking import Asking
from tests.grafana.day import HOUR_US, MINUTE_US, Day, micros
from tests.grafana.health import Health
from tests.story import Story

pytestmark = pytest.mark.store
TENANTS = ("anthropic", "nimbus", "house")
COMPARED_HOURS = 6


@pytest.fixture(params=TENANTS)
def tenant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ask(story: Story, tenant: str) -> Asking:
    return Asking(story, tenant)


def hours_of(day: Day) -> range:
    return range(day.start, day.end, HOUR_US)


def minutes_of(hour: int) -> range:
    return range(hour, hour + HOUR_US, MINUTE_US)


def by_hour(rows: Iterable[dict[str, Any]], line: str) -> dict[int, float | None]:
    """A line of a time series."""
    return {micros(row["time"]): row[line] for row in rows}


def test_gpus_gained_over_the_hand_over(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    """Minutes before and after, with the GPUs that are away counted out."""
    at = day.story.fact["lease_handover"]["at"]
    before, after = at - HOUR_US, at + HOUR_US
    gained = health.of(tenant, [after - MINUTE_US]).accepted / 60 - health.of(tenant, [before]).accepted / 60
    assert ask.number(Effect.UID, Effect.ACCEPTED, after, hours=2) == pytest.approx(gained)


def test_gpus_gained_over_the_day(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    first, last = day.start, day.end - HOUR_US
    means = [health.of(tenant, minutes_of(hour)).accepted / 3600 for hour in (first, last)]
    assert ask.number(Effect.UID, Effect.ACCEPTED, hours=24) == pytest.approx(means[1] - means[0])


def test_tokens_of_a_gpu_hour_and_throttling_of_the_day(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    delivered = health.of(tenant, range(day.start, day.end, MINUTE_US)).healthy / 3600
    found = ask.number(Effect.UID, Effect.TOKENS_PER_GPU_HOUR, hours=24)
    assert found == pytest.approx(day.usage(tenant, "output_tokens") / delivered)
    throttled = day.usage(tenant, "throttled_requests") / day.usage(tenant, "requests")
    assert ask.number(Effect.UID, Effect.THROTTLED_SHARE, hours=24) == pytest.approx(throttled)


def test_completeness_of_the_day(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    lived = health.of(tenant, range(day.start, day.end, MINUTE_US))
    found = ask.number(Effect.UID, Effect.COMPLETENESS, hours=24)
    assert found == pytest.approx(lived.reported / lived.accepted)


def test_the_time_since_the_last_change(ask: Asking, day: Day, tenant: str) -> None:
    """At the end of the day."""
    changes = [at for held in day.leases if held.tenant == tenant for at in (held.begin, held.end) if at < day.end]
    raises = [each for each in day.story.truth.of("limit_raise") if each["tenant"] == tenant]
    changes += [each["at"] for each in raises]
    found = ask.number(Effect.UID, Effect.LAST_CHANGE, hours=24)
    assert found == (day.end - max(changes)) / 1e6


def test_accepted_and_delivered_gpus_by_hour(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    rows = ask.rows(Effect.UID, Effect.ACCEPTED_OVER_TIME, hours=24)
    lived = {hour: health.of(tenant, minutes_of(hour)) for hour in hours_of(day)}
    accepted = {hour: each.accepted / 3600 for hour, each in lived.items()}
    assert by_hour(rows, "accepted") == pytest.approx(accepted)
    delivered = {hour: each.healthy / 3600 for hour, each in lived.items()}
    assert by_hour(rows, "delivered") == pytest.approx(delivered)
    assert accepted != delivered


def test_tokens_of_a_gpu_hour_and_use_by_hour(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    lived = {hour: health.of(tenant, minutes_of(hour)) for hour in hours_of(day)}
    made = {hour: day.usage_between(tenant, "output_tokens", hour, hour + HOUR_US) for hour in hours_of(day)}
    rows = ask.rows(Effect.UID, Effect.TOKENS_PER_GPU_HOUR_OVER_TIME, hours=24)
    per_hour = {hour: made[hour] / (each.healthy / 3600) for hour, each in lived.items()}
    assert by_hour(rows, "output tokens per GPU-hour") == pytest.approx(per_hour)
    used = {hour: each.used / each.healthy for hour, each in lived.items()}
    rows = ask.rows(Effect.UID, Effect.USED, hours=24)
    assert by_hour(rows, "used of delivered") == pytest.approx(used)


def test_throttling_and_tokens_by_hour(ask: Asking, day: Day, tenant: str) -> None:
    def sums(*names: str) -> dict[int, int]:
        return {
            hour: sum(day.usage_between(tenant, name, hour, hour + HOUR_US) for name in names) for hour in hours_of(day)
        }

    requests, throttled = sums("requests"), sums("throttled_requests")
    rows = ask.rows(Effect.UID, Effect.THROTTLED_OVER_TIME, hours=24)
    assert by_hour(rows, "throttled") == pytest.approx({hour: throttled[hour] / requests[hour] for hour in requests})
    rows = ask.rows(Effect.UID, Effect.TOKENS, hours=24)
    written, read = sums("output_tokens"), sums("input_tokens", "cached_tokens")
    assert by_hour(rows, "output") == pytest.approx({hour: each / 3600 for hour, each in written.items()})
    assert by_hour(rows, "input") == pytest.approx({hour: each / 3600 for hour, each in read.items()})


def test_every_hand_over_with_what_was_before_and_after(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    expected = {}
    for held in day.leases:
        if held.tenant == tenant:
            expected[held.lease_id, "begins"] = (held.begin, len(held.nodes))
            if held.end < day.end:
                expected[held.lease_id, "ends"] = (held.end, len(held.nodes))
    rows = {(row["lease_id"], row["what"]): row for row in ask.rows(Effect.UID, Effect.HAND_OVERS, hours=24)}
    assert {key: (micros(row["at"]), row["nodes_"]) for key, row in rows.items()} == expected
    for row in rows.values():
        assert compared(row) == pytest.approx(around(day, health, tenant, micros(row["at"])))


def test_every_raise_with_what_was_before_and_after(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    raises = [each for each in day.story.truth.of("limit_raise") if each["tenant"] == tenant]
    rows = ask.rows(Effect.UID, Effect.LIMIT_RAISES, hours=24)
    found = [
        (micros(row["at"]), row["name"].startswith(each["limit"]), row["was"], row["is"])
        for each, row in zip(raises, rows, strict=True)
    ]
    assert found == [(each["at"], True, each["old"], each["new"]) for each in raises]
    for row in rows:
        assert compared(row) == pytest.approx(around(day, health, tenant, micros(row["at"])))


def compared(row: dict[str, Any]) -> dict[str, float | None]:
    """The columns before and after."""
    return {name: value for name, value in row.items() if name.endswith(("_before", "_after"))}


def around(day: Day, health: Health, tenant: str, at: int) -> dict[str, float | None]:
    """Means of the whole hours before and after the change's own, as far as the day has them."""
    hour = at // HOUR_US * HOUR_US
    spans = {
        "before": (hour - COMPARED_HOURS * HOUR_US, hour),
        "after": (hour + HOUR_US, hour + (COMPARED_HOURS + 1) * HOUR_US),
    }
    found: dict[str, float | None] = {}
    for when, (begin, end) in spans.items():
        begin, end = max(begin, day.start), min(end, day.end)
        figures: tuple[float | None, ...] = (None, None, None)
        if begin < end:
            lived = health.of(tenant, range(begin, end, MINUTE_US))
            requests, throttled, made = (
                day.usage_between(tenant, name, begin, end)
                for name in ("requests", "throttled_requests", "output_tokens")
            )
            figures = lived.accepted / ((end - begin) / 1e6), made / (lived.healthy / 3600), throttled / requests
        found |= zip((f"gpus_{when}", f"tokens_{when}", f"throttled_{when}"), figures, strict=True)
    return found


def test_a_hand_over_away_is_a_change(story: Story, day: Day) -> None:
    at = day.start + 1000 * MINUTE_US
    found = Asking(story, "anthropic").number(Effect.UID, Effect.LAST_CHANGE, at, hours=24)
    assert found == (at - story.fact["lease_handover"]["at"]) / 1e6
