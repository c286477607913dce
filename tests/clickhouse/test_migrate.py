from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from infra.clickhouse import migrate as runner
from infra.clickhouse.client import ClickHouse, connect
from infra.clickhouse.migrate import Migration, MigrationError, load, migrate
from infra.clickhouse.render import Render
from infra.embedded.store.process import StoreProcess

pytestmark = pytest.mark.store


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    with StoreProcess(tmp_path_factory.mktemp("migrations")) as process:
        yield process


@pytest.fixture
def client(server: StoreProcess) -> Iterator[Client]:
    """A connection to a store without the database."""
    connection = connect(ClickHouse(server.host, server.port, server.username, server.password))
    connection.command("DROP DATABASE IF EXISTS gpufleet SYNC")
    yield connection
    connection.close()


ONE = Migration(1, "one", "CREATE TABLE IF NOT EXISTS gpufleet.one (a Int8) ENGINE = MergeTree ORDER BY a;")
TWO = Migration(
    2,
    "two",
    """CREATE TABLE IF NOT EXISTS gpufleet.two (a Int8) ENGINE = MergeTree ORDER BY a;
    ALTER TABLE gpufleet.two ADD COLUMN IF NOT EXISTS b Int8; -- ; not the end
    CREATE OR REPLACE VIEW gpufleet.both AS SELECT a, b, ';' AS c FROM gpufleet.two;""",
)


def tables(client: Client) -> set[str]:
    rows = client.query("SELECT name FROM system.tables WHERE database = 'gpufleet'").result_rows
    return {row[0] for row in rows}


def test_an_empty_store_gets_every_committed_migration_and_a_second_run_finds_nothing_to_do(client: Client) -> None:
    lines: list[str] = []
    done = migrate(client, progress=lines.append)
    assert [m.number for m in done] == [m.number for m in load()]
    assert len(lines) == len(done)
    assert {"node_telemetry", "leases", "ingest_ledger", "gpu_samples", "lease_by_node"} <= tables(client)
    recorded = client.query("SELECT number, checksum FROM gpufleet.migrations FINAL ORDER BY number").result_rows
    assert [tuple(row) for row in recorded] == [(m.number, m.checksum) for m in load()]
    lines.clear()
    assert migrate(client, progress=lines.append) == []
    assert lines == []


def test_every_view_and_table_can_be_asked(client: Client) -> None:
    migrate(client)
    for name in sorted(tables(client)):
        client.query(f"SELECT * FROM gpufleet.{name} LIMIT 1")


def test_a_dry_run_names_what_it_would_do_and_does_nothing(client: Client) -> None:
    lines: list[str] = []
    assert migrate(client, migrations=[ONE, TWO], dry_run=True, progress=lines.append) == [ONE, TWO]
    assert lines == ["0001_one (1 of 2, 1 statements)", "0002_two (2 of 2, 3 statements)"]
    assert tables(client) == set()


def test_only_what_is_new_is_applied(client: Client) -> None:
    assert migrate(client, migrations=[ONE]) == [ONE]
    assert migrate(client, migrations=[ONE, TWO]) == [TWO]
    assert tables(client) == {"migrations", "one", "two", "both"}


def test_an_applied_migration_that_was_edited_is_an_error_that_names_it(client: Client) -> None:
    migrate(client, migrations=[ONE, TWO])
    edited = Migration(1, "one", ONE.sql.replace("Int8", "Int16"))
    with pytest.raises(MigrationError, match=r"edited after it was applied: 0001_one; .*new migration"):
        migrate(client, migrations=[edited, TWO])


def test_a_database_that_is_newer_than_the_program_is_left_alone(client: Client) -> None:
    migrate(client, migrations=[ONE, TWO])
    with pytest.raises(MigrationError, match=r"0002_two.*newer version"):
        migrate(client, migrations=[ONE])


def test_a_new_migration_below_an_applied_one_is_refused(client: Client) -> None:
    migrate(client, migrations=[TWO])
    with pytest.raises(MigrationError, match=r"0001_one is numbered below 0002"):
        migrate(client, migrations=[ONE, TWO])


