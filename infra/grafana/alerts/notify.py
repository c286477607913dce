"""Who is told what, once: alerts that fire grouped as the notification policy groups them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from infra.grafana.alerts.evaluate import Evaluator
from infra.grafana.alerts.rule import Rule
from infra.grafana.alerts.state import Alert, Change, Labels


@dataclass(frozen=True, slots=True)
class Notification:
    """An alert that began to fire."""

    rule: Rule
    alert: Alert
    at: float
    text: str

    @property
    def key(self) -> tuple[str, Labels]:
        return self.rule.name, self.alert.labels

    def label(self, name: str) -> str:
        return dict(self.alert.labels).get(name, "")


@dataclass
class Notifier:
    """Collects what was told. An alert that goes on firing, or recovers and fires again, is not told twice."""

    sent: list[Notification] = field(default_factory=list)
    resolved: list[tuple[str, Labels, float]] = field(default_factory=list)

    def take(self, evaluator: Evaluator, changes: Iterable[Change], at: float) -> list[Notification]:
        """What these changes tell."""
        new = [
            Notification(evaluator.rule, change.after, at, evaluator.summary(change.after))
            for change in changes
            if change.fired
        ]
        self.resolved += [(evaluator.rule.name, change.after.labels, at) for change in changes if change.resolved]
        self.sent += new
        return new
