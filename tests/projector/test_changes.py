"""Windows follow what comes later: late data, resends, lease changes, revisions, restarts, rivals."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consumers.projector import requests
from consumers.projector.projector import Projector
from consumers.projector.windows import Range
from consumers.projector.worklist import Pace
from tests.projector import model
from tests.projector.conftest import Bench
from tests.projector.events import T0, US
from tests.projector.test_windows import assert_all_windows, fleet, metrics


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(T0 + seconds, UTC)


def late(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The ledger's columns for events that arrived an hour after they happened."""
    return {"append_ts_max": at(7200), "late_producers": sorted({e["producer_id"] for e in events})}


def lease(bench: Bench, revision: int, tenant: str, nodes: list[str], start: float, end: float | None) -> None:
    event = bench.events.event(
        "leases",
        T0 + revision,
        "lease-cli",
        lease_id=f"L-{bench.events.site}",
        revision=revision,
        action="granted" if revision == 1 else "corrected",
        tenant=tenant,
        nodes=nodes,
        valid_from=round((T0 + start) * US),
        valid_to=None if end is None else round((T0 + end) * US),
        lease_kind="reserved",
        price_per_gpu_hour=2.0,
        currency="USD",
        sla_target=0.99,
        operator_reads_usage=False,
        reason="",
    )
    bench.events.insert("leases", [event])


def test_late_data_moves_energy_to_the_minutes_it_belongs_to(bench: Bench, projector: Projector) -> None:
    pick = random.Random(5)
    events = fleet(bench, pick, minutes=1)
    after = [
        bench.events.telemetry(
            f"n{i}",
            T0 + 300,
            rack=f"r{i // 2}",
            gpu_model="H100" if i % 2 else "GB200",
            **metrics(pick, 10, 10_000 + 300 * 700, 9),
        )
        for i in range(3)
    ]
    bench.events.insert("node-telemetry", [*events, *after])
    bench.project(projector)
    middle = [
        bench.events.telemetry(
            "n1",
            T0 + second,
            gpus=[0, 1, 2],
            rack="r0",
            gpu_model="H100",
            **metrics(pick, 15, 10_000 + second * 700, 9),
        )
        for second in (120, 125, 180)
    ]
    bench.events.insert("node-telemetry", middle, **late(middle))
    before = {r["start"]: r["version"] for r in bench.windows("gpu_1m", "AND node_id = 'n1'")}
    bench.project(projector)
    again = {
        r["start"] for r in bench.windows("gpu_1m", "AND node_id = 'n1'") if r["version"] != before.get(r["start"])
    }
    assert again == {T0 + 120, T0 + 180, T0 + 300}, "the late minutes, and the one after them for its energy"
    assert_all_windows(bench, [*events, *after, *middle])


def test_late_events_of_one_node_keep_its_rack_mates_in_the_window(bench: Bench, projector: Projector) -> None:
    events = fleet(bench, random.Random(6), minutes=2, nodes=4)
    held_back = [e for e in events if e["producer_id"] == "n2" and e["ts"] >= (T0 + 60) * US]
    first = [e for e in events if e not in held_back]
    bench.events.insert("node-telemetry", first)
    bench.project(projector)
    assert_all_windows(bench, first)
    bench.events.insert("node-telemetry", held_back, **late(held_back))
    bench.project(projector)
    assert_all_windows(bench, events)


def test_a_resend_changes_nothing(bench: Bench, projector: Projector) -> None:
    events = fleet(bench, random.Random(7), minutes=1)
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    before = bench.windows("gpu_1m")
    bench.events.insert("node-telemetry", events[:5])
    bench.project(projector)
    volatile = {"version"}
    assert [{k: v for k, v in r.items() if k not in volatile} for r in bench.windows("gpu_1m")] == [
        {k: v for k, v in r.items() if k not in volatile} for r in before
    ]
    assert_all_windows(bench, events)


