"""The deployment files, as far as they can be held to without a container engine: whole, consistent, loopback only."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from infra.cli.main import cli
from infra.clickhouse.client import ClickHouse, connect
from infra.clickhouse.users import OPERATOR, WRITER
from infra.config.leaves import by_variable
from infra.embedded.store.process import StoreProcess
from infra.grafana.provisioning.datasource import PLUGIN_VERSION, TYPE
from producers.simulator import scenario as scenarios
from schemas.signing_keys import parse_site_keys, sites

DEPLOY = Path(__file__).parents[2] / "infra" / "deploy"
ROOT = DEPLOY.parents[1]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def test_every_reference_within_it_is_met(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert set(service.get("secrets", [])) <= set(compose["secrets"]), name
        assert set(service.get("depends_on", {})) <= set(compose["services"]), name
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith(".") else source in compose["volumes"], mount
        for wanted in service.get("depends_on", {}).values():
            assert wanted["condition"] in ("service_healthy", "service_completed_successfully")


def test_a_secret_is_read_only_where_it_is_mounted(compose: dict[str, Any]) -> None:
    scripts = {"clickhouse": (DEPLOY / "clickhouse" / "initdb.d" / "10-users.sh").read_text()}
    for name, service in compose["services"].items():
        text = f"{service.get('environment')} {service.get('entrypoint')} {service.get('command')} {scripts.get(name)}"
        named = set(re.findall(r"/run/secrets/([a-z-]+\.(?:password|keys))\b", text)) | set(
            re.findall(r"\(secret (\S+?)\)", text)
        )
        assert named <= set(service.get("secrets", [])), name
        for variable, value in service.get("environment", {}).items():
            assert "password" not in variable.lower() or str(value).startswith("/run/secrets/"), (name, variable)


def test_ports_are_on_loopback_and_images_pinned(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert re.search(r":\d+[\d.]*$", service["image"]), name
        if service["restart"] != "no" and name not in ("projector", "simulator"):
            assert "healthcheck" in service, name
    assert compose["services"]["grafana"]["environment"]["GF_PLUGINS_PREINSTALL_SYNC"] == f"{TYPE}@{PLUGIN_VERSION}"


def test_settings_and_commands_are_ones_that_exist(compose: dict[str, Any]) -> None:
    known = by_variable()
    called: list[list[str]] = []
    for service in compose["services"].values():
        if not service["image"].startswith("gpufleet"):
            continue
        assert {v for v in service["environment"] if v.startswith("GPUFLEET_")} <= set(known)
        if service.get("entrypoint"):
            script = service["command"][0].replace("\\\n", " ")
            called += [line.split()[1:] for line in script.splitlines() if line.startswith("gpufleet")]
        else:
            called.append(service["command"])
    assert len(called) >= 7
    for words in called:
        verbs = [word for word in words if not word.startswith("-")][
            : 2 if words[0] in ("topics", "tenant", "grafana") else 1
        ]
        shown = CliRunner().invoke(cli, [*verbs, "--help"])
        assert shown.exit_code == 0, words
        assert all(word in shown.output for word in words if word.startswith("--")), words


def test_the_images_files_are_there() -> None:
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source


@pytest.mark.parametrize("script", ["secrets.sh", "clickhouse/initdb.d/10-users.sh"])
def test_scripts_parse_and_can_be_run(script: str) -> None:
    path = DEPLOY / script
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", path], check=True)


def compose_site(compose: dict[str, Any]) -> str:
    """The site's name where nobody sets GPUFLEET_SITE."""
    named = str(compose["services"]["consumer"]["environment"]["GPUFLEET_SITE_NAME"])
    return named.removeprefix("${GPUFLEET_SITE:-").removesuffix("}")


