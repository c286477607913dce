"""The state machine lives an alert's life as Grafana does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from infra.grafana.alerts.rule import NoData, OnError
from infra.grafana.alerts.state import Change, Outcome, Result, RuleState, Settings, State, labels_of

NODE_A, NODE_B = labels_of({"node": "a"}), labels_of({"node": "b"})
SOURCE = labels_of({"datasource_uid": "gpufleet-operator", "ref_id": "A"})
FIRES = Result(NODE_A, Outcome.ALERTING, 2.0)
FINE = Result(NODE_A, Outcome.NORMAL, 0.0)
NO_DATA = Result(SOURCE, Outcome.NO_DATA)
BROKEN = Result(SOURCE, Outcome.ERROR, error="the store is away")


def life(settings: Settings, answers: Sequence[Sequence[Result]], step: int = 60) -> list[list[tuple[str, str]]]:
    """(what changed or stayed, reason) of every alert after each evaluation, by label value."""
    state = RuleState(settings)
    return [[(c.after.state.value, c.after.reason) for c in state.evaluate(a, step * n)] for n, a in enumerate(answers)]


def states(settings: Settings, answers: Sequence[Sequence[Result]], step: int = 60) -> list[str]:
    """The state of the one alert after each evaluation; '' where nothing was said of it."""
    return [each[0][0] if each else "" for each in life(settings, answers, step)]


def test_without_a_pending_period_it_fires_at_once_and_ends_at_once() -> None:
    assert states(Settings(), [[FINE], [FIRES], [FIRES], [FINE]]) == ["Normal", "Alerting", "Alerting", "Normal"]


def test_it_is_pending_for_as_long_as_the_rule_says() -> None:
    assert states(Settings(for_s=120), [[FIRES]] * 4) == ["Pending", "Pending", "Alerting", "Alerting"]


def test_the_pending_period_ends_at_the_first_evaluation_after_it() -> None:
    """``for`` of 90 s at one evaluation a minute holds for two minutes."""
    assert states(Settings(for_s=90), [[FIRES]] * 4) == ["Pending", "Pending", "Alerting", "Alerting"]


def test_a_pending_alert_that_stops_begins_anew() -> None:
    answers = [[FIRES], [FINE], [FIRES], [FIRES], [FIRES]]
    assert states(Settings(for_s=120), answers) == ["Pending", "Normal", "Pending", "Pending", "Alerting"]


def test_it_keeps_firing_for_as_long_as_the_rule_says() -> None:
    answers = [[FIRES], [FINE], [FINE], [FINE], [FINE]]
    assert states(Settings(keep_s=120), answers) == ["Alerting", "Recovering", "Recovering", "Normal", "Normal"]


def test_one_that_fires_again_while_recovering_was_never_resolved() -> None:
    state = RuleState(Settings(keep_s=300))
    changes = [state.evaluate([result], 60 * n)[0] for n, result in enumerate([FIRES, FINE, FIRES, FINE, FIRES])]
    assert [c.after.state for c in changes] == [
        State.ALERTING, State.RECOVERING, State.ALERTING, State.RECOVERING, State.ALERTING,
    ]  # fmt: skip
    assert [c.fired for c in changes] == [True, False, False, False, False]
    assert not any(c.resolved for c in changes)


def test_recovering_counts_from_the_last_time_it_stopped() -> None:
    answers = [[FIRES], [FINE], [FIRES], [FINE], [FINE], [FINE]]
    assert states(Settings(keep_s=120), answers)[-3:] == ["Recovering", "Recovering", "Normal"]


def test_a_missing_series_is_resolved_after_two_evaluations_without_it() -> None:
    state = RuleState(Settings(keep_s=600))
    other = Result(NODE_B, Outcome.NORMAL)
    state.evaluate([FIRES, other], 0)
    assert [c.after.labels for c in state.evaluate([other], 60)] == [NODE_B]
    assert [a.labels for a in state.firing()] == [NODE_A]
    (gone,) = [c for c in state.evaluate([other], 120) if c.after.labels == NODE_A]
    assert (gone.after.state, gone.after.reason, gone.resolved) == (State.NORMAL, "MissingSeries", True)
    assert state.firing() == []


def test_a_series_that_comes_back_in_time_goes_on_where_it_was() -> None:
    state = RuleState(Settings(for_s=120))
    state.evaluate([FIRES], 0)
    state.evaluate([Result(NODE_B, Outcome.NORMAL)], 60)
    (change, *_) = state.evaluate([FIRES], 119)
    assert change.after.state is State.PENDING
    assert state.evaluate([FIRES], 179)[0].after.state is State.ALERTING


def test_no_data_has_an_alert_of_its_own_and_the_series_goes_missing() -> None:
    seen = life(Settings(no_data=NoData.NO_DATA), [[FIRES], [NO_DATA], [NO_DATA]])
    assert seen == [
        [("Alerting", "")],
        [("NoData", "")],
        [("NoData", ""), ("Normal", "MissingSeries")],
    ]


def test_the_alert_of_no_data_ends_at_the_first_evaluation_with_data() -> None:
    state = RuleState(Settings(no_data=NoData.NO_DATA))
    assert state.evaluate([NO_DATA], 0)[0].fired
    changes = state.evaluate([FINE], 60)
    assert [(c.after.labels, c.resolved) for c in changes] == [(NODE_A, False), (SOURCE, True)]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (NoData.ALERTING, ["Alerting", "Alerting", "Alerting"]),
        (NoData.OK, ["Alerting", "Normal", "Normal"]),
        (NoData.KEEP_LAST, ["Alerting", "Alerting", "Alerting"]),
    ],
)
def test_no_data_moves_the_alerts_that_are_there(setting: NoData, expected: list[str]) -> None:
    assert states(Settings(no_data=setting), [[FIRES], [NO_DATA], [NO_DATA]]) == expected


def test_keep_last_leaves_what_is_fine_fine() -> None:
    settings = Settings(no_data=NoData.KEEP_LAST)
    assert life(settings, [[FINE], [NO_DATA]])[1] == [("Normal", "NoData, KeepLast")]


def test_no_data_as_alerting_waits_for_the_pending_period_even_without_a_series() -> None:
    settings = Settings(for_s=120, no_data=NoData.ALERTING)
    assert states(settings, [[NO_DATA]] * 3) == ["Pending", "Pending", "Alerting"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (OnError.ALERTING, ["Normal", "Alerting", "Alerting", "Normal"]),
        (OnError.OK, ["Normal", "Normal", "Normal", "Normal"]),
        (OnError.KEEP_LAST, ["Normal", "Normal", "Normal", "Normal"]),
    ],
)
def test_errors_by_setting(setting: OnError, expected: list[str]) -> None:
    assert states(Settings(on_error=setting), [[FINE], [BROKEN], [BROKEN], [FINE]]) == expected


def test_an_error_of_its_own_keeps_the_series_until_it_is_stale() -> None:
    state = RuleState(Settings(on_error=OnError.ERROR))
    state.evaluate([FIRES], 0)
    (error,) = state.evaluate([BROKEN], 60)
    assert (error.after.state, error.fired) == (State.ERROR, True)
    back: list[Change] = state.evaluate([FIRES], 100)
    assert not any(c.fired for c in back)


def test_each_series_has_a_life_of_its_own() -> None:
    state = RuleState(Settings(for_s=60))
    state.evaluate([FIRES, Result(NODE_B, Outcome.NORMAL)], 0)
    state.evaluate([FIRES, Result(NODE_B, Outcome.ALERTING)], 60)
    assert {a.labels: a.state for a in state.alerts.values()} == {NODE_A: State.ALERTING, NODE_B: State.PENDING}
