"""Health, sick GPUs, jobs and facility per minute, against the same events followed GPU by GPU in plain Python."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from consumers.audit import windows as audited
from consumers.projector import condition_passes
from consumers.projector.projector import Projector
from consumers.projector.windows import Range
from infra.embedded.store.process import StoreProcess
from tests.projector.conftest import Bench
from tests.projector.events import US, gpu_uuid

GPUS = (0, 1)


def minutes_ago(count: int) -> int:
    """Start of a minute, seconds since 1970. Recent: silence is computed up to now."""
    return (int(time.time()) // 60 - count) * 60


def placed(bench: Bench, node: str, at: int, **more: Any) -> dict[str, Any]:
    return bench.events.event(
        "inventory",
        at,
        node,
        **{
            "node_id": node,
            "asset_kind": "node",
            "rack": f"{node[0]}-rack",
            "feed": "feed-1",
            "pdu": "pdu-1",
            "coolant_loop": "cdu-1",
            "gpu_model": "H100",
            "gpu_index": list(GPUS),
            "gpu_uuid": [gpu_uuid(node, g) for g in GPUS],
            "gpu_nvlink_count": [18, 18],
            "gpu_power_limit_w": [700.0, 700.0],
            **more,
        },
    )


def minute_of(bench: Bench, node: str, at: int, **metrics: Any) -> dict[str, Any]:
    """Telemetry of a whole minute as one tick, as a back-fill has it; metrics are one value, or one per GPU."""
    per_gpu = {k: list(v) if isinstance(v, (list, tuple)) else [v] * len(GPUS) for k, v in metrics.items()}
    return bench.events.telemetry(
        node, at, ticks=1, interval_ms=60_000, rack=f"{node[0]}-rack", clock_synced=True, **per_gpu
    )


def told(bench: Bench, node: str, what: str, at: float, **more: Any) -> dict[str, Any]:
    return bench.events.event("node-events", at, node, node_id=node, event=what, host_boot_id="b1", **more)


def until_now() -> int:
    """End of the newest minute that a projector counts as closed, with its grace of 15 s.

    Asked before the projector runs: a minute that closes meanwhile need not be there.
    """
    return int((time.time() - 15) // 60 * 60)


class Model:
    """Health of the GPUs, second by second of each minute, from lists of what was sent."""

    def __init__(self, nodes: dict[str, int]) -> None:
        self.placed = nodes
        self.reported: set[tuple[str, int]] = set()
        self.faults: list[tuple[str, int, float, float]] = []
        """(node, GPU, from, to)."""
        self.absent: list[tuple[str, float, float]] = []
        self.leases: list[tuple[str, str, int]] = []
        """(node, tenant, from)."""

    def gpu_seconds(self, node: str, gpu: int, minute: int) -> dict[str, float]:
        found = dict.fromkeys(("healthy", "unhealthy", "unknown", "not_in_service"), 0.0)
        for second in range(minute, minute + 60):
            if any(n == node and a <= second < b for n, a, b in self.absent):
                found["not_in_service"] += 1
            elif any(n == node and g == gpu and a <= second < b for n, g, a, b in self.faults):
                found["unhealthy"] += 1
            else:
                found["healthy" if (node, minute) in self.reported else "unknown"] += 1
        return found

    def tenant(self, node: str, minute: int) -> str:
        return next((t for n, t, start in self.leases if n == node and minute >= start), "")

    def minutes(self, until: int) -> Iterator[tuple[tuple[int, str, str], dict[str, float]]]:
        """((minute, rack, tenant), seconds by class and GPUs) for all minutes up to now."""
        found: dict[tuple[int, str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for node, start in self.placed.items():
            for minute in range(start, until, 60):
                target = found[minute, f"{node[0]}-rack", self.tenant(node, minute)]
                for gpu in GPUS:
                    target["gpus"] += 1
                    for name, seconds in self.gpu_seconds(node, gpu, minute).items():
                        target[name] += seconds
        yield from found.items()


def assert_health(bench: Bench, model: Model, until: int) -> None:
    expected = dict(model.minutes(until))
    stored = {
        (r["start"], r["rack"], r["tenant"]): r for r in bench.windows("health_1m", f"AND ts < toDateTime({until})")
    }
    assert stored.keys() == expected.keys()
    for place, row in expected.items():
        found = stored[place]
        assert found["gpus"] == row["gpus"], place
        for name in ("healthy", "unhealthy", "unknown", "not_in_service"):
            assert found[f"{name}_s"] == row[name], (place, name)
        assert found["expected_s"] == 60 * row["gpus"] - row["not_in_service"]
        assert found["feed"] == "feed-1"


def test_every_minute_has_health_and_what_comes_late_changes_the_minutes_it_is_about(
    bench: Bench, projector: Projector
) -> None:
    t, site = minutes_ago(9), bench.events.site
    nodes = {f"{rack}{site}{i}": t for rack, i in (("a", 0), ("a", 1), ("b", 2))}
    a0, a1, b2 = nodes
    model = Model(nodes)
    lease = bench.events.event(
        "leases", t, "lease-cli", lease_id=f"L{site}", revision=1, action="granted", tenant="t", nodes=[a0, b2],
        valid_from=(t + 60) * US, valid_to=None, lease_kind="reserved", price_per_gpu_hour=1.0, currency="USD",
        sla_target=0.9, operator_reads_usage=False, reason="",
    )  # fmt: skip
    model.leases = [(a0, "t", t + 60), (b2, "t", t + 60)]
    bench.events.insert("leases", [lease])
    bench.events.insert("inventory", [placed(bench, node, t) for node in nodes])
    bench.events.insert("node-events", [told(bench, a0, "xid", t + 90, code=48, gpu_index=1)])
    model.faults = [(a0, 1, t + 90, float("inf"))]
    live = [minute_of(bench, a0, t + 60 * m, power_w=500.0, gr_engine_active=0.5) for m in range(3)]
    bench.events.insert("node-telemetry", live)
    model.reported = {(a0, t + 60 * m) for m in range(3)}
    until = until_now()
    bench.project(projector)
    assert_health(bench, model, until)
    silent = bench.windows("sick_1m", f"AND reason = 'silent' AND ts = toDateTime({t + 300})")
    assert [(r["node_id"], r["gpu_index"]) for r in silent] == [(n, g) for n in sorted(nodes) for g in GPUS]
    assert {r["node_id"]: int(r["since"].timestamp()) for r in silent if r["node_id"] == a0} == {
        a0: _local(silent[0]["since"], t + 180)
    }

    # Late: two minutes of a node that was silent, the end of the fault, and a maintenance that nobody had told of.
    late = [minute_of(bench, b2, t + 60 * m) for m in (1, 2)]
    bench.events.insert("node-telemetry", late, late_producers=[b2])
    model.reported |= {(b2, t + 60), (b2, t + 120)}
    bench.events.insert(
        "node-events",
        [
            told(bench, a0, "driver_reload", t + 200, gpu_index=1),
            told(bench, a1, "maintenance_begin", t + 130),
            told(bench, a1, "maintenance_end", t + 250),
        ],
    )
    model.faults, model.absent = [(a0, 1, t + 90, t + 200)], [(a1, t + 130, t + 250)]
    until = until_now()
    bench.project(projector)
    assert_health(bench, model, until)
    compared = bench.rows(
        f"""SELECT count() AS minutes, countIf(
    abs(h.healthy - v.healthy) + abs(h.unhealthy - v.unhealthy) + abs(h.unknown - v.unknown)
    + abs(h.absent - v.absent) + abs(h.slowdown - v.slowdown) + abs(h.fault - v.fault) > 0.001) AS different
