"""Windows of ones beside windows of zeros, in every table: whatever is divided by whatever, no query ends in an error.

A share without a whole is NULL, and under that NULL stands 0 / 0, which the store refuses to make an integer of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from clickhouse_connect.driver.client import Client

from infra.clickhouse.client import ClickHouse, connect
from infra.grafana.expand import Query, TimeRange, Value, choose
from tests.conftest import migrated
from tests.grafana.boards import BOARDS, HOUR_MS, QUERIES, ask

pytestmark = pytest.mark.store

MINUTE_S: Final = 1_796_000_400
END_MS: Final = (MINUTE_S + 300) * 1000
SPANS: Final = [TimeRange(END_MS - hours * HOUR_MS, END_MS) for hours in (1, 8766)]
FIXED: Final = {"ts": f"toDateTime({MINUTE_S}, 'UTC')", "site": "'x'", "is_deleted": "0", "version": "1"}
TABLES: Final = (
    "SELECT name FROM system.tables WHERE database = 'gpufleet' AND engine LIKE '%MergeTree'"
    " AND match(name, '_(10s|1m|1h|1d)$')"
)
COLUMNS: Final = (
    "SELECT name, type, is_in_sorting_key FROM system.columns WHERE database = 'gpufleet' AND table = {table:String}"
    " AND default_kind IN ('', 'DEFAULT')"
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Two rows a table: every number 1, and every number 0; texts in the key tell them apart."""
    with migrated(tmp_path_factory.mktemp("zeros")) as store:
        client = connect(ClickHouse(store.host, store.port, store.username, store.password, "gpufleet"))
        for (table,) in client.query(TABLES).result_rows:
            for number, text in ((1, "a"), (0, "b")):
                values = {}
                for name, kind, in_key in client.query(COLUMNS, parameters={"table": table}).result_rows:
                    if name in FIXED:
                        values[name] = FIXED[name]
                    elif kind.startswith(("UInt", "Int", "Float", "Bool")):
                        values[name] = str(number)
                    elif kind in ("String", "LowCardinality(String)"):
                        values[name] = f"'{text if in_key else 'a'}'"
                client.command(f"INSERT INTO {table} ({', '.join(values)}) SELECT {', '.join(values.values())}")
        yield client
        client.close()


@pytest.fixture(scope="module")
def chosen(mixed: Client) -> dict[tuple[str, TimeRange], dict[str, Value]]:
    """What the variables of each board stand for when it opens."""
    return {(board.uid, span): choose(mixed, board, span) for board in BOARDS for span in SPANS}


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_no_query_minds_a_zero(
    mixed: Client, chosen: dict[tuple[str, TimeRange], dict[str, Value]], query: Query
) -> None:
    for span in SPANS:
        ask(mixed, query, span, chosen[query.dashboard.uid, span])
