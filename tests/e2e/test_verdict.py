"""What a killed run means for the next: whose loss counts, and which windows are computed again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.audit import Finding, Kind, audit
from infra.embedded.store.process import StoreProcess
from infra.up import mend, verdict
from producers.journal import Given
from tests.projector.conftest import RAW_DAYS, Bench, bench_on
from tests.projector.test_changes import usage
from tests.projector.test_windows import fleet

TOPIC = "node-telemetry"
NOW, BEFORE, LONG_AGO = 3_000, 2_000, 1_000


def tail(run: int, count: int = 2, kind: Kind = Kind.TAIL, producer: str = "n1") -> Finding:
    return Finding(kind, TOPIC, "", producer, run, 10, 10 + count - 1, count)


def entry(run: int, given: int, acknowledged: int, producer: str = "n1") -> Given:
    return Given("site", producer, run, TOPIC, given, acknowledged)


@pytest.mark.parametrize(
    ("finding", "journal", "gone", "counts"),
    [
        (tail(NOW), entry(NOW, 12, 10), [], True),
        (tail(BEFORE), entry(BEFORE, 12, 10), [], False),
        (tail(BEFORE), entry(BEFORE, 12, 11), [], True),
        (tail(BEFORE), entry(BEFORE, 12, 12), [(BEFORE, NOW)], False),
        (tail(BEFORE + 5), entry(BEFORE + 5, 12, 12), [(BEFORE, NOW)], False),
        (tail(LONG_AGO), entry(LONG_AGO, 12, 12), [(BEFORE, NOW)], True),
        (tail(BEFORE, kind=Kind.DOUBLE), entry(BEFORE, 12, 0), [(BEFORE, NOW)], True),
        (tail(BEFORE, kind=Kind.GAP), entry(BEFORE, 20, 18), [], False),
        (tail(BEFORE), entry(BEFORE, 12, 0, producer="another"), [], True),
    ],
    ids=[
        "this run's own",
        "never acknowledged",
        "acknowledged in part",
        "died in memory",
        "an agent that began meanwhile",
        "before that memory",
        "a double is nobody's fault but ours",
        "a gap never acknowledged",
        "no journal says so",
    ],
)
def test_which_losses_count(finding: Finding, journal: Given, gone: list[tuple[int, int]], counts: bool) -> None:
    wrong, earlier = verdict.split([finding], NOW, [journal], gone)
    assert (wrong, earlier) == (([finding], []) if counts else ([], [finding]))


def test_several_gaps_may_not_exceed_what_was_not_acknowledged() -> None:
    gaps = [tail(BEFORE), Finding(Kind.GAP, TOPIC, "", "n1", BEFORE, 3, 3, 1)]
    assert verdict.split(gaps, NOW, [entry(BEFORE, 12, 9)], []) == ([], gaps)
    assert verdict.split(gaps, NOW, [entry(BEFORE, 12, 10)], []) == (gaps, [])


def test_the_notes_of_runs_survive_a_line_that_was_cut(tmp_path: Path) -> None:
    assert not verdict.died_in_memory(tmp_path)
    verdict.begun(tmp_path, 10, "embedded")
    assert verdict.died_in_memory(tmp_path)
    verdict.ended(tmp_path, 10)
    assert not verdict.died_in_memory(tmp_path)
    verdict.begun(tmp_path, 20, "kafka")
    assert not verdict.died_in_memory(tmp_path)
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"run_id": 2')
    verdict.begun(tmp_path, 30, "embedded")
    verdict.begun(tmp_path, 40, "kafka")
    assert (10, 20) in verdict.memory_ends(tmp_path)
    assert not any(first == 20 for first, _ in verdict.memory_ends(tmp_path))


@pytest.fixture
def bench(fresh_store: StoreProcess) -> Iterator[Bench]:
    yield from bench_on(fresh_store)


@pytest.mark.parametrize("ledger", ["empty", "older"])
def test_windows_of_inserts_without_a_ledger_row_are_computed(bench: Bench, ledger: str) -> None:
    events = fleet(bench, random.Random(3), 2, 2)
    half = len(events) // 2
    if ledger == "older":
        bench.events.insert(TOPIC, events[:half])
        projector = bench.projector()
        bench.project(projector)
        projector.close()
    else:
        bench.events.insert(TOPIC, events[:half], ledger=False)
    bench.events.insert(TOPIC, events[half:], ledger=False)
    bench.events.insert("tenant-usage", [usage(bench, 0), usage(bench, 60)], ledger=False)
    bench.client.database = "gpufleet"
    mend.name_again(bench.client)
    projector = bench.projector()
    bench.project(projector)
    projector.close()
    report = audit(bench.client, compare_windows="all", raw_days=RAW_DAYS)
    assert report.findings == []
    assert report.windows_checked == 2
    [samples] = bench.rows("SELECT sum(samples) AS n FROM gpufleet.gpu_1m FINAL")
    assert samples["n"] == sum(len(event["gpu_index"]) * event["ticks"] for event in events)
    [requests] = bench.rows("SELECT sum(requests) AS n FROM gpufleet.usage_1m FINAL")
    assert requests["n"] > 0
