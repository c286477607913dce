"""What leases got and what it took, as customer and operator see it: what they bill each other by, against the same
worked out in Python (day.py, health.py)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from infra.grafana.boards.ids import Capacity, Delivered, Energy, Incidents
from tests.grafana.asking import Asking
from tests.grafana.day import HOUR_US, MINUTE_US, Day, Held, micros
from tests.grafana.health import Health, Seconds
from tests.story import Story

pytestmark = pytest.mark.store
TENANTS = ("anthropic", "nimbus", "house")


@pytest.fixture(params=TENANTS)
def tenant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ask(story: Story, tenant: str) -> Asking:
    return Asking(story, tenant)


@pytest.fixture
def operator(story: Story) -> Asking:
    return Asking(story)


@pytest.fixture(scope="module")
def stuck_at(story: Story) -> int:
    """The middle of the first time in which an agent sent nothing, its GPUs in service: nimbus has the node."""
    fact = next(story.truth.of("silent", why="agent stuck"))
    return int(fact["at"] + fact["until"]) // 2 // MINUTE_US * MINUTE_US


def minutes_of(begin: int, end: int) -> range:
    return range(begin, end, MINUTE_US)


def all_day(day: Day) -> range:
    return minutes_of(day.start, day.end)


def hours_of(day: Day) -> range:
    return range(day.start, day.end, HOUR_US)


def by_lease(day: Day, health: Health, tenant: str = "") -> dict[tuple[str, str], Seconds]:
    """What became of the GPUs of each lease and model over the day."""
    found = {}
    for held in day.leases:
        if tenant in ("", held.tenant):
            for model in sorted({model_of(day, node) for node in held.nodes}):
                found[held.lease_id, model] = health.total(all_day(day), holds(day, held, model))
    return found


def holds(day: Day, held: Held, model: str = "") -> Callable[[str, int], bool]:
    """Whether the lease has a node in a minute, and the node that model."""

    def of_lease(node: str, minute: int) -> bool:
        return node in held.nodes and held.begin <= minute < held.end and model in ("", model_of(day, node))

    return of_lease


def model_of(day: Day, node: str) -> str:
    return day.fleet.model(day.nodes[node]).name


def promises(day: Day) -> dict[str, float]:
    return {event["lease_id"]: event["sla_target"] for event in day.story.events("leases")}


def utc_days(day: Day) -> Iterator[tuple[str, int, int]]:
    """Each UTC day that the story touches, with the part of it that it has."""
    noon = datetime.fromtimestamp(day.start / 1e6, UTC)
    midnight = round(noon.replace(hour=0).timestamp() * 1e6) + 24 * HOUR_US
    for begin, end in ((day.start, midnight), (midnight, day.end)):
        yield f"{datetime.fromtimestamp(begin / 1e6, UTC):%Y-%m-%d}", begin, end


# delivered


def test_delivered_and_used_share_of_the_day(
    ask: Asking, operator: Asking, day: Day, health: Health, tenant: str
) -> None:
    lived = health.of(tenant, all_day(day))
    delivered, used = lived.healthy / lived.leased, lived.used / lived.healthy
    assert 0.9 < delivered < 0.99
    assert ask.number(Delivered.UID, Delivered.DELIVERED_SHARE, hours=24) == pytest.approx(delivered)
    assert ask.number(Delivered.UID, Delivered.USED_SHARE, hours=24) == pytest.approx(used)
    chosen = {"tenant": tenant}
    found = operator.number(Capacity.UID, Capacity.DELIVERED_SHARE, hours=24, wanted=chosen)
    assert found == pytest.approx(delivered)
    assert operator.number(Capacity.UID, Capacity.USED_SHARE, hours=24, wanted=chosen) == pytest.approx(used)
    lost = (lived.unhealthy + lived.unknown + lived.away) / 3600
    assert ask.number(Incidents.UID, Incidents.WORST, hours=24) == pytest.approx(lost)


def test_what_each_lease_got_and_was_promised(
    ask: Asking, operator: Asking, day: Day, health: Health, tenant: str
) -> None:
    expected = by_lease(day, health, tenant)
    sides = (
        ask.rows(Delivered.UID, Delivered.LEASES, hours=24),
        operator.rows(Capacity.UID, Capacity.DELIVERY, hours=24, wanted={"tenant": tenant}),
    )
    for rows in sides:
        found = {(row["lease_id"], row["gpu_model"]): row for row in rows}
        assert found.keys() == expected.keys()
        for key, lived in expected.items():
            row = found[key]
            columns = ("leased", "delivered", "used", "unhealthy", "unknown", "away", "opted")
            parts = (lived.leased, lived.healthy, lived.used, lived.unhealthy, lived.unknown, lived.away, 0.0)
            assert [row[name] * 3600 for name in columns] == pytest.approx(list(parts)), key
            promised = promises(day)[key[0]]
            share = lived.healthy / lived.leased
            assert (row["delivered_share"], row["promised"]) == pytest.approx((share, promised))
            assert row["distance"] == pytest.approx(share - promised)
        distances = [row["distance"] for row in rows]
        assert distances == sorted(distances), "the furthest below its promise first"


def test_leases_below_their_promise(operator: Asking, day: Day, health: Health) -> None:
    shares = {held.lease_id: health.total(all_day(day), holds(day, held)) for held in day.leases}
    below = [name for name, lived in shares.items() if lived.healthy / lived.leased < promises(day)[name]]
    assert below
    assert operator.number(Capacity.UID, Capacity.BELOW_TARGET, hours=24) == len(below)


def test_what_became_of_the_gpus_hour_by_hour(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    lived = {hour: health.of(tenant, minutes_of(hour, hour + HOUR_US)) for hour in hours_of(day)}
    capacity = {micros(row["time"]): row for row in ask.rows(Delivered.UID, Delivered.CAPACITY, hours=24)}
    classes = {micros(row["time"]): row for row in ask.rows(Delivered.UID, Delivered.BY_CLASS, hours=24)}
    shares = {micros(row["time"]): row for row in ask.rows(Delivered.UID, Delivered.SHARE_OVER_TIME, hours=24)}
    assert capacity.keys() == classes.keys() == shares.keys() == lived.keys()
    for hour, each in lived.items():
        found = [capacity[hour][name] * 3600 for name in ("leased", "delivered", "used")]
        assert found == pytest.approx([each.leased, each.healthy, each.used])
        found = [value * 3600 for name, value in classes[hour].items() if name != "time"]
        assert found == pytest.approx([each.healthy, each.unhealthy, each.unknown, 0.0, each.away])
        assert shares[hour]["delivered"] == pytest.approx(each.healthy / each.leased)


def test_gpu_hours_not_delivered_by_class(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    lived = health.of(tenant, all_day(day))
    rows = {row["why"]: row["GPU-hours"] * 3600 for row in ask.rows(Delivered.UID, Delivered.LOST_HOURS, hours=24)}
    parts = {"unhealthy": lived.unhealthy, "unknown": lived.unknown, "not in service": lived.away, "opted out": 0.0}
    assert rows == pytest.approx(parts)


def test_the_gpus_of_a_minute_by_class(ask: Asking, day: Day, health: Health, tenant: str, stuck_at: int) -> None:
    """While an agent is stuck, and at the day's end."""
    for at in (stuck_at, day.end):
        of = health.classes(day.nodes_of(tenant, at - MINUTE_US), at - MINUTE_US)
        gpus = sum(of.values())
        assert ask.number(Delivered.UID, Delivered.HEALTHY, at) == pytest.approx(of["healthy"] / gpus)
        assert ask.number(Delivered.UID, Delivered.UNKNOWN, at) == of["unknown"]
        assert ask.number(Incidents.UID, Incidents.UNKNOWN_NOW, at) == of["unknown"]
        assert ask.number(Incidents.UID, Incidents.LOST_NOW, at) == gpus - of["healthy"]


