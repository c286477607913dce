"""Tenants of a ClickHouse server: users, row policies, quotas and grants in SQL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import Error

from infra.clickhouse.render import Render
from infra.clickhouse.tenancy import TABLES
from infra.clickhouse.users import TENANT_PROFILE, base, readable, tenant_rights
from infra.errors import GpufleetError
from infra.tenants.names import sha256
from infra.tenants.steps import Step, Tenant
from schemas.ddl import DATABASE

_HASH = re.compile(r"'[0-9a-f]{64}'")

# Grain: one tenant's user.
LIST = f"""
SELECT
    u.name AS name,
    length(u.auth_type) AS passwords,
    p.tables AS tables,
    g.granted AS granted
FROM system.users AS u
INNER JOIN
(
    SELECT DISTINCT user_name AS name
    FROM system.settings_profile_elements
    WHERE inherit_profile = '{TENANT_PROFILE}' AND user_name IS NOT NULL
) AS s ON s.name = u.name
LEFT JOIN
(
    SELECT substring(short_name, length('gpufleet_') + 1) AS name, groupUniqArray(table) AS tables
    FROM system.row_policies
    WHERE database = '{DATABASE}'
    GROUP BY name
) AS p ON p.name = u.name
LEFT JOIN
(
    SELECT
        user_name AS name,
        groupUniqArray(if(access_type = 'SELECT' AND database = '{DATABASE}', ifNull(table, '*'), '*')) AS granted
    FROM system.grants
    WHERE user_name IS NOT NULL
    GROUP BY name
) AS g ON g.name = u.name
ORDER BY name
"""


class ServerTenants:
    """Tenants through a connection that may manage users. GpufleetError when the server refuses a statement."""

    def __init__(self, client: Client, render: Render) -> None:
        self._client, self._render = client, render

    def known(self) -> list[Tenant]:
        """Those there are, by name."""
        filtered = {table for table, column in TABLES.items() if column}
        try:
            rows = self._client.query(LIST).result_rows
        except Error as error:
            raise GpufleetError(f"cannot look at users: {_words(error)}") from None
        return [
            Tenant(str(name), int(passwords), set(tables) == filtered and set(granted) == set(readable()))
            for name, passwords, tables, granted in rows
        ]

    def prepare(self) -> list[Step]:
        """Roles, profiles and the roles' row policies."""
        return self._steps(base())

    def add(self, name: str, password: str) -> list[Step]:
        """Roles and profiles, the user without any right, its filters and quota, and last what it may read."""
        return self._steps(
            [
                *base(),
                f"CREATE USER IF NOT EXISTS `{name}` IDENTIFIED WITH sha256_hash BY '{sha256(password)}'",
                f"ALTER USER `{name}` HOST ANY DEFAULT DATABASE {DATABASE} SETTINGS PROFILE '{TENANT_PROFILE}'",
                *tenant_rights(name),
            ]
        )

    def rotate(self, name: str, password: str, *, at_once: bool) -> list[Step]:
        """A further password beside those before, or in their place."""
        verb = "" if at_once else "ADD "
        return self._steps([f"ALTER USER `{name}` {verb}IDENTIFIED WITH sha256_hash BY '{sha256(password)}'"])

    def finish(self, name: str) -> list[Step]:
        """Only the newest password is good."""
        return self._steps([f"ALTER USER `{name}` RESET AUTHENTICATION METHODS TO NEW"])

    def remove(self, name: str) -> list[Step]:
        """No host may connect, nothing is granted, nothing runs; then user, quota and policies go."""
        return self._steps(
            [
                f"ALTER USER IF EXISTS `{name}` HOST NONE",
                *([f"REVOKE ALL ON *.* FROM `{name}`"] if any(tenant.name == name for tenant in self.known()) else []),
                f"KILL QUERY WHERE user = '{name}' SYNC",
                f"DROP USER IF EXISTS `{name}`",
                f"DROP QUOTA IF EXISTS `gpufleet_{name}`",
                *(
                    f"DROP ROW POLICY IF EXISTS `gpufleet_{name}` ON {DATABASE}.{table}"
                    for table, column in TABLES.items()
                    if column
                ),
            ]
        )

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def _steps(self, statements: Iterable[str]) -> list[Step]:
        made = (self._render.statement(statement) for statement in statements)
        return [Step(hidden(statement), partial(self._run, statement)) for statement in made]

    def _run(self, statement: str) -> None:
        try:
            self._client.command(statement)
        except Error as error:
            raise GpufleetError(
                f"{_words(error)}\n  in: {hidden(statement)[:100]}\n  What was done before stays; run it again once the"
                " cause is gone. It takes a user with the right ACCESS MANAGEMENT (store.admin_user)."
            ) from None


def hidden(statement: str) -> str:
    """The statement without its password's hash."""
    return _HASH.sub("'[hidden]'", statement)


def _words(error: Exception) -> str:
    return hidden(str(error).strip())
