"""A store with rows of Anna's and of others, closed tables, traps, and a user of every kind; and how to ask it."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from infra.embedded.store.config import Policies
from infra.embedded.store.process import StoreProcess

SECRET = "bettys-secret"
"""Stands in every row that is not Anna's, and nowhere else."""
PRIVATE = 90210042
"""Anna's own business, which she opens to nobody; Betty opens hers to the operator."""
POLICIES: Policies = {
    "samples": "tenant",
    "keyed": "tenant",
    "private": {"tenant": "tenant", "operator": "dictGetOrDefault('gpufleet.opened', 'granted', tenant, 0) = 1"},
    "agg": "tenant",
    "closed": None,
    "memory": None,
    "daily": None,
    "projector_requests": None,
    "seen": "*",
    "definer": "*",
    "not_a_view": "*",
}
SETUP = [
    "CREATE DATABASE gpufleet",
    "CREATE DATABASE other",
    "CREATE TABLE gpufleet.samples (x Int64, note String, tenant LowCardinality(String)) ENGINE = MergeTree ORDER BY x",
    f"INSERT INTO gpufleet.samples SELECT number, 'fine', 'anna' FROM numbers(5) "
    f"UNION ALL SELECT number + 1000, '{SECRET}', 'betty' FROM numbers(7) UNION ALL SELECT 5000, '{SECRET}', ''",
    "CREATE TABLE gpufleet.agg (m String, tenant String) ENGINE = ReplacingMergeTree ORDER BY m",
    f"INSERT INTO gpufleet.agg VALUES ('fine', 'anna'), ('{SECRET}', 'betty')",
    "CREATE TABLE gpufleet.closed (x String) ENGINE = MergeTree ORDER BY x",
    f"INSERT INTO gpufleet.closed VALUES ('{SECRET}')",
    "CREATE TABLE gpufleet.later (x String, tenant String) ENGINE = MergeTree ORDER BY x",
    f"INSERT INTO gpufleet.later VALUES ('{SECRET}', 'betty')",
    "CREATE TABLE gpufleet.not_a_view (x String) ENGINE = MergeTree ORDER BY x",
    f"INSERT INTO gpufleet.not_a_view VALUES ('{SECRET}')",
    "CREATE TABLE other.t ENGINE = MergeTree ORDER BY x AS SELECT * FROM gpufleet.samples",
    "CREATE VIEW gpufleet.seen AS SELECT x, note FROM gpufleet.samples",
    "CREATE VIEW gpufleet.unlisted AS SELECT x, note FROM gpufleet.samples",
    "CREATE VIEW gpufleet.definer DEFINER = default SQL SECURITY DEFINER AS SELECT x, note FROM gpufleet.samples",
    "CREATE MATERIALIZED VIEW gpufleet.mv ENGINE = MergeTree ORDER BY x POPULATE AS SELECT * FROM gpufleet.samples",
    "CREATE DICTIONARY gpufleet.notes (x Int64, note String, tenant String) PRIMARY KEY x "
    "SOURCE(CLICKHOUSE(TABLE 'samples' DB 'gpufleet')) LAYOUT(HASHED()) LIFETIME(0)",
    "CREATE TABLE gpufleet.joined (x Int64, note String) ENGINE = Join(ANY, LEFT, x)",
    f"INSERT INTO gpufleet.joined VALUES (1001, '{SECRET}')",
    "CREATE TABLE gpufleet.memory (x String) ENGINE = Memory",
    f"INSERT INTO gpufleet.memory VALUES ('{SECRET}')",
    "CREATE FUNCTION peek AS () -> (SELECT groupArray(note) FROM other.t)",
    "CREATE TABLE gpufleet.grants (tenant String, granted UInt8) ENGINE = MergeTree ORDER BY tenant",
    "INSERT INTO gpufleet.grants VALUES ('betty', 1)",
    "CREATE DICTIONARY gpufleet.opened (tenant String, granted UInt8) PRIMARY KEY tenant "
    "SOURCE(CLICKHOUSE(TABLE 'grants' DB 'gpufleet')) LAYOUT(COMPLEX_KEY_HASHED()) LIFETIME(0)",
    "CREATE TABLE gpufleet.private (amount Int64, tenant String) ENGINE = MergeTree ORDER BY amount",
    f"INSERT INTO gpufleet.private VALUES (11, 'betty'), ({PRIVATE}, 'anna')",
    "CREATE TABLE gpufleet.keyed (tenant LowCardinality(String), x Int64) ENGINE = MergeTree ORDER BY (tenant, x)"
    " SETTINGS index_granularity = 16",
    "INSERT INTO gpufleet.keyed SELECT ['anna', 'betty', 'carol'][number % 3 + 1], number FROM numbers(3000)",
    "CREATE VIEW gpufleet.daily AS SELECT tenant, sum(amount) AS total FROM gpufleet.private GROUP BY tenant",
    "CREATE TABLE gpufleet.projector_requests (x String) ENGINE = MergeTree ORDER BY x",
    "CREATE TABLE gpufleet.merged AS gpufleet.samples ENGINE = Merge(gpufleet, '^samples$')",
]


def connect(process: StoreProcess, user: str, password: str = "pw") -> Client:
    return clickhouse_connect.get_client(
        host=process.host, port=process.port, username=user, password=password, autogenerate_session_id=False
    )


def ask(process: StoreProcess, user: str, query: str, **parameters: str) -> tuple[int, str]:
    """Status and text of one query, straight over HTTP; everybody's password but the administrator's is pw."""
    password = process.password if user == process.username else "pw"
    return ask_with(process, user, password, query, **parameters)


def ask_with(process: StoreProcess, user: str, password: str, query: str, **parameters: str) -> tuple[int, str]:
    """The same with a password."""
    url = f"{process.url}/?{urllib.parse.urlencode(parameters)}"
    headers = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password}
    request = urllib.request.Request(url, query.encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