def test_the_gpus_of_a_minute_by_model(ask: Asking, day: Day, health: Health, tenant: str, stuck_at: int) -> None:
    for at in (stuck_at, day.end):
        nodes = day.nodes_of(tenant, at - MINUTE_US)
        rows = {row["gpu_model"]: row for row in ask.rows(Delivered.UID, Delivered.BY_MODEL, at)}
        assert rows.keys() == {model_of(day, node) for node in nodes}
        for model, row in rows.items():
            mine = {node for node in nodes if model_of(day, node) == model}
            of = health.classes(mine, at - MINUTE_US)
            assert [row[name] for name in ("healthy", "unhealthy", "unknown", "away")] == list(of.values())
            assert row["leased"] == sum(of.values())
            lived = health.nodes(mine, [at - MINUTE_US])
            assert row["used"] == pytest.approx(lived.used / lived.healthy)
            assert row["complete"] == pytest.approx(lived.reported / lived.accepted)


def test_what_the_operator_may_lease_and_has_leased(operator: Asking, day: Day, health: Health, stuck_at: int) -> None:
    """GPUs that nobody holds by model, and the healthy ones of each lease."""
    for at in (stuck_at, day.end):
        minute = at - MINUTE_US
        free: Counter[str] = Counter()
        for node in day.nodes_of("", minute):
            free[model_of(day, node)] += health.classes([node], minute)["healthy"]
        assert operator.number(Capacity.UID, Capacity.FREE, at) == sum(free.values()) > 0
        rows = operator.rows(Capacity.UID, Capacity.FREE_BY_MODEL, at)
        assert +Counter({row["gpu_model"]: row["Free and healthy"] for row in rows}) == +free
        healthy = {row["lease_id"]: row["healthy"] for row in operator.rows(Capacity.UID, Capacity.LEASES, at)}
        held = [each for each in day.leases if each.begin < at <= each.end]
        assert healthy == {each.lease_id: health.classes(each.nodes, minute)["healthy"] for each in held}


