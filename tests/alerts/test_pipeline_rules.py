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
    watch = bench.watch(BY_NAME["dead_letters"]).to(10, 11)
    assert watch.states == ["Pending"]
    assert watch.to(12).labels("topic") == [("node-telemetry",)]
    assert watch.texts[0].startswith("3 messages of node-telemetry")
    assert watch.to(26).states == ["Recovering"]
    assert watch.to(41).firing == []


def letter(bench: Bench, minute: float, offset: int, detail: str, reason: str = "foreign", producer: str = "p") -> None:
    """A dead letter of node-telemetry, as the consumer files it."""
    topic = f"node-telemetry-{bench.site}"
    where = {"source_topic": topic, "source_partition": 0, "source_offset": offset, "append_ts": 0}
    who = {"producer_id": f"dlq/{topic}/0", "run_id": 7, "seq": offset, "source_producer_id": producer}
    bench.event("dead-letters", minute, **who, **where, reason=reason, detail=detail)


def test_a_key_that_writes_for_others(bench: Bench) -> None:
    bench.health(range(200))
    watch = bench.watch(BY_NAME["foreign_letters"]).to(9)
    for offset in range(3):
        letter(bench, 10 + offset / 10, offset, f"signed by node 'r1-n1' and keyed 'r2-n{offset}'")
    letter(bench, 10.5, 3, "the message is not what node 'r1-n9' of here signed", reason="signature")
    assert watch.to(11).labels("signer") == [("node r1-n1",)]
    assert watch.texts[0].startswith(f"Site {bench.site}: 3 messages")
    assert watch.to(69).states == ["Alerting"]
    assert watch.to(72).states == ["Recovering"], "none for an hour"
    assert watch.to(88).firing == []


def test_whose_key_it_is_where_the_letter_names_the_producer_alone(bench: Bench) -> None:
    """As the consumer words it where key and producer fit and the datum does not, and for keys without a subject."""
    bench.health(range(40))
    letter(bench, 10, 0, "signed for (site, producer, key) ('x', 'gw-1', 't1'), the datum is about t2", producer="gw-1")
    letter(bench, 10, 1, "signed by facility '', which may not write node-telemetry", producer="bms-1")
    watch = bench.watch(BY_NAME["foreign_letters"]).to(9, 11)
    assert sorted(watch.labels("signer")) == [("bms-1",), ("gw-1",)]


def test_one_key_on_many_machines_is_one_cause(bench: Bench) -> None:
    bench.health(range(40))
    for number in range(20):
        letter(bench, 10, number, f"signed by node 'n{number}' as producer 'r1-n1'")
    watch = bench.watch(BY_NAME["foreign_letters"]).to(9, 11)
    assert watch.labels("signer") == [("many",)]
    assert watch.texts[0].startswith(f"Site {bench.site}: 20 messages")


def test_who_writes_for_others_is_not_told_as_letters_that_cannot_be_stored(bench: Bench) -> None:
    topic = f"node-telemetry-{bench.site}"
    bench.health(range(40))
    bench.ledger([10.5], topic=topic, dead_letters=2)
    letter(bench, 10.4, 0, "signed by node 'r1-n1' and keyed 'r1-n2'")
    letter(bench, 10.4, 1, "signed by node 'r1-n1' and keyed 'r1-n3'")
    watch = bench.watch(BY_NAME["dead_letters"]).to(10, 11, 12, 13)
    assert topic not in [note.label("topic") for note in watch.told]
    bench.ledger([14], topic=topic, dead_letters=1)
    watch.to(15, 16)
    [told] = [note for note in watch.told if note.label("topic") == topic]
    assert told.text.startswith("1 messages")


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


NOTHING = "The store gives no answer, or has nothing: no other alert can fire."


def _away(sql: str) -> Frame:
    raise StoreError("connection refused")


def test_a_store_that_is_away_is_one_page_and_stops_the_heartbeat() -> None:
    told = []
    for rule in RULES:
        evaluator = Evaluator(rule, _away)
        for minute in range(10):
            fired = [change.after for change in evaluator.step(60 * minute) if change.fired]
            told += [(rule.name, after.state.value, evaluator.summary(after)) for after in fired]
    assert told == [("freshness", "Alerting", NOTHING)]


def test_a_store_without_a_row_is_one_page() -> None:
    told = []
    for rule in RULES:
        evaluator = Evaluator(rule, lambda _sql: Frame((), (), [], 0, 0, 0.0))
        for minute in range(10):
            fired = [change.after for change in evaluator.step(60 * minute) if change.fired]
            told += [(rule.name, after.state.value, evaluator.summary(after)) for after in fired]
    assert told == [("freshness", "Alerting", NOTHING)]
