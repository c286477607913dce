"""The table of rules as Grafana's provisioning files (Grafana 12 and 13), byte for byte the same for the same table.

A query's model is taken as it stands, so its ``$__toTime`` must not be escaped; titles, labels and annotations may be
searched for environment variables, so they hold no dollar (a test sees to it). One file for the operator's
organisation, one that every customer's organisation gets: file provisioning knows organisations only by number, so the
files say 1 and whoever applies them to another replaces ``orgId``.
"""

from __future__ import annotations

import json
from typing import Any

from infra.grafana.alerts.evaluate import RANGE_S, VALUE
from infra.grafana.alerts.rule import Audience, Rule
from infra.grafana.alerts.rules import RULES

FOLDER = "gpufleet alerts"
FILES = {Audience.OPERATOR: "operator.yaml", Audience.CUSTOMER: "customer.yaml"}
QUERY, CONDITION = "A", "C"


def groups(audience: Audience) -> list[dict[str, Any]]:
    """Rule groups of an audience: one per pack and interval, in the order of the table."""
    found: dict[tuple[str, int], list[Rule]] = {}
    for rule in RULES:
        if rule.audience is audience:
            found.setdefault((rule.pack, rule.interval_s), []).append(rule)
    return [
        {
            "orgId": 1,
            "name": pack if interval == 60 else f"{pack} every {_duration(interval)}",
            "folder": FOLDER,
            "interval": _duration(interval),
            "rules": [_rule(rule) for rule in rules],
        }
        for (pack, interval), rules in found.items()
    ]


def document(audience: Audience) -> str:
    """The provisioning file of an audience."""
    head = (
        "# Made from infra/grafana/alerts/packs by python -m infra.grafana.alerts.generate: change the rules there.\n"
    )
    return head + _yaml({"apiVersion": 1, "groups": groups(audience)})


def _duration(seconds: int) -> str:
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _rule(rule: Rule) -> dict[str, Any]:
    board, panel = rule.panel
    return {
        "uid": rule.uid,
        "title": rule.title,
        "condition": CONDITION,
        "data": [_query(rule), _reduce(), _threshold(rule)],
        "dashboardUid": board,
        "panelId": panel,
        "noDataState": rule.no_data.value,
        "execErrState": rule.on_error.value,
        "for": _duration(rule.for_s),
        "keepFiringFor": _duration(rule.keep_s),
        "annotations": {
            "summary": rule.summary,
            "runbook_url": rule.runbook,
            "board": rule.link,
            "__dashboardUid__": board,
            "__panelId__": str(panel),
        },
        "labels": {
            "severity": rule.severity.value,
            "owner": rule.owner.value,
            "pack": rule.pack,
            "rule": rule.name,
        },
        "isPaused": False,
    }


def _query(rule: Rule) -> dict[str, Any]:
    return {
        "refId": QUERY,
        "relativeTimeRange": {"from": RANGE_S, "to": 0},
        "datasourceUid": rule.audience.datasource,
        "model": {
            "refId": QUERY,
            "datasource": {"type": "grafana-clickhouse-datasource", "uid": rule.audience.datasource},
            "editorType": "sql",
            "queryType": "timeseries",
            "format": 0,
            "rawSql": rule.sql,
            "intervalMs": 1000,
            "maxDataPoints": 43200,
        },
    }


def _expression(ref: str, **model: Any) -> dict[str, Any]:
    return {
        "refId": ref,
        "relativeTimeRange": {"from": 0, "to": 0},
        "datasourceUid": "__expr__",
        "model": {"refId": ref, "datasource": {"type": "__expr__", "uid": "__expr__"}, **model},
    }


def _reduce() -> dict[str, Any]:
    return _expression(VALUE, type="reduce", expression=QUERY, reducer="last", settings={"mode": ""})


def _threshold(rule: Rule) -> dict[str, Any]:
    evaluator = {"params": [rule.above], "type": "gt"}
    return _expression(CONDITION, type="threshold", expression=VALUE, conditions=[{"evaluator": evaluator}])


def _yaml(value: Any, indent: int = 0) -> str:
    """The little of YAML that is needed: maps, lists, numbers, quoted texts, and long texts as they stand."""
    pad = "  " * indent
    if isinstance(value, dict):
        lines = []
        for key, item in value.items():
            if isinstance(item, dict | list) and item:
                lines.append(f"{pad}{key}:\n{_yaml(item, indent + 1)}")
            elif isinstance(item, str) and "\n" in item:
                text = "\n".join(f"{pad}  {line}".rstrip() for line in item.splitlines())
                lines.append(f"{pad}{key}: |-\n{text}\n")
            else:
                lines.append(f"{pad}{key}: {json.dumps(item)}\n")
        return "".join(lines)
    if isinstance(value, list):
        lines = []
        for item in value:
            text = _yaml(item, indent + 1) if isinstance(item, dict) else f"{pad}  {json.dumps(item)}\n"
            lines.append(f"{pad}- {text[len(pad) + 2 :]}")
        return "".join(lines)
    raise TypeError(f"expected a map or a list, found {type(value).__name__}")
