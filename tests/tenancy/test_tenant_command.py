"""`gpufleet tenant` against a running embedded store: each change holds at once, and no secret is seen twice."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infra.cli.main import cli
from infra.embedded.store.process import StoreProcess
from tests.embedded.fleet import ask_with

pytestmark = pytest.mark.store
Tenant = Callable[..., Result]


@pytest.fixture
def tenant(migrated_store: StoreProcess, tmp_path: Path) -> Tenant:
    """Runs a verb of `gpufleet tenant` against the store; passwords go to tmp_path/secrets."""
    settings = tmp_path / "gpufleet.toml"
    settings.write_text(
        f'[store]\nurl = "{migrated_store.url}"\ntenants_file = "{migrated_store.data / "tenants.toml"}"\n'
        f'tenant_password_dir = "{tmp_path / "secrets"}"\n'
    )

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["tenant", *arguments, "-c", str(settings)])

    return run


def ask(store: StoreProcess, name: str, password: str) -> int:
    return ask_with(store, name, password, "SELECT count() FROM node_telemetry")[0]


def test_from_add_to_remove(migrated_store: StoreProcess, tenant: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "secrets" / "acme.password"
    added = tenant("add", "acme")
    assert added.exit_code == 0, added.output
    password = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert password not in added.output
    assert ask(migrated_store, "acme", password) == 200
    assert [t["tenant"] for t in json.loads(tenant("list", "--json").output)] == ["acme"]

    again = tenant("add", "acme", "--json")
    assert json.loads(again.output)["existed"] is True
    assert file.read_text().strip() == password

    assert tenant("rotate", "acme").exit_code == 0
    newer = file.read_text().strip()
    assert newer != password
    assert [ask(migrated_store, "acme", word) for word in (password, newer)] == [200, 200]
    assert "2 passwords are good" in tenant("list").output
    hasty = tenant("rotate", "acme")
    assert (hasty.exit_code, "--finish" in hasty.output) == (2, True)
    assert [ask(migrated_store, "acme", word) for word in (password, newer)] == [200, 200], "nobody is locked out"
    assert file.read_text().strip() == newer
    assert tenant("rotate", "acme", "--finish").exit_code == 0
    assert [ask(migrated_store, "acme", word) for word in (password, newer)] == [403, 200]

    assert tenant("rotate", "acme", "--now").exit_code == 0
    assert ask(migrated_store, "acme", newer) == 403
    newest = file.read_text().strip()

    asked = tenant("remove", "acme")
    assert asked.exit_code == 2
    assert "say --yes" in asked.output
    removed = tenant("remove", "acme", "--yes", "--json")
    assert json.loads(removed.output)["password_file_deleted"] is True
    assert ask(migrated_store, "acme", newest) == 403
    assert tenant("list").output == "no tenants\n"
    twice = tenant("remove", "acme", "--yes")
    assert (twice.exit_code, twice.output) == (0, "tenant acme: was not there\n")


def test_without_a_folder_the_password_is_shown_once(
    migrated_store: StoreProcess, tenant: Tenant, tmp_path: Path
) -> None:
    bare = ["--set", "store.tenant_password_dir="]
    said = json.loads(tenant("add", "shown", "--json", *bare).output)
    assert ask(migrated_store, "shown", said["password"]) == 200
    assert "password" not in json.loads(tenant("add", "shown", "--json", *bare).output)
    assert said["password"] not in (migrated_store.data / "tenants.toml").read_text()
    assert tenant("remove", "shown", "--yes").exit_code == 0


def test_a_dry_run_changes_nothing_and_shows_no_secret(tenant: Tenant, tmp_path: Path) -> None:
    shown = tenant("add", "acme", "--dry-run")
    assert shown.exit_code == 0
    assert '[users."acme"]' in shown.output
    assert "[hidden]" in shown.output
    assert not (tmp_path / "secrets").exists()
    assert tenant("list").output == "no tenants\n"


def test_a_run_that_died_is_gone_on_with(migrated_store: StoreProcess, tenant: Tenant, tmp_path: Path) -> None:
    """The password was written, the store never heard of it: the next run uses it and puts it in place."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "acme.password.next").write_text("left-by-a-run-that-died\n")
    assert tenant("add", "acme").exit_code == 0
    assert (secrets / "acme.password").read_text() == "left-by-a-run-that-died\n"
    assert not (secrets / "acme.password.next").exists()
    assert ask(migrated_store, "acme", "left-by-a-run-that-died") == 200
    assert tenant("remove", "acme", "--yes").exit_code == 0


@pytest.mark.parametrize(
    "name", ["Acme", "a b", "acme'; DROP", "a/b", "../x", "ünì", "1st", "", "a" * 64, "a.b", "a\nb", "`a`", "a_b"]
)
def test_an_odd_name_is_refused_with_the_rule(tenant: Tenant, name: str) -> None:
    refused = tenant("add", name)
    assert refused.exit_code == 2
    assert "1 to 63 of a-z, 0-9 and '-', starting with a letter" in refused.output


@pytest.mark.parametrize("name", ["writer", "operator", "gpufleet", "default"])
def test_names_of_the_stores_own_are_taken(tenant: Tenant, name: str) -> None:
    refused = tenant("add", name)
    assert refused.exit_code == 2
    assert "mean something else" in refused.output


def test_mistakes_are_said_in_a_line(tenant: Tenant, tmp_path: Path) -> None:
    unknown = tenant("rotate", "nowhere")
    assert (unknown.exit_code, unknown.output) == (2, "gpufleet: no tenant 'nowhere': found none\n")
    both = tenant("rotate", "nowhere", "--finish", "--now")
    assert both.exit_code == 2
    away = tenant("add", "acme", "--set", "store.url=http://127.0.0.1:1", "--set", f"store.tenants_file={tmp_path}/t")
    assert away.exit_code == 3
    assert "does not follow it" in away.output