def test_a_stuck_agent_is_unknown_and_not_delivered(day: Day, health: Health, stuck_at: int) -> None:
    """So that the test above compares more than zeros."""
    assert health.classes(day.nodes_of("nimbus", stuck_at), stuck_at)["unknown"] == 8


def test_the_bill_by_utc_day(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    delivered = {row["day"]: row for row in ask.rows(Delivered.UID, Delivered.BY_DAY, hours=24)}
    energy = {row["day"]: row for row in ask.rows(Energy.UID, Energy.BY_DAY, hours=24)}
    days = list(utc_days(day))
    assert list(delivered) == list(energy) == [name for name, _, _ in reversed(days)]
    for name, begin, end in days:
        lived = health.of(tenant, minutes_of(begin, end))
        row = delivered[name]
        hours = [row[column] * 3600 for column in ("leased", "delivered", "used")]
        assert hours == pytest.approx([lived.leased, lived.healthy, lived.used])
        assert row["delivered_share"] == pytest.approx(lived.healthy / lived.leased)
        assert row["complete"] == pytest.approx(lived.reported / lived.accepted)
        row = energy[name]
        assert [row["delivered"] * 3600, row["used"] * 3600] == pytest.approx([lived.healthy, lived.used])
        joules = energy_of(day, tenant, begin, end)
        assert row["energy"] * 3.6e6 == pytest.approx(joules)
        assert row["per_hour"] == pytest.approx(joules / lived.used)


# energy


def energy_of(day: Day, tenant: str, begin: int, end: int) -> float:
    """Of the GPUs that the tenant held in each minute, by their counters."""
    return sum(
        day.energy_j(range(max(held.begin, begin), min(held.end, end), MINUTE_US), sorted(held.nodes))
        for held in day.leases
        if held.tenant == tenant and held.begin < end and held.end > begin
    )


def test_energy_of_a_gpu_hour_and_of_a_token(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    joules = energy_of(day, tenant, day.start, day.end)
    used = health.of(tenant, all_day(day)).used
    assert ask.number(Energy.UID, Energy.PER_GPU_HOUR, hours=24) == pytest.approx(joules / used)
    tokens = day.usage(tenant, "output_tokens")
    assert ask.number(Energy.UID, Energy.PER_TOKEN, hours=24) == pytest.approx(joules / tokens)


def test_energy_and_power_hour_by_hour(ask: Asking, day: Day, tenant: str) -> None:
    joules = {hour: energy_of(day, tenant, hour, hour + HOUR_US) for hour in hours_of(day)}
    rows = {micros(row["time"]): row["energy"] for row in ask.rows(Energy.UID, Energy.ENERGY_OVER_TIME, hours=24)}
    assert {hour: value * 3600 for hour, value in rows.items()} == pytest.approx(joules)
    power: dict[int, float] = defaultdict(float)
    for row in ask.rows(Energy.UID, Energy.POWER, hours=24):
        power[micros(row["time"])] += row["Value"]
    assert power == pytest.approx({hour: each / 3600 for hour, each in joules.items()})


def test_power_of_the_last_minute(ask: Asking, day: Day, tenant: str) -> None:
    watts = energy_of(day, tenant, day.end - MINUTE_US, day.end) / 60
    assert ask.number(Energy.UID, Energy.POWER_NOW) == pytest.approx(watts)


def test_energy_by_lease(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    rows = {(row["lease_id"], row["gpu_model"]): row for row in ask.rows(Energy.UID, Energy.BY_LEASE, hours=24)}
    expected = by_lease(day, health, tenant)
    assert rows.keys() == expected.keys()
    held = {each.lease_id: each for each in day.leases}
    for (lease, model), lived in expected.items():
        row, nodes = rows[lease, model], sorted(n for n in held[lease].nodes if model_of(day, n) == model)
        joules = day.energy_j(minutes_of(held[lease].begin, min(held[lease].end, day.end)), nodes)
        assert row["energy"] * 3.6e6 == pytest.approx(joules)
        assert [row["delivered"] * 3600, row["used"] * 3600] == pytest.approx([lived.healthy, lived.used])
        assert row["per_hour"] == pytest.approx(joules / lived.used)
        assert row["complete"] == pytest.approx(lived.reported / lived.accepted)
