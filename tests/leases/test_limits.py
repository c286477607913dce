"""Limits: declarations, what holds when, and what a change is called."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.checks import zoned_time
from producers.errors import ConflictError, InputError
from producers.limits.document import read_limits
from producers.limits.model import Limit, LimitHistory, LimitKey, window_text
from producers.limits.plan import LimitChange, plan
from producers.log import LogEvent
from schemas.identity import Identity

KEY = LimitKey("acme", "input_tokens", 60, "api")
SECOND = 1_000_000
NOW = zoned_time("2026-06-15T12:00:30.5Z", "test")


def history(*changes: LimitChange, site: str = "here") -> LimitHistory:
    return LimitHistory(
        (
            LogEvent(0, seq, Identity("p", 1, seq, seq, 1), {**change.fields("why"), "site": site, "ts": seq})
            for seq, change in enumerate(changes)
        ),
        "here",
    )


def change(value: float | None, valid_from: int, action: str = "set") -> LimitChange:
    return LimitChange(KEY, value, None, valid_from, action)


@pytest.mark.parametrize(
    ("before", "after", "action", "previous"),
    [(None, 5.0, "set", None), (5.0, 9.0, "raised", 5.0), (9.0, 5.0, "lowered", 9.0), (9.0, None, "removed", 9.0)],
)
def test_what_a_change_is_called(
    before: float | None, after: float | None, action: str, previous: float | None
) -> None:
    known = history(change(before, 0)) if before is not None else history()
    [found] = plan(known, [Limit(KEY, after)], NOW)
    assert (found.action, found.previous, found.value) == (action, previous, after)
    assert found.valid_from == NOW - 500_000, "from now on, cut to the second"
    fields = found.fields("because")
    assert (fields["limit_value"], fields["previous_value"], fields["reason"]) == (after or 0.0, previous, "because")


def test_nothing_changes_when_it_holds_already() -> None:
    assert plan(history(change(5.0, 7 * SECOND)), [Limit(KEY, 5.0)], NOW) == []
    assert plan(history(change(5.0, 7 * SECOND)), [Limit(KEY, 5.0, 7 * SECOND)], NOW) == []
    assert plan(history(), [Limit(KEY, None)], NOW) == []
    assert plan(history(change(5.0, 0), change(None, 9, "removed")), [Limit(KEY, None)], NOW) == []


def test_a_removed_limit_can_be_set_again() -> None:
    [found] = plan(history(change(5.0, 0), change(None, 9, "removed")), [Limit(KEY, 5.0)], NOW)
    assert (found.action, found.previous) == ("set", None)


def test_other_dimensions_are_other_limits() -> None:
    other = Limit(KEY._replace(model="m"), 1.0)
    [found] = plan(history(change(5.0, 0)), [Limit(KEY, 5.0), other], NOW)
    assert (found.key, found.action) == (other.key, "set")


def test_a_change_that_a_later_one_would_hide_is_refused() -> None:
    coming = history(change(5.0, 0), change(9.0, NOW + SECOND, "raised"))
    with pytest.raises(ConflictError, match=r"another begins later, at .* \(raised to 9\)"):
        plan(coming, [Limit(KEY, 7.0)], NOW)
    [found] = plan(coming, [Limit(KEY, 7.0, NOW + 2 * SECOND)], NOW)
    assert (found.action, found.previous) == ("lowered", 9.0)


def test_what_holds_at_a_moment() -> None:
    known = history(change(5.0, 10), change(9.0, 30, "raised"), change(7.0, 20, "raised"), change(None, 40, "removed"))
    held = [(found := known.holding(KEY, us)) and found.value for us in (9, 10, 19, 20, 30, 39, 40)]
    assert held == [None, 5.0, 5.0, 7.0, 9.0, 9.0, None]
    assert history(change(5.0, 10), site="elsewhere").keys() == []


GOOD = 'tenant = "acme"\nname = "input_tokens"\nwindow = "1m"\nvalue = 4_000_000\n'


def parse(tmp_path: Path, text: str) -> list[Limit]:
    file = tmp_path / "limits.toml"
    file.write_text(text)
    return read_limits(file)


def test_a_whole_declaration(tmp_path: Path) -> None:
    text = "[[limit]]\n" + GOOD + 'product = "api"\nfrom = 2026-06-15T12:00:30.5Z\n'
    text += '[[limit]]\ntenant = "acme"\nname = "gpu_quota"\nvalue = 512\n'
    text += '[[limit]]\ntenant = "acme"\nname = "messages"\nwindow = "5h"\ntier = "max"\nremove = true\n'
    assert parse(tmp_path, text) == [
        Limit(KEY, 4_000_000.0, NOW),
        Limit(LimitKey("acme", "gpu_quota"), 512.0),
        Limit(LimitKey("acme", "messages", 18_000, tier="max"), None),
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("input_tokens", "imput_tokens", "unknown limit name 'imput_tokens'; did you mean 'input_tokens'?"),
        ('window = "1m"\n', "", 'counts over a window: give window = "1m"'),
        ('"1m"', "60", "expected a duration"),
        ('"1m"', '"250ms"', "window must be whole seconds"),
        ('"1m"', '"0s"', "window must be whole seconds"),
        ("input_tokens", "power_cap", "is a level, not a rate"),
        ("value = 4_000_000", "", "give either value = NUMBER or remove = true"),
        ("value", "remove = true\nvalue", "give either value = NUMBER or remove = true"),
        ("4_000_000", "-1", "value must be a number of 0 or more"),
        ("4_000_000", "inf", "value must be a number"),
        ("4_000_000", "true", "value must be a number"),
        ("value", "from = 2026-06-01T00:00:00\nvalue", "`from` has no zone"),
        ("value", "modle = 1\nvalue", "unknown key 'modle'; did you mean 'model'?"),
        ("value", "model = 1\nvalue", "model must be printable text"),
        ("acme", "", "a tenant is named with"),
    ],
)
def test_a_wrong_declaration_says_where_and_what(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        parse(tmp_path, "[[limit]]\n" + GOOD.replace(old, new, 1))
    assert "[[limit]] number 1" in str(caught.value)


def test_one_limit_is_declared_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"limit acme input_tokens/1m is declared twice"):
        parse(tmp_path, ("[[limit]]\n" + GOOD) * 2)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (45, "45s"), (60, "1m"), (18_000, "5h"), (604_800, "7d")])
def test_windows_read_as_people_write_them(seconds: int, text: str) -> None:
    assert window_text(seconds) == text


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from([None, 1.0, 2.0, 3.0])), min_size=1, max_size=12))
def test_applying_what_is_declared_makes_it_hold(steps: list[tuple[int, float | None]]) -> None:
    applied: list[LimitChange] = []
    now = 0
    for wait, value in steps:
        now += wait * SECOND
        found = plan(history(*applied), [Limit(KEY, value)], now)
        applied += found
        held = history(*applied).holding(KEY, now)
        assert (held.value if held else None) == value
        assert plan(history(*applied), [replace(Limit(KEY, value))], now) == []
