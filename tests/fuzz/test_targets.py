"""Hostile input, short: every target on its seeds, on what once broke it, and on mutations of both."""

from __future__ import annotations

import random
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.bounds import bounded
from tests.fuzz.targets import TARGETS, corpus, seeds

NASTY = (
    b"", b"\0", b"\xff" * 10, b"\x80" * 200, b"\xfe" + b"\xff" * 8 + b"\x01", b"\xc3\x28", b"\xed\xa0\x80",
    b"\n", b"'", b'"', b"\\", b"`", b"/*" * 3000, b"$a$", b"[" * 3000, b"{" * 3000, b"9" * 5000, b"1e999", b"-1",
    b"nan", b"inf", b"1_0", "\u00b2".encode(), "\u0663".encode(), b"0x" + b"f" * 40, b"0001-01-01T00:00:00Z",
    b"9999-12-31T23:59:59-23:59", b"\\ud800", b"null", b"\xe5\x9a\x01\x0d", b"1" * 400, b"\x00\x00\x00\x00",
)  # fmt: skip
"""What readers trip over: huge lengths, deep nesting, numbers that are none, text that is not UTF-8."""


@cache
def _known(name: str) -> list[bytes]:
    return [*seeds(name), *(path.read_bytes() for path in corpus(name))]


@st.composite
def mutated(draw: st.DrawFn, name: str) -> bytes:
    """A known input with some pieces exchanged, cut out, put in or doubled."""
    data = draw(st.sampled_from(_known(name)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([0, 0, 1, 1, 2, 4, 8, 30])))
        new = draw(st.one_of(st.sampled_from(NASTY), st.binary(max_size=12), st.just(data[at : at + 40] * 2)))
        data = data[:at] + new + data[end:]
    return data


def check(name: str, data: bytes) -> None:
    with bounded():
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_sound_and_what_once_broke_it(name: str) -> None:
    for data in _known(name):
        check(name, data)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("nasty", range(len(NASTY)))
def test_one_nasty_piece_in_place_of_a_value(name: str, nasty: int) -> None:
    """Each piece once at places all over each seed; the places are the same in every run."""
    rng = random.Random(f"{name}/{nasty}")
    for data in _known(name):
        for _ in range(3):
            at = rng.randrange(len(data) + 1)
            check(name, data[:at] + NASTY[nasty] + data[at + rng.randrange(8) :])


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_break_nothing(name: str) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(mutated(name))
    def holds(data: bytes) -> None:
        check(name, data)

    holds()