def test_a_lease_corrected_backwards_leaves_no_ghost(bench: Bench, projector: Projector) -> None:
    events = fleet(bench, random.Random(8), minutes=4)
    bench.events.insert("node-telemetry", events)
    counters = [bench.events.event("node-counters", T0 + 60 * m, "n0", **_counters("n0")) for m in range(4)]
    bench.events.insert("node-counters", counters)
    lease(bench, 1, "acme", ["n0", "n1"], 120, None)
    bench.project(projector)

    def first(node: str, ts: int) -> str:
        return "acme" if node in ("n0", "n1") and ts >= (T0 + 120) * US else ""

    assert_all_windows(bench, events, first)

    lease(bench, 2, "acme", ["n0"], 60, 180)
    steps = bench.project(projector)
    assert sum(s.rows_reassigned.get("node_telemetry", 0) for s in steps) == 12 + 12 + 24

    def corrected(node: str, ts: int) -> str:
        return "acme" if node == "n0" and (T0 + 60) * US <= ts < (T0 + 180) * US else ""

    assert_all_windows(bench, events, corrected)
    assert [r["tenant"] for r in bench.rows(_tenants(bench, "node_counters"))] == ["", "acme", "acme", ""]
    wrong = bench.rows(
        "SELECT count() AS n FROM gpufleet.node_telemetry WHERE tenant != "
        "dictGetOrDefault('gpufleet.lease_by_node', 'tenant', (site, node_id), ts, '')"
    )
    assert wrong == [{"n": 0}]


