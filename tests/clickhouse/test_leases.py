from __future__ import annotations

from typing import Any

import pytest

from schemas import catalogue, ddl
from tests.clickhouse.support import MINUTE, Database, lease, minutes_ago

pytestmark = pytest.mark.store
T = minutes_ago(600)


def holder(db: Database, site: str, node: str, ts: int, what: str = "tenant") -> str:
    found: str = db.value(
        f"SELECT dictGetOrDefault('gpufleet.lease_by_node', '{what}', ('{site}', '{node}'),"
        f" fromUnixTimestamp64Micro({ts}, 'UTC'), '')"
    )
    return found


def test_a_lease_holds_from_its_first_microsecond_to_its_last(db: Database) -> None:
    db.insert("leases", lease("edges", "l1", ["a", "b"], T, T + 10 * MINUTE, tenant="anthropic"))
    db.reload()
    for node in "ab":
        assert holder(db, "edges", node, T - 1) == ""
        assert holder(db, "edges", node, T) == "anthropic"
        assert holder(db, "edges", node, T + 10 * MINUTE - 1) == "anthropic"
        assert holder(db, "edges", node, T + 10 * MINUTE) == ""
    assert holder(db, "edges", "c", T) == ""
    assert holder(db, "another site", "a", T) == ""


def test_a_hand_over_leaves_no_gap_and_an_open_lease_no_end(db: Database) -> None:
    db.insert(
        "leases",
        lease("handover", "l1", ["a"], T, T + MINUTE, tenant="one"),
        lease("handover", "l2", ["a"], T + MINUTE, tenant="two"),
    )
    db.reload()
    assert holder(db, "handover", "a", T + MINUTE - 1) == "one"
    assert holder(db, "handover", "a", T + MINUTE) == "two"
    assert holder(db, "handover", "a", T + 10_000_000 * MINUTE) == "two"


def test_the_highest_revision_holds_in_whatever_order_they_come(db: Database) -> None:
    third = lease("revised", "l1", ["b"], T, tenant="t", revision=3, action="corrected")
    first = lease("revised", "l1", ["a"], T, tenant="t", revision=1)
    second = lease("revised", "l1", ["a", "b"], T, tenant="t", revision=2, action="changed")
    db.insert("leases", third)
    db.insert("leases", first, second)
    db.reload()
    assert holder(db, "revised", "a", T) == ""
    assert holder(db, "revised", "b", T) == "t"


def test_a_lease_corrected_backwards_is_over_since_then(db: Database) -> None:
    db.insert("leases", lease("back", "l1", ["a"], T, tenant="t"))
    db.reload()
    assert holder(db, "back", "a", T + 100 * MINUTE) == "t"
    db.insert(
        "leases", {**lease("back", "l1", ["a"], T, T + 5 * MINUTE), "tenant": "t", "revision": 2, "action": "corrected"}
    )
    db.reload()
    assert holder(db, "back", "a", T + 5 * MINUTE - 1) == "t"
    assert holder(db, "back", "a", T + 5 * MINUTE) == ""


def test_a_lease_ended_without_a_time_ends_with_the_minute_it_was_said(db: Database) -> None:
    event: dict[str, Any] = {
        **lease("ended", "l1", ["a"], T),
        "tenant": "t",
        "revision": 2,
        "action": "ended",
        "ts": T + 150_000_000,
    }
    db.insert("leases", lease("ended", "l1", ["a"], T, tenant="t"), event)
    db.reload()
    assert holder(db, "ended", "a", T + 2 * MINUTE - 1) == "t"
    assert holder(db, "ended", "a", T + 2 * MINUTE) == ""


def test_an_unsound_revision_changes_nothing(db: Database) -> None:
    db.insert(
        "leases",
        lease("unsound", "l1", ["a"], T, tenant="t"),
        lease("unsound", "l1", ["a"], T + 30_000_000, tenant="other", revision=2),
    )
    db.reload()
    assert holder(db, "unsound", "a", T + MINUTE) == "t"


