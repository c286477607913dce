"""Confluent framing: five bytes, byte for byte, and clear refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import framing


def test_the_five_bytes_are_those_of_the_format() -> None:
    assert framing.prefix(101) == b"\x00\x00\x00\x00\x65"
    assert framing.prefix(0x01020304) == b"\x00\x01\x02\x03\x04"
    assert framing.PREFIX_BYTES == 5


@given(st.integers(0, 2**32 - 1), st.binary(max_size=20))
def test_ids_round_trip_whatever_follows(number: int, datum: bytes) -> None:
    assert framing.schema_id(framing.prefix(number) + datum) == number


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "found no value"),
        (b"", "at least 5 bytes of framing, found 0"),
        (b"\x00\x00\x00\x00", "at least 5 bytes of framing, found 4"),
        (b"\x01\x00\x00\x00\x65x", "magic byte 0x00, found 0x01"),
        (b'{"a": 1}', "magic byte 0x00, found 0x7b"),
    ],
)
def test_what_is_not_framed_is_refused(value: bytes | None, says: str) -> None:
    with pytest.raises(framing.FramingError, match=says):
        framing.schema_id(value)
