"""The provisioning folder that `gpufleet grafana render` writes: whole, without secrets, the same every time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from infra.cli.main import cli
from infra.grafana.provisioning.datasource import TYPE, Source
from infra.grafana.provisioning.desired import MAIN_ORG, api_group, boards, groups, seconds
from infra.grafana.provisioning.tree import escaped, tree
from tests.provisioning.fake_grafana import FakeGrafana

SECRETS = {"GPUFLEET_STORE_PASSWORD": "secret-of-operator"}


def render(output: Path, *arguments: str) -> Result:
    done = CliRunner().invoke(cli, ["grafana", "render", "--output", str(output), *arguments], env=SECRETS)
    assert done.exit_code == 0, done.output
    return done


def loaded(folder: Path) -> dict[str, Any]:
    return {str(path.relative_to(folder)): yaml.safe_load(path.read_text()) for path in sorted(folder.rglob("*.yaml"))}


def test_the_operators_grafana(tmp_path: Path) -> None:
    said = render(tmp_path, "--path", "/etc/grafana/provisioning", "--notify")
    assert "Grafana replaces the whole notification policy of organisation 1" in said.output
    files = loaded(tmp_path)
    [source] = files["datasources/gpufleet.yaml"]["datasources"]
    assert (source["orgId"], source["uid"], source["type"]) == (1, "gpufleet-operator", TYPE)
    assert source["secureJsonData"] == {"password": "$GPUFLEET_OPERATOR_PASSWORD"}
    [provider] = files["dashboards/gpufleet.yaml"]["providers"]
    assert provider["options"]["path"] == "/etc/grafana/provisioning/gpufleet/operator"
    held = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "gpufleet" / "operator").iterdir()}
    assert held == {board["uid"]: board for board in boards("operator")}
    assert not (tmp_path / "gpufleet" / "customer").exists()
    points = files["alerting/gpufleet-contact-points.yaml"]["contactPoints"]
    assert [p["receivers"][0]["settings"]["url"] for p in points] == [
        "$GPUFLEET_PAGE_WEBHOOK", "$GPUFLEET_TICKET_WEBHOOK",
    ]  # fmt: skip
    names = {point["name"] for point in points}
    [policy] = files["alerting/gpufleet-policies.yaml"]["policies"]
    assert policy["receiver"] == "grafana-default-email", "what is not ours goes where Grafana sends it"
    [ours] = policy["routes"]
    assert {ours["receiver"], *(route["receiver"] for route in ours["routes"])} == names


def test_our_route_is_put_into_the_policies_of_today(tmp_path: Path) -> None:
    theirs = {"receiver": "oncall", "object_matchers": [["team", "=", "web"]], "group_wait": "5s"}
    exported = {"apiVersion": 1, "policies": [{"orgId": 1, "receiver": "mail $me", "routes": [theirs]}]}
    (tmp_path / "today.yaml").write_text(yaml.safe_dump(exported))
    said = render(tmp_path / "out", "--notify", "--policies", str(tmp_path / "today.yaml"))
    assert "today.yaml is part of it" in said.output
    [policy] = loaded(tmp_path / "out")["alerting/gpufleet-policies.yaml"]["policies"]
    assert (policy["orgId"], policy["receiver"]) == (1, "mail $$me")
    assert policy["routes"][1:] == [theirs]
    assert policy["routes"][0]["object_matchers"] == [["grafana_folder", "=", "gpufleet alerts"]]


@pytest.mark.parametrize("text", ["", "policies: 3", "a: [", "policies: [x]"])
def test_policies_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "today.yaml").write_text(text)
    words = ["grafana", "render", "--output", str(tmp_path / "x"), "--policies", str(tmp_path / "today.yaml")]
    assert CliRunner().invoke(cli, words).exit_code == 2, "without --notify"
    done = CliRunner().invoke(cli, [*words, "--notify"], env=SECRETS)
    assert (done.exit_code, "as Grafana exports them" in done.output) == (2, True), done.output


def test_a_customers_alerts_go_where_its_file_says(tmp_path: Path) -> None:
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "anthropic.webhook").write_text("https://secret-hook.example\n")
    hooks = {**SECRETS, "GPUFLEET_GRAFANA_CUSTOMER_WEBHOOK_DIR": str(tmp_path / "hooks")}
    words = ["grafana", "render", "--output", str(tmp_path / "out"), "--notify"]
    done = CliRunner().invoke(cli, [*words, "--customer", "anthropic=2", "--customer", "nimbus=3"], env=hooks)
    assert done.exit_code == 0, done.output
    files = loaded(tmp_path / "out")
    points = files["alerting/gpufleet-contact-points.yaml"]["contactPoints"]
    urls = {(p["orgId"], p["name"]): p["receivers"][0]["settings"]["url"] for p in points}
    assert {org for org, _ in urls} == {1, 2}
    assert urls[2, "gpufleet page"] == urls[2, "gpufleet ticket"] == "$GPUFLEET_TENANT_ANTHROPIC_WEBHOOK"
    policies = files["alerting/gpufleet-policies.yaml"]["policies"]
    assert [policy["orgId"] for policy in policies] == [1, 2]


def test_customers_get_their_own_in_their_organisations(tmp_path: Path) -> None:
    render(tmp_path, "--customer", "anthropic=2", "--customer", "space-corp=7", "--secrets-dir", "/run/secrets")
    files = loaded(tmp_path)
    sources = {source["orgId"]: source for source in files["datasources/gpufleet.yaml"]["datasources"]}
    assert {org: (s["uid"], s["jsonData"]["username"]) for org, s in sources.items() if org != MAIN_ORG} == {
        2: ("gpufleet-customer", "anthropic"),
        7: ("gpufleet-customer", "space-corp"),
    }
    assert sources[7]["secureJsonData"]["password"] == "$__file{/run/secrets/space-corp.password}"
    for org in (2, 7):
        document = files[f"alerting/gpufleet-customer-{org}.yaml"]
        assert {group["orgId"] for group in document["groups"]} == {org}
        used = {q["datasourceUid"] for g in document["groups"] for r in g["rules"] for q in r["data"]}
        assert used == {"gpufleet-customer", "__expr__"}
    assert "alerting/gpufleet-contact-points.yaml" not in files


def test_no_secret_stands_in_a_file(tmp_path: Path) -> None:
    render(tmp_path, "--customer", "anthropic=2", "--notify")
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or "secret-of" not in path.read_text()


def test_twice_is_the_same_and_what_is_no_more_goes(tmp_path: Path) -> None:
    render(tmp_path, "--customer", "anthropic=2")
    again = render(tmp_path, "--customer", "anthropic=2")
    assert "nothing to change" in again.output
    (tmp_path / "alerting" / "mine.yaml").write_text("apiVersion: 1\n")
    fewer = render(tmp_path, "--json")
    deleted = json.loads(fewer.output)["deleted"]
    assert "alerting/gpufleet-customer-2.yaml" in deleted
    assert "gpufleet/customer/gpufleet-usage.json" in deleted
    assert (tmp_path / "alerting" / "mine.yaml").exists()


def test_a_dollar_that_means_itself_is_doubled() -> None:
    odd = Source("gpufleet-operator", "ops", "http://h:1", "a$b", "$PASSWORD", "gpufleet", ca="$__file{/ca.pem}")
    [source] = yaml.safe_load(tree({1: odd}, "/a$b")["datasources/gpufleet.yaml"])["datasources"]
    assert source["jsonData"]["username"] == "a$$b"
    assert source["secureJsonData"] == {"password": "$PASSWORD", "tlsCACert": "$__file{/ca.pem}"}
    [provider] = yaml.safe_load(tree({1: odd}, "/a$b")["dashboards/gpufleet.yaml"])["providers"]
    assert provider["options"]["path"] == "/a$$b/gpufleet/operator"
    assert escaped({"a": ["$x", 1, None]}) == {"a": ["$$x", 1, None]}


@pytest.mark.parametrize("text", ["anthropic", "anthropic=", "anthropic=1", "anthropic=x", "Odd Name=2", "a=²"])
def test_a_customer_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    done = CliRunner().invoke(cli, ["grafana", "render", "--output", str(tmp_path / "x"), "--customer", text])
    assert done.exit_code == 2
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("audience", ["operator", "customer"])
def test_what_is_committed_is_what_grafana_takes(audience: str) -> None:
    """Rules pass the checks of Grafana's API; boards have a uid, a title and data sources of their audience."""
    fake = FakeGrafana()
    for group in groups(audience):  # type: ignore[arg-type]
        for rule in api_group(group, "f")["rules"]:
            fake._rule(rule, "f", group["name"])
    uids = [rule["uid"] for group in groups(audience) for rule in group["rules"]]  # type: ignore[arg-type]
    assert len(uids) == len(set(uids)) > 0
    for board in boards(audience):  # type: ignore[arg-type]
        assert re.fullmatch(r"gpufleet-[a-z-]+", board["uid"])
        used = set(re.findall(r'"uid": "(gpufleet-(?:operator|customer))"', json.dumps(board)))
        assert used <= {f"gpufleet-{audience}"}


def test_durations_as_grafana_answers_them() -> None:
    assert [seconds(text) for text in ("", "0s", "90s", "5m", "1h30m", "1d", "2w", 60, None)] == [
        0, 0, 90, 300, 5400, 86_400, 1_209_600, 60, 0,
    ]  # fmt: skip