FROM
(
    SELECT ts, sum(healthy_s) AS healthy, sum(unhealthy_s) AS unhealthy, sum(unknown_s) AS unknown,
        sum(not_in_service_s) AS absent, sum(slowdown_s) AS slowdown, sum(fault_s) AS fault
    FROM gpufleet.health_1m FINAL WHERE site = '{site}' GROUP BY ts
) AS h
INNER JOIN
(
    SELECT ts, sum(healthy_s) AS healthy, sum(unhealthy_s) AS unhealthy, sum(unknown_s) AS unknown,
        sum(not_in_service_s) AS absent, sum(slowdown_s) AS slowdown, sum(fault_s) AS fault
    FROM gpufleet.gpu_health WHERE site = '{site}' AND ts >= toDateTime({t}) GROUP BY ts
) AS v ON v.ts = h.ts"""
    )
    assert compared[0]["minutes"] >= 6
    assert compared[0]["different"] == 0, "the view that defines health says otherwise"

    window = Range(t, t + 360)
    assert [f for f in audited.compare(bench.client, window) if f.topic in ("health_1m", "sick_1m", "job_1m")] == []
    bench.client.command(
        "INSERT INTO gpufleet.health_1m (site, ts, rack, gpu_model, tenant, lease_id, gpus, healthy_s, version)"
        f" VALUES ('{site}', {t + 60}, 'a-rack', 'H100', 't', 'L{site}', 2, 1, {2**62})"
    )
    wrong = [f for f in audited.compare(bench.client, window) if f.topic == "health_1m"]
    assert len(wrong) == 1
    assert "healthy_s" in wrong[0].detail


def test_a_back_fill_from_before_the_first_look_tells_of_silent_nodes_too(
    fresh_store: StoreProcess, bench_of: Callable[[StoreProcess], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batches name who sent; a node that sent nothing for hours is in none of them, and is silent all the same."""
    monkeypatch.setattr(condition_passes, "FIRST_LOOK_S", 600)
    bench, t = bench_of(fresh_store), minutes_ago(3 * 1440)
    bench.events.insert("inventory", [placed(bench, node, t) for node in ("a0", "a1", "b0")])
    for minute in range(3):  # a batch a minute, as a slow producer makes them
        sent = [minute_of(bench, "a0", t + 60 * minute)]
        bench.events.insert("node-telemetry", sent, late_producers=["a0"], append_ts_max=datetime.now(UTC))
    projector = bench.projector()
    bench.project(projector)
    projector.close()
    window = Range(t, t + 180)
    found = bench.windows("sick_1m", f"AND reason = 'silent' AND ts < toDateTime({window.end})")
    silent = {(row["start"], row["node_id"], row["gpu_index"]) for row in found}
    assert silent == {(t + 60 * m, node, gpu) for m in range(3) for node in ("a1", "b0") for gpu in GPUS}
    health = bench.windows("health_1m", f"AND ts < toDateTime({window.end})")
    assert sum(row["gpus_unknown"] for row in health) == 3 * 2 * len(GPUS)
    assert [f for f in audited.compare(bench.client, window) if f.topic in ("health_1m", "sick_1m")] == []


