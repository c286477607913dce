"""Which nodes and times a change of leases may concern."""

from __future__ import annotations

from typing import Any

from consumers.attribution.changes import FOREVER, Terms, Touched, clipped, touched

NEW = 1000


def terms(revision: int, **changes: Any) -> Terms:
    fields: dict[str, Any] = {
        "site": "s",
        "lease_id": "L",
        "revision": revision,
        "tenant": "acme",
        "nodes": frozenset("ab"),
        "start": 100,
        "end": 200,
        "stored_at": NEW if revision > 1 else NEW - 1,
        **changes,
    }
    return Terms(**fields)


def found(*revisions: Terms) -> list[tuple[str, int, int]]:
    return [("".join(sorted(t.nodes)), t.start, t.end) for t in touched(revisions, NEW)]


def test_a_new_lease_concerns_its_nodes_for_its_time() -> None:
    assert found(terms(1, stored_at=NEW)) == [("ab", 100, 200)]


def test_an_old_lease_concerns_nothing() -> None:
    assert found(terms(1)) == []


def test_another_end_concerns_the_time_between() -> None:
    assert found(terms(1), terms(2, end=150)) == [("ab", 150, 200)]
    assert found(terms(1), terms(2, end=FOREVER)) == [("ab", 200, FOREVER)]


def test_another_start_concerns_the_whole_time_since_overlaps_are_settled_by_it() -> None:
    assert found(terms(1), terms(2, start=50)) == [("ab", 50, 200)]


def test_other_nodes_concern_only_those() -> None:
    assert found(terms(1), terms(2, nodes=frozenset("bc"))) == [("a", 100, 200), ("c", 100, 200)]


def test_another_tenant_concerns_both_times() -> None:
    assert found(terms(1), terms(2, tenant="globex", start=120)) == [("ab", 100, 200), ("ab", 120, 200)]


def test_a_withdrawn_lease_concerns_what_it_held() -> None:
    assert found(terms(1), terms(2, nodes=frozenset())) == [("ab", 100, 200)]


def test_revisions_that_arrive_out_of_order() -> None:
    late_second = terms(2, end=150, stored_at=NEW)
    third = terms(3, end=120, stored_at=NEW - 1)
    assert found(terms(1), third, late_second) == [("ab", 120, 150), ("ab", 150, 200)]


def test_changes_are_clipped_to_what_is_kept() -> None:
    change = Touched("s", frozenset("a"), 100, FOREVER)
    assert clipped([change], 150, 300) == [Touched("s", frozenset("a"), 150, 300)]
    assert clipped([change], 0, 100) == []
