"""Requests, tokens, waiting times and caps as a customer sees them, against the usage windows as sent.

Percentiles are worked out anew from the buckets of each window: where requests lie in a bucket nobody knows, so that a
percentile is exact to the bucket, and linear within.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pytest

from infra.grafana.boards.ids import Throughput, Usage
from tests.grafana.asking import Asking
from tests.grafana.day import HOUR_US, MINUTE_US, Day, micros
from tests.story import Story

pytestmark = pytest.mark.store
TENANTS = ("anthropic", "nimbus", "house")
DRAWN_MS: Final = (100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600)
"""Bounds of the heat map's bands."""

Window = dict[str, Any]


@pytest.fixture(params=TENANTS)
def tenant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ask(story: Story, tenant: str) -> Asking:
    return Asking(story, tenant)


def hours_of(day: Day) -> range:
    return range(day.start, day.end, HOUR_US)


class Histogram:
    """Requests by upper bound; ``beyond``: above the last one."""

    def __init__(self, found: Iterator[Window], counts: str) -> None:
        self.by_bound: Counter[int] = Counter()
        self.beyond = 0
        for window in found:
            for bound, count in zip(window["latency_bounds_ms"], window[counts], strict=False):
                self.by_bound[bound] += count
            self.beyond += window[counts][-1]

    def percentile(self, q: float) -> float:
        """What lies above the last bound counts as that bound."""
        wanted = q * (sum(self.by_bound.values()) + self.beyond)
        low = passed = 0
        for bound in sorted(self.by_bound):
            count = self.by_bound[bound]
            if passed + count >= wanted:
                return low + (bound - low) * (wanted - passed) / count
            low, passed = bound, passed + count
        return low

    def bands(self, bounds: Sequence[int]) -> list[int]:
        """Requests by band, the last one for what lies above all bounds."""
        lows = (0, *bounds)
        inside = [
            sum(count for bound, count in self.by_bound.items() if low < bound <= high)
            for low, high in zip(lows, bounds, strict=False)
        ]
        above = sum(count for bound, count in self.by_bound.items() if bound > bounds[-1])
        return [*inside, above + self.beyond]


def test_the_percentile_of_the_day(ask: Asking, day: Day, tenant: str) -> None:
    waited = Histogram(day.usage_windows(tenant, day.start, day.end), "ttft_counts")
    found = ask.number(Throughput.UID, Throughput.TTFT_NOW, hours=24)
    assert found == pytest.approx(waited.percentile(0.95))
    assert 800 < found < 3200, "between two bounds of the gateway, whose median is 380 ms and more"


@pytest.mark.parametrize(
    ("panel", "counts"), [(Throughput.TTFT, "ttft_counts"), (Throughput.LATENCY, "latency_counts")]
)
def test_percentiles_hour_by_hour(ask: Asking, day: Day, tenant: str, panel: int, counts: str) -> None:
    rows = {micros(row["time"]): row for row in ask.rows(Throughput.UID, panel, hours=24)}
    assert rows.keys() == set(hours_of(day))
    for hour, row in rows.items():
        waited = Histogram(day.usage_windows(tenant, hour, hour + HOUR_US), counts)
        for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            assert row[name] == pytest.approx(waited.percentile(q)), f"{name} of {hour}"


def test_bands_of_the_heat_map(ask: Asking, day: Day, tenant: str) -> None:
    """Every request that was answered is in one of them."""
    rows = {micros(row.pop("time")): row for row in ask.rows(Throughput.UID, Throughput.TTFT_HEATMAP, hours=24)}
    assert rows.keys() == set(hours_of(day))
    for hour, row in rows.items():
        sent = list(day.usage_windows(tenant, hour, hour + HOUR_US))
        assert list(row.values()) == Histogram(iter(sent), "ttft_counts").bands(DRAWN_MS)
        answered = (each["requests"] - each["throttled_requests"] - each["failed_requests"] for each in sent)
        assert sum(row.values()) == sum(answered)


