"""Projections made again from the events: equal to what the projector keeps, and a window that is wrong is found."""

from __future__ import annotations

import time
from typing import Any

import pytest

from consumers.clock import SystemClock
from consumers.projector.projector import Projector
from consumers.rebuild import state
from consumers.rebuild.compare import Range
from consumers.rebuild.tables import PROJECTIONS, Column, Layout
from consumers.rebuild.throttle import Throttle
from consumers.rebuild.windows import WindowRebuild, WindowSettings
from infra.cli.rebuild import run
from infra.embedded.store.process import StoreProcess
from tests.consumers.running import eventually
from tests.projector.conftest import Bench, bench_on
from tests.projector.events import US
from tests.projector.test_conditions import minute_of, placed, told

pytestmark = pytest.mark.store
LAST = ("rack_1h", "sick_1m", "gpu_1h", "fleet_1h", "health_1h", "facility_1h", "usage_1m", "usage_1h", "usage_1d")
"""Tables that, with what they are computed from, are all of them."""
HOUR = int(time.time()) // 3600 * 3600 - 3600


def of(bench: Bench, table: str) -> WindowRebuild:
    given, throttle = WindowSettings(raw_days=3650), Throttle(SystemClock())
    return WindowRebuild(PROJECTIONS[table], bench.client, given, throttle, lambda sql: sql, lambda text: None)


def told_story(bench: Bench) -> list[str]:
    """Two hours of a few nodes: silence, a fault, a job that slows down, meters, usage."""
    nodes = ["a0", "a1", "b0"]
    bench.events.insert("inventory", [placed(bench, node, HOUR - 120) for node in nodes])
    bench.events.insert("node-events", [told(bench, "a1", "xid", HOUR + 90, code=48, gpu_index=1)])
    bench.events.insert(
        "allocations",
        [
            bench.events.event(
                "allocations", HOUR, "sched", job_id="job", state="started", job_kind="training", name="train",
                scheduler="slurm", started_at=HOUR * US, ended_at=None, nodes=nodes[:2], gpu_mask=[3, 3],
                exit_reason="",
            )
        ],
    )  # fmt: skip
    events = [
        minute_of(
            bench, node, HOUR + 60 * m, power_w=[300.0 + m, 0.1 * m], energy_j=[1000 * m, 777 * m],
            clock_sm_mhz=[1980, 1200 + 100 * (m % 3)], gr_engine_active=0.1 * (m % 10), tensor_active=0.3,
            nvlink_tx_bytes_per_s=1e9 / (m + 1),
        )
        for node in nodes
        for m in (*range(6), *range(57, 62))
    ]  # fmt: skip
    bench.events.insert("node-telemetry", events)
    readings = [
        bench.events.event(
            "facility-telemetry", HOUR + 30 * i, "bms", asset_id="f", asset_kind="feed", interval_ms=30_000,
            power_w=100.0 / (i + 1), energy_j=100.0 * i, state="ok",
        )
        for i in range(20)
    ]  # fmt: skip
    bench.events.insert("facility-telemetry", readings)
    usage = [
        bench.events.event(
            "tenant-usage", at, "gw", tenant="acme", workspace="w", product="api", model="m", tier="t",
            window_s=60, revision=1, requests=5 + i, input_tokens=i, output_tokens=2 * i, cached_tokens=0,
            latency_bounds_ms=[10, 100], ttft_counts=[1, 2, 3], latency_counts=[3, 2, i],
        )
        for i, at in enumerate((HOUR - 2 * 86_400, HOUR, HOUR + 60, HOUR + 3600))
    ]  # fmt: skip
    bench.events.insert("tenant-usage", usage)
    return nodes


def whole(bench: Bench, table: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in ("version", "since")} for r in bench.windows(table)]


def test_every_projection_is_equal_to_its_events_and_a_wrong_window_is_found_and_put_right(
    fresh_store: StoreProcess,
) -> None:
    bench: Bench = next(bench_on(fresh_store))
    told_story(bench)
    projector: Projector = bench.projector()
    bench.project(projector)
    before = {table: whole(bench, table) for table in PROJECTIONS}
    judged: set[str] = set()
    for last in LAST:
        work = of(bench, last)
        job = work.build(None, None)
        position = state.load_windows(bench.client, last)
        assert position is not None
        for table in {*work.names} - judged:  # what a table is computed from is computed beside it, too
            part = of(bench, table)
            state.save_windows(bench.client, table, position)
            report = part.compare(job)
            assert report.equal, (table, [(h.start, h.columns, h.examples) for h in report.differing])
            assert report.hours, table
            assert sum(h.live for h in report.hours) == sum(h.rebuilt for h in report.hours)
            judged.add(table)
            state.forget(bench.client, table)
        work.discard()
    assert judged == PROJECTIONS.keys()
    assert {table: whole(bench, table) for table in PROJECTIONS} == before, "live tables are only read"

    wrong = f"ts = toDateTime({HOUR + 120}, 'UTC')"
    for table, what, which in (
        ("gpu_1m", "power_w_sum = power_w_sum + 1", wrong),
        ("health_1m", "gpus_unhealthy = 7", wrong),
        ("usage_1m", "requests = 1000", "requests = 6"),
    ):
        bench.client.command(
            f"ALTER TABLE gpufleet.{table} UPDATE {what} WHERE {which}", settings={"mutations_sync": 2}
        )
        changed = len([row for row in whole(bench, table) if row not in before[table]])
        report = run(of(bench, table), None, None, swap=True)
        assert [(h.start, h.different) for h in report.differing] == [(HOUR, changed)]
        assert report.differing[0].columns == [what.split()[0]]
        assert report.swapped
        assert whole(bench, table) == before[table]
    beside = bench.rows("SELECT name FROM system.tables WHERE database = 'gpufleet' AND name LIKE '%\\_\\_%'")
    assert not beside
    asked = "SELECT 1 FROM gpufleet.projector_requests FINAL WHERE done_at IS NULL"
    old = f"{asked} AND to_ts <= toDateTime({HOUR + 3600}, 'UTC')"
    assert bench.rows(asked)

    def answered() -> bool:
        projector.step()
        return not bench.rows(old)

    eventually(answered, 60.0)
    assert whole(bench, "usage_1m") == before["usage_1m"]
    projector.close()


def test_a_range_in_the_middle_takes_counters_from_before_it(fresh_store: StoreProcess) -> None:
    bench: Bench = next(bench_on(fresh_store))
    nodes = told_story(bench)
    projector = bench.projector()
    bench.project(projector)
    work = of(bench, "gpu_1m")
    report = work.compare(work.build(HOUR + 3600, None))
    assert report.equal, report.hours
    assert [h.start for h in report.hours] == [HOUR + 3600]
    of_gpu_0 = f"ts = {HOUR + 3600} AND gpu_index = 0"
    rows = bench.rows(f"SELECT energy_j, count() AS n FROM gpufleet.gpu_1m__rebuild FINAL WHERE {of_gpu_0} GROUP BY 1")
    assert rows == [{"energy_j": 1000, "n": len(nodes)}], "it counts from the last counter before the range"
    projector.close()


def test_a_part_of_a_range_never_reaches_beyond_it() -> None:
    """The hour that is still going on is compared up to where windows were computed, in every statement."""
    hour = Layout("gpu_1m", (Column("ts", "DateTime('UTC')", materialized=False),), "%Y%m%d")
    assert Range(60, 120).sql(hour, 0, 3600) == Range(60, 120).sql(hour)
    assert Range(None, 120).sql(hour, 60, 3600) == Range(60, 120).sql(hour)
    assert Range().sql(hour) == "1"
