"""What an organisation of Grafana should hold: a data source, boards, alert rules. Nothing here asks a Grafana."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final, Literal

from infra.grafana.provisioning.datasource import CUSTOMER_UID, OPERATOR_UID, Source

Audience = Literal["operator", "customer"]
Json = dict[str, Any]

FOLDER_UID, FOLDER_TITLE = "gpufleet", "gpufleet"
ALERTS_UID, ALERTS_TITLE = "gpufleet-alerts", "gpufleet alerts"
MAIN_ORG: Final = 1
"""Grafana's first organisation, which is always there: the operator's."""


@dataclass(frozen=True)
class Told:
    """Webhooks for pages and tickets; without ``page`` who is told stays as it is."""

    page: str = ""
    ticket: str = ""

    def __repr__(self) -> str:
        return f"Told(page={bool(self.page)}, ticket={bool(self.ticket)})"


@dataclass(frozen=True)
class Organisation:
    """One organisation and what belongs into it."""

    name: str
    """Empty = the operator's, which is there already."""
    audience: Audience
    source: Source
    boards: Sequence[Json] = field(default_factory=tuple)
    groups: Sequence[Json] = field(default_factory=tuple)
    """Rule groups in the form of Grafana's provisioning files, without orgId."""
    told: Told = Told()


def boards(audience: Audience) -> list[Json]:
    """The committed dashboards of an audience, by uid."""
    folder = files("infra.grafana") / "dashboards" / audience
    found = [
        json.loads(entry.read_text(encoding="utf-8")) for entry in folder.iterdir() if entry.name.endswith(".json")
    ]
    return sorted(found, key=lambda board: str(board["uid"]))


def rules_text(audience: Audience) -> str:
    """The committed alert rules of an audience, as a provisioning file for organisation 1."""
    return (files("infra.grafana") / "alerts" / "provisioning" / f"{audience}.yaml").read_text(encoding="utf-8")


def groups(audience: Audience) -> list[Json]:
    """The same as data, without orgId."""
    import yaml

    document = yaml.safe_load(rules_text(audience))
    return [{key: value for key, value in group.items() if key != "orgId"} for group in document["groups"]]


def organisation(name: str, source: Source, told: Told | None = None) -> Organisation:
    """The operator's organisation (empty name) or a customer's, with everything in it."""
    audience: Audience = "customer" if name else "operator"
    if source.uid != (CUSTOMER_UID if name else OPERATOR_UID):
        raise ValueError(f"{source.uid} is not the data source of {name or 'the operator'}")
    return Organisation(name, audience, source, boards(audience), groups(audience), told or Told())


def seconds(duration: str | int | None) -> int:
    """Seconds of a duration such as 5m, 1h30m or 0s, in which Grafana answers in other units than it was given."""
    if duration is None or duration == "":
        return 0
    if isinstance(duration, int):
        return duration
    total, number = 0, ""
    for sign in duration:
        if sign.isdigit():
            number += sign
            continue
        total += int(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[sign]
        number = ""
    return total


def api_group(group: Mapping[str, Any], folder_uid: str) -> Json:
    """A rule group of a provisioning file in the form of Grafana's API."""
    made = []
    for rule in group["rules"]:
        rule = copy.deepcopy(dict(rule))
        annotations = {**rule.get("annotations", {})}
        for key, name in (("dashboardUid", "__dashboardUid__"), ("panelId", "__panelId__")):
            if key in rule:
                annotations.setdefault(name, str(rule.pop(key)))
        made.append(
            {
                "uid": rule["uid"],
                "title": rule["title"],
                "condition": rule["condition"],
                "data": rule["data"],
                "noDataState": rule["noDataState"],
                "execErrState": rule["execErrState"],
                "for": rule.get("for", "0s"),
                "keep_firing_for": rule.get("keepFiringFor", "0s"),
                "annotations": annotations,
                "labels": dict(rule.get("labels", {})),
                "isPaused": bool(rule.get("isPaused", False)),
                "folderUID": folder_uid,
                "ruleGroup": group["name"],
            }
        )
    return {
        "title": group["name"],
        "folderUid": folder_uid,
        "interval": seconds(group["interval"]),
        "rules": made,
    }
