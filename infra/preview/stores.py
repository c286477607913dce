"""Connections to the store, one for each who asks, and answers as a stream of JSON."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from infra.config import Settings
from infra.connections import connect_store

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

FORMAT: Final = "JSONCompact"
"""Columns with their types, then rows as arrays; NaN and infinities are null."""
_WANTED: Final = {
    "date_time_output_format": "iso",
    "output_format_json_quote_64bit_integers": 0,
    "output_format_write_statistics": 0,
}
"""How an answer looks. Where the user may not set them the page reads the other forms as well."""
_BOUNDS: Final = {"readonly": 2, "max_execution_time": 30}
"""For a user that may do more than read: a page that only shows must not be able to do more."""


class Stores:
    """Clients by tenant (empty = the configured user); for many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._clients: dict[str, tuple[Client, dict[str, Any]]] = {}

    def tenants(self) -> tuple[str, ...]:
        """Tenants whose credentials are there (``store.tenant_password_dir``)."""
        folder = self._settings.store.tenant_password_dir
        return (
            tuple(sorted(path.name.removesuffix(".password") for path in folder.glob("*.password"))) if folder else ()
        )

    def ask(self, sql: str, tenant: str) -> BinaryIO:
        """The answer's bytes as they come; close it. Blocks until the first of them.

        UnreachableError without a store; clickhouse-connect's errors for a query that fails before it answers.
        """
        client, settings = self._client(tenant)
        try:
            # A response of urllib3; the other type in the signature is the asynchronous client's.
            return cast(BinaryIO, client.raw_stream(sql, settings=dict(settings), fmt=FORMAT))
        except Exception:
            with self._lock:  # a rotated password or another store: the next question connects anew
                self._clients.pop(tenant, None)
            raise

    def close(self) -> None:
        """Give the connections back."""
        with self._lock:
            for client, _settings in self._clients.values():
                client.close()
            self._clients.clear()

    def _client(self, tenant: str) -> tuple[Client, dict[str, Any]]:
        with self._lock:
            if tenant not in self._clients:
                client = connect_store(self._settings, tenant=tenant)
                client.database = self._settings.store.database
                self._clients[tenant] = client, _allowed(client, tenant)
            return self._clients[tenant]


def _allowed(client: Client, tenant: str) -> dict[str, Any]:
    """The settings that this user may send."""
    wanted: dict[str, Any] = dict(_WANTED)
    if not tenant:
        wanted |= _BOUNDS
    known = client.server_settings
    return {name: value for name, value in wanted.items() if name not in known or not known[name].readonly}
