"""What a customer's boards say about the story, against the same figure worked out in Python (day.py)."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from infra.grafana.alerts.rule import Audience
from infra.grafana.alerts.rules import RULES
from infra.grafana.boards.common import ANY
from infra.grafana.boards.ids import Delivered, Energy, Incidents, Throughput, Usage
from tests.alerts.test_runbooks import commands, sql_of, text_of
from tests.grafana.asking import Asking
from tests.grafana.day import HOUR_US, MINUTE_US, Day, micros
from tests.story import Story

pytestmark = pytest.mark.store
TENANTS = ("anthropic", "nimbus", "house")


@pytest.fixture(params=TENANTS)
def tenant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ask(story: Story, tenant: str) -> Asking:
    return Asking(story, tenant)


def test_leased_gpus(ask: Asking, day: Day, tenant: str) -> None:
    for at in (day.end, day.story.fact["lease_handover"]["at"]):
        assert ask.number(Delivered.UID, Delivered.LEASED, at) == sum(day.gpus_of(tenant, at - MINUTE_US))


def test_leases_and_their_gpu_hours(ask: Asking, day: Day, tenant: str) -> None:
    hours: dict[str, float] = {}
    for row in ask.rows(Delivered.UID, Delivered.LEASES, hours=24):
        hours[row["lease_id"]] = hours.get(row["lease_id"], 0.0) + row["leased"]
    expected = {held.lease_id: day.leased_hours(held) for held in day.leases if held.tenant == tenant}
    assert hours == pytest.approx(expected)


def test_used_is_never_more_than_delivered(ask: Asking, tenant: str) -> None:
    for row in ask.rows(Delivered.UID, Delivered.LEASES, hours=24):
        assert 0 < row["used"] <= row["delivered"] <= row["leased"], f"{tenant}: {row}"


def test_how_busy_the_gpus_were_every_hour(ask: Asking, day: Day, tenant: str) -> None:
    rows = {micros(row["time"]): row for row in ask.rows(Delivered.UID, Delivered.UTILISATION, hours=25)}
    for hour in range(day.start, day.end, HOUR_US):
        busy = [
            value
            for minute in range(hour, hour + HOUR_US, MINUTE_US)
            for value in day.readings(minute, "gr_engine_active", day.nodes_of(tenant, minute))
        ]
        assert rows[hour]["engine busy"] == pytest.approx(statistics.mean(busy), rel=0.001)


def test_requests_and_tokens_by_product_with_the_replay(ask: Asking, day: Day, tenant: str) -> None:
    rows = {row["product"]: row for row in ask.rows(Usage.UID, Usage.BY_PRODUCT, hours=24)}
    [scenario] = [each for each in day.story.scenario.tenants if each.name == tenant]
    assert rows.keys() == set(scenario.products)
    for product, row in rows.items():
        for column, field in (
            ("requests_", "requests"),
            ("input", "input_tokens"),
            ("cached", "cached_tokens"),
            ("output", "output_tokens"),
        ):
            assert row[column] == day.usage(tenant, field, product), f"{product} {column}"
        throttled = day.usage(tenant, "throttled_requests", product) / day.usage(tenant, "requests", product)
        assert row["throttled"] == pytest.approx(throttled)


def test_throttled_and_failed_share(ask: Asking, day: Day, tenant: str) -> None:
    requests = day.usage(tenant, "requests")
    for panel, field in (
        (Throughput.FAILED_SHARE, "failed_requests"),
        (Throughput.THROTTLED_SHARE, "throttled_requests"),
    ):
        share = ask.number(Throughput.UID, panel, hours=24)
        assert share == pytest.approx(day.usage(tenant, field) / requests)


def test_the_replayed_log_is_a_workspace_of_its_own(story: Story) -> None:
    replayed = story.replayed
    rows = Asking(story, replayed.tenant).rows(Throughput.UID, Throughput.BREAKDOWN, hours=24)
    [row] = [row for row in rows if row["workspace"] == replayed.workspace]
    found = (row["product"], row["requests_"], row["input"], row["output"])
    assert found == (replayed.product, replayed.requests, replayed.input_tokens, replayed.output_tokens)
    for other in ("nimbus", "house"):
        rows = Asking(story, other).rows(Throughput.UID, Throughput.BREAKDOWN, hours=24)
        assert not [row for row in rows if row["workspace"] == replayed.workspace]


def test_requests_of_the_last_minute(ask: Asking, day: Day, tenant: str) -> None:
    last = day.end - MINUTE_US
    sent = [e for e in day.story.events("tenant-usage") if e["tenant"] == tenant and micros(e["ts"]) == last]
    assert ask.number(Usage.UID, Usage.REQUESTS_NOW) == sum(event["requests"] for event in sent)
    assert ask.number(Throughput.UID, Throughput.OUTPUT_NOW) == pytest.approx(
        sum(event["output_tokens"] for event in sent) / 60
    )


def test_what_is_taken_of_each_limit_in_its_window(ask: Asking, day: Day, tenant: str) -> None:
    """Every limit in force at the end, by the events as sent: usage of its window, or the last minute."""
    limits = day.limits(tenant)
    assert {"input_tokens", "gpu_quota", "power_cap"} <= {name for name, *_ in limits}
    expected: dict[tuple[Any, ...], Any] = {}
    for (name, window_s, product, model, tier), allowed in limits.items():
        of = (name, product, model, tier, allowed)
        last = day.end - MINUTE_US
        if name in day.COUNTED:
            expected[of] = pytest.approx(day.used(tenant, name, window_s, (product, model, tier)))
        elif name == "gpu_quota":
            expected[of] = sum(day.gpus_of(tenant, last))
        else:
            joules = day.energy_j(range(last, day.end, MINUTE_US), day.nodes_of(tenant, last))
            expected[of] = pytest.approx(joules / 60, rel=0.002)
    rows = ask.rows(Usage.UID, Usage.HEADROOM)
    keys = ("limit_name", "product", "model", "tier", "allowed")
    assert {tuple(row[key] for key in keys): row["used"] for row in rows} == expected
    assert len(rows) == len(limits)
    shares = [(row["limit_name"] not in day.COUNTED, -row["used_share"]) for row in rows]
    assert shares == sorted(shares), "limits of usage first, the nearest to its cap on top; then levels"
    counted = {row["used_share"] for row in rows if row["limit_name"] in day.COUNTED}
    assert ask.number(Usage.UID, Usage.NEAREST_CAP) == pytest.approx(max(counted))
    assert {row["Used"] for row in ask.rows(Usage.UID, Usage.HEADROOM_BARS)} == counted


def test_the_raised_limit_is_listed_and_drawn(story: Story) -> None:
    fact = story.fact["limit_raise"]
    ask = Asking(story, fact["tenant"])
    rows = [row for row in ask.rows(Usage.UID, Usage.LIMIT_CHANGES) if micros(row["valid_from"]) == fact["at"]]
    assert [(row["action"], row["previous_value"], row["limit_value"]) for row in rows] == [
        ("raised", fact["old"], fact["new"])
    ]
    [mark] = ask.annotation(Usage.UID, "Limit raises")
    assert micros(mark["time"]) == fact["at"]
    assert f"{fact['old']:.0f} -> {fact['new']:.0f}" in mark["text"]
    assert not Asking(story, "house").annotation(Usage.UID, "Limit raises"), "another customer sees nothing of it"


def test_energy_by_the_gpus_own_counters(ask: Asking, day: Day, tenant: str) -> None:
    joules = sum(
        day.energy_j(range(max(held.begin, day.start), min(held.end, day.end), MINUTE_US), sorted(held.nodes))
        for held in day.leases
        if held.tenant == tenant
    )
    assert ask.number(Energy.UID, Energy.ENERGY, hours=24) == pytest.approx(joules / 3600, rel=0.002)
    by_model = ask.rows(Energy.UID, Energy.BY_MODEL, hours=24)
    assert sum(row["Energy"] for row in by_model) == pytest.approx(joules / 3600, rel=0.002)


def test_the_figures_of_the_bill_by_utc_day(ask: Asking, day: Day, tenant: str) -> None:
    rows = ask.rows(Usage.UID, Usage.BY_DAY, hours=48)
    for column, field in (("requests_", "requests"), ("input", "input_tokens"), ("output", "output_tokens")):
        assert sum(row[column] for row in rows) == day.usage(tenant, field)
    energy = ask.rows(Energy.UID, Energy.BY_DAY, hours=24)
    wh = ask.number(Energy.UID, Energy.ENERGY, hours=24)
    assert sum(row["energy"] for row in energy) * 1000 == pytest.approx(wh)
    for row in energy:
        assert row["per_hour"] == pytest.approx(row["energy"] * 1000 / row["used"])


def test_completeness_of_the_day(ask: Asking, day: Day, tenant: str) -> None:
    found = ask.number(Delivered.UID, Delivered.COMPLETENESS, hours=24)
    assert found == pytest.approx(day.completeness(tenant), abs=0.0005)


def test_a_year_before_the_first_usage_is_not_missing(ask: Asking) -> None:
    for uid, panel in ((Usage.UID, Usage.COMPLETENESS), (Throughput.UID, Throughput.COMPLETENESS)):
        assert ask.number(uid, panel, hours=8766) == pytest.approx(1)
        assert ask.number(uid, panel, hours=3) == pytest.approx(1)


def test_a_year_of_incidents_is_the_days(ask: Asking) -> None:
    """The hours of sick GPUs add up to their minutes, and hold the same incidents."""
    day, year = (ask.rows(Incidents.UID, Incidents.LOST_BY_CAUSE, hours=hours) for hours in (24, 8766))
    assert {row["cause"]: row["GPU-hours"] for row in year} == {row["cause"]: row["GPU-hours"] for row in day}
    assert day
    listed = [ask.rows(Incidents.UID, Incidents.INCIDENTS, hours=hours) for hours in (24, 8766)]
    found = [{tuple(row[name] for name in ("first_", "last_", "reason", "gpus")) for row in rows} for rows in listed]
    assert found[0] == found[1]


def test_minutes_without_trouble_are_zero_and_minutes_without_data_nothing(ask: Asking, day: Day) -> None:
    at = day.start + 2 * HOUR_US
    rows = ask.rows(Incidents.UID, Incidents.SICK_OVER_TIME, at, 4, place=1)
    values = {micros(row["time"]): row[ANY] for row in rows}
    before = [value for time, value in values.items() if time < day.start]
    after = [value for time, value in values.items() if day.start <= time < at - 2 * MINUTE_US]
    assert set(before) == {None}
    assert None not in after
    assert min(after) == 0
    states = ask.rows(Incidents.UID, Incidents.BY_NODE, hours=24)
    healthy = [row for row in states if row["Value"] == 0]
    assert len(healthy) > len(states) / 2, "what was well is drawn, too"


def test_a_customer_can_run_what_its_runbooks_say(story: Story) -> None:
    client = story.tenant("anthropic")
    ran = 0
    for rule in RULES:
        if rule.audience is Audience.CUSTOMER:
            for words in commands(text_of(rule.name)):
                if words[:2] == ["gpufleet", "sql"]:
                    query, parameters = sql_of(words)
                    client.query(query, parameters=parameters)
                    ran += 1
    assert ran >= 3