def test_of_overlapping_leases_the_later_one_holds_then_the_earlier_again(db: Database) -> None:
    db.insert(
        "leases",
        lease("overlap", "long", ["a", "b"], T, T + 10 * MINUTE, tenant="one"),
        lease("overlap", "short", ["a"], T + 2 * MINUTE, T + 4 * MINUTE, tenant="two"),
        lease("overlap", "x-same-start", ["b"], T, T + 3 * MINUTE, tenant="three"),
    )
    db.reload()
    at_minute = [holder(db, "overlap", "a", T + i * MINUTE) for i in (0, 1, 2, 3, 4, 9, 10)]
    assert at_minute == ["one", "one", "two", "two", "one", "one", ""]
    assert [holder(db, "overlap", "b", T + i * MINUTE, "lease_id") for i in (0, 2, 3, 9, 10)] == [
        "x-same-start",
        "x-same-start",
        "long",
        "long",
        "",
    ]
    told = db.rows(
        "SELECT node_id, holds, yields, dateDiff('minute', overlap_from, overlap_to) FROM"
        " gpufleet.lease_overlaps WHERE site = 'overlap' ORDER BY 1"
    )
    assert told == [("a", "short", "long", 2), ("b", "x-same-start", "long", 3)]


def test_leases_that_touch_are_no_overlap(db: Database) -> None:
    db.insert(
        "leases", lease("touch", "l1", ["a"], T, T + MINUTE), lease("touch", "l2", ["a"], T + MINUTE, T + 2 * MINUTE)
    )
    assert db.rows("SELECT * FROM gpufleet.lease_overlaps WHERE site = 'touch'") == []


def test_stretches_of_a_node_never_overlap(db: Database) -> None:
    """Random leases: the dictionary's source against a look at every minute."""
    import random

    rng = random.Random(3)
    leases = []
    for n in range(12):
        start = rng.randrange(0, 50)
        end = start + rng.randrange(1, 20)
        leases.append((start, f"l{n:02}", end))
        db.insert("leases", lease("random", f"l{n:02}", ["a"], T + start * MINUTE, T + end * MINUTE, tenant=f"t{n}"))
    db.reload()
    for minute in range(75):
        active = sorted((start, name) for start, name, end in leases if start <= minute < end)
        expected = active[-1][1] if active else ""
        for ts in (T + minute * MINUTE, T + (minute + 1) * MINUTE - 1):
            assert holder(db, "random", "a", ts, "lease_id") == expected, minute


def test_rows_of_nodes_get_the_tenant_of_their_event_time(db: Database) -> None:
    start = minutes_ago(30)
    db.insert("leases", lease("rows", "l1", ["a"], start, start + 2 * MINUTE, tenant="anthropic"))
    db.reload()
    for topic in ("node-telemetry", "node-counters", "node-events", "inventory"):
        events = [{"site": "rows", "node_id": node, "ts": start + i * MINUTE} for node in "ab" for i in (-1, 0, 1, 2)]
        db.insert(topic, *events)
        table = catalogue.KINDS[topic].table
        found = db.rows(f"SELECT node_id, tenant FROM gpufleet.{table} WHERE site = 'rows' ORDER BY node_id, ts")
        assert found == [("a", ""), ("a", "anthropic"), ("a", "anthropic"), ("a", "")] + [("b", "")] * 4
        expression = ddl.tenant_expression(catalogue.KINDS[topic])
        assert db.value(f"SELECT count() FROM gpufleet.{table} WHERE site = 'rows' AND tenant != {expression}") == 0


def test_the_operator_reads_usage_while_a_lease_grants_it(db: Database) -> None:
    db.insert(
        "leases",
        lease("grants", "l1", ["a"], T, T + 5 * MINUTE, tenant="open", operator_reads_usage=True),
        lease("grants", "l2", ["b"], T, tenant="shut"),
    )
    db.reload()
    asked = (
        "SELECT dictGetOrDefault('gpufleet.usage_grant_at', 'granted', ('grants', '{}'),"
        " fromUnixTimestamp64Micro({}, 'UTC'), 0)"
    )
    assert db.value(asked.format("open", T)) == 1
    assert db.value(asked.format("open", T + 5 * MINUTE)) == 0
    assert db.value(asked.format("shut", T)) == 0
