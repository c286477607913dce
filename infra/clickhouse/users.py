"""Users of a real ClickHouse server as SQL: who may read and write what, row by row.

Roles: ``gpufleet_writer`` (consumer, projector, migrations), ``gpufleet_operator`` and ``gpufleet_reader`` (people and
Grafana on the operator's side), and one user per tenant. A user without a policy must read no row: in the server's
configuration, section ``access_control_improvements``, ``users_without_row_policies_can_read_rows`` has to be false and
``select_from_system_db_requires_grant`` true.

The embedded store makes the same from ``tenancy.POLICIES`` by its own means: chDB knows no users.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from infra.clickhouse.render import Render
from infra.clickhouse.tenancy import BESIDE, CLOSED_VIEWS, OPERATOR_ROWS, TABLES, VIEWS
from schemas.ddl import DATABASE, quoted

WRITER, OPERATOR, READER = "gpufleet_writer", "gpufleet_operator", "gpufleet_reader"
TENANT_PROFILE = "gpufleet_tenant"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Account:
    """One user. The password is given as the SHA-256 of its text, in hex, and never as text."""

    name: str
    password_sha256: str
    role: str = ""
    """One of the roles above; empty for a tenant."""
    tenant: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"expected a user name of letters, digits, _ and -, found {self.name!r}")
        if not _SHA256.fullmatch(self.password_sha256):
            raise ValueError(f"user {self.name}: expected the SHA-256 of the password as 64 hex digits")
        if self.tenant and self.tenant != self.name:
            raise ValueError(f"user {self.name}: expected the name of its tenant, found tenant {self.tenant!r}")
        if bool(self.role) == bool(self.tenant) or self.role not in ("", WRITER, OPERATOR, READER):
            raise ValueError(
                f"user {self.name}: expected either a tenant or one of {WRITER}, {OPERATOR}, {READER} as role,"
                f" found role {self.role!r} and tenant {self.tenant!r}"
            )


def statements(accounts: Iterable[Account], render: Render | None = None) -> list[str]:
    """The SQL that makes roles, profiles, quotas, users, grants and row policies; running it again changes nothing."""
    render = render or Render()
    made = base()
    for user in accounts:
        made += _user(user)
    return [render.statement(statement) for statement in made]


def base() -> list[str]:
    """Roles, profiles and the roles' row policies: without a policy of theirs they would read no row either."""
    return [*_roles(), *_profiles(), *_policies()]


def tenant_rights(name: str) -> list[str]:
    """What a tenant's user, who bears the tenant's name and exists, may do and see: row policies, quota, and the grants
    last, all in one statement that takes away any other."""
    user, own = _quoted_name(name), _quoted_name(f"gpufleet_{name}")
    made = [
        f"CREATE ROW POLICY OR REPLACE {own} ON {DATABASE}.{table} FOR SELECT USING {column} = {quoted(name)} TO {user}"
        for table, column in TABLES.items()
        if column is not None
    ]
    made.append(
        f"CREATE QUOTA OR REPLACE {own} FOR INTERVAL 1 MINUTE MAX queries = 1200, execution_time = 240,"
        f" result_rows = 20000000, result_bytes = 8000000000 TO {user}"
    )
    grants = ", ".join(f"SELECT ON {DATABASE}.{table}" for table in readable())
    return [*made, f"GRANT {grants} TO {user} WITH REPLACE OPTION"]


def readable() -> list[str]:
    """Tables and views that tenants are granted."""
    return [table for table, column in TABLES.items() if column] + list(VIEWS)


def _roles() -> list[str]:
    everything = f"{DATABASE}.*"
    return [
        f"CREATE ROLE IF NOT EXISTS {WRITER}",
        f"CREATE ROLE IF NOT EXISTS {OPERATOR}",
        f"CREATE ROLE IF NOT EXISTS {READER}",
        f"GRANT SELECT, INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE, dictGet ON {everything} TO {WRITER}",
        f"GRANT SYSTEM RELOAD DICTIONARY, SYSTEM SYNC REPLICA ON *.* TO {WRITER}",
        f"GRANT SELECT ON system.* TO {WRITER}",
        f"GRANT SELECT, dictGet ON {everything} TO {OPERATOR}",
        f"GRANT INSERT ON {DATABASE}.projector_requests TO {OPERATOR}",
        f"GRANT INSERT ON {DATABASE}.audit_runs TO {OPERATOR}",
        f"GRANT INSERT ON {DATABASE}.dead_letter_marks TO {OPERATOR}",
        f"GRANT SELECT ON system.* TO {OPERATOR}",
        f"GRANT SELECT, dictGet ON {everything} TO {READER}",
    ]


def _profiles() -> list[str]:
    # readonly is 2, not 1: Grafana's data source sends settings of its own with every query.
    profiles = {
        "gpufleet_writer": "async_insert = 0, optimize_on_insert = 0",
        "gpufleet_reader": "readonly = 2 READONLY, max_execution_time = 60 MAX 300,"
        " max_memory_usage = 8000000000 MAX 16000000000",
        TENANT_PROFILE: "readonly = 2 READONLY, max_execution_time = 30 MAX 60,"
        " max_memory_usage = 4000000000 MAX 4000000000, max_threads = 4 MAX 8, max_result_rows = 1000000 MAX 1000000,"
        " max_result_bytes = 536870912 MAX 536870912, result_overflow_mode = 'throw' READONLY,"
        " timeout_overflow_mode = 'throw' READONLY, max_concurrent_queries_for_user = 20 READONLY,"
        " allow_introspection_functions = 0 READONLY, allow_ddl = 0 READONLY, use_query_cache = 0 READONLY",
    }
    return [f"CREATE SETTINGS PROFILE OR REPLACE {name} SETTINGS {text}" for name, text in profiles.items()]


def _user(user: Account) -> list[str]:
    profile = {WRITER: "gpufleet_writer", OPERATOR: "gpufleet_reader", READER: "gpufleet_reader"}
    made = [
        f"CREATE USER OR REPLACE {_quoted_name(user.name)} IDENTIFIED WITH sha256_hash BY '{user.password_sha256}'"
        f" DEFAULT DATABASE {DATABASE} SETTINGS PROFILE '{profile.get(user.role, TENANT_PROFILE)}'"
    ]
    if user.role:
        return [*made, f"GRANT {user.role} TO {_quoted_name(user.name)}"]
    return [*made, *tenant_rights(user.tenant)]


def _policies() -> list[str]:
    made = []
    for table in TABLES:
        here = f"ON {DATABASE}.{table} FOR SELECT"
        made.append(f"CREATE ROW POLICY OR REPLACE gpufleet_writer {here} USING 1 TO {WRITER}")
        seen = OPERATOR_ROWS.get(table, "1")
        made.append(f"CREATE ROW POLICY OR REPLACE gpufleet_operator {here} USING {seen} TO {OPERATOR}, {READER}")
    # What a rebuild makes beside them is the writer's alone: with a policy for nobody else, nobody else reads a row.
    for table in BESIDE:
        here = f"ON {DATABASE}.{table} FOR SELECT"
        made.append(f"CREATE ROW POLICY OR REPLACE gpufleet_writer {here} USING 1 TO {WRITER}")
    return made


def _quoted_name(name: str) -> str:
    return f"`{name}`"


def closed() -> list[str]:
    """Names in the database that tenants are granted nothing on."""
    return sorted([table for table, column in TABLES.items() if column is None] + list(CLOSED_VIEWS))
