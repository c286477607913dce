"""The audit is silent on a clean store, finds each planted fault with its exact place, and mends what can be mended."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consumers.audit import AuditReport, Expected, Kind, audit
from consumers.audit.repair import repair
from consumers.projector.worklist import Pace
from infra.embedded.store.process import StoreProcess
from tests.projector.conftest import RAW_DAYS, Bench, bench_on
from tests.projector.events import RUN, T0, US
from tests.projector.test_changes import lease, usage
from tests.projector.test_windows import fleet

TOPIC = "node-telemetry"


@pytest.fixture(scope="module")
def bench(migrated_module_store: StoreProcess) -> Iterator[Bench]:
    yield from bench_on(migrated_module_store)


@pytest.fixture(scope="module")
def migrated_module_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    from infra.clickhouse.client import ClickHouse, connect
    from infra.clickhouse.migrate import migrate
    from infra.clickhouse.tenancy import TABLES

    pytest.importorskip("chdb")
    with StoreProcess(tmp_path_factory.mktemp("audited"), policies=TABLES) as process:
        client = connect(ClickHouse(process.host, process.port, process.username, process.password))
        migrate(client)
        client.close()
        yield process


@pytest.fixture(autouse=True)
def clean(bench: Bench) -> None:
    """Every test starts with empty tables, and merges that do not run under its feet."""
    for row in bench.rows("SELECT name FROM system.tables WHERE database = 'gpufleet' AND engine LIKE '%MergeTree'"):
        if "migration" not in row["name"]:
            bench.client.command(f"TRUNCATE TABLE gpufleet.{row['name']}")
    bench.client.command("SYSTEM RELOAD DICTIONARY gpufleet.lease_by_node")
    bench.events.sequences.clear()
    bench.events.offsets.clear()


def run_audit(bench: Bench, expected: list[Expected] | None = None, **options: Any) -> AuditReport:
    return audit(bench.client, expected or [], **{"raw_days": RAW_DAYS, "compare_windows": "all", **options})


def off(report: AuditReport) -> list[tuple[Kind, str, str, int, int, int]]:
    return [(f.kind, f.topic, f.producer_id, f.first, f.last, f.count) for f in report.findings]


def quiet(bench: Bench, nodes: int = 2, minutes: int = 1) -> list[dict[str, Any]]:
    return fleet(bench, random.Random(1), minutes, nodes)


def test_a_clean_store_has_no_findings(bench: Bench) -> None:
    events = quiet(bench, minutes=2)
    bench.events.insert(TOPIC, events)
    bench.events.insert("tenant-usage", [usage(bench, 0), usage(bench, 60)])
    projector = bench.projector()
    bench.project(projector)
    projector.close()
    report = run_audit(bench, [Expected("n0", RUN, TOPIC, 24), Expected("n1", RUN, TOPIC, 24)])
    assert off(report) == []
    assert report.ok
    assert report.produced == {TOPIC: 48}
    assert report.stored[TOPIC] == 48
    assert report.stored["tenant-usage"] == 2
    assert report.gpu_samples == 24 * 5 * (2 + 3)
    assert report.windows_checked == 2
    assert (report.lost, report.duplicated, report.dead_letters) == (0, 0, 0)


def test_gaps_have_exact_ranges(bench: Bench) -> None:
    events = [e for e in quiet(bench) if not (e["producer_id"] == "n1" and e["seq"] in (0, 3, 4, 5, 9))]
    bench.events.insert(TOPIC, events, ledger=False)
    report = run_audit(bench)
    assert off(report) == [
        (Kind.GAP, TOPIC, "n1", 0, 0, 1),
        (Kind.GAP, TOPIC, "n1", 3, 5, 3),
        (Kind.GAP, TOPIC, "n1", 9, 9, 1),
    ]
    assert report.lost == 5
    assert not report.ok


def test_a_gap_and_a_double_do_not_cancel_out(bench: Bench) -> None:
    bench.client.command("SYSTEM STOP MERGES gpufleet.node_telemetry")
    try:
        events = quiet(bench, nodes=1)
        bench.events.insert(TOPIC, [e for e in events if e["seq"] != 7], ledger=False)
        bench.events.insert(TOPIC, [e for e in events if e["seq"] in (4, 5)], ledger=False)
        report = run_audit(bench)
        assert (Kind.GAP, TOPIC, "n0", 7, 7, 1) in off(report)
        assert [f[:5] for f in off(report) if f[0] is Kind.DOUBLE] == [(Kind.DOUBLE, TOPIC, "n0", 4, 5)]
        assert (report.lost, report.duplicated) == (1, 2)
    finally:
        bench.client.command("SYSTEM START MERGES gpufleet.node_telemetry")


def test_the_tail_of_a_dead_run_by_its_journal_and_by_its_successor(bench: Bench) -> None:
    events = quiet(bench)
    bench.events.insert(TOPIC, [e for e in events if e["seq"] < 10], ledger=False)
    start = bench.events.event(
        "node-events",
        T0 + 120,
        "n1",
        RUN + 200 * US,
        node_id="n1",
        event="agent_start",
        previous_run_id=RUN,
        previous_last_seq={TOPIC: 11, "inventory": 0, "unknown-topic": 3},
    )
    bench.events.insert("node-events", [start], ledger=False)
    report = run_audit(bench, [Expected("n0", RUN, TOPIC, 12), Expected("n9", RUN, TOPIC, 3)])
    assert off(report) == [
        (Kind.TAIL, TOPIC, "n0", 10, 11, 2),
        (Kind.TAIL, TOPIC, "n1", 10, 11, 2),
        (Kind.TAIL, TOPIC, "n9", 0, 2, 3),
        (Kind.TAIL, "inventory", "n1", 0, 0, 1),
    ]
    assert report.lost == 8
    assert report.produced[TOPIC] == 12 + 12 + 3
    alive = run_audit(bench, [Expected("n0", RUN, TOPIC, 12)], node="n0", in_flight_s=600)
    assert off(alive) == [(Kind.IN_FLIGHT, TOPIC, "n0", 10, 11, 2)]
    assert alive.ok


def test_dead_letters_are_neither_lost_nor_stored(bench: Bench) -> None:
    bench.events.insert(TOPIC, [e for e in quiet(bench, nodes=1) if e["seq"] not in (4, 5, 6)], ledger=False)
    letters = [
        bench.events.event(
            "dead-letters",
            T0 + 30,
            f"dlq/{TOPIC}/0",
            1,
            seq=100 + seq,
            source_topic=TOPIC,
            source_partition=0,
            source_offset=100 + seq,
            append_ts=T0 * US,
            source_producer_id="n0",
            source_run_id=RUN,
            source_seq=seq,
            reason="decode",
            key=b"n0",
            value=b"?",
            identity=b"",
        )
        for seq in (4, 6)
    ]
    bench.events.insert("dead-letters", letters, ledger=False)
    report = run_audit(bench)
    assert off(report) == [(Kind.GAP, TOPIC, "n0", 5, 5, 1)]
    assert (report.lost, report.dead_letters) == (1, 2)


def test_a_number_used_twice_is_a_conflict_and_not_repaired(bench: Bench) -> None:
    events = quiet(bench, nodes=1)
    other = {**events[3], "ts": events[3]["ts"] + 1}
    bench.events.insert(TOPIC, [*events, other], ledger=False)
    report = run_audit(bench)
    assert [f[:5] for f in off(report)] == [(Kind.CONFLICT, TOPIC, "n0", 3, 3)]
    assert repair(bench.client, report.findings).deleted == {}


def test_retention_explains_the_head_of_an_old_run(bench: Bench) -> None:
    now = datetime.now(UTC)
    old_run = int((now - timedelta(days=20)).timestamp() * US)
    recent = int(now.timestamp()) // 60 * 60 - 3600
    events = [bench.events.telemetry("n1", recent + 5 * i, run=old_run, seq=1000 + i) for i in range(3)]
    bench.events.insert(TOPIC, events, ledger=False)
    report = run_audit(bench, raw_days=9)
    assert off(report) == [(Kind.RETENTION, TOPIC, "n1", 0, 999, 1000)]
    assert report.ok
    assert report.lost == 0


def test_since_looks_at_no_more_than_asked(bench: Bench) -> None:
    events = [e for e in quiet(bench, nodes=1, minutes=2) if e["seq"] not in (2, 15)]
    bench.events.insert(TOPIC, events, ledger=False)
    report = run_audit(
        bench,
        [Expected("n0", RUN, TOPIC, 24), Expected("n0", RUN - 1, TOPIC, 5)],
        since=datetime.fromtimestamp(T0 + 60, UTC),
    )
    assert (Kind.GAP, TOPIC, "n0", 15, 15, 1) in off(report)
    assert (Kind.GAP, TOPIC, "n0", 2, 2, 1) not in off(report)
    assert not [each for each in off(report) if each[0] is Kind.TAIL], "that run was over before RUN began: too old"
    before = [Expected("n0", RUN, TOPIC, 24), Expected("n0", RUN - 1, TOPIC, 5)]
    report = run_audit(bench, before, since=datetime.fromtimestamp(T0 - 60, UTC))
    assert (Kind.TAIL, TOPIC, "n0", 0, 4, 5) in off(report), "no event of that run is stored at any time"


def test_a_tail_is_told_since_a_time_at_which_its_producer_had_begun_nothing_else(bench: Bench) -> None:
    """Where the lost events lie is not known: they may be of any time after the last that is stored."""
    bench.events.insert(TOPIC, quiet(bench, nodes=1, minutes=2), ledger=False)
    report = run_audit(bench, [Expected("n0", RUN, TOPIC, 30)], since=datetime.fromtimestamp(T0 + 3600, UTC))
    assert (Kind.TAIL, TOPIC, "n0", 24, 29, 6) in off(report)


def test_holes_and_sums_of_the_ledger(bench: Bench) -> None:
    events = quiet(bench, nodes=1)[:4]

    def row(first: int, last: int, **more: Any) -> None:
        entry = {"first_offset": first, "last_offset": last, "messages": last - first + 1, "rows": last - first + 1}
        bench.events.ledger(TOPIC, events, **{"partition": 3, **entry, **more})

    row(10, 19)
    row(20, 29, rows=7, duplicates=2, dead_letters=1)
    row(15, 24, rows=0, duplicates=10)  # read again
    row(40, 49)
    row(45, 49, rows=4)
    row(0, 4, topic_id="made anew", partition=4)
    report = run_audit(bench, committed={(TOPIC, 3): 50, (TOPIC, 4): 9, (TOPIC, 5): 0}, compare_windows="none")
    assert [(f.kind, f.first, f.last, f.count) for f in report.findings] == [
        (Kind.LEDGER_HOLE, 30, 39, 10),
        (Kind.LEDGER_SUM, 45, 49, 1),
        (Kind.RETENTION, 0, 9, 10),
        (Kind.LEDGER_BEHIND, 5, 8, 4),
    ]
    assert not report.ok


@pytest.mark.parametrize(
    ("damage", "table", "what"),
    [
        ("power_w_sum = power_w_sum + 1", "gpu_1m", "power_w_sum"),
        ("energy_j = energy_j + 1", "rack_1m", "energy_j"),
        ("gpus = gpus + 1", "fleet_10s", "gpus"),
        ("requests = requests + 1", "usage_1m", "requests"),
    ],
)
def test_a_stale_window_is_found_and_repaired(bench: Bench, damage: str, table: str, what: str) -> None:
    bench.events.insert(TOPIC, quiet(bench))
    bench.events.insert("tenant-usage", [usage(bench, 0)])
    projector = bench.projector()
    bench.project(projector)
    column = damage.split(" =")[0]
    bench.client.command(
        f"INSERT INTO gpufleet.{table} SELECT * REPLACE ({damage.split(' = ')[1]} AS {column}, version + 1 AS version)"
        f" FROM gpufleet.{table} FINAL ORDER BY ALL LIMIT 1"
    )
    report = run_audit(bench)
    assert [(f.kind, f.topic, f.count) for f in report.findings] == [(Kind.WINDOW, table, 1)]
    assert what in report.findings[0].detail
    assert not report.ok
    repair(bench.client, report.findings)
    bench.project(projector)
    projector.close()
    assert off(run_audit(bench)) == []


def test_missing_and_ghost_windows(bench: Bench) -> None:
    bench.events.insert(TOPIC, quiet(bench))
    projector = bench.projector()
    bench.project(projector)
    projector.close()
    bench.client.command(
        "INSERT INTO gpufleet.gpu_1m (site, ts, node_id, gpu_index, tenant, version)"
        f" SELECT '{bench.events.site}', toDateTime({T0}, 'UTC'), 'ghost', 0, 'acme', 1"
    )
    bench.client.command(
        "INSERT INTO gpufleet.rack_10s (site, ts, rack, gpu_model, tenant, version, is_deleted)"
        " SELECT site, ts, rack, gpu_model, tenant, version + 1, 1 FROM gpufleet.rack_10s FINAL ORDER BY ALL LIMIT 1"
    )
    found = [f for f in run_audit(bench).findings if f.topic in ("gpu_1m", "rack_10s")]
    assert [f.detail.split(": ")[1] for f in found] == [
        "there, though no event is",
        "not there, though events are",
    ]


def test_a_projector_that_does_not_follow(bench: Bench) -> None:
    bench.events.insert(TOPIC, quiet(bench), at=datetime.now(UTC) - timedelta(hours=1))
    report = run_audit(bench)
    assert [f.kind for f in report.findings] == [Kind.PROJECTOR_BEHIND]
    assert not report.ok


def test_a_projector_that_did_all_long_ago_is_not_behind(bench: Bench) -> None:
    bench.events.insert(TOPIC, quiet(bench), at=datetime.now(UTC) - timedelta(hours=1, microseconds=7))
    projector = bench.projector()
    bench.project(projector)
    projector.close()
    report = run_audit(bench)
    assert off(report) == []
    assert report.windows_checked == 1


def test_minutes_with_open_work_are_not_compared(bench: Bench) -> None:
    bench.events.insert(TOPIC, quiet(bench))
    projector = bench.projector(pace=Pace(quiet_s=60.0, patience_s=60.0))
    for _ in range(10):
        if projector.step().owner:
            break
        time.sleep(0.1)
    projector.close()
    report = run_audit(bench)
    assert off(report) == []
    assert report.windows_checked == 0


def test_rows_with_the_wrong_tenant(bench: Bench) -> None:
    bench.events.insert(TOPIC, quiet(bench), ledger=False)
    bench.client.command(
        "ALTER TABLE gpufleet.node_telemetry UPDATE tenant = 'mallory' WHERE node_id = 'n1' AND seq < 3"
        " SETTINGS mutations_sync = 2"
    )
    report = run_audit(bench)
    assert [(f.kind, f.topic, f.producer_id, f.count) for f in report.findings] == [(Kind.TENANT, TOPIC, "n1", 3)]
    assert "'mallory'" in report.findings[0].detail
    assert not report.ok


def test_rows_that_a_lease_has_still_to_reach_are_no_fault(bench: Bench) -> None:
    bench.events.insert(TOPIC, quiet(bench))
    lease(bench, 1, "acme", ["n1"], 0, None)
    bench.client.command("SYSTEM RELOAD DICTIONARY gpufleet.lease_by_node")
    wrong = "SELECT node_id, tenant FROM gpufleet.node_telemetry WHERE tenant != '{}' GROUP BY ALL ORDER BY ALL"
    assert bench.rows(wrong.format("acme")) == [{"node_id": "n0", "tenant": ""}, {"node_id": "n1", "tenant": ""}]
    assert off(run_audit(bench)) == []
    rewrite = "ALTER TABLE gpufleet.node_telemetry UPDATE tenant = 'mallory' WHERE node_id = '{}' AND seq < 3"
    bench.client.command(rewrite.format("n0") + " SETTINGS mutations_sync = 2")
    assert [(f.kind, f.producer_id) for f in run_audit(bench).findings] == [(Kind.TENANT, "n0")], "no lease names it"
    bench.client.command(rewrite.format("n0").replace("mallory", "") + " SETTINGS mutations_sync = 2")
    projector = bench.projector()
    bench.project(projector)
    projector.close()
    assert off(run_audit(bench)) == []
    bench.client.command(rewrite.format("n1") + " SETTINGS mutations_sync = 2")
    found = [f.producer_id for f in run_audit(bench).findings if f.kind is Kind.TENANT]
    assert found == ["n1"], "the projector is done with this lease"


def test_repair_deletes_all_but_one_of_each_double(bench: Bench) -> None:
    # As beside a part above the merge size limit: what is inserted stays apart.
    never = "MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1"
    limits = "max_bytes_to_merge_at_max_space_in_pool, max_bytes_to_merge_at_min_space_in_pool"
    bench.client.command(f"ALTER TABLE gpufleet.node_telemetry {never}")
    try:
        events = quiet(bench)
        bench.events.insert(TOPIC, events)
        for _ in range(3):
            bench.events.insert(TOPIC, events[2:5], ledger=False)
        bench.events.insert(TOPIC, [events[7], events[7]], ledger=False)
        report = run_audit(bench, compare_windows="none")
        assert report.duplicated == 11
        done = repair(bench.client, report.findings)
    finally:
        bench.client.command(f"ALTER TABLE gpufleet.node_telemetry RESET SETTING {limits}")
    assert done.deleted == {"node_telemetry": 11}
    assert (done.left, done.minutes) == (0, 1)
    counts = bench.rows("SELECT count() AS n, uniqExact(producer_id, seq) AS d FROM gpufleet.node_telemetry")
    assert counts == [{"n": len(events), "d": len(events)}]
    projector = bench.projector()
    bench.project(projector)
    projector.close()
    assert off(run_audit(bench)) == []


def test_freshness_is_that_of_live_ticks_alone(bench: Bench) -> None:
    now = datetime.now(UTC).timestamp() // 5 * 5  # five ticks from here on lie in one minute, as an agent's do
    run = int((now - 3600) * US)  # this run began an hour ago

    def event(node: str, ago: float, ticks: int = 1, interval_ms: int = 1000) -> dict[str, Any]:
        return bench.events.telemetry(node, now - ago, ticks, interval_ms, run=run)

    live = [event("n1", 10 + i) for i in range(3)]
    spooled = [event("n1", 1800, 5), event("n1", 600, 5)]
    filled = [event("n1", 7200 + i) for i in range(50)]
    coarse = [event("n2", 1800, 1, 60_000), event("n2", 30, 1, 60_000)]
    bench.events.insert(TOPIC, [*live, *spooled, *filled, *coarse], ledger=False)
    report = run_audit(bench, compare_windows="none")
    assert (report.ticks_live, report.ticks_late) == (3, 10)
    assert report.freshness_p50_s is not None
    assert report.freshness_p99_s is not None
    assert 11 <= report.freshness_p50_s <= report.freshness_p99_s < 120
    later = run_audit(bench, compare_windows="none", since=datetime.fromtimestamp(now - 1200, UTC))
    assert (later.ticks_live, later.ticks_late) == (3, 5)


def test_a_back_fill_alone_has_no_freshness(bench: Bench) -> None:
    began = datetime.now(UTC).timestamp()
    ticks = [bench.events.telemetry("n1", began - 60 - i, 1, 1000, run=int(began * US)) for i in range(5)]
    bench.events.insert(TOPIC, ticks, ledger=False)
    report = run_audit(bench, compare_windows="none")
    assert (report.freshness_p50_s, report.freshness_p99_s, report.ticks_live, report.ticks_late) == (None, None, 0, 0)
