"""A rule against a store, at any time: query -> reduce (last) -> threshold -> state, as Grafana's scheduler does it.

evaluator = Evaluator(rule, asking(client))
for at in range(begin, end, rule.interval_s):
    for change in evaluator.step(at):
        ...

The query's macros are expanded as the data source's back end does (infra/grafana/expand), with the rule's relative
time range ending at ``at``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from infra.grafana.alerts.rule import Rule
from infra.grafana.alerts.state import Alert, Change, Outcome, Result, RuleState, Settings, labels_of
from infra.grafana.alerts.template import render
from infra.grafana.expand import Frame, TimeRange, expand, run

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

RANGE_S = 3600
"""Relative time range of every rule's query: its end is the evaluation; queries look as far back as they need."""
VALUE = "B"
"""refId of the reduced value, which templates read."""

Ask = Callable[[str], Frame]


class StoreError(RuntimeError):
    """The store refused a query or did not answer: to Grafana this is the state Error."""


class AnswerError(ValueError):
    """An answer of which Grafana would make other alerts than the rule means."""


def asking(client: Client) -> Ask:
    """Ask a ClickHouse client."""
    from clickhouse_connect.driver.exceptions import Error
    from urllib3.exceptions import HTTPError

    def ask(sql: str) -> Frame:
        try:
            return run(client, sql)
        except (Error, HTTPError, OSError) as error:
            raise StoreError(str(error)) from error

    return ask


def query(rule: Rule, at: float) -> str:
    """The SQL that reaches the store at that time."""
    end = int(at * 1000)
    return expand(rule.sql, TimeRange(end - RANGE_S * 1000, end), {}, 1000)


def results(rule: Rule, frame: Frame) -> list[Result]:
    """One result per series; NoData for an answer without rows.

    Grafana turns a frame of time, texts and one number into one series per combination of texts and reduces each to
    its last value. AnswerError for what it would take without a word and a rule never means: rows that share their
    labels (one would win), values that are no numbers.
    """
    if frame.rows:
        _check(rule, frame)
    else:
        return [Result(labels_of({"datasource_uid": rule.audience.datasource, "ref_id": "A"}), Outcome.NO_DATA)]
    at = {name: place for place, name in enumerate(frame.columns)}
    found: dict[Any, Result] = {}
    for row in frame.rows:
        labels = labels_of({name: str(row[at[name]]) for name in rule.labels})
        if labels in found:
            raise AnswerError(f"rule {rule.name}: two rows have the labels {dict(labels)}")
        value = row[at["value"]]
        if value is None or math.isnan(value):
            raise AnswerError(f"rule {rule.name}: expected a number, found {value} for {dict(labels)}")
        outcome = Outcome.ALERTING if value > rule.above else Outcome.NORMAL
        found[labels] = Result(labels, outcome, float(value))
    return list(found.values())


def _check(rule: Rule, frame: Frame) -> None:
    expected = {"time", *rule.labels, "value"}
    if set(frame.columns) != expected:
        raise AnswerError(f"rule {rule.name}: expected the columns {sorted(expected)}, found {sorted(frame.columns)}")
    if len(frame.number_columns) != 1:
        raise AnswerError(f"rule {rule.name}: expected one column of numbers, value, found {frame.types}")


def settings(rule: Rule) -> Settings:
    return Settings(rule.for_s, rule.keep_s, rule.interval_s, rule.no_data, rule.on_error)


class Evaluator:
    """One rule over time. ``ask`` runs SQL or raises StoreError."""

    def __init__(self, rule: Rule, ask: Ask) -> None:
        self.rule, self._ask = rule, ask
        self.state = RuleState(settings(rule))

    def step(self, at: float) -> list[Change]:
        """Evaluate at that time (seconds since 1970)."""
        return self.state.evaluate(self.ask(at), at)

    def ask(self, at: float) -> Sequence[Result]:
        """The results at that time, without a change of state."""
        try:
            frame = self._ask(query(self.rule, at))
        except StoreError as error:
            labels = labels_of({"datasource_uid": self.rule.audience.datasource, "ref_id": "A"})
            return [Result(labels, Outcome.ERROR, error=str(error))]
        return results(self.rule, frame)

    def summary(self, alert: Alert) -> str:
        """What the notification says."""
        return render(self.rule.summary, dict(alert.labels), {VALUE: alert.value})
