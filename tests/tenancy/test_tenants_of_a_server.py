"""What `gpufleet tenant` says to a ClickHouse server: parsed by the engine, in an order that never opens a row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from infra.clickhouse.client import ClickHouse, connect
from infra.clickhouse.render import Render
from infra.clickhouse.tenancy import TABLES
from infra.clickhouse.users import readable
from infra.embedded.store.process import StoreProcess
from infra.errors import GpufleetError
from infra.tenants.server import LIST, ServerTenants
from infra.tenants.steps import Step

pytestmark = pytest.mark.store
PASSWORD = "correct-horse-battery-staple"


class Server:
    """Keeps what it is told; knows the tenants it is said to know."""

    def __init__(self, known: Sequence[str] = (), refuse: str = "") -> None:
        self.known, self.refuse = known, refuse
        self.said: list[str] = []

    def command(self, statement: str) -> None:
        if self.refuse and self.refuse in statement:
            raise DatabaseError(f"Code: 497. DB::Exception: gpufleet: Not enough privileges. In: {statement}")
        self.said.append(statement)

    def query(self, _statement: str) -> Any:
        class Answer:
            result_rows: ClassVar[list[Any]] = [(name, 1, [], []) for name in self.known]

        return Answer()

    def close(self) -> None:
        pass


def steps_of(server: Server, cluster: str = "") -> dict[str, list[Step]]:
    tenants = ServerTenants(server, Render(cluster=cluster))  # type: ignore[arg-type]
    return {
        "add": tenants.add("acme", PASSWORD),
        "rotate": tenants.rotate("acme", PASSWORD, at_once=False),
        "now": tenants.rotate("acme", PASSWORD, at_once=True),
        "finish": tenants.finish("acme"),
        "remove": tenants.remove("acme"),
    }


@pytest.fixture(scope="module")
def engine(store: StoreProcess) -> Client:
    return connect(ClickHouse(store.host, store.port, store.username, store.password))


@pytest.mark.parametrize("cluster", ["", "main"])
def test_every_statement_parses(engine: Client, cluster: str) -> None:
    server = Server(["acme"])
    for steps in steps_of(server, cluster).values():
        for step in steps:
            step.run()
    assert len(server.said) > 50
    for statement in server.said:
        engine.query(f"EXPLAIN AST {statement}")
        assert bool(cluster) == ("ON CLUSTER 'main'" in statement), statement


def test_nothing_is_granted_before_it_is_filtered() -> None:
    server = Server()
    for step in steps_of(server)["add"]:
        step.run()
    made = [s for s in server.said if "`acme`" in s]
    kinds = [" ".join(s.split()[:2]) for s in made]
    assert kinds[0] == "CREATE USER"
    assert kinds[-1].startswith("GRANT")
    assert kinds.count("CREATE ROW") == len([c for c in TABLES.values() if c])
    assert made[-1].endswith("TO `acme` WITH REPLACE OPTION")
    assert set(re.findall(r"ON gpufleet\.(\w+)", made[-1])) == set(readable())
    profile = next(s for s in server.said if "PROFILE OR REPLACE gpufleet_tenant" in s)
    for limit in ("readonly", "max_execution_time", "max_memory_usage", "max_result_rows", "max_result_bytes"):
        assert limit in profile


def test_access_ends_before_anything_is_dropped() -> None:
    server = Server(["acme"])
    for step in steps_of(server)["remove"]:
        step.run()
    assert [" ".join(s.split()[:2]) for s in server.said[:5]] == [
        "ALTER USER", "REVOKE ALL", "KILL QUERY", "DROP USER", "DROP QUOTA",
    ]  # fmt: skip
    assert server.said[0].endswith("HOST NONE")
    dropped = {m[1] for s in server.said if (m := re.search(r"DROP ROW POLICY .* ON gpufleet\.(\w+)", s))}
    assert dropped == {table for table, column in TABLES.items() if column}
    half = Server()  # a run before has dropped the user already
    for step in steps_of(half)["remove"]:
        step.run()
    assert not any(s.startswith("REVOKE") for s in half.said), "there is nobody to take it from"
    assert all("IF EXISTS" in s or s.startswith("KILL") for s in half.said)


def test_a_rotation_keeps_the_password_before_until_it_is_finished() -> None:
    steps = steps_of(Server(["acme"]))
    assert [s.shown for s in steps["rotate"]] == ["ALTER USER `acme` ADD IDENTIFIED WITH sha256_hash BY '[hidden]'"]
    assert [s.shown for s in steps["now"]] == ["ALTER USER `acme` IDENTIFIED WITH sha256_hash BY '[hidden]'"]
    assert [s.shown for s in steps["finish"]] == ["ALTER USER `acme` RESET AUTHENTICATION METHODS TO NEW"]


def test_no_secret_is_shown_nor_repeated_in_an_error() -> None:
    server = Server(["acme"], refuse="IDENTIFIED")
    for steps in steps_of(server).values():
        for step in steps:
            assert PASSWORD not in step.shown
            assert not re.search(r"[0-9a-f]{64}", step.shown)
            if "IDENTIFIED" in step.shown:
                with pytest.raises(GpufleetError, match=r"store\.admin_user") as refused:
                    step.run()
                assert not re.search(r"[0-9a-f]{64}", str(refused.value))


def test_the_list_reads_what_a_server_keeps_of_users(engine: Client) -> None:
    """On tables of the same columns as the server's: a whole tenant, a half one, and users who are none."""
    engine.command("CREATE DATABASE sys")
    for table in ("users", "settings_profile_elements", "row_policies", "grants"):
        columns = engine.query(
            "SELECT name, type FROM system.columns WHERE database = 'system' AND table = {t:String} AND name IN"
            " ('name', 'auth_type', 'user_name', 'inherit_profile', 'short_name', 'database', 'table', 'access_type')",
            {"t": table},
        ).result_rows
        engine.command(f"CREATE TABLE sys.{table} ({', '.join(f'`{n}` {t}' for n, t in columns)}) ENGINE = Memory")
    engine.command(
        "INSERT INTO sys.users (name, auth_type) VALUES ('whole', ['sha256_password', 'sha256_password']),"
        " ('half', ['sha256_password']), ('default', ['no_password'])"
    )
    engine.command(
        "INSERT INTO sys.settings_profile_elements (user_name, inherit_profile) VALUES ('whole', 'gpufleet_tenant'),"
        " ('half', 'gpufleet_tenant'), ('default', 'default'), (NULL, 'gpufleet_tenant')"
    )
    filtered = [table for table, column in TABLES.items() if column]
    policies = ", ".join(f"('gpufleet_{n}', 'gpufleet', '{t}')" for n in ("whole", "half") for t in filtered)
    engine.command(f"INSERT INTO sys.row_policies (short_name, database, table) VALUES {policies}")
    grants = ", ".join(f"('whole', 'SELECT', 'gpufleet', '{t}')" for t in readable())
    engine.command(
        "INSERT INTO sys.grants (user_name, access_type, database, table) VALUES"
        f" {grants}, ('half', 'SELECT', 'gpufleet', NULL), ('default', 'ALTER', NULL, NULL)"
    )

    class Through(Server):
        def query(self, statement: str) -> Any:
            return engine.query(statement.replace("system.", "sys."))

    assert "system." in LIST
    found = ServerTenants(Through(), Render()).known()  # type: ignore[arg-type]
    engine.command("DROP DATABASE sys")
    assert [(t.name, t.passwords, t.complete) for t in found] == [("half", 1, False), ("whole", 2, True)]
