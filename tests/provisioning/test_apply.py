"""`gpufleet grafana plan` and `apply` from the environment of grafana-client, against a fake of Grafana's API."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from infra.grafana.provisioning import notify
from infra.grafana.provisioning.desired import boards, groups
from tests.provisioning.conftest import Command

HOOKS = {
    "GPUFLEET_GRAFANA_PAGE_WEBHOOK": "https://page.example/secret-hook",
    "GPUFLEET_GRAFANA_TICKET_WEBHOOK": "https://tickets.example/secret-hook",
}


def test_from_nothing_to_everything_and_then_nothing_to_do(command: Command) -> None:
    fake = command.grafana
    planned = command.changes("plan", **HOOKS)
    assert fake.writes == [], "a plan sends nothing"
    applied = command.changes("apply", **HOOKS)
    # What lies within an organisation that is not there yet is planned as well.
    assert [(c["kind"], c["name"]) for c in planned] == [(c["kind"], c["name"]) for c in applied]
    assert command.changes("plan", **HOOKS) == []
    assert command.changes("apply", **HOOKS) == []

    assert {org.name for org in fake.orgs.values()} == {"Main Org.", "anthropic", "nimbus"}
    main = fake.orgs[1]
    assert main.boards.keys() == {board["uid"] for board in boards("operator")}
    assert {rule["uid"] for rule in main.rules()} == {r["uid"] for g in groups("operator") for r in g["rules"]}
    assert main.secrets["gpufleet-operator"]["password"] == "secret-of-operator"
    assert {point["settings"]["url"] for point in main.points.values()} == set(HOOKS.values())
    assert main.policy["receiver"] == "grafana-default-email", "others' notifications stay as they are"
    assert main.policy["routes"] == [notify.route()]
    for tenant in ("anthropic", "nimbus"):
        org = fake.org(tenant)
        assert org.sources.keys() == {"gpufleet-customer"}
        source = org.sources["gpufleet-customer"]["jsonData"]
        assert (source["username"], source["host"], source["port"], source["secure"]) == (
            tenant, "clickhouse.example", 8443, True,
        )  # fmt: skip
        assert org.secrets["gpufleet-customer"] == {"password": f"secret-of-{tenant}"}
        assert org.boards.keys() == {board["uid"] for board in boards("customer")}
        assert {rule["uid"] for rule in org.rules()} == {r["uid"] for g in groups("customer") for r in g["rules"]}
        assert not org.points


def test_a_customer_with_a_webhook_is_told_in_its_own_organisation(command: Command) -> None:
    """Planned, made, changed and left alone there; the others' organisations stay as they are."""
    folder = command.folder / "hooks"
    folder.mkdir()
    (folder / "anthropic.webhook").write_text("https://customer.example/secret-hook\n")
    hooks = {"GPUFLEET_GRAFANA_CUSTOMER_WEBHOOK_DIR": str(folder)}
    planned = command.changes("plan", **hooks)
    applied = command.changes("apply", **hooks)
    kinds = {"contact point", "notification policy"}
    told = [(c["organisation"], c["kind"], c["name"]) for c in applied if c["kind"] in kinds]
    assert told == [(c["organisation"], c["kind"], c["name"]) for c in planned if c["kind"] in kinds]
    assert [(org, kind) for org, kind, _ in told] == [("anthropic", "contact point")] * 2 + [
        ("anthropic", "notification policy")
    ]
    org = command.grafana.org("anthropic")
    assert {point["settings"]["url"] for point in org.points.values()} == {"https://customer.example/secret-hook"}
    org.policy["routes"].append({"receiver": "grafana-default-email", "object_matchers": [["team", "=", "x"]]})
    org.policy["routes"][0]["repeat_interval"] = "9h"
    [change] = command.changes("plan", **hooks)
    assert change["detail"] == "route, beside 1 other"
    command.changes("apply", **hooks)
    assert command.changes("plan", **hooks) == []
    assert len(org.policy["routes"]) == 2
    assert not command.grafana.org("nimbus").points


