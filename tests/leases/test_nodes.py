"""Node patterns: ranges, wildcards, racks, and refusals in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.errors import InputError
from producers.leases.nodes import MAX_NODES, NodeList, expand, read_node_list, resolve

KNOWN = NodeList("nodes.csv", {f"cl1-r{rack}-n{node}": f"cl1-r{rack}" for rack in (1, 2, 12) for node in (1, 2, 3)})


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a", ["a"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[8-11]x", ["n8x", "n9x", "n10x", "n11x"]),
        ("n[1,3,7-8]", ["n1", "n3", "n7", "n8"]),
        ("r[1-2]-n[5,6]", ["r1-n5", "r1-n6", "r2-n5", "r2-n6"]),
        ("[0007]", ["0007"]),
    ],
)
def test_ranges_stand_for_their_names(pattern: str, names: list[str]) -> None:
    assert list(expand(pattern)) == names


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("n[3-1]", "runs backwards"),
        ("n[a-c]", "expected numbers like"),
        ("n[]", "expected numbers like"),
        ("n[1-", "bracket without its partner"),
        ("n1]", "bracket without its partner"),
        ("n[[1]]", "bracket without its partner"),
        ("n[1-999999999]", f"more than {MAX_NODES}"),
        ("n[1-400]-[1-400]", f"more than {MAX_NODES}"),
        ("n[-1]", "expected numbers like"),
        ("n[١-٣]", "expected numbers like"),
    ],
)
def test_ranges_that_mean_nothing_or_too_much_are_refused(pattern: str, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        list(expand(pattern))


def test_wildcards_and_racks_come_from_the_inventory() -> None:
    assert resolve(["cl1-r1-n*"], [], KNOWN) == ("cl1-r1-n1", "cl1-r1-n2", "cl1-r1-n3")
    assert resolve(["cl1-r[1-2]-n?"], [], KNOWN) == resolve([], ["cl1-r[1-2]"], KNOWN)
    assert len(resolve([], ["cl1-r1*"], KNOWN)) == 6
    assert resolve(["cl1-r1-n1", "cl1-r1-n[1-2]"], ["cl1-r1"], KNOWN) == ("cl1-r1-n1", "cl1-r1-n2", "cl1-r1-n3")


@pytest.mark.parametrize(
    ("nodes", "racks", "known", "says"),
    [
        (["a*"], [], None, "need an inventory list"),
        ([], ["r1"], None, "need an inventory list"),
        (["cl1-r1-n4"], [], KNOWN, "node 'cl1-r1-n4' is not in nodes.csv; did you mean 'cl1-r1-n"),
        (["zz*"], [], KNOWN, "no nodes 'zz*' in nodes.csv"),
        ([], ["cl1-r3"], KNOWN, "no racks 'cl1-r3' in nodes.csv; did you mean 'cl1-r"),
        (["a b"], [], None, "not a node's name"),
        ([""], [], None, "not a node's name"),
        (["é"], [], None, "not a node's name"),
        ([f"p{i}-[1-90000]" for i in range(12)], [], None, "nodes"),
    ],
)
def test_nodes_that_do_not_exist_are_refused(
    nodes: list[str], racks: list[str], known: NodeList | None, says: str
) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        resolve(nodes, racks, known)


def test_an_inventory_list_with_header_comments_and_quotes(tmp_path: Path) -> None:
    file = tmp_path / "nodes.csv"
    file.write_text('node_id,rack\r\n"n1","r1"\r\n\r\nn2,r1 # spare\r\nn3\n')
    assert read_node_list(file).rack_of == {"n1": "r1", "n2": "r1", "n3": ""}
    assert read_node_list(file).racks() == {"r1": ["n1", "n2"]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "lists no node"),
        ("n1\nn1\n", "line 2: node 'n1' is listed twice"),
        ("n1,r1,x\n", "line 1: expected 'node' or 'node,rack'"),
        ("n 1\n", "line 1: expected 'node'"),
        (",r1\n", "line 1: expected 'node'"),
    ],
)
def test_a_broken_inventory_list_names_its_line(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "nodes.csv"
    file.write_text(content)
    with pytest.raises(InputError, match=re.escape(says)):
        read_node_list(file)


def test_an_inventory_list_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_node_list(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"n1\xff")
    with pytest.raises(InputError, match="not UTF-8 at byte 3"):
        read_node_list(tmp_path / "binary")


@given(st.text(alphabet="n[]-,0123456789*?. ", max_size=24))
def test_any_pattern_is_names_or_a_refusal(pattern: str) -> None:
    try:
        names = resolve([pattern], [], KNOWN)
    except InputError:
        return
    assert set(names) <= set(KNOWN.rack_of)


@given(st.binary(max_size=200))
def test_any_inventory_list_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("inventory") / "nodes"
    file.write_bytes(content)
    try:
        assert read_node_list(file).rack_of
    except InputError:
        return
