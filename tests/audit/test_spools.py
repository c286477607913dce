"""The audit believes a producer's spool: what it thinned is not lost, what it still holds is late, each by number."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from consumers.audit import AuditReport, Expected, Kind, audit
from consumers.audit.spools import Spooled, parsed, split
from infra.clickhouse.client import ClickHouse, connect
from infra.embedded.store.process import StoreProcess
from tests.projector.events import RUN, T0, Events

TOPIC = "node-telemetry"
_names = itertools.count()


@pytest.fixture(scope="module")
def client(migrated_store: StoreProcess) -> Iterator[Client]:
    process = migrated_store
    with connect(ClickHouse(process.host, process.port, process.username, process.password)) as made:
        yield made


@pytest.fixture
def node() -> str:
    return f"spooling-{next(_names)}"


class Told:
    """One node's events in the store, and what the audit says of it."""

    def __init__(self, client: Client, node: str) -> None:
        self._client, self._node = client, node
        self._events = Events(client)

    def telemetry(self, *seqs: int) -> Told:
        events = [self._events.telemetry(self._node, T0 + 5 * seq, seq=seq) for seq in seqs]
        self._events.insert(TOPIC, events, ledger=False)
        return self

    def says(self, event: str, by: str = "", **attributes: Any) -> Told:
        node = by or self._node
        told = {"run": str(RUN), **{name: str(value) for name, value in attributes.items()}}
        fields: dict[str, Any] = {"node_id": node, "event": event, "value": TOPIC, "attributes": told}
        self._events.insert("node-events", [self._events.event("node-events", T0 + 300, node, **fields)], ledger=False)
        return self

    def audited(self, given: int = 0, **options: Any) -> AuditReport:
        expected = [Expected(self._node, RUN, TOPIC, given)] if given else []
        raw_days = 36_500
        return audit(self._client, expected, node=self._node, compare_windows="none", raw_days=raw_days, **options)


def found(report: AuditReport) -> list[tuple[Kind, int, int, int]]:
    return [(f.kind, f.first, f.last, f.count) for f in report.findings if f.topic == TOPIC]


def test_thinned_numbers_are_not_lost_and_one_beside_them_is(client: Client, node: str) -> None:
    told = Told(client, node).telemetry(0, 12, 24).says("events_thinned", gone="1-11,13-22", kept=2)
    report = told.audited(25)
    assert found(report) == [(Kind.GAP, 23, 23, 1), (Kind.THINNED, 1, 22, 21)]
    assert (report.lost, report.thinned, report.ok) == (1, 21, False)
    told.says("events_thinned", gone="23")
    report = told.audited(25)
    assert found(report) == [(Kind.THINNED, 1, 23, 22)]
    assert (report.lost, report.ok) == (0, True)


def test_a_kept_event_that_did_not_arrive_is_lost_all_the_same(client: Client, node: str) -> None:
    report = Told(client, node).telemetry(0, 24).says("events_thinned", gone="1-11,13-23", kept=2).audited(25)
    assert (Kind.GAP, 12, 12, 1) in found(report)
    assert report.lost == 1


def test_what_was_thinned_and_given_up_afterwards_is_lost_with_all_that_was_merged_into_it(
    client: Client, node: str
) -> None:
    told = Told(client, node).telemetry(0, 24).says("events_thinned", gone="1-11,13-23", kept=2)
    report = told.says("events_dropped", gone="12-23", reason="full").audited(25)
    assert sorted(found(report), key=lambda each: each[1]) == [(Kind.THINNED, 1, 11, 11), (Kind.GAP, 12, 23, 12)]
    assert (report.lost, report.thinned) == (12, 11)


def test_a_backlog_under_way_is_late_until_the_spool_says_it_is_over(client: Client, node: str) -> None:
    told = Told(client, node).telemetry(0, 1, 9).says("spool_backlog", first_seq=2, last_seq=7)
    report = told.audited()
    assert found(report) == [(Kind.LATE, 2, 7, 6), (Kind.GAP, 8, 8, 1)]
    assert (report.lost, report.late) == (1, 6)
    told.telemetry(2, 3, 4, 8).says("spool_drained")
    report = told.audited()
    assert found(report) == [(Kind.GAP, 5, 7, 3)]
    told.says("spool_backlog", first_seq=5, last_seq=7)
    assert found(told.audited()) == [(Kind.LATE, 5, 7, 3)]
    told.says("agent_start")
    assert found(told.audited()) == [(Kind.GAP, 5, 7, 3)], "an agent that started anew tells again what waits"


def test_what_was_given_up_is_lost_and_says_why(client: Client, node: str) -> None:
    report = Told(client, node).telemetry(0, 9).says("events_dropped", gone="3-5", reason="full").audited()
    gaps = [(f.kind, f.first, f.last, "gave them up" in f.detail) for f in report.findings if f.topic == TOPIC]
    assert gaps == [(Kind.GAP, 1, 2, False), (Kind.GAP, 3, 5, True), (Kind.GAP, 6, 8, False)]
    assert report.lost == 8


def test_a_node_cannot_excuse_another(client: Client, node: str) -> None:
    report = Told(client, node).telemetry(0, 3).says("events_thinned", by="somebody-else", gone="1-2").audited()
    assert found(report) == [(Kind.GAP, 1, 2, 2)]


def test_what_lies_in_a_spool_at_hand_is_late(client: Client, node: str) -> None:
    waits = [Spooled(node, RUN, TOPIC, 3, 9)]
    report = Told(client, node).telemetry(0, 1, 2).audited(12, spooled=waits)
    assert found(report) == [(Kind.LATE, 3, 9, 7), (Kind.TAIL, 10, 11, 2)]


def test_ranges_are_read_and_cut() -> None:
    assert list(parsed("1-11,13,x,9-3,20-21")) == [(1, 11), (13, 13), (20, 21)]
    assert list(parsed("")) == []
    assert list(split(5, 20, [(1, 6), (6, 8), (10, 10), (19, 30)])) == [
        (5, 6, True),
        (7, 8, True),
        (9, 9, False),
        (10, 10, True),
        (11, 18, False),
        (19, 20, True),
    ]
    assert list(split(1, 3, [])) == [(1, 3, False)]