def test_only_what_differs_is_changed(command: Command) -> None:
    only = ("--customer", "anthropic")
    command.changes("apply", *only, **HOOKS)
    org, main = command.grafana.org("anthropic"), command.grafana.orgs[1]
    board = org.boards["gpufleet-usage"]["dashboard"]
    board["title"] = "Edited by hand"
    rule = main.rules()[0]
    rule["for"] = "59m"
    (command.secrets / "anthropic.password").write_text("rotated\n")
    org.sources["gpufleet-customer"]["jsonData"]["enableRowLimit"] = True
    next(iter(main.points.values()))["settings"]["url"] = "https://elsewhere.example"
    main.policy["routes"].append({"receiver": "grafana-default-email", "object_matchers": [["team", "=", "x"]]})
    main.policy["routes"][0]["repeat_interval"] = "9h"
    foreign = {**rule, "uid": "stale", "title": "stale", "ruleGroup": "gone"}
    main.groups["gpufleet-alerts", "gone"] = {"title": "gone", "interval": 60, "rules": [foreign]}

    changes = command.changes("apply", *only, **HOOKS)
    assert {(c["verb"], c["kind"], c["name"]): c["detail"] for c in changes} == {
        ("update", "data source", "gpufleet-customer"): "jsonData.enableRowLimit, password",
        ("update", "dashboard", "gpufleet-usage"): "title",
        ("update", "rule group", rule["ruleGroup"]): f"{rule['uid']}.for",
        ("delete", "rule", "stale"): "its group 'gone' is no more",
        ("update", "contact point", "gpufleet page"): "settings.url",
        ("update", "notification policy", "gpufleet alerts"): "route, beside 1 other",
    }
    assert org.secrets["gpufleet-customer"]["password"] == "rotated"
    assert org.boards["gpufleet-usage"]["dashboard"]["version"] == 2
    assert [route.get("repeat_interval") for route in main.policy["routes"]] == ["1d", None]
    assert command.changes("plan", *only, **HOOKS) == []


@pytest.mark.parametrize("writes", [1, 17])
def test_a_run_that_broke_off_is_gone_on_with(command: Command, writes: int) -> None:
    """It says where; the next run makes what is missing, and nothing twice."""
    fake = command.grafana
    fake.fail_writes_after = writes
    broken = command("apply", "--customer", "anthropic", **HOOKS)
    assert broken.returncode == 3
    assert "database is locked" in broken.stderr
    assert "apply again goes on from there" in broken.stderr
    assert "Traceback" not in broken.stderr
    fake.fail_writes_after = None
    command.changes("apply", "--customer", "anthropic", **HOOKS)
    assert command.changes("plan", "--customer", "anthropic", **HOOKS) == []
    made = [*command.grafana.orgs[1].boards.values(), *command.grafana.org("anthropic").boards.values()]
    assert [board["dashboard"]["version"] for board in made] == [1] * len(made), "each was made once"