class Dies:
    """A client whose connection ends at the statement that holds a text."""

    def __init__(self, client: Client, text: str) -> None:
        self._client, self._text = client, text

    def command(self, cmd: str) -> Any:
        if self._text in cmd:
            raise ConnectionError("gone")
        return self._client.command(cmd)

    def query(self, query: str) -> Any:
        return self._client.query(query)


@pytest.mark.parametrize("at", ["ADD COLUMN", "VIEW gpufleet.both", "INSERT INTO gpufleet.migrations"])
def test_a_run_that_died_half_way_is_continued(client: Client, at: str) -> None:
    migrate(client, migrations=[ONE])
    with pytest.raises((MigrationError, ConnectionError)):
        migrate(Dies(client, at), migrations=[ONE, TWO])
    assert migrate(client, migrations=[ONE, TWO]) == [TWO]
    assert client.query("SELECT a, b, c FROM gpufleet.both").result_rows == []


def test_a_failing_statement_is_named_with_its_place(client: Client) -> None:
    broken = Migration(1, "broken", ONE.sql + "CREATE TABLE IF NOT EXISTS gpufleet.x (a Nonsense) ENGINE = Null")
    with pytest.raises(
        MigrationError, match=r"(?s)0001_broken, statement 2 of 2 failed.*Nonsense.*run the migration again"
    ):
        migrate(client, migrations=[broken])
    assert 1 not in runner.applied(client)


def test_runners_side_by_side_do_no_harm(server: StoreProcess, client: Client) -> None:
    failures: list[Exception] = []

    def run() -> None:
        own = connect(ClickHouse(server.host, server.port, server.username, server.password))
        try:
            migrate(own)
        except Exception as error:  # noqa: BLE001  # handed to the test's own thread
            failures.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(runner.applied(client)) == [m.number for m in load()]
    assert migrate(client) == []


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE gpufleet.x (a Int8) ENGINE = Null",
        "INSERT INTO gpufleet.x VALUES (1)",
        "ALTER TABLE gpufleet.x ADD COLUMN a Int8",
        "DROP TABLE gpufleet.x",
        "CREATE VIEW gpufleet.x AS SELECT 1",
    ],
)
def test_statements_that_must_not_run_twice_are_refused(sql: str) -> None:
    with pytest.raises(MigrationError, match="expected a statement that may run twice"):
        Migration(1, "once", sql).statements(Render())


def test_changed_retention_reaches_tables_that_exist(client: Client) -> None:
    migrate(client)
    lines: list[str] = []
    migrate(client, Render(raw_days=5), progress=lines.append)
    assert any("node_telemetry MODIFY TTL" in line for line in lines)
    created = client.command(
        "SELECT create_table_query FROM system.tables WHERE database = 'gpufleet' AND name = 'node_telemetry'"
    )
    assert "toIntervalDay(5)" in str(created)
    lines.clear()
    migrate(client, Render(raw_days=5), progress=lines.append)
    assert lines == []


def test_wrong_and_double_file_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("SELECT 1")
    (tmp_path / "0001_b.sql").write_text("SELECT 1")
    with pytest.raises(MigrationError, match="two migrations are numbered 0001"):
        load(tmp_path)
    (tmp_path / "0001_b.sql").rename(tmp_path / "2_b.sql")
    with pytest.raises(MigrationError, match=r"expected a name like 0310_gpu_views.sql, found 2_b.sql"):
        load(tmp_path)


def test_every_table_view_and_dictionary_has_one_definition() -> None:
    """Until a release fixes them, a change is made where the thing is defined, not beside it."""
    created = re.findall(
        r"CREATE (?:OR REPLACE )?(?:TABLE|VIEW|DICTIONARY) (?:IF NOT EXISTS )?(gpufleet\.\w+)",
        "\n".join(migration.sql for migration in load()),
    )
    assert len(created) > 60
    assert sorted(name for name, times in Counter(created).items() if times > 1) == []
