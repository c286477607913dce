"""Rules about this system itself."""

from __future__ import annotations

from infra.grafana.alerts.evaluate import Evaluator, StoreError
from infra.grafana.alerts.rules import BY_NAME, RULES
from infra.grafana.expand import Frame
from tests.alerts.support import Bench


def test_a_consumer_that_stops(bench: Bench) -> None:
    bench.health(range(60))
    bench.ledger([*range(11), *range(25, 60)])
    watch = bench.watch(BY_NAME["consumer_lag"]).to(5, 10, 11)
    assert watch.states == []
    assert watch.to(13).states == ["Pending"]
    assert watch.to(16).labels("topic") == [("node-telemetry",)]
    assert "6m 2s old" in watch.texts[0]
    assert watch.to(26).states == ["Recovering"]
    assert watch.to(31).firing == []


def test_a_consumer_that_is_behind(bench: Bench) -> None:
    """It inserts all the time, and what it inserts is ten minutes old."""
    bench.ledger(range(10))
    bench.ledger(range(10, 20), behind_s=600)
    assert bench.watch(BY_NAME["consumer_lag"]).to(9, 14, 17, 20).labels("topic") == [("node-telemetry",)]


def test_a_projector_that_stands(bench: Bench) -> None:
    bench.ledger(range(60))
    bench.health([*range(10), *range(30, 60)])
    watch = bench.watch(BY_NAME["freshness"]).to(5, 10, 14)
    assert watch.states == []
    assert watch.to(17, 19).labels("site") == [(bench.site,)]
    assert watch.to(32).states == ["Recovering"]
    assert watch.to(37).firing == []


def test_a_projector_without_new_events_is_the_consumers_page(bench: Bench) -> None:
    bench.ledger(range(10))
    bench.health(range(10))
    assert bench.watch(BY_NAME["freshness"]).to(9, 20, 25).told == []
    assert bench.watch(BY_NAME["consumer_lag"]).to(9, 20, 25).labels("topic") == [("node-telemetry",)]


def test_dead_letters(bench: Bench) -> None:
    bench.ledger(range(40))
    bench.ledger([10.5], dead_letters=3)
    watch = bench.watch(BY_NAME["dead_letters"]).to(10, 11, 12)
    assert watch.labels("topic") == [("node-telemetry",)]
    assert watch.texts[0].startswith("3 messages of node-telemetry")
    assert watch.to(26).states == ["Recovering"]
    assert watch.to(41).firing == []


def test_absurd_events(bench: Bench) -> None:
    bench.event("node-events", 10.5, node_id="n", event="xid", occurrences=0)
    bench.event("node-events", 10.5, node_id="n", event="xid", occurrences=1)
    watch = bench.watch(BY_NAME["flaws"]).to(10, 11)
    assert watch.labels("topic") == [("node-events",)]
    assert watch.texts[0].startswith("1 events of node-events")
    assert watch.to(27).states == ["Recovering"]
    assert watch.to(42).firing == []


def test_missing_events(bench: Bench) -> None:
    for seq in range(40):
        if seq not in (10, 11, 12):
            bench.event("node-telemetry", seq, node_id="n", producer_id="n", seq=seq)
    bench.event("node-telemetry", 12, node_id="m", producer_id="m", seq=0)
    watch = bench.watch(BY_NAME["gaps"]).to(10, 15)
    assert watch.states == []
    assert watch.to(20, 25).labels("site") == [(bench.site,)]
    assert watch.texts[0].startswith(f"Site {bench.site}: 3 events")
    assert watch.to(35).states == ["Recovering"]
    assert watch.to(45).firing == []


def test_slow_inserts(bench: Bench) -> None:
    bench.ledger(range(10))
    bench.ledger(range(10, 30), insert_ms=9000.0)
    bench.ledger(range(30, 60))
    watch = bench.watch(BY_NAME["inserts_slow"]).to(9, 16, 26)
    assert watch.labels("topic") == [("node-telemetry",)]
    assert "9k ms" in watch.texts[0]
    assert watch.to(40).states == ["Recovering"]
    assert watch.to(45).firing == []


def test_refused_inserts(bench: Bench) -> None:
    bench.ledger(range(10))
    bench.ledger(range(10, 30), path="filter")
    bench.ledger(range(30, 60))
    watch = bench.watch(BY_NAME["inserts_refused"]).to(9, 13, 23)
    assert watch.labels("topic") == [("node-telemetry",)]
    assert watch.to(40).states == ["Recovering"]
    assert watch.to(45).firing == []


def audit(bench: Bench, minute: float, **values: object) -> None:
    plain = {"ts": bench.at(minute), "until": bench.at(minute), "node": "", "ok": True, "lost": 0, "doubled": 0}
    bench.put("audit_runs", [{**plain, **values}])


def test_an_audit_that_found_something(bench: Bench) -> None:
    audit(bench, 5)
    audit(bench, 20, ok=False, lost=7)
    audit(bench, 30, node="n")
    audit(bench, 40)
    watch = bench.watch(BY_NAME["audit_failed"]).to(10)
    assert watch.states == []
    assert watch.to(25).texts[0].startswith("The last audit is not ok: 7 events")
    assert watch.to(35).states == ["Alerting"], "an audit of one node proves nothing of the others"
    assert watch.to(45).firing == []


def test_no_audit_for_more_than_a_day(bench: Bench) -> None:
    audit(bench, 0)
    watch = bench.watch(BY_NAME["audit_missing"]).to(60 * 26)
    assert watch.states == []
    late = 60 * 27 + 5
    assert len(watch.to(late, late + 60).told) == 1
    audit(bench, late + 61)
    assert watch.to(late + 65).states == ["Recovering"]
    assert watch.to(late + 70).firing == []


def test_the_dead_mans_switch_stops_when_nothing_comes(bench: Bench) -> None:
    bench.health(range(20))
    watch = bench.watch(BY_NAME["dead_mans_switch"]).to(5, 20)
    assert watch.states == ["Alerting"]
    assert watch.to(36).firing == []


def _away(sql: str) -> Frame:
    raise StoreError("connection refused")


def test_a_store_that_is_away_is_one_page_and_stops_the_heartbeat() -> None:
    told = []
    for rule in RULES:
        evaluator = Evaluator(rule, _away)
        for minute in range(10):
            told += [(rule.name, change.after.state.value) for change in evaluator.step(60 * minute) if change.fired]
    assert told == [("freshness", "Alerting")]


def test_a_store_without_a_row_is_one_page() -> None:
    told = []
    for rule in RULES:
        evaluator = Evaluator(rule, lambda _sql: Frame((), (), [], 0, 0, 0.0))
        for minute in range(10):
            told += [(rule.name, change.after.state.value) for change in evaluator.step(60 * minute) if change.fired]
    assert told == [("freshness", "Alerting")]