def test_a_tenant_that_takes_over_leaves_the_old_one_its_minutes(bench: Bench, projector: Projector) -> None:
    lease(bench, 1, "acme", ["n0", "n1", "n2"], 0, None)
    bench.project(projector)
    events = fleet(bench, random.Random(9), minutes=3)
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    assert_all_windows(bench, events, lambda node, ts: "acme")
    lease(bench, 2, "globex", ["n0", "n1", "n2"], 60, 120)
    bench.project(projector)
    assert_all_windows(bench, events, lambda node, ts: "globex" if T0 + 60 <= ts // US < T0 + 120 else "")


def _counters(node: str) -> dict[str, Any]:
    return {
        "node_id": node,
        "rack": "r0",
        "gpu_model": "H100",
        "interval_ms": 10_000,
        "ticks": 1,
        "gpu_index": [0],
        "ecc_sbe_volatile": [3],
    }


def _tenants(bench: Bench, table: str) -> str:
    return f"SELECT tenant FROM gpufleet.{table} WHERE site = '{bench.events.site}' ORDER BY ts"


def usage(bench: Bench, second: float, revision: int = 1, producer: str = "gw", **fields: Any) -> dict[str, Any]:
    return bench.events.event(
        "tenant-usage",
        T0 + second,
        producer,
        **{
            "tenant": "acme",
            "window_s": 60,
            "revision": revision,
            "workspace": "w",
            "product": "api",
            "model": "m",
            "tier": "standard",
            "requests": 10,
            "throttled_requests": 1,
            "failed_requests": 2,
            "input_tokens": 1000,
            "cached_tokens": 50,
            "output_tokens": 300,
            "latency_bounds_ms": [100, 1000],
            "ttft_counts": [4, 5, 1],
            "latency_counts": [],
            "source": "test",
            **fields,
        },
    )


def assert_usage(bench: Bench, events: list[dict[str, Any]]) -> None:
    for table, window_s in (("usage_1m", 60), ("usage_1h", 3600), ("usage_1d", 86_400)):
        expected = model.usage(events, window_s)
        stored = {
            (r["start"], r["tenant"], r["workspace"], r["product"], r["model"], r["tier"]): r
            for r in bench.windows(table)
        }
        assert stored.keys() == expected.keys(), table
        for place, row in expected.items():
            for name, value in row.items():
                if name not in ("ttft", "bounds"):
                    assert stored[place][name] == value, (table, name)
            bounds = sorted(row["bounds"])
            assert list(stored[place]["latency_bounds_ms"]) == bounds
            counts = [row["ttft"][b] for b in (*bounds, float("inf"))] if row["ttft"] else []
            assert list(stored[place]["ttft_counts"]) == counts
            assert list(stored[place]["latency_counts"]) == []


def test_usage_windows_sum_the_highest_revision(bench: Bench, projector: Projector) -> None:
    midnight = (T0 // 86_400 + 1) * 86_400 - T0
    events = [
        usage(bench, 0),
        usage(bench, 60, requests=7),
        usage(bench, 60, workspace="other", ttft_counts=[]),
        usage(bench, 60, producer="gw2", requests=5),
        usage(bench, 0, window_s=3600, tier="batch", ttft_counts=[0, 0, 3]),
        usage(bench, 7200, latency_bounds_ms=[50, 100], ttft_counts=[1, 0, 0]),
        usage(bench, 7260),
        usage(bench, midnight - 60),
        usage(bench, midnight),
    ]
    bench.events.insert("tenant-usage", events)
    bench.project(projector)
    assert_usage(bench, events)
    corrections = [
        usage(bench, 0, revision=3, requests=100),
        usage(bench, 0, revision=2, requests=50),
        usage(bench, midnight - 60, revision=2, requests=0, ttft_counts=[0, 0, 0]),
    ]
    bench.events.insert("tenant-usage", corrections)
    bench.project(projector)
    assert_usage(bench, [*events, *corrections])


def test_the_open_minute_is_live_and_its_gpus_wait_for_its_end(bench: Bench) -> None:
    projector = bench.projector(pace=Pace(grace_s=3.0, quiet_s=0.0, patience_s=0.0))
    now = int(datetime.now(UTC).timestamp())
    minute = now // 60 * 60
    if now - minute > 20:
        minute += 60  # events may be a little ahead
    events = [bench.events.telemetry("n1", minute, power_w=[250.0] * 10)]
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    assert [r["power_w_sum"] for r in bench.windows("fleet_10s")] == [2500.0]
    assert [r["power_w_sum"] for r in bench.windows("rack_1m")] == [2500.0]
    assert bench.windows("gpu_1m") == []
    more = [bench.events.telemetry("n1", minute + 5, power_w=[350.0] * 10)]
    bench.events.insert("node-telemetry", more)
    bench.project(projector)
    assert [r["power_w_sum"] for r in bench.windows("fleet_10s")] == [6000.0]
    step = projector.step()
    assert step.open_windows >= 1
    assert step.overdue == 0
    projector.close()


def test_a_projector_that_died_is_continued_by_the_next(bench: Bench) -> None:
    class Killed(BaseException):
        pass

    events = fleet(bench, random.Random(10), minutes=3)
    bench.events.insert("node-telemetry", events)
    for statement in (1, 2, 4, 7, 9):
        projector = bench.projector(owner=f"mortal-{bench.events.site}")
        connect, left = projector._connect, [statement]

        def dying(connect: Any = connect, left: list[int] = left) -> Any:
            store = connect()
            command = store.command

            def until_death(cmd: str, **more: Any) -> Any:
                if cmd.startswith("INSERT INTO gpufleet.") and "projector_" not in cmd.split("(")[0]:
                    left[0] -= 1
                    if left[0] == 0:
                        raise Killed
                return command(cmd, **more)

            store.command = until_death
            return store

        projector._connect = dying
        with pytest.raises(Killed):
            bench.project(projector)
    survivor = bench.projector(owner=f"mortal-{bench.events.site}")
    bench.project(survivor)
    survivor.close()
    assert_all_windows(bench, events)


def test_two_projectors_at_once_share_nothing_but_the_result(bench: Bench) -> None:
    events = fleet(bench, random.Random(11), minutes=3)
    half = len(events) // 2
    stop = threading.Event()
    owners: dict[str, int] = {"a": 0, "b": 0}
    threads = []
    for name in owners:
        projector = bench.projector(owner=name, every_s=0.05)
        inner = projector.step

        def counted(inner: Callable[[], Any] = inner, name: str = name) -> Any:
            step = inner()
            owners[name] += bool(step.windows)
            return step

        projector.step = counted  # type: ignore[method-assign]
        threads.append(threading.Thread(target=projector.run, args=(stop,)))
    for thread in threads:
        thread.start()
    bench.events.insert("node-telemetry", events[:half])
    bench.events.insert("node-telemetry", events[half:])
    try:
        for _ in range(1_200):
            done = {r["start"] for r in bench.windows("gpu_1h")}
            samples = sum(r["samples"] for r in bench.windows("gpu_1h"))
            if done and samples == sum(len(e["gpu_index"]) * 5 for e in events):
                break
            stop.wait(0.1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert 0 in owners.values(), "one works, the other waits"
    assert_all_windows(bench, events)


def test_a_range_can_be_asked_for(bench: Bench, projector: Projector) -> None:
    events = fleet(bench, random.Random(12), minutes=2)
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    site = bench.events.site
    for table in ("gpu_1m", "rack_10s", "fleet_10s", "rack_1m", "gpu_1h"):
        bench.client.command(f"ALTER TABLE gpufleet.{table} DELETE WHERE site = '{site}' SETTINGS mutations_sync = 2")
    requests.ask(bench.client, Range(T0, T0 + 120), None, "test")
    bench.project(projector)
    assert_all_windows(bench, events)
    assert requests.unanswered(bench.client) == []


def test_windows_older_than_the_raw_events_stay_as_they_are(bench: Bench) -> None:
    projector = bench.projector(raw_days=2)
    old = int((datetime.now(UTC) - timedelta(days=3)).timestamp()) // 60 * 60
    events = [bench.events.telemetry("n1", old, power_w=[1.0] * 10)]
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    projector.close()
    assert bench.windows("gpu_1m") == []
