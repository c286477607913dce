"""What an alert rule is: one query whose rows are the alerts, a threshold, and everything a woken person needs.

A query gives one row per thing that may be wrong: the column ``time`` (the evaluation's time), text columns that become
the alert's labels, and one number ``value``. Labels name the cause and never change while it lasts; what changes is
the value. A thing stays in the answer, with a value that is fine, for a while after it has ended, so that
``keep_firing_for`` works; and each site has one row of its own without labels, so that an answer without rows means
that the store has nothing to say, not that all is well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

OPERATOR_SOURCE = "gpufleet-operator"
CUSTOMER_SOURCE = "gpufleet-customer"
RUNBOOKS = "https://github.com/gpufleet/gpufleet/blob/main/docs/runbooks"


class Severity(StrEnum):
    """What a notification does."""

    PAGE = "page"
    """Wakes somebody: many GPUs, a customer or our own eyes are at stake, and minutes count."""
    TICKET = "ticket"
    """Somebody works on it in the order of the queue; a fleet of 220,160 GPUs breaks a hundred a day."""
    INFO = "info"
    """Told to whom it concerns; nobody has to act."""
    HEARTBEAT = "heartbeat"
    """Always there; its absence wakes somebody."""


class Owner(StrEnum):
    """Who acts."""

    FLEET = "fleet"
    """GPUs, nodes and their software."""
    FACILITIES = "facilities"
    """Power and cooling."""
    NETWORK = "network"
    CAPACITY = "capacity"
    """Leases and customers."""
    PIPELINE = "pipeline"
    """This system."""
    TENANT = "tenant"
    """The customer: its jobs and its use."""


class NoData(StrEnum):
    """State of the alerts while the query answers without a single row (noDataState)."""

    NO_DATA = "NoData"
    ALERTING = "Alerting"
    OK = "OK"
    KEEP_LAST = "KeepLast"


class OnError(StrEnum):
    """State of the alerts while the query fails (execErrState)."""

    ERROR = "Error"
    ALERTING = "Alerting"
    OK = "OK"
    KEEP_LAST = "KeepLast"


class Audience(StrEnum):
    """Whose organisation the rule lives in."""

    OPERATOR = "operator"
    CUSTOMER = "customer"

    @property
    def datasource(self) -> str:
        return OPERATOR_SOURCE if self is Audience.OPERATOR else CUSTOMER_SOURCE


@dataclass(frozen=True, slots=True)
class Rule:
    """One alert rule. Durations in seconds."""

    name: str
    """Unique; its uid is ``gpufleet-NAME`` and its runbook docs/runbooks/NAME.md."""
    title: str
    pack: str
    severity: Severity
    owner: Owner
    sql: str
    labels: tuple[str, ...]
    """Text columns of the answer: what an alert of this rule is about."""
    summary: str
    """One line with the values, as template.py reads it."""
    panel: tuple[str, int]
    """Board's uid and the panel that explains it."""
    above: float = 0.0
    """It fires where the value is greater."""
    for_s: int = 0
    keep_s: int = 300
    interval_s: int = 60
    no_data: NoData = NoData.KEEP_LAST
    on_error: OnError = OnError.KEEP_LAST
    audience: Audience = Audience.OPERATOR
    board: str = ""
    """Variables of the board that show this alert's thing, e.g. "site={{ .Labels.site }}"."""

    @property
    def uid(self) -> str:
        return f"gpufleet-{self.name}"

    @property
    def runbook(self) -> str:
        return f"{RUNBOOKS}/{self.name}.md"

    @property
    def link(self) -> str:
        """Path of the panel, with the board's variables set."""
        uid, panel = self.panel
        chosen = "".join(f"&var-{each}" for each in self.board.split("&") if each)
        return f"/d/{uid}?viewPanel={panel}{chosen}"