@pytest.mark.parametrize(
    ("panel", "field"), [(Throughput.REQUESTS_BY, "requests"), (Throughput.TOKENS_BY, "output_tokens")]
)
def test_requests_and_tokens_split_by_product(ask: Asking, day: Day, tenant: str, panel: int, field: str) -> None:
    expected: Counter[tuple[int, str]] = Counter()
    for event in day.usage_windows(tenant, day.start, day.end):
        expected[micros(event["ts"]) // HOUR_US * HOUR_US, event["product"]] += event[field]
    replayed = day.story.replayed
    if tenant == replayed.tenant:
        expected[micros(replayed.start), replayed.product] += getattr(replayed, field)
    rows = ask.rows(Throughput.UID, panel, hours=24, wanted={"by": "product"})
    found = {(micros(row["time"]), row["series"]): row["Value"] * 3600 for row in rows if row["Value"] is not None}
    assert found == pytest.approx(dict(expected))


def test_throttled_failed_and_cached_shares_by_hour(ask: Asking, day: Day, tenant: str) -> None:
    def total(hour: int, *names: str) -> int:
        return sum(day.usage_between(tenant, name, hour, hour + HOUR_US) for name in names)

    errors = {micros(row["time"]): row for row in ask.rows(Throughput.UID, Throughput.ERRORS, hours=24)}
    cached = {micros(row["time"]): row for row in ask.rows(Throughput.UID, Throughput.CACHED_SHARE, hours=24)}
    assert errors.keys() == cached.keys() == set(hours_of(day))
    for hour in hours_of(day):
        requests = total(hour, "requests")
        for name in ("throttled", "failed"):
            assert errors[hour][name] == pytest.approx(total(hour, f"{name}_requests") / requests)
        share = total(hour, "cached_tokens") / total(hour, "input_tokens", "cached_tokens")
        assert cached[hour]["cached"] == pytest.approx(share)


def test_each_workspace_with_its_percentiles(ask: Asking, day: Day, tenant: str) -> None:
    rows = ask.rows(Throughput.UID, Throughput.BREAKDOWN, hours=24)
    found = {row["workspace"]: row for row in rows if row["workspace"] != day.story.replayed.workspace}
    sent = list(day.usage_windows(tenant, day.start, day.end))
    assert found.keys() == {each["workspace"] for each in sent}
    for workspace, row in found.items():
        mine = [each for each in sent if each["workspace"] == workspace]
        sums = {name: sum(each[name] for each in mine) for name in mine[0] if name.endswith(("requests", "tokens"))}
        assert [row[name] for name in ("requests_", "input", "cached", "output")] == [
            sums[name] for name in ("requests", "input_tokens", "cached_tokens", "output_tokens")
        ]
        shares = sums["throttled_requests"] / sums["requests"], sums["failed_requests"] / sums["requests"]
        assert (row["throttled"], row["failed"]) == pytest.approx(shares)
        waited = Histogram(iter(mine), "ttft_counts")
        assert (row["p50"], row["p95"]) == pytest.approx((waited.percentile(0.5), waited.percentile(0.95)))
    assert [row["requests_"] for row in rows] == sorted((row["requests_"] for row in rows), reverse=True)


def test_requests_a_second_in_the_last_minute(ask: Asking, day: Day, tenant: str) -> None:
    requests = day.usage_between(tenant, "requests", day.end - MINUTE_US, day.end)
    assert ask.number(Throughput.UID, Throughput.REQUESTS_NOW) == pytest.approx(requests / 60)
    tokens = day.usage_between(tenant, "output_tokens", day.end - MINUTE_US, day.end)
    assert ask.number(Usage.UID, Usage.TOKENS_NOW) == pytest.approx(tokens / 60)


@pytest.mark.parametrize(("uid", "panel"), [(Throughput.UID, Throughput.COMPLETENESS), (Usage.UID, Usage.COMPLETENESS)])
def test_hours_and_minutes_before_the_first_usage_are_not_missing(ask: Asking, day: Day, uid: str, panel: int) -> None:
    """The newest minute may still be on its way: it is left out of both."""
    assert ask.number(uid, panel, hours=24) == 1
    assert ask.number(uid, panel, hours=30) == 1
    assert ask.number(uid, panel, day.start + HOUR_US, hours=2) == 1


@pytest.mark.parametrize(("uid", "panel"), [(Throughput.UID, Throughput.COMPLETENESS), (Usage.UID, Usage.COMPLETENESS)])
def test_hours_and_minutes_after_the_last_usage_are_missing(ask: Asking, day: Day, uid: str, panel: int) -> None:
    assert ask.number(uid, panel, day.end + HOUR_US, hours=2) == pytest.approx(60 / 119)
    assert ask.number(uid, panel, day.end + 6 * HOUR_US, hours=24) == pytest.approx(18 / 24)


# usage and caps


def test_requests_and_tokens_a_minute(ask: Asking, day: Day, tenant: str) -> None:
    requests = {micros(row["time"]): row for row in ask.rows(Usage.UID, Usage.REQUESTS, hours=24)}
    tokens = {micros(row["time"]): row for row in ask.rows(Usage.UID, Usage.TOKENS, hours=24)}
    assert requests.keys() == tokens.keys() == set(hours_of(day))
    for hour in hours_of(day):
        total = by_hour(day, tenant, hour)
        throttled, failed = total("throttled_requests"), total("failed_requests")
        ended = [requests[hour][name] * 60 for name in ("served", "throttled", "failed")]
        assert ended == pytest.approx([total("requests") - throttled - failed, throttled, failed])
        taken = [tokens[hour][name] * 60 for name in ("input", "cached input", "output")]
        assert taken == pytest.approx([total("input_tokens"), total("cached_tokens"), total("output_tokens")])


def by_hour(day: Day, tenant: str, hour: int) -> Callable[[str], int]:
    return lambda name: day.usage_between(tenant, name, hour, hour + HOUR_US)


def test_throttled_share_by_product_and_hour(ask: Asking, day: Day, tenant: str) -> None:
    requests: Counter[tuple[int, str]] = Counter()
    throttled: Counter[tuple[int, str]] = Counter()
    for event in day.usage_windows(tenant, day.start, day.end):
        key = micros(event["ts"]) // HOUR_US * HOUR_US, event["product"]
        requests[key] += event["requests"]
        throttled[key] += event["throttled_requests"]
    replayed = day.story.replayed
    if tenant == replayed.tenant:
        requests[micros(replayed.start), replayed.product] += replayed.requests
    rows = ask.rows(Usage.UID, Usage.THROTTLED, hours=24)
    found = {(micros(row["time"]), row["series"]): row["Value"] for row in rows if row["Value"] is not None}
    assert found == pytest.approx({key: throttled[key] / requests[key] for key in requests})


def test_how_full_the_minute_limits_were_by_hour(ask: Asking, day: Day, tenant: str) -> None:
    """Against the limit that was in force then: the raise at midnight is a step."""
    rows = ask.rows(Usage.UID, Usage.CAP_OVER_TIME, hours=24)
    found = {(micros(row["time"]), row["series"]): row["Value"] for row in rows}
    names = ("requests", "input_tokens", "output_tokens")
    expected = {}
    for hour in hours_of(day):
        for name in names:
            limit = minute_limit(day, tenant, name, hour)
            if limit:
                expected[hour, name] = day.usage_between(tenant, name, hour, hour + HOUR_US) / 60 / limit
    assert found == pytest.approx(expected)
    assert expected


def minute_limit(day: Day, tenant: str, name: str, at: int) -> float:
    """Of all products, models and tiers together."""
    words = [
        (micros(event["valid_from"]), float(event["limit_value"]))
        for event in day.story.events("tenant-limits")
        if event["tenant"] == tenant
        and (event["limit_name"], event["window_s"]) == (name, 60)
        and not any(event[part] for part in ("product", "model", "tier"))
        and micros(event["valid_from"]) <= at
    ]
    return max(words)[1] if words else 0.0
