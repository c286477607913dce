"""``gpufleet rebuild`` as a person runs it: dry run, exit codes, kill -9 and going on, who may read what it makes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from consumers.rebuild.tables import ENDINGS, TABLES
from infra.cli.rebuild import command
from infra.clickhouse.client import ClickHouse, connect
from infra.clickhouse.migrate import migrate
from infra.clickhouse.tenancy import POLICIES
from infra.clickhouse.users import base, readable
from infra.embedded.broker import EmbeddedBroker
from infra.embedded.store.passwords import hash_password
from infra.embedded.store.process import StoreProcess
from infra.embedded.store.users import Kind, User
from tests.consumers.fleet import Node, create_topics
from tests.consumers.running import eventually
from tests.rebuild.support import MUTATION, TABLE, Place, hour_ago, hours_of

pytestmark = [pytest.mark.store, pytest.mark.kafka]


def options(place: Place, tmp_path: Path) -> list[str]:
    password = tmp_path / "password"
    password.write_text(place.store.password)
    given = {"store.url": place.store.url, "store.password_file": str(password), "kafka.bootstrap": place.bootstrap}
    return [part for name, value in given.items() for part in ("--set", f"{name}={value}")]


def invoke(place: Place, tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, *options(place, tmp_path)])


def test_a_person_plans_compares_puts_right_and_is_told(place: Place, tmp_path: Path) -> None:
    node = Node("n1", place.site)
    place.ingest(hours_of(node, [2, 1], 30))
    planned = invoke(place, tmp_path, TABLE, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert "would read" in planned.stdout
    assert "60 rows of node_telemetry" in planned.stdout
    assert not place.tables_beside()
    sound = invoke(place, tmp_path, TABLE)
    assert sound.exit_code == 0, sound.output
    assert "node_telemetry is equal to what it is made from" in sound.stdout

    place.ch.command(f"ALTER TABLE gpufleet.{TABLE} DELETE WHERE seq IN (3, 4)", settings=MUTATION)
    wrong = invoke(place, tmp_path, TABLE)
    assert wrong.exit_code == 1, wrong.output
    assert "DIFFERS: 2 missing" in wrong.stdout
    assert "missing: n1 run 1700000000000000 seq 3" in wrong.stdout
    assert place.tables_beside() == [f"{TABLE}__rebuild"]
    narrower = invoke(place, tmp_path, TABLE, "--from", "2026-01-01T00:00")
    assert narrower.exit_code == 1
    assert "is under way" in narrower.stderr
    assert invoke(place, tmp_path, TABLE, "--discard").exit_code == 0
    assert not place.tables_beside()

    begin = time.strftime("%Y-%m-%dT%H:30", time.gmtime(hour_ago(1) / 1e6))
    other = invoke(place, tmp_path, TABLE, "--from", begin, "--json")
    assert other.exit_code == 0, "the hour with the damage is not in the range"
    assert [h["start"] for h in json.loads(other.stdout)["hours"]] == [hour_ago(1) // 1_000_000 - 600]
    right = invoke(place, tmp_path, TABLE, "--swap", "--json")
    assert right.exit_code == 0, right.output
    assert json.loads(right.stdout)["swapped"]
    assert place.exact()
    assert invoke(place, tmp_path, TABLE, "--discard", "--swap").exit_code == 2
    unknown = invoke(place, tmp_path, "nonsense")
    assert unknown.exit_code == 2
    assert "expected one of node_telemetry" in unknown.stderr


def test_killed_in_the_middle_it_goes_on_where_it_was(place: Place, tmp_path: Path) -> None:
    nodes = [Node(f"n{i}", place.site) for i in range(5)]
    place.ingest([e for node in nodes for e in hours_of(node, [2, 1], 200)])
    place.ch.command(f"ALTER TABLE gpufleet.{TABLE} DELETE WHERE seq = 77", settings=MUTATION)
    arguments = [sys.executable, "-m", "infra.cli.main", "rebuild", TABLE, *options(place, tmp_path)]
    process = subprocess.Popen([*arguments, "--max-rows-per-s", "60"], stderr=subprocess.DEVNULL)

    def built() -> int:
        there = place.ch.query("SELECT total_rows FROM system.tables WHERE name = 'node_telemetry__rebuild'")
        return int(there.result_rows[0][0] or 0) if there.result_rows else 0

    try:
        eventually(lambda: built() > 100, 120.0)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    half = built()
    assert half < 2000
    done = subprocess.run([*arguments, "--json"], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert "going on with the rebuild" in done.stderr
    assert half + report["rows"] == 2000, "what was built before the kill is not built again"
    assert [(h["rebuilt"], h["missing"], h["extra"], h["doubled"]) for h in report["hours"]] == [
        (1000, 5, 0, 0),
        (1000, 0, 0, 0),
    ]
    doubles = f"SELECT count() - uniqExact(producer_id, run_id, seq) FROM gpufleet.{TABLE}__rebuild"
    assert place.ch.query(doubles).result_rows == [(0,)]


def seen_by(client: Client, table: str) -> int:
    """Rows that a user sees of a table; none of one that it is refused."""
    try:
        return int(client.query(f"SELECT count() FROM {table}").result_rows[0][0])
    except DatabaseError:
        return 0


def test_nobody_but_the_administrator_reads_what_is_built(
    embedded_broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = hash_password("secret-of-theirs")
    users = [
        User("mine", Kind.TENANT, secret, "mine"),
        User("people", Kind.OPERATOR, secret),
        User("board", Kind.READER, secret),
    ]
    create_topics(embedded_broker.bootstrap, partitions=1)
    with StoreProcess(tmp_path_factory.mktemp("users"), users=users, policies=POLICIES) as store:
        migrate(connect(ClickHouse(store.host, store.port, store.username, store.password)))
        place = Place(store, embedded_broker.bootstrap)
        node = Node("n1", place.site)
        place.ingest([node.event("tenant-usage", ts=hour_ago(1), tenant="mine")])
        place.ch.command("ALTER TABLE gpufleet.tenant_usage DELETE WHERE 1", settings=MUTATION)
        assert not place.run("tenant-usage").equal
        beside = "gpufleet.tenant_usage__rebuild"
        assert place.ch.query(f"SELECT count() FROM {beside}").result_rows == [(1,)]
        for user in users:
            asked = connect(ClickHouse(store.host, store.port, user.name, "secret-of-theirs"))
            assert seen_by(asked, beside) == 0, user.name
            asked.close()


def test_on_a_server_only_the_writer_has_a_policy_on_what_is_built() -> None:
    made = "\n".join(base())
    for table in TABLES:
        for ending in ENDINGS:
            policies = [line for line in made.splitlines() if f" ON gpufleet.{table}{ending} " in line]
            assert len(policies) == 1, table
            assert policies[0].endswith("USING 1 TO gpufleet_writer")
            assert f"{table}{ending}" not in readable()
