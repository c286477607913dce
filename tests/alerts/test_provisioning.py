"""The committed files are what the table says, and what Grafana reads in them is what the table means."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.grafana.alerts.generate import PROVISIONING, files
from infra.grafana.alerts.provision import FILES
from infra.grafana.alerts.rule import Audience, NoData, OnError, Owner, Severity
from infra.grafana.alerts.rules import BY_NAME, RULES
from infra.grafana.alerts.template import render
from infra.grafana.boards import ids

ROOT = Path(__file__).parents[2]


@cache
def provisioned() -> dict[str, dict[str, Any]]:
    """uid -> rule, of all committed files."""
    found = {}
    for name in FILES.values():
        for group in yaml.safe_load((PROVISIONING / name).read_text())["groups"]:
            found.update({rule["uid"]: {**rule, "interval": group["interval"]} for rule in group["rules"]})
    return found


def test_the_committed_files_are_made_from_the_table() -> None:
    for path, text in files().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)}: run python -m infra.grafana.alerts.generate"


def test_every_rule_is_in_one_file_and_every_file_is_one_of_ours() -> None:
    assert set(provisioned()) == {rule.uid for rule in RULES}
    assert len(BY_NAME) == len(RULES)
    assert {path.name for path in PROVISIONING.glob("*.yaml")} == set(FILES.values())


def test_what_grafana_reads_is_what_the_rule_says() -> None:
    for rule in RULES:
        read = provisioned()[rule.uid]
        query, reduce, threshold = read["data"]
        assert query["model"]["rawSql"] == "\n".join(line.rstrip() for line in rule.sql.splitlines()), rule.name
        assert query["datasourceUid"] == query["model"]["datasource"]["uid"] == rule.audience.datasource
        assert (reduce["refId"], reduce["model"]["expression"], reduce["model"]["reducer"]) == ("B", "A", "last")
        assert threshold["refId"] == read["condition"] == "C"
        assert threshold["model"]["conditions"] == [{"evaluator": {"params": [rule.above], "type": "gt"}}]
        assert read["noDataState"] == rule.no_data.value
        assert read["execErrState"] == rule.on_error.value
        assert read["annotations"]["summary"] == rule.summary
        seconds = {"s": 1, "m": 60, "h": 3600}
        for key, expected in (("for", rule.for_s), ("keepFiringFor", rule.keep_s), ("interval", rule.interval_s)):
            assert int(read[key][:-1]) * seconds[read[key][-1]] == expected, (rule.name, key)


def test_nothing_that_grafana_interpolates_holds_a_dollar() -> None:
    for uid, rule in provisioned().items():
        texts = [rule["title"], *rule["annotations"].values(), *rule["labels"].values(), rule["for"]]
        assert not [text for text in texts if "$" in text], uid


def test_names_fit_grafana() -> None:
    """Grafana: a uid has at most 40 characters of a-z, 0-9, - and _; an interval is a multiple of ten seconds."""
    for rule in RULES:
        assert re.fullmatch(r"[a-z0-9_-]{1,40}", rule.uid), rule.uid
        assert rule.interval_s % 10 == 0
        assert rule.title.strip()
        assert len(rule.title) <= 190
    for audience in Audience:
        titles = [rule.title for rule in RULES if rule.audience is audience]
        assert len(titles) == len(set(titles)), "titles are unique in a folder"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_has_everything_a_woken_person_needs(rule: Any) -> None:
    assert isinstance(rule.severity, Severity)
    assert isinstance(rule.owner, Owner)
    labels = {name: f"<{name}>" for name in rule.labels}
    text = render(rule.summary, labels, {"B": 7.0})
    assert "no value" not in text
    assert "{{" not in text
    assert "NaN" not in text
    assert render(rule.link, labels, {}).startswith(f"/d/{rule.panel[0]}?viewPanel={rule.panel[1]}")
    boards = ids.OPERATOR if rule.audience is Audience.OPERATOR else ids.CUSTOMER
    panels = {board.UID: {v for k, v in vars(board).items() if k.isupper() and k != "UID"} for board in boards}
    assert rule.panel[1] in panels[rule.panel[0]]


def test_queries_know_no_clock() -> None:
    for rule in RULES:
        assert not re.search(r"\b(now|now64|today|yesterday)\s*\(", rule.sql), rule.name
        assert "$__toTime" in rule.sql
        assert not re.search(r"\$\{|\$__(from|to)\b|\$__conditional|\$__adHoc", rule.sql), rule.name


def test_only_what_watches_the_watcher_speaks_up_about_missing_data() -> None:
    """One page for a store that says nothing, not one per rule."""
    loud = {rule.name for rule in RULES if NoData.ALERTING is rule.no_data or rule.on_error is OnError.ALERTING}
    assert loud == {"freshness"}
    assert {rule.no_data for rule in RULES} <= {NoData.ALERTING, NoData.KEEP_LAST, NoData.OK}
    heartbeat = BY_NAME["dead_mans_switch"]
    assert (heartbeat.no_data, heartbeat.on_error) == (NoData.OK, OnError.OK), "it must stop when the store is away"
