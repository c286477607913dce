"""A simulated Colossus 1 in small: every cause is told once, nothing else is, and the full fleet's pages fit a night.

The short day is in the suite. ``gpufleet alerts rehearse`` runs a whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from infra.clickhouse.client import connect
from infra.embedded.store.process import StoreProcess
from infra.grafana.alerts.evaluate import Evaluator, asking
from infra.grafana.alerts.notify import Notifier
from infra.grafana.alerts.rehearsal.day import MINUTE_US, Plan, causes, project, scenario, slow_down, tell
from infra.grafana.alerts.rehearsal.rehearse import Verdict, rehearse, table, watched
from infra.grafana.alerts.rules import BY_NAME
from producers.simulator.incidents import INCIDENTS, LLAMA3_GPU_HOURS
from producers.simulator.scenario import Group, Jobs, Tenant
from producers.simulator.world import World
from tests.alerts.support import where
from tests.simulator.support import QUIET

pytestmark = [pytest.mark.store, pytest.mark.timeout(900)]
PAGES_AT_MOST = 40
"""A day, in a fleet of 220,160 GPUs."""


RANDOM = [  # (kind, minute, how long it lasts): on the fleet's nodes, one after the other
    ("gpu_lost", 14, 60),
    ("gsp_timeout", 20, 8),
    ("hbm_dbe", 36, 8),
    ("network", 44, 12),
    ("silent", 50, 12),
    ("software", 58, None),
    ("sram_dbe", 78, 9),
    ("nvlink", 88, 9),
    ("clock", 94, 15),
    ("link_flap", 98, None),
]
"""Faults beside the plan. Fixed, so that the day is the same whenever it is run."""


def with_faults(world: World, start_us: int, end_us: int) -> None:
    causes(world, start_us, end_us)

    def begin(place: int, kind: str, lasts: int | None) -> Callable[[int], None]:
        def now(now_us: int) -> None:
            sound = [node for node in world.fleet.nodes if node.index not in world.out]
            node = sound[(place * 7 + 3) % len(sound)]
            INCIDENTS[kind].begin(world, now_us, node, place % node.gpus, lasts and lasts * MINUTE_US)

        return now

    for place, (kind, minute, lasts) in enumerate(RANDOM):
        world.at(start_us + minute * MINUTE_US, begin(place, kind, lasts))


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verdict]:
    """Two hours of 24 nodes with a straggler, a feed trip, maintenance, two coolant failures, a hang, random faults."""
    from tests.conftest import migrated

    with migrated(tmp_path_factory.mktemp("day")) as store:
        client, second = connect(where(store)), connect(where(store))
        plan = Plan(hours=2, nodes=24)
        fleet = replace(scenario(plan), faults=QUIET)
        published = LLAMA3_GPU_HOURS / 419 / fleet.gpus / plan.hours
        plan = replace(plan, rate_scale=len(RANDOM) * published)
        told = tell(client, plan, datetime.now(UTC), made=fleet, queue=with_faults)
        assert project(lambda: connect(where(store)), 200)
        rules = [rule for rule in watched() if rule.pack != "leases"]
        yield rehearse(told, [asking(client), asking(second)], rules)
        client.close()
        second.close()


def test_every_cause_is_told_once(day: Verdict) -> None:
    planned = [cause.what for cause in day.causes if cause.planned]
    assert sorted(planned) == ["cdu_flow", "cdu_leak", "feed_trip", "hang", "straggler"]
    assert day.unheard == [], table(day)
    assert day.repeated == [], table(day)


def test_nothing_is_told_without_a_cause(day: Verdict) -> None:
    assert day.false == [], table(day)


def test_pages_of_the_full_fleet_fit_a_day(day: Verdict) -> None:
    pages = sorted(note.rule.name for note in day.told if note.rule.severity == "page")
    assert {"feed_trip", "cdu_flow", "cdu_leak", "hung_job"} <= set(pages)
    assert day.pages_at_full_size <= PAGES_AT_MOST, table(day)


def test_one_slow_gpu_of_512_is_named_within_five_minutes_and_no_other(fresh_store: StoreProcess) -> None:
    """64 nodes of 8 GPUs in one job; one GPU at -15 % clock from minute 15 on."""
    base = scenario(Plan())
    fleet = replace(
        base,
        groups=(Group("H100", 64),),
        tenants=(Tenant("t", 1.0, training=1.0, serving=0.0),),
        jobs=Jobs(training_nodes=(64,), training_hours=10_000.0),
        faults=QUIET,
    )
    slow: dict[str, int] = {}

    def queue(world: World, start_us: int, _end_us: int) -> None:
        slow["at"] = start_us + 15 * MINUTE_US
        world.at(slow["at"], lambda now: slow_down(world, now, now + 12 * MINUTE_US))

    client = connect(where(fresh_store))
    told = tell(client, Plan(hours=0.6, nodes=64), datetime.now(UTC), made=fleet, queue=queue)
    assert project(lambda: connect(where(fresh_store)), 200)
    (cause,) = told.truth.of("cause")
    evaluator, notifier = Evaluator(BY_NAME["straggler"], asking(client)), Notifier()
    for at in range(told.start_us // 1_000_000 + 600, told.end_us // 1_000_000, 60):
        notifier.take(evaluator, evaluator.step(at), at)
    client.close()
    named = [(note.label("node"), note.label("gpu"), note.label("job")) for note in notifier.sent]
    assert named == [(cause["node"], str(cause["gpu"]), cause["job"])]
    assert 0 < notifier.sent[0].at - slow["at"] / 1e6 <= 300
    assert "15" in notifier.sent[0].text.split("%")[0]
    assert sum(fact["what"] == "cause" for fact in told.truth.facts) == 1
