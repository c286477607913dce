"""The identity header: its bytes, and that nothing else reads as one."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import identity
from schemas.identity import Identity, IdentityError

WHO = Identity("cl1-r0001-n1", 1_700_000_000_000_000, 7, 1_700_000_123_000_000, 5)


def test_the_layout_is_as_documented() -> None:
    packed = identity.pack(WHO)
    assert packed[0] == 1, "version"
    assert packed[1] == 5, "ticks"
    assert int.from_bytes(packed[2:10], "big") == WHO.run_id
    assert int.from_bytes(packed[10:18], "big") == 7
    assert int.from_bytes(packed[18:26], "big") == WHO.ts
    assert packed[26:] == b"cl1-r0001-n1"


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=63),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 255),
)
def test_identities_round_trip(producer: str, run_id: int, seq: int, ts: int, ticks: int) -> None:
    who = Identity(producer, run_id, seq, ts, ticks)
    assert identity.unpack(identity.pack(who)) == who


def test_a_producer_id_has_1_to_255_bytes() -> None:
    longest = WHO._replace(producer_id="é" * 127 + "x")
    assert identity.unpack(identity.pack(longest)) == longest
    for name in ("", "x" * 256, "é" * 128):
        with pytest.raises(IdentityError, match="1 to 255 bytes"):
            identity.pack(WHO._replace(producer_id=name))
    with pytest.raises(IdentityError, match="longer than 255"):
        identity.unpack(identity.pack(WHO) + b"x" * 255)


@pytest.mark.parametrize("part", [{"ticks": 256}, {"ticks": -1}, {"run_id": 2**63}, {"seq": 2**63}, {"ts": 2**63}])
def test_numbers_out_of_range_are_refused(part: dict[str, Any]) -> None:
    with pytest.raises(IdentityError, match="out of range"):
        identity.pack(WHO._replace(**part))


@given(st.integers(0, len(identity.pack(WHO)) - 1))
def test_a_cut_header_is_refused_or_names_another_producer(length: int) -> None:
    cut = identity.pack(WHO)[:length]
    if length <= 26:
        with pytest.raises(IdentityError, match=r"more than 26 bytes"):
            identity.unpack(cut)
    else:
        assert identity.unpack(cut).producer_id == WHO.producer_id[: length - 26]


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"\x02" + identity.pack(WHO)[1:], "version 1, found 2"),
        (struct.pack(">BBqqq", 1, 1, -1, 0, 0) + b"p", "cannot be negative"),
        (struct.pack(">BBqqq", 1, 1, 0, -1, 0) + b"p", "cannot be negative"),
        (struct.pack(">BBqqq", 1, 1, 0, 0, 0) + b"\xff\xfe", "not UTF-8"),
    ],
)
def test_what_pack_did_not_write_is_refused(header: bytes, says: str) -> None:
    with pytest.raises(IdentityError, match=says):
        identity.unpack(header)


@given(st.binary(max_size=400))
def test_any_bytes_are_an_identity_or_a_refusal(header: bytes) -> None:
    try:
        who = identity.unpack(header)
    except IdentityError:
        return
    assert identity.pack(who) == header


def test_it_is_found_among_other_headers() -> None:
    packed = identity.pack(WHO)
    assert identity.of_message([("trace", b"x"), ("gpufleet", packed)]) == WHO
    for headers in (None, [], [("trace", packed)], [("gpufleet", None)], [("gpufleet", "text")]):
        with pytest.raises(IdentityError, match="found none"):
            identity.of_message(headers)  # type: ignore[arg-type]  # lists are invariant