def _local(since: Any, expected: int) -> int:
    """clickhouse-connect gives UTC times without a zone: read as local time, like ``timestamp()`` does."""
    return int(datetime.fromtimestamp(expected, UTC).replace(tzinfo=None).timestamp())


CLOCK = 1980.0


def test_a_straggler_is_slow_for_three_minutes_and_a_hung_job_quiet_for_five(
    bench: Bench, projector: Projector
) -> None:
    t, site = minutes_ago(10), bench.events.site
    work = [f"w{site}{i}" for i in range(3)]
    stuck, serving = f"h{site}", f"s{site}"
    bench.events.insert("inventory", [placed(bench, node, t) for node in (*work, stuck, serving)])

    def job(name: str, kind: str, nodes: list[str]) -> dict[str, Any]:
        return bench.events.event(
            "allocations", t, "sched", job_id=f"{name}-{site}", state="started", job_kind=kind, name=name,
            scheduler="slurm", started_at=t * US, ended_at=None, nodes=nodes, gpu_mask=[3] * len(nodes), exit_reason="",
        )  # fmt: skip

    bench.events.insert(
        "allocations",
        [job("train", "training", work), job("stuck", "training", [stuck]), job("web", "serving", [serving])],
    )
    events: list[dict[str, Any]] = []
    clocks: dict[int, dict[tuple[str, int], float]] = defaultdict(dict)
    for m in range(7):
        at = t + 60 * m
        for node in work:
            # GPU 1 of w1 is slow from minute 2 on; GPU 0 of w2 is slow, too, but held back by heat: that is its reason.
            pair = [CLOCK, 0.8 * CLOCK if node == work[1] and m >= 2 else CLOCK]
            pair[0] = 0.7 * CLOCK if node == work[2] else pair[0]
            clocks[at].update({(node, g): pair[g] for g in GPUS})
            events.append(
                minute_of(
                    bench, node, at, clock_sm_mhz=[int(c) for c in pair], gr_engine_active=1.0, tensor_active=0.5,
                    power_w=[600.0, 500.0], nvlink_tx_bytes_per_s=1e9,
                    clock_event_reasons=[0x20 if node == work[2] else 0, 0],
                )
            )  # fmt: skip
        for node in (stuck, serving):
            events.append(
                minute_of(
                    bench, node, at, clock_sm_mhz=1980, gr_engine_active=1.0, tensor_active=0.0, power_w=150.0,
                    nvlink_tx_bytes_per_s=0.0, nic_tx_bytes_per_s=[1000.0],
                )
            )  # fmt: skip
    held_back = [e for e in events if e["node_id"] == work[1] and e["ts"] == (t + 180) * US]
    bench.events.insert("node-telemetry", [e for e in events if e not in held_back])
    bench.project(projector)
    assert not bench.windows("sick_1m", f"AND reason = 'straggler' AND ts < toDateTime({t + 360})")
    bench.events.insert("node-telemetry", held_back, late_producers=[work[1]])
    bench.project(projector)

    rows = {(r["job_id"].split("-")[0], (r["start"] - t) // 60): r for r in bench.windows("job_1m")}
    for m in range(7):
        row = rows["train", m]
        median = statistics.median(int(clock) for clock in clocks[t + 60 * m].values())
        assert row["clock_sm_mhz_median"] == pytest.approx(median)
        assert (row["gpus"], row["gpus_reporting"], row["nodes"]) == (6, 6, 3)
        assert (row["power_w"], row["power_w_sum"]) == (550.0, 3300.0)
        assert (row["slowest_node"], row["slowest_gpu"]) == (work[2], 0)
        assert row["nvlink_tx_bytes"] == pytest.approx(6 * 60 * 1e9)
        assert list(zip(row["slow_nodes"], row["slow_gpus"], strict=True)) == ([(work[1], 1)] if m >= 2 else [])
        assert (row["straggler"], row["hung"], row["quiet"]) == (m >= 4, False, False)
        assert (rows["stuck", m]["quiet"], rows["stuck", m]["hung"]) == (True, m >= 4)
        assert rows["stuck", m]["nic_tx_bytes"] == 60_000
        assert (rows["web", m]["quiet"], rows["web", m]["hung"]) == (False, False)
    found = bench.windows("sick_1m", f"AND reason = 'straggler' AND ts < toDateTime({t + 420})")
    assert [(r["start"], r["node_id"], r["gpu_index"], r["job_id"]) for r in found] == [
        (t + 60 * m, work[1], 1, f"train-{site}") for m in (4, 5, 6)
    ]
    slow = bench.windows("sick_1m", f"AND reason = 'slowdown' AND ts = toDateTime({t + 120})")
    assert [(r["node_id"], r["gpu_index"], _seconds(r["since"])) for r in slow] == [(work[2], 0, t)]


def _seconds(value: Any) -> int:
    from datetime import UTC

    return int(value.replace(tzinfo=UTC).timestamp())


def test_what_the_slow_lane_the_clock_and_the_thermometer_say(bench: Bench, projector: Projector) -> None:
    t, node = minutes_ago(8), f"n{bench.events.site}"
    bench.events.insert("inventory", [placed(bench, node, t)])
    counters = bench.events.event(
        "node-counters", t, node, node_id=node, rack="r", gpu_model="H100", interval_ms=10_000, ticks=2,
        gpu_index=[0, 1], nvlink_links_active=[18, 18, 18, 17], recovery_action=[0, 2, 0, 0],
    )  # fmt: skip
    bench.events.insert("node-counters", [counters])
    off = {"clock_offset_s": 0.75}
    minutes = [
        {**minute_of(bench, node, t, temp_gpu_c=[93, 94]), **off},
        minute_of(bench, node, t + 60, temp_gpu_c=[93, 96]),
        minute_of(bench, node, t + 120),
        minute_of(bench, node, t + 180),
    ]
    bench.events.insert("node-telemetry", minutes)
    bench.project(projector)
    found = bench.windows("sick_1m", f"AND ts < toDateTime({t + 240})")
    assert sorted(((r["start"] - t) // 60, r["gpu_index"], r["reason"], r["action"], r["detail"]) for r in found) == [
        (0, 0, "clock_offset", "check_clock", "0.75 s off"),
        (0, 1, "clock_offset", "check_clock", "0.75 s off"),
        (0, 1, "temp_high", "check_cooling_and_power", "94 C"),
        (1, 0, "recovery_action", "reboot_node", ""),
        (1, 1, "nvlink_inactive", "check_link", "17 of 18 links"),
        (1, 1, "temp_high", "check_cooling_and_power", "96 C"),
        (2, 0, "recovery_action", "reboot_node", ""),
        (2, 1, "nvlink_inactive", "check_link", "17 of 18 links"),
    ]
    place = {(r["rack"], r["feed"], r["pdu"], r["cdu"], r["nvlink_domain"], r["gpu_model"]) for r in found}
    assert place == {("n-rack", "feed-1", "pdu-1", "cdu-1", node, "H100")}
    assert all(r["gpu_uuid"].startswith("GPU-") and len(r["gpu_uuid"]) == 40 for r in found)
    assert {_seconds(r["since"]) for r in found if r["reason"] == "temp_high"} == {t}
