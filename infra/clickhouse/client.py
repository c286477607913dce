"""Connections to ClickHouse, or to the embedded store that speaks its HTTP protocol."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infra.errors import UnreachableError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

SETTINGS: Mapping[str, Any] = {"async_insert": 0}
"""Pinned for every user that may change settings: 26.9 turned asynchronous inserts on by default, and an insert must
mean stored. Users who may not (tenants) do not insert."""


@dataclass(frozen=True, slots=True)
class ClickHouse:
    """Where the store is and who asks."""

    host: str = "127.0.0.1"
    port: int = 8123
    user: str = "gpufleet"
    password: str = field(default="", repr=False)
    database: str = ""
    """Database of unqualified names; empty = the server's default, which exists before the first migration."""
    secure: bool = False
    verify: bool = True
    ca_cert: str = ""
    client_cert: str = ""
    client_key: str = field(default="", repr=False)
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 300.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further settings for every query."""


def connect(where: ClickHouse) -> Client:
    """A clickhouse-connect client; safe to share between threads, since queries carry no session.

    UnreachableError when nothing answers or the credentials are refused.
    """
    import clickhouse_connect
    from clickhouse_connect.driver.exceptions import Error, ProgrammingError

    tls: dict[str, Any] = {}
    if where.secure:
        tls = {"verify": where.verify}
        tls |= {"ca_cert": where.ca_cert} if where.ca_cert else {}
        tls |= {"client_cert": where.client_cert} if where.client_cert else {}
        tls |= {"client_cert_key": where.client_key} if where.client_key else {}
        if where.client_cert and where.password:
            tls["tls_mode"] = "strict"  # else the library takes the certificate for the user, and sends no password
    try:
        client = clickhouse_connect.get_client(
            host=where.host,
            port=where.port,
            username=where.user,
            password=where.password,
            database=where.database or "__default__",
            interface="https" if where.secure else "http",
            connect_timeout=where.connect_timeout_s,
            send_receive_timeout=where.read_timeout_s,
            autogenerate_session_id=False,
            settings=dict(where.settings),
            **tls,
        )
    except (Error, OSError) as error:
        scheme = "https" if where.secure else "http"
        raise UnreachableError(
            f"ClickHouse at {scheme}://{where.host}:{where.port} as {where.user!r}: {_reason(error)}; check that it"
            " runs, and store.url, store.user and store.password"
        ) from error
    for name, value in SETTINGS.items():
        with contextlib.suppress(ProgrammingError):
            client.set_client_setting(name, value)
    return client


def _reason(error: Exception) -> str:
    """The last cause in an HTTP client's words, which begin with its pools and retries."""
    text = str(error).strip()
    cause = re.search(r"\(Caused by \w+\((.*)\)\)", text, re.DOTALL)
    if cause is None:
        return text
    pool = r"^HTTPS?Connection\([^)]*\): (Failed to establish a new connection: )?(\[Errno -?\d+\] )?"
    return re.sub(pool, "", cause[1].strip("'\""))
