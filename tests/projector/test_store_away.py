"""Windows follow a store that goes away, comes back, and may have forgotten what it took last."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from consumers.projector import ledger
from infra.embedded.store.process import StoreProcess
from tests.consumers.running import eventually
from tests.projector.conftest import Bench
from tests.projector.test_windows import assert_all_windows, fleet


def test_the_store_may_go_away_and_come_back(fresh_store: StoreProcess, bench_of: Callable[..., Bench]) -> None:
    bench = bench_of(fresh_store)
    events = fleet(bench, random.Random(14), minutes=2)
    half = len(events) // 2
    stop = threading.Event()
    projector = bench.projector(owner="steady", every_s=0.1)
    thread = threading.Thread(target=projector.run, args=(stop,))
    thread.start()
    try:
        bench.events.insert("node-telemetry", events[:half])
        fresh_store.kill()
        fresh_store.start()
        bench.events.insert("node-telemetry", events[half:])
        wanted = sum(len(e["gpu_index"]) * 5 for e in events)
        newest = bench.rows("SELECT max(toUnixTimestamp64Micro(at)) AS at FROM gpufleet.ingest_ledger")[0]["at"]
        eventually(lambda: sum(r["samples"] for r in bench.windows("gpu_1h")) == wanted)
        # The second half's events may be counted with the first half's minutes, before its ledger row is read.
        eventually(lambda: (ledger.load(bench.client)[0] or 0) * 1e6 > newest - 2)
    finally:
        stop.set()
        thread.join()
    assert_all_windows(bench, events)
    position, open_hours = ledger.load(bench.client)
    assert position is not None
    assert abs(position * 1e6 - newest) < 2, "nothing is open: the next projector starts behind the last row"
    assert open_hours == []


def test_windows_that_a_restarted_store_has_forgotten_are_computed_again(
    fresh_store: StoreProcess, bench_of: Callable[..., Bench]
) -> None:
    """The projector had nothing to do meanwhile and sees no error, only another start of the store."""
    bench = bench_of(fresh_store)
    events = fleet(bench, random.Random(15), minutes=2)
    bench.events.insert("node-telemetry", events)
    projector = bench.projector(ledger_overlap_s=3600.0)
    bench.project(projector)
    assert_all_windows(bench, events)
    for table in ("gpu_1m", "rack_10s", "fleet_10s", "rack_1m", "gpu_1h"):
        bench.client.command(f"TRUNCATE TABLE gpufleet.{table}")
    bench.project(projector)
    assert bench.windows("gpu_1m") == [], "without a restart nothing is forgotten, and nothing done again"
    fresh_store.kill()
    fresh_store.start()
    bench.project(projector)
    assert_all_windows(bench, events)
    projector.close()