def test_no_secret_is_ever_shown(command: Command) -> None:
    said = [command("plan", **HOOKS), command("apply", **HOOKS), command("plan", "--json", **HOOKS)]
    (command.secrets / "nimbus.password").write_text("rotated-secret\n")
    said.append(command("apply", **HOOKS))
    for done in said:
        assert done.returncode == 0, done.stderr
        for secret in ("secret-of", "secret-hook", "rotated-secret"):
            assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("settings", "exit_code", "words"),
    [
        ({"GPUFLEET_GRAFANA_URL": "http://127.0.0.1:1"}, 3, "does not answer"),
        ({"GPUFLEET_GRAFANA_USER": "somebody"}, 3, "does not accept user 'somebody'"),
        ({"GPUFLEET_GRAFANA_TOKEN": "wrong"}, 2, "a service account's token belongs to one organisation"),
        ({"GPUFLEET_GRAFANA_PASSWORD_FILE": ""}, 2, "no credentials: set grafana.password_file"),
        ({"GPUFLEET_STORE_PASSWORD": ""}, 2, "no password for the operator's data source"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    command: Command, settings: dict[str, str], exit_code: int, words: str
) -> None:
    done = command("apply", **settings)
    assert (done.returncode, "Traceback" in done.stderr) == (exit_code, False), done.stderr
    assert words in done.stderr
    assert command.grafana.writes == []


def test_a_wrong_or_narrow_token(command: Command) -> None:
    wrong = command("plan", "--customer", "", GPUFLEET_GRAFANA_TOKEN="wrong")
    assert wrong.returncode == 3
    assert "does not accept the token: check grafana.token" in wrong.stderr
    good = command.changes("apply", "--customer", "", GPUFLEET_GRAFANA_TOKEN=command.grafana.token)
    assert {change["organisation"] for change in good} == {"the operator's"}


def test_too_old_and_without_the_plugin(command: Command) -> None:
    command.grafana.version = "11.6.3"
    old = command("apply")
    assert (old.returncode, "expected Grafana 12 or newer, found 11.6.3" in old.stderr) == (2, True)
    command.grafana.version, command.grafana.plugin = "13.0.1", False
    bare = command("apply")
    assert (bare.returncode, "lacks the plugin grafana-clickhouse-datasource" in bare.stderr) == (2, True)
    command.grafana.plugin = True
    assert command.changes("plan", "--customer", "")
    assert command.grafana.writes == []


def test_what_files_provisioned_is_left_to_them(command: Command) -> None:
    """Where it is the same nothing is to do; where it differs, it says so and who decides."""
    none = ("--customer", "")
    command.changes("apply", *none)
    main = command.grafana.orgs[1]
    main.sources["gpufleet-operator"]["readOnly"] = True
    main.sources["gpufleet-operator"]["jsonData"].pop("gpufleetSecret")
    for board in main.boards.values():
        board["provisioned"] = True
    assert command.changes("apply", *none) == []
    main.boards["gpufleet-fleet"]["dashboard"]["title"] = "another"
    refused = command("apply", *none)
    assert refused.returncode == 1
    assert "comes from a provisioning file" in refused.stderr


def test_another_administrators_organisation_is_joined(command: Command) -> None:
    command.changes("apply", "--customer", "anthropic")
    command.grafana.org("anthropic").members.clear()
    assert [c["kind"] for c in command.changes("apply", "--customer", "anthropic")] == ["membership"]


def test_prune_deletes_boards_that_are_no_more(command: Command) -> None:
    none = ("--customer", "")
    command.changes("apply", *none)
    main = command.grafana.orgs[1]
    main.boards["gpufleet-old"] = {"dashboard": {"uid": "gpufleet-old", "title": "Old"}, "folderUid": "gpufleet"}
    main.boards["mine"] = {"dashboard": {"uid": "mine", "title": "Somebody's"}, "folderUid": "elsewhere"}
    assert command.changes("apply", *none) == []
    assert [(c["verb"], c["name"]) for c in command.changes("apply", "--prune", *none)] == [("delete", "gpufleet-old")]
    assert "mine" in main.boards


def test_where_grafana_client_is_missing_it_says_what_to_do() -> None:
    """In the environment of everything else, where it must not be."""
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", "grafana", "plan", "--customer", ""],
        env={"GPUFLEET_GRAFANA_PASSWORD": "x", "GPUFLEET_STORE_PASSWORD": "x"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "make grafana" in done.stderr


def test_the_two_environments_do_not_meet(command: Command) -> None:
    """Theirs has another urllib3; `gpufleet grafana` does not touch what uses ours."""
    script = (
        "import sys, urllib3; from infra.cli.main import cli; from click.testing import CliRunner\n"
        "done = CliRunner().invoke(cli, ['grafana', 'plan', '--customer', ''])\n"
        "assert done.exit_code == 0, done.output\n"
        "assert 'clickhouse_connect' not in sys.modules and 'grafana_client' in sys.modules\n"
        "print(urllib3.__version__)"
    )
    done = subprocess.run(
        [command.bin / "python", "-c", script],
        env={
            "GPUFLEET_GRAFANA_URL": command.grafana.url,
            "GPUFLEET_GRAFANA_PASSWORD": command.grafana.password,
            "GPUFLEET_STORE_PASSWORD": "x",
        },
        cwd=command.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != version("urllib3"), "if they are the same one day, one environment will do"
    assert "grafana_client" not in sys.modules
