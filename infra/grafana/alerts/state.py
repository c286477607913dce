"""The life of alerts as Grafana lives it (pkg/services/ngalert/state of Grafana 12 and 13), written anew.

A rule's evaluation gives results: one per series, or one NoData, or one Error. ``RuleState.evaluate`` moves the alerts
(one per set of labels) on and returns what changed:

    Normal ──fires──> Pending ──for──> Alerting ──stops──> Recovering ──keepFiringFor──> Normal
                                           ^───fires again─────┘

A series that is missing from the answer stays as it was until two intervals have passed without it, then it is
resolved as MissingSeries, whatever keepFiringFor says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from infra.grafana.alerts.rule import NoData, OnError

MISSING_EVALUATIONS = 2
"""Grafana's default of missing_series_evals_to_resolve."""

Labels = tuple[tuple[str, str], ...]
"""Sorted (name, value); empty values are no labels, as in Alertmanager."""


def labels_of(values: Mapping[str, str]) -> Labels:
    return tuple(sorted((name, value) for name, value in values.items() if value != ""))


class State(StrEnum):
    NORMAL = "Normal"
    PENDING = "Pending"
    ALERTING = "Alerting"
    RECOVERING = "Recovering"
    NO_DATA = "NoData"
    ERROR = "Error"


FIRING = frozenset({State.ALERTING, State.RECOVERING, State.NO_DATA, State.ERROR})
"""States of which the Alertmanager knows."""


class Outcome(StrEnum):
    """What an evaluation says of one series, or of the whole rule."""

    NORMAL = "Normal"
    ALERTING = "Alerting"
    NO_DATA = "NoData"
    ERROR = "Error"


@dataclass(frozen=True, slots=True)
class Settings:
    """What of a rule the machine needs. Seconds."""

    for_s: int = 0
    keep_s: int = 0
    interval_s: int = 60
    no_data: NoData = NoData.NO_DATA
    on_error: OnError = OnError.ERROR


@dataclass(frozen=True, slots=True)
class Result:
    """One series of one evaluation."""

    labels: Labels
    outcome: Outcome
    value: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert instance as it stands. Times in seconds since 1970."""

    labels: Labels
    state: State
    since: float
    """When it entered the state."""
    seen: float
    """Its newest evaluation."""
    reason: str = ""
    """Why it is so, where the value does not say: NoData, Error, KeepLast, MissingSeries."""
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """One alert before and after an evaluation."""

    before: State
    after: Alert

    @property
    def fired(self) -> bool:
        """It was not known to the Alertmanager and now is."""
        return self.after.state in FIRING and self.before not in FIRING

    @property
    def resolved(self) -> bool:
        return self.before in FIRING and self.after.state not in FIRING


@dataclass
class RuleState:
    """The alerts of one rule over time."""

    settings: Settings
    alerts: dict[Labels, Alert] = field(default_factory=dict)

    def evaluate(self, results: Sequence[Result], at: float) -> list[Change]:
        """Take an evaluation's results; every alert it touched, with what it was. ``at`` never goes back."""
        changes = self._all(results, at) if results and self._speaks_for_all(results) else []
        if not changes:
            changes = [self._one(result.labels, result, at) for result in results]
        return [*changes, *self._missing(at)]

    def firing(self) -> list[Alert]:
        """Alerts that somebody has been told of and that have not been resolved."""
        return [alert for alert in self.alerts.values() if alert.state in FIRING]

    def _speaks_for_all(self, results: Sequence[Result]) -> bool:
        """Whether the rule's setting applies NoData or an error to each alert that is there, not to one of its own."""
        outcomes = {result.outcome for result in results}
        if outcomes == {Outcome.NO_DATA}:
            return self.settings.no_data is not NoData.NO_DATA
        return outcomes == {Outcome.ERROR} and self.settings.on_error is not OnError.ERROR

    def _all(self, results: Sequence[Result], at: float) -> list[Change]:
        return [self._one(labels, replace(results[0], labels=labels), at) for labels in list(self.alerts)]

    def _one(self, labels: Labels, result: Result, at: float) -> Change:
        before = self.alerts.get(labels) or Alert(labels, State.NORMAL, at, at)
        after = _next(before, result, at, self.settings)
        self.alerts[labels] = after
        return Change(before.state, after)

    def _missing(self, at: float) -> list[Change]:
        gone = []
        for labels, alert in list(self.alerts.items()):
            evaluations = 1 if alert.state in (State.ERROR, State.NO_DATA) else MISSING_EVALUATIONS
            if alert.seen != at and at - alert.seen >= evaluations * self.settings.interval_s:
                del self.alerts[labels]
                gone.append(Change(alert.state, replace(alert, state=State.NORMAL, since=at, reason="MissingSeries")))
        return gone


def _next(alert: Alert, result: Result, at: float, settings: Settings) -> Alert:
    """The alert after a result."""
    asked, reason = _asked(alert, result, settings)
    state = asked if isinstance(asked, State) else _moved(alert, asked, at, settings)
    since = alert.since if state is alert.state else at
    value = result.value if result.outcome in (Outcome.NORMAL, Outcome.ALERTING) else alert.value
    return replace(alert, state=state, since=since, seen=at, reason=reason, value=value)


def _asked(alert: Alert, result: Result, settings: Settings) -> tuple[Outcome | State, str]:
    """What a result comes to: Normal or Alerting as a value would, or a state of its own; and why."""
    if result.outcome is Outcome.NO_DATA:
        if settings.no_data is NoData.NO_DATA:
            return State.NO_DATA, ""
        setting, reason = settings.no_data.value, "NoData"
    elif result.outcome is Outcome.ERROR:
        if settings.on_error is OnError.ERROR:
            return State.ERROR, ""
        setting, reason = settings.on_error.value, "Error"
    else:
        return result.outcome, ""
    if setting == "Alerting":
        return Outcome.ALERTING, reason
    if setting == "OK":
        return Outcome.NORMAL, reason
    # Keep the last state: what fires goes on firing, what is pending gets no further before its time, the rest is fine.
    stays = alert.state in (State.ALERTING, State.PENDING)
    return (Outcome.ALERTING if stays else Outcome.NORMAL), f"{reason}, KeepLast"


def _moved(alert: Alert, outcome: Outcome, at: float, settings: Settings) -> State:
    """The state after a value that fires or does not."""
    state = alert.state
    if outcome is Outcome.ALERTING:
        if state in (State.ALERTING, State.RECOVERING):
            return State.ALERTING
        if state is State.PENDING:
            return State.ALERTING if at - alert.since >= settings.for_s else State.PENDING
        return State.PENDING if settings.for_s > 0 else State.ALERTING
    if state is State.ALERTING and settings.keep_s > 0:
        return State.RECOVERING
    if state is State.RECOVERING and at - alert.since < settings.keep_s:
        return State.RECOVERING
    return State.NORMAL
