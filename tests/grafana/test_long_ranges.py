"""A range of a year is answered from hours: minutes that lie weeks back are not touched, whatever they hold."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Final

import pytest
from clickhouse_connect.driver.client import Client

from infra.clickhouse.client import ClickHouse, connect
from infra.grafana.expand import Query, TimeRange, Value
from tests.conftest import migrated
from tests.grafana.boards import HOUR_MS, QUERIES, ask

pytestmark = pytest.mark.store

END_MS: Final = int(time.time()) // 3600 * HOUR_MS
"""Of now: the store lets minutes go after a hundred days."""
OLD_S: Final = END_MS // 1000 - 20 * 86_400
OLD_ROWS: Final = 200_000
NAMES: Final = {
    "fleet_10s": "gpu_model",
    "rack_1m": "rack",
    "health_1m": "rack",
    "sick_1m": "node_id",
    "job_1m": "job_id",
    "facility_1m": "asset_id",
    "usage_1m": "workspace",
    "gpu_1m": "gpu_index",
}
"""Tables of windows below an hour, each with a column of its key that tells the rows apart."""
READING: Final = [query for query in QUERIES if re.search(rf"\bgpufleet\.({'|'.join(NAMES)})\b", query.sql)]
CHOSEN: Final = {name: Value("x") for name in ("site", "rack", "node", "tenant", "product", "workspace", "model")} | {
    "gpu": Value("0")
}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A store whose only windows are a heap of minutes, three weeks old."""
    with migrated(tmp_path_factory.mktemp("old-minutes")) as store:
        client = connect(ClickHouse(store.host, store.port, store.username, store.password, "gpufleet"))
        for table, column in NAMES.items():
            kind = client.command(f"SELECT type FROM system.columns WHERE table = '{table}' AND name = '{column}'")
            named = "number" if str(kind).startswith("Int") else "toString(number)"
            tenant = ", 't' AS tenant" if table != "facility_1m" else ""
            client.command(
                f"INSERT INTO {table} (site, ts, {column}, version{', tenant' if tenant else ''})"
                f" SELECT 'x', toDateTime({OLD_S}, 'UTC'), {named}, 1{tenant} FROM numbers({OLD_ROWS})"
            )
        yield client
        client.close()


@pytest.mark.parametrize("query", READING, ids=str)
def test_a_year_does_not_read_the_minutes_of_three_weeks_ago(old: Client, query: Query) -> None:
    """Asked without a tenant's limits, whose answers do not say what was read."""
    frame = ask(old, query, TimeRange(END_MS - 8766 * HOUR_MS, END_MS), CHOSEN)
    assert frame.read_rows is not None
    assert frame.read_rows < OLD_ROWS / 2


def test_the_heap_would_be_noticed(old: Client) -> None:
    for table in NAMES:
        read = int((old.query(f"SELECT count(ts), max(version) FROM {table} FINAL").summary or {})["read_rows"])
        assert read >= OLD_ROWS / 2, table
