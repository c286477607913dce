"""A fact about a time long before anything was computed."""

from __future__ import annotations

from typing import Any

import pytest

from consumers.projector.conditions import Conditions
from consumers.projector.projector import Projector
from tests.projector.conftest import Bench
from tests.projector.test_conditions import minute_of, minutes_ago, placed


def test_a_job_that_claims_to_have_begun_in_1970_changes_no_minute_that_never_was(
    bench: Bench, projector: Projector
) -> None:
    t, node = minutes_ago(5), f"n{bench.events.site}"
    bench.events.insert("inventory", [placed(bench, node, t)])
    bench.events.insert("node-telemetry", [minute_of(bench, node, t + 60 * m, power_w=1.0) for m in range(3)])
    bench.project(projector)
    job = bench.events.event(
        "allocations", t + 60, "sched", job_id=f"old-{bench.events.site}", state="started", job_kind="training",
        name="old", scheduler="slurm", started_at=0, ended_at=None, nodes=[node], gpu_mask=[3], exit_reason="",
    )  # fmt: skip
    bench.events.insert("allocations", [job])
    most = 0

    def worked(recompute: Any = Conditions.since) -> Any:
        def since(self: Conditions, *args: Any, **named: Any) -> None:
            nonlocal most
            recompute(self, *args, **named)
            most = max(most, self.count())

        return since

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Conditions, "since", worked())
        bench.project(projector)
    computed = bench.client.query("SELECT count(), dateDiff('minute', min(ts), now()) FROM gpufleet.health_1m")
    assert 0 < most <= computed.result_rows[0][1] + 1
    assert [r["job_id"] for r in bench.windows("job_1m", f"AND ts = toDateTime({t + 60})")] == [job["job_id"]]
