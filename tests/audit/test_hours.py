"""Hours and days are compared, too: with the minutes they sum, and usage with its events."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from consumers.audit import Kind, hours
from consumers.audit.repair import repair
from consumers.audit.report import Finding
from consumers.audit.scope import Scope
from consumers.audit.windows import How
from consumers.projector.ledger import load_frontier
from consumers.projector.requests import ask
from consumers.projector.windows import Range
from tests.audit.test_audit import TOPIC, run_audit
from tests.conftest import migrated
from tests.projector.conftest import RAW_DAYS, Bench, bench_on
from tests.projector.events import T0
from tests.projector.test_changes import usage
from tests.projector.test_conditions import minute_of, placed, told

DAY_S = 86_400
NODE = "a-node"
ALTERED = {
    "gpu_1h": "power_w_sum",
    "fleet_1h": "energy_j",
    "rack_1h": "healthy_s",
    "health_1h": "used_s",
    "sick_1h": "minutes",
    "facility_1h": "power_w_max",
    "usage_1h": "requests",
    "usage_1d": "output_tokens",
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    pytest.importorskip("chdb")
    with migrated(tmp_path_factory.mktemp("hours")) as store:
        yield from bench_on(store)


@pytest.fixture(scope="module")
def hour(bench: Bench) -> int:
    """An hour of which every table of hours has a row, computed; usage lies in the hour and the day of T0."""
    start = int(time.time()) // 3600 * 3600 - 2 * 3600
    bench.events.insert("inventory", [placed(bench, NODE, start)])
    bench.events.insert("node-events", [told(bench, NODE, "xid", start + 90, code=48, gpu_index=1)])
    telemetry = [minute_of(bench, NODE, start + 60 * m, power_w=400.0, energy_j=1000 * m) for m in range(3)]
    bench.events.insert(TOPIC, telemetry)
    reading: dict[str, Any] = {"asset_id": "f", "asset_kind": "feed", "interval_ms": 60_000, "state": "ok"}
    feed = [
        bench.events.event("facility-telemetry", start + at, "bms", **reading, power_w=10.0 + at, energy_j=100.0 * at)
        for at in (0, 60)
    ]
    bench.events.insert("facility-telemetry", feed)
    bench.events.insert("tenant-usage", [usage(bench, 0), usage(bench, 120)])
    project(bench)
    return start


def project(bench: Bench) -> None:
    projector = bench.projector()
    bench.project(projector)
    projector.close()


def begins(table: str, hour: int) -> int:
    return {"usage_1h": T0, "usage_1d": T0 // DAY_S * DAY_S}.get(table, hour)


@contextmanager
def altered(bench: Bench, table: str, damage: str, undo: str, at: int) -> Iterator[None]:
    """Another version of one row, as a projector with a mistake would write it; mended afterwards by one more."""

    [row] = bench.rows(f"SELECT max(version) AS newest FROM gpufleet.{table}")

    def write(change: str, version: int, source: str) -> None:
        column, value = change.split(" = ")
        bench.client.command(
            f"INSERT INTO gpufleet.{table} SELECT * REPLACE ({value} AS {column}, {version} AS version)"
            f" FROM gpufleet.{table} AS stored {source} LIMIT 1"
        )

    write(damage, row["newest"] + 1, f"FINAL WHERE stored.ts = toDateTime({at}, 'UTC') ORDER BY ALL")
    try:
        yield
    finally:
        write(undo, row["newest"] + 2, f"WHERE stored.version = {row['newest'] + 1}")


def one_more(bench: Bench, table: str, at: int) -> AbstractContextManager[None]:
    """One too many in one column."""
    column = ALTERED[table]
    return altered(bench, table, f"{column} = {column} + 1", f"{column} = {column} - 1", at)


def look(bench: Bench, how: How = "all", **more: Any) -> tuple[list[Finding], list[int]]:
    """What is found, and the hours that were compared."""
    known = more.pop("known", ())
    scope = Scope(time.time(), time.time() - RAW_DAYS * DAY_S, **more)
    compared: list[int] = []
    return list(hours.check(bench.client, scope, how, random.Random(1), compared.append, known)), compared


def closed(bench: Bench, hour: int) -> list[int]:
    """The hour and those since then, in which its GPUs are silent, as far as the projector has computed."""
    frontier = load_frontier(bench.client)
    assert frontier is not None
    return list(range(hour, frontier // 3600 * 3600, 3600))


def test_hours_that_are_the_sums_of_their_minutes_are_silent(bench: Bench, hour: int) -> None:
    assert look(bench) == ([], [T0, *closed(bench, hour)])
    found, compared = look(bench, "sample")
    assert (found, len(compared), compared[-1]) == ([], 2, closed(bench, hour)[-1])
    assert look(bench, "none") == ([], [])
    assert look(bench, since=hour + 1800.0) == ([], closed(bench, hour))


def test_altered_hours_are_found(bench: Bench, hour: int) -> None:
    with ExitStack() as stack:
        for table in ALTERED:
            stack.enter_context(one_more(bench, table, begins(table, hour)))
        found, _ = look(bench)
    assert {finding.topic: finding.first for finding in found} == {table: begins(table, hour) for table in ALTERED}
    for finding in found:
        origin = "events" if finding.topic.startswith("usage") else "minutes"
        column = ALTERED[finding.topic]
        assert (finding.kind, finding.count, finding.harmless) == (Kind.WINDOW, 1, False)
        assert f": {column} not as the {origin} say" in finding.detail


def test_an_hour_that_is_missing_and_one_too_many_are_found(bench: Bench, hour: int) -> None:
    with (
        altered(bench, "facility_1h", "is_deleted = 1", "is_deleted = 0", hour),
        altered(bench, "rack_1h", "rack = 'ghost'", "is_deleted = 1", hour),
    ):
        found, _ = look(bench)
    assert {finding.topic: finding.detail.split(": ")[1] for finding in found} == {
        "facility_1h": "not there, though minutes are",
        "rack_1h": "there, though no minute is",
    }


def test_one_nodes_audit_compares_the_hours_of_its_gpus(bench: Bench, hour: int) -> None:
    with (
        one_more(bench, "gpu_1h", hour),
        one_more(bench, "fleet_1h", hour),
    ):
        assert [finding.topic for finding in look(bench, node=NODE)[0]] == ["gpu_1h"]
        assert look(bench, node="another")[0] == []


def test_hours_of_minutes_that_are_known_to_be_wrong_are_left_out(bench: Bench, hour: int) -> None:
    minute = Finding(Kind.WINDOW, "gpu_1m", "power_w_sum", first=hour + 60, last=hour + 120)
    with one_more(bench, "gpu_1h", hour):
        found, compared = look(bench, known=[minute])
    assert (found, hour in compared) == ([], False)


def test_the_audit_compares_hours(bench: Bench, hour: int) -> None:
    newest = closed(bench, hour)[-1]
    with one_more(bench, "health_1h", newest):
        report = run_audit(bench, compare_windows="sample", since=datetime.fromtimestamp(newest, UTC))
    assert [finding.topic for finding in report.findings] == ["health_1h"]
    assert (report.hours_checked, report.to_dict()["hours_checked"], report.ok) == (1, 1, False)


def test_hours_with_open_work_are_not_compared_and_a_repair_mends_them(bench: Bench, hour: int) -> None:
    """What was asked for, or came and was not projected yet, may change every hour from its time on."""
    with one_more(bench, "facility_1h", hour):
        found, _ = look(bench)
        assert [finding.topic for finding in found] == ["facility_1h"]
        repair(bench.client, found)
        assert look(bench) == ([], [T0])
        project(bench)
        assert look(bench) == ([], [T0, *closed(bench, hour)])
    with one_more(bench, "gpu_1h", hour):
        ask(bench.client, Range(hour + 3600, hour + 3660), None, "test")
        assert [finding.topic for finding in look(bench)[0]] == ["gpu_1h"], "it asks for a later hour"
        bench.events.insert(TOPIC, [minute_of(bench, NODE, hour + 240, power_w=400.0, energy_j=9000)])
        assert look(bench) == ([], [T0])
    project(bench)
    assert look(bench) == ([], [T0, *closed(bench, hour)])
