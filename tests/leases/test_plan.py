"""From declared leases to events: what changes, what is refused, and why."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.checks import zoned_time
from producers.errors import ConflictError, InputError
from producers.leases.document import read_leases
from producers.leases.model import HeldLease, Lease, event_fields, held_leases, lease_of
from producers.leases.plan import conflicts, plan
from producers.log import LogEvent
from schemas.identity import Identity


def at(text: str) -> int:
    return zoned_time(text, "test")


NOW = at("2026-06-15T12:00:30Z")
BEGUN = Lease("l1", "acme", ("n1", "n2"), at("2026-06-01T00:00:00Z"), price=2.0, sla=0.99)


def held(*leases: Lease, revision: int = 3) -> dict[str, HeldLease]:
    return {lease.lease_id: HeldLease(lease, revision, "granted", "", 0, (revision, 1, 0)) for lease in leases}


def test_a_new_lease_is_granted_and_an_unchanged_one_left_alone() -> None:
    [change] = plan(held(BEGUN), [BEGUN, Lease("l2", "b", ("n9",), at("2026-07-01T00:00:00Z"))], NOW)
    assert (change.lease.lease_id, change.action, change.revision, change.rewrites_past) == ("l2", "granted", 1, False)
    assert plan(held(BEGUN), [BEGUN], NOW) == []
    [late] = plan({}, [BEGUN], NOW)
    assert late.rewrites_past, "said, for it attributes anew what was nobody's"


@pytest.mark.parametrize(
    ("change", "action"),
    [
        ({"valid_to": at("2026-06-15T12:01:00Z")}, "ended"),
        ({"operator_reads_usage": True}, "changed"),
        ({"valid_to": at("2026-07-01T00:00:00Z"), "operator_reads_usage": True}, "changed"),
    ],
)
def test_the_future_of_a_lease_that_has_begun_may_change(change: dict[str, Any], action: str) -> None:
    [found] = plan(held(BEGUN), [replace(BEGUN, **change)], NOW)
    assert (found.action, found.revision, found.rewrites_past) == (action, 4, False)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"nodes": ("n1", "n2", "n3")}, "nodes"),
        ({"tenant": "other"}, "tenant"),
        ({"price": 2.5}, "price"),
        ({"sla": 0.9}, "sla"),
        ({"currency": "EUR"}, "currency"),
        ({"kind": "spot"}, "kind"),
        ({"valid_from": at("2026-05-01T00:00:00Z")}, "from"),
        ({"valid_from": at("2026-08-01T00:00:00Z")}, "from"),
        ({"valid_to": at("2026-06-15T12:00:00Z")}, "to"),
    ],
)
def test_its_past_changes_only_on_purpose(change: dict[str, Any], names: str) -> None:
    wanted = replace(BEGUN, **change)
    with pytest.raises(InputError, match=rf"'l1': another {names} would change time gone by.*lease correct"):
        plan(held(BEGUN), [wanted], NOW)
    [found] = plan(held(BEGUN), [wanted], NOW, correcting=True)
    assert (found.action, found.revision, found.rewrites_past) == ("corrected", 4, True)
    assert len(found.differences) == 1
    assert found.differences[0].startswith(names)


def test_a_lease_that_has_not_begun_may_change_in_every_way() -> None:
    coming = replace(BEGUN, valid_from=at("2026-07-01T00:00:00Z"))
    wanted = replace(coming, tenant="b", nodes=("n7",), price=9.0, valid_from=at("2026-08-01T00:00:00Z"))
    [found] = plan(held(coming), [wanted], NOW)
    assert (found.action, found.rewrites_past) == ("changed", False)


def test_an_ended_lease_does_not_come_back_to_life_by_accident() -> None:
    ended = replace(BEGUN, valid_to=at("2026-06-10T00:00:00Z"))
    with pytest.raises(InputError, match="another to would change time gone by"):
        plan(held(ended), [BEGUN], NOW)


def test_two_leases_never_hold_one_node_at_one_time() -> None:
    other = Lease("l2", "b", ("n2", "n3"), at("2026-07-01T00:00:00Z"))
    with pytest.raises(
        ConflictError,
        match=re.escape("leases 'l2' (b) and 'l1' (acme) would both hold 1 node(s) (n2) from 2026-07-01T00:00:00Z on"),
    ):
        plan(held(BEGUN), [other], NOW)
    ended = replace(BEGUN, valid_to=at("2026-07-01T00:00:00Z"))
    assert [change.lease.lease_id for change in plan(held(BEGUN), [ended, other], NOW)] == ["l1", "l2"], "a hand-over"
    with pytest.raises(ConflictError, match=r"'l2'.*'l3'|'l3'.*'l2'"):
        plan({}, [other, replace(other, lease_id="l3", tenant="c")], NOW)


def test_an_overlap_that_is_there_already_blocks_no_other_change() -> None:
    twin = replace(BEGUN, lease_id="l2")
    new = Lease("l3", "c", ("n9",), at("2026-07-01T00:00:00Z"))
    assert [change.lease.lease_id for change in plan(held(BEGUN, twin), [new], NOW)] == ["l3"]


@given(st.integers(0, 8), st.integers(1, 8), st.integers(0, 8), st.integers(1, 8), st.booleans(), st.booleans())
def test_overlap_means_a_common_minute(a: int, a_long: int, b: int, b_long: int, a_open: bool, b_open: bool) -> None:
    minute = 60_000_000
    first = Lease("a", "t", ("n",), a * minute, None if a_open else (a + a_long) * minute)
    second = Lease("b", "t", ("n",), b * minute, None if b_open else (b + b_long) * minute)
    common = any(first.holds_at(m * minute) and second.holds_at(m * minute) for m in range(40))
    assert first.overlaps(second) == second.overlaps(first) == common


def event(lease: Lease, revision: int, *, site: str = "here", run: int = 1, seq: int = 0) -> LogEvent:
    fields = {**event_fields(lease, revision, "granted", ""), "site": site, "ts": 5}
    return LogEvent(0, seq, Identity("p", run, seq, 5, 1), fields)


def test_the_highest_revision_holds_whatever_the_order() -> None:
    newer = replace(BEGUN, price=7.0)
    for events in ([event(BEGUN, 1), event(newer, 2, seq=1)], [event(newer, 2, seq=1), event(BEGUN, 1)]):
        [found] = held_leases(events, "here").values()
        assert (found.lease, found.revision) == (newer, 2)
    assert held_leases([event(BEGUN, 1, site="elsewhere")], "here") == {}
    assert lease_of(event(BEGUN, 1).fields) == BEGUN


def test_another_run_that_won_the_race_is_noticed() -> None:
    changes = plan({}, [BEGUN], NOW)
    ours = held_leases([event(BEGUN, 1, run=10)], "here")
    theirs = held_leases([event(BEGUN, 1, run=10), event(BEGUN, 1, run=11)], "here")
    assert conflicts(changes, ours, 10) == []
    assert conflicts(changes, theirs, 10) == ["l1"]


GOOD = 'id = "a"\ntenant = "acme"\nnodes = ["n[1-3]"]\nfrom = 2026-06-01T00:00:00Z\n'


def parse(tmp_path: Path, text: str, **options: Any) -> list[Lease]:
    file = tmp_path / "leases.toml"
    file.write_text(text)
    return read_leases(file, **options)


def test_a_whole_declaration(tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text("n1,r1\nn2,r1\nn3,r2\n")
    [lease] = parse(
        tmp_path,
        'inventory = "nodes.csv"\n[[lease]]\nid = "a"\ntenant = "acme"\nracks = ["r1"]\nnodes = ["n3"]\n'
        'from = 2026-06-01T02:00:00+02:00\nto = "2026-07-01T00:00:00Z"\nkind = "spot"\nprice = 2\ncurrency = "EUR"\n'
        "sla = 0.995\noperator_reads_usage = true\n",
    )
    assert lease == Lease(
        "a",
        "acme",
        ("n1", "n2", "n3"),
        at("2026-06-01T00:00:00Z"),
        at("2026-07-01T00:00:00Z"),
        "spot",
        2.0,
        "EUR",
        0.995,
        True,
    )


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("00:00Z", "00:30Z", "lease 'a': `from` must be a whole minute, found 2026-06-01T00:00:30Z"),
        ("00:00Z", "00:00.5Z", "`from` must be a whole minute"),
        ("00:00Z", "00:00", "`from` has no zone: write 2026-06-01T00:00:00Z"),
        ("2026-06-01T00:00:00Z", "2026-06-01", "`from` must be a time with a zone"),
        ("2026-06-01T00:00:00Z", "1234", "`from` must be a time with a zone"),
        ("2026-06-01T00:00:00Z", '"soon"', "`from` must be a time with a zone"),
        ("2026", "1926", "between 1970 and 2100"),
        ("acme", "Acme", "a tenant is named with"),
        ('"acme"', "5", "a tenant is named with"),
        ('"a"', '"a b"', "id must be 1 to 100 of letters"),
        ('id = "a"\n', "", "[[lease]] number 1: id is missing"),
        ("nodes", "node", "unknown key 'node'; did you mean 'nodes'?"),
        ('["n[1-3]"]', '"n1"', "nodes must be a list of texts"),
        ('["n[1-3]"]', "[]", "covers no node"),
        ('["n[1-3]"]', '["n[3-1]"]', "lease 'a': 'n[3-1]': the range 3-1 runs backwards"),
        ("from", "to = 2026-06-01T00:00:00Z\nfrom", "`to` must come after `from`"),
        ("from", 'kind = "gift"\nfrom', "kind must be one of reserved, on-demand, spot"),
        ("from", 'price = "2"\nfrom', "price must be a number of 0 or more"),
        ("from", "price = nan\nfrom", "price must be a number"),
        ("from", "price = inf\nfrom", "price must be a number"),
        ("from", "price = -1\nfrom", "price must be a number"),
        ("from", "sla = 99.5\nfrom", "sla must be a number from 0 to 1"),
        ("from", 'currency = "usd"\nfrom', "currency must be three capital letters"),
        ("from", "operator_reads_usage = 1\nfrom", "operator_reads_usage must be true or false"),
    ],
)
def test_a_wrong_declaration_says_where_and_what(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(InputError, match=re.escape(says)):
        parse(tmp_path, "[[lease]]\n" + GOOD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no [[lease]]"),
        ("[lease]\n" + GOOD, "expected tables that begin with [[lease]]"),
        ("[[leases]]\n" + GOOD, "unknown key 'leases' at the top; did you mean 'lease'?"),
        ("[[lease]]\n" + GOOD + "[[lease]]\n" + GOOD, "lease 'a' is declared twice"),
        ("[[lease", "not TOML"),
        ("inventory = 5\n[[lease]]\n" + GOOD, "inventory must be a file's name"),
        ('inventory = "missing"\n[[lease]]\n' + GOOD, "cannot be read"),
    ],
)
def test_a_wrong_file_says_what(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        parse(tmp_path, text)


def test_only_a_correction_may_cover_nothing(tmp_path: Path) -> None:
    text = "[[lease]]\n" + GOOD.replace('["n[1-3]"]', "[]")
    [lease] = parse(tmp_path, text, empty_allowed=True)
    assert lease.nodes == ()
    with pytest.raises(InputError, match="covers no node"):
        parse(tmp_path, text.replace("nodes = []\n", ""), empty_allowed=True)


@given(st.text(max_size=200))
def test_any_text_is_leases_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("any") / "leases.toml"
    file.write_bytes(("[[lease]]\n" + text).encode(errors="replace"))
    with pytest.raises(InputError):
        read_leases(file)  # no such text declares the required keys


VALUES = st.sampled_from(["5", '"x"', "true", "[]", "2026-06-01T00:00:00Z", "2026-06-01", "-1", "nan", "{}", '["n*"]'])


@given(st.dictionaries(st.sampled_from(["tenant", "from", "to", "price", "sla", "kind", "nodes", "racks"]), VALUES))
def test_any_types_are_a_lease_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]) -> None:
    file = tmp_path_factory.mktemp("types") / "leases.toml"
    base = {"id": '"a"', "tenant": '"t"', "nodes": '["n1"]', "from": "2026-06-01T00:00:00Z", **values}
    file.write_text("[[lease]]\n" + "".join(f"{key} = {value}\n" for key, value in base.items()))
    try:
        [lease] = read_leases(file)
    except InputError as error:
        assert "lease 'a'" in str(error)  # noqa: PT017 - either is right
    else:
        assert lease.nodes == ("n1",)