def test_events_are_signed_and_unsigned_ones_refused(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name in ("consumer", "simulator"):
        environment = services[name]["environment"]
        assert environment["GPUFLEET_SIGNING_MODE"] == "require"
        keys = Path(environment["GPUFLEET_SIGNING_SITE_KEYS_FILE"])
        assert f"keys:{keys.parent}:ro" in services[name]["volumes"]
        assert services[name]["depends_on"]["keys"]["condition"] == "service_completed_successfully"
    [script] = services["keys"]["command"]
    assert f"mv {keys}.new {keys}" in script
    assert "-m 0400 -o gpufleet" in script, "readable by the image's user alone, or gpufleet refuses the file"
    assert "useradd --uid 10001 --create-home gpufleet" in (DEPLOY / "Dockerfile").read_text()
    others = [name for name, service in services.items() if "keys:/keys:ro" in service.get("volumes", [])]
    assert sorted(others) == ["consumer", "simulator"], "nobody else needs the site's keys"


def test_secrets_are_made_once(tmp_path: Path, compose: dict[str, Any]) -> None:
    shutil.copy(DEPLOY / "secrets.sh", tmp_path)
    subprocess.run([tmp_path / "secrets.sh"], check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert made.keys() == set(compose["secrets"])
    assert len(set(made.values())) == len(made)
    signing = made.pop("site.keys")
    assert all(re.fullmatch(r"[0-9a-f]{48}", text) for text in made.values())
    keys = parse_site_keys(signing, "site.keys")
    simulated = {scenarios.load("small").site}
    assert set(sites(keys)) == {compose_site(compose), *simulated}
    assert stat.S_IMODE((tmp_path / "secrets" / "site.keys").stat().st_mode) == 0o600
    made["site.keys"] = signing
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    subprocess.run([tmp_path / "secrets.sh"], check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made
    ignored = subprocess.run(["git", "check-ignore", "-q", "infra/deploy/secrets/x"], cwd=ROOT, check=False)
    assert ignored.returncode in (0, 128), "passwords are never committed"


@pytest.mark.store
def test_the_first_users_parse(store: StoreProcess) -> None:
    script = (DEPLOY / "clickhouse" / "initdb.d" / "10-users.sh").read_text()
    sql = re.sub(r"\$\([^)]*\)", "0" * 64, script.partition("<<SQL\n")[2].partition("\nSQL")[0])
    client = connect(ClickHouse(store.host, store.port, store.username, store.password))
    for statement in filter(str.strip, sql.split(";")):
        client.query(f"EXPLAIN AST {statement}")
    client.close()
    assert f"GRANT {WRITER} TO gpufleet" in sql
    assert f"GRANT {OPERATOR} TO operator" in sql


@pytest.mark.store
def test_the_engine_takes_the_servers_configuration(tmp_path: Path) -> None:
    """Sections of config.d and users.d merged as the server does it, read by the engine itself."""
    root, users = ElementTree.Element("clickhouse"), ElementTree.Element("clickhouse")
    for file in (
        DEPLOY / "clickhouse" / "config.d" / "gpufleet.xml",
        ROOT / "infra" / "clickhouse" / "compression.xml",
    ):
        root.extend(ElementTree.parse(file).getroot())
    users.extend(ElementTree.parse(DEPLOY / "clickhouse" / "users.d" / "gpufleet.xml").getroot())
    ElementTree.SubElement(root, "users_config").text = str(tmp_path / "users.xml")
    known = users.find("users")
    assert known is not None
    [admin] = known
    for user in (admin, ElementTree.SubElement(known, "default")):
        for name, text in (("password", ""), ("profile", "default"), ("quota", "default")):
            ElementTree.SubElement(user, name).text = text
        ElementTree.SubElement(ElementTree.SubElement(user, "networks"), "ip").text = "::/0"
    ElementTree.SubElement(ElementTree.SubElement(users, "quotas"), "default")
    ElementTree.ElementTree(users).write(tmp_path / "users.xml")
    ElementTree.ElementTree(root).write(tmp_path / "config.xml")
    script = (
        "import sys; from chdb import _chdb\n"
        "c = _chdb.connect(f'{sys.argv[1]}/db?config-file={sys.argv[1]}/config.xml&log-level=error')\n"
        "print(c.query(\"SELECT getSetting('async_insert')\", 'TSV', params={}).bytes().decode().strip())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "GPUFLEET_DICTIONARY_PASSWORD": "x"},
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "false"), done.stderr
    tree = ElementTree.parse(DEPLOY / "clickhouse" / "config.d" / "gpufleet.xml").getroot()
    assert tree.findtext("access_control_improvements/users_without_row_policies_can_read_rows") == "false"
    assert tree.findtext("access_control_improvements/select_from_system_db_requires_grant") == "true"
    variables = {node.get("from_env") for node in tree.iter() if node.get("from_env")}
    assert all(f"export {name}=" in (DEPLOY / "compose.yaml").read_text() for name in variables)
