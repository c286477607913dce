"""Adding requests up: whole windows, late requests as revisions, bounded memory that forgets nothing in silence."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.errors import InputError
from producers.usage.request import Dimensions, Request
from producers.usage.windows import LATENCY_BOUNDS_MS, UsageWindow, Windows

MINUTE = 60_000_000


def drain(windows: Windows, requests: list[Request]) -> list[UsageWindow]:
    given_out = []
    for request in requests:
        assert windows.add(request)
        given_out += [(item, item.fields("t", 60, "s")) for item in windows.due()]
    given_out += [(item, item.fields("t", 60, "s")) for item in windows.finish()]
    for item, fields in given_out:
        assert item.start % MINUTE == 0
        assert fields["revision"] == item.revision
    return [item for item, _ in given_out]


def test_counts_of_one_window() -> None:
    windows = Windows(MINUTE, 0)
    requests = [
        Request(MINUTE, 10, 1, 4, status=200, ttft_ms=10, latency_ms=600_000),
        Request(MINUTE + 1, 20, 2, 0, status=429, ttft_ms=10.5),
        Request(2 * MINUTE - 1, 30, 3, 5, status=500, ttft_ms=1e9),
    ]
    [window] = drain(windows, requests)
    fields = window.fields("acme", 60, "replay")
    assert (window.start, window.revision) == (MINUTE, 1)
    assert (fields["requests"], fields["throttled_requests"], fields["failed_requests"]) == (3, 1, 1)
    assert (fields["input_tokens"], fields["cached_tokens"], fields["output_tokens"]) == (60, 9, 6)
    buckets = len(LATENCY_BOUNDS_MS) + 1
    assert fields["ttft_counts"] == [1, 1] + [0] * (buckets - 3) + [1]
    assert fields["latency_counts"] == [0] * (buckets - 2) + [1, 0], "a bound belongs to its bucket"


def test_what_was_not_measured_is_empty_not_zero() -> None:
    [window] = drain(Windows(MINUTE, 0), [Request(0, 1, 1)])
    fields = window.fields("acme", 60, "replay")
    assert (fields["latency_bounds_ms"], fields["ttft_counts"], fields["latency_counts"]) == ([], [], [])


def test_out_of_order_within_the_bound_stays_one_revision() -> None:
    requests = [Request(MINUTE, 1, 0), Request(2 * MINUTE + 30_000_000, 1, 0), Request(MINUTE + 5, 1, 0)]
    found = drain(Windows(MINUTE, MINUTE), requests)
    assert [(item.start, item.revision, item.usage.requests) for item in found] == [
        (MINUTE, 1, 2),
        (2 * MINUTE, 1, 1),
    ]


def test_a_late_request_makes_a_revision_of_the_whole_window() -> None:
    windows = Windows(MINUTE, 0)
    first = Request(0, 5, 1, model="m")
    windows.add(first)
    windows.add(Request(0, 50, 1, model="other"))
    windows.add(Request(MINUTE, 1, 1))
    before = [(item.dimensions.model, item.revision, item.usage.input_tokens) for item in windows.due()]
    assert before == [("m", 1, 5), ("other", 1, 50)]
    windows.add(Request(30_000_000, 7, 1, model="m"))
    assert list(windows.due()) == [], "late ones wait for the next window to close"
    windows.add(Request(2 * MINUTE, 1, 1))
    after = [(item.start, item.dimensions.model, item.revision, item.usage.input_tokens) for item in windows.due()]
    assert after == [(0, "m", 2, 12), (MINUTE, "", 1, 1)], "the dimension that did not change is not sent again"


def test_a_first_revision_can_supersede_an_earlier_replay() -> None:
    [window] = drain(Windows(MINUTE, 0, first_revision=5), [Request(0, 1, 1)])
    assert window.revision == 5


def test_memory_is_bounded_and_what_comes_too_late_for_it_is_told() -> None:
    windows = Windows(MINUTE, 0, max_usages=10)
    given_out = 0
    for minute in range(100):
        assert windows.add(Request(minute * MINUTE, 1, 1))
        given_out += len(list(windows.due()))
        assert len(windows._windows) <= 10
    assert windows.add(Request(97 * MINUTE, 1, 1)), "still remembered"
    assert not windows.add(Request(3 * MINUTE, 1, 1)), "forgotten: said, not dropped"
    given_out += len(list(windows.finish()))
    assert given_out == 101


def test_late_requests_of_a_window_that_makes_room_are_given_out_first() -> None:
    windows = Windows(MINUTE, 0, max_usages=3)
    for minute in range(3):
        windows.add(Request(minute * MINUTE, 1, 1))
        list(windows.due())
    windows.add(Request(1, 9, 1))  # late, for the oldest window
    windows.add(Request(2 * MINUTE, 1, 1, model="new"))  # needs the room
    found = [(item.start, item.revision, item.usage.input_tokens) for item in windows.due()]
    assert found == [(0, 2, 10)]


def test_too_many_open_dimensions_are_an_error_that_says_so() -> None:
    windows = Windows(MINUTE, 0, max_usages=10)
    for number in range(10):
        windows.add(Request(0, 1, 1, workspace=f"w{number}"))
    with pytest.raises(InputError, match="different in every line"):
        windows.add(Request(0, 1, 1, workspace="one more"))


@pytest.mark.parametrize("window_us", [0, 500_000, 1_500_000, 7_000_000, 2 * 86_400_000_000])
def test_windows_that_do_not_divide_a_day_are_refused(window_us: int) -> None:
    with pytest.raises(InputError, match="divide a day"):
        Windows(window_us, 0)


@given(
    st.lists(st.tuples(st.integers(0, 20 * MINUTE), st.sampled_from("ab"), st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(0, 3 * MINUTE),
)
def test_the_last_revisions_add_up_to_the_requests_in_any_order(
    drawn: list[tuple[int, str, int]], lateness: int
) -> None:
    windows = Windows(MINUTE, lateness)
    last: dict[tuple[int, Dimensions], tuple[int, int, int]] = {}
    expected: Counter[tuple[int, str]] = Counter()
    tokens: Counter[tuple[int, str]] = Counter()

    def take(item: UsageWindow) -> None:
        key = (item.start, item.dimensions)
        assert item.revision == last.get(key, (0, 0, 0))[0] + 1
        last[key] = (item.revision, item.usage.requests, item.usage.input_tokens)

    for ts, model, count in drawn:
        assert windows.add(Request(ts, count, 0, model=model))
        expected[ts // MINUTE, model] += 1
        tokens[ts // MINUTE, model] += count
        for item in windows.due():
            take(item)
    for item in windows.finish():
        take(item)
    assert {(start // MINUTE, dims.model): n for (start, dims), (_, n, _) in last.items()} == dict(expected)
    assert {(start // MINUTE, dims.model): t for (start, dims), (_, _, t) in last.items()} == {
        key: tokens[key] for key in expected
    }
