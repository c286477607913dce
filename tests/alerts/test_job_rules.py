"""Rules about jobs: one that hangs, one that waits for a slow GPU; and what maintenance explains."""

from __future__ import annotations

from typing import Any

from infra.grafana.alerts.rules import BY_NAME
from tests.alerts.support import Bench


def test_a_hung_job_is_named(bench: Bench) -> None:
    bench.health(range(40))
    bench.job([*range(10), *range(20, 40)])
    bench.job(range(10, 20), hung=True, quiet=True)
    watch = bench.watch(BY_NAME["hung_job"]).to(9, 10)
    assert watch.states == []
    assert watch.to(11, 15).labels("job", "tenant") == [("job-1", "t")]
    assert "512 GPUs" in watch.texts[0]
    assert watch.to(21).states == ["Recovering"]
    assert watch.to(24).firing == []


def test_a_hung_job_that_ends_is_cleared(bench: Bench) -> None:
    """It vanishes from the jobs; its alert must not stay."""
    bench.health(range(60))
    bench.job(range(5, 12), hung=True, quiet=True)
    watch = bench.watch(BY_NAME["hung_job"]).to(6, 10, 13)
    assert watch.states == ["Recovering"]
    assert watch.to(16).firing == []


def test_a_straggler_is_named_within_five_minutes(bench: Bench) -> None:
    bench.health(range(60))
    slow: dict[str, Any] = {"slow_nodes": ["r1-n2"], "slow_gpus": [3], "slow_ratios": [0.85]}
    bench.job([*range(10), *range(30, 60)])
    bench.job(range(10, 30), **slow)
    bench.job([7], "job-2", slow_nodes=["r2-n1"], slow_gpus=[0], slow_ratios=[0.9])
    bench.job([9], "job-2", slow_nodes=["r2-n1"], slow_gpus=[1], slow_ratios=[0.9])
    watch = bench.watch(BY_NAME["straggler"]).to(9, 10, 11, 12)
    assert watch.told == []
    assert watch.to(13).labels("job", "node", "gpu") == [("job-1", "r1-n2", "3")]
    assert "15% below the median" in watch.texts[0]
    assert watch.to(30).states == ["Alerting"]
    assert watch.to(31).states == ["Recovering"]
    assert watch.to(41).firing == []


def test_a_job_that_waits_for_a_node_in_maintenance_does_not_hang(bench: Bench) -> None:
    bench.health(range(40))
    bench.job(range(5, 30), hung=True, quiet=True)
    for job, node in (("job-1", "r1-n2"), ("job-2", "r1-n3")):
        bench.event(
            "allocations", -60, job_id=job, state="started", started_at=int((bench.start - 3600) * 1e6), nodes=[node]
        )
    bench.event("node-events", 4, node_id="r1-n2", event="maintenance_begin")
    watch = bench.watch(BY_NAME["hung_job"]).to(6, 10)
    assert watch.told == []
    bench.event("node-events", 12, node_id="r1-n2", event="maintenance_end")
    bench.event("node-events", 12, node_id="r1-n3", event="maintenance_begin")
    assert watch.to(14).labels("job") == [("job-1",)], "another job's node"


def test_a_straggler_in_maintenance_is_none(bench: Bench) -> None:
    bench.health(range(40))
    bench.job(range(5, 40), slow_nodes=["r1-n2"], slow_gpus=[3], slow_ratios=[0.85])
    bench.event("node-events", 4, node_id="r1-n2", event="maintenance_begin")
    watch = bench.watch(BY_NAME["straggler"]).to(10, 12)
    assert watch.told == []
    bench.event("node-events", 14, node_id="r1-n2", event="maintenance_end")
    assert watch.to(16).labels("job", "node", "gpu") == [("job-1", "r1-n2", "3")]
