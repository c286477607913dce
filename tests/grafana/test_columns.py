"""Tables of boards name the columns that their queries have: asked of a real store, by description, without running."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from clickhouse_connect.driver.client import Client

from infra.clickhouse.client import ClickHouse, connect
from infra.embedded.store.process import StoreProcess
from infra.grafana.expand import Query, expand, interval_of
from infra.grafana.expand.runner import base_type
from tests.grafana.boards import QUERIES

pytestmark = pytest.mark.store

NOW_MS = 1_790_000_000_000
PANELS = [query for query in QUERIES if query.panel]
Describe = Callable[[Query], dict[str, str]]
_NUMBERS = ("Int", "UInt", "Float", "Decimal")


@pytest.fixture(scope="module")
def client(migrated_store: StoreProcess) -> Iterator[Client]:
    process = migrated_store
    client = connect(ClickHouse(process.host, process.port, process.username, process.password))
    yield client
    client.close()


@pytest.fixture(scope="module")
def described(client: Client) -> Describe:
    """Columns of a query: name -> type, Nullable and LowCardinality taken off."""

    known: dict[str, dict[str, str]] = {}

    def describe(query: Query) -> dict[str, str]:
        if str(query) not in known:
            time_range = query.dashboard.time_range(NOW_MS)
            sql = expand(query.sql, time_range, query.dashboard.defaults(), interval_of(query, time_range))
            rows = client.query(f"DESCRIBE TABLE ({sql})").result_rows
            known[str(query)] = {name: base_type(type_) for name, type_, *_ in rows}
        return known[str(query)]

    return describe


@pytest.mark.parametrize("query", [q for q in PANELS if q.panel and q.panel.kind == "table"], ids=str)
def test_a_table_titles_every_column_of_its_query_and_no_other(described: Describe, query: Query) -> None:
    assert query.panel
    titled = [override["matcher"]["options"] for override in query.panel.field_config["overrides"]]
    assert list(described(query)) == titled


@pytest.mark.parametrize("query", [q for q in PANELS if "${__data.fields." in str(q.panel and q.panel.raw)], ids=str)
def test_links_carry_columns_that_the_query_has(described: Describe, query: Query) -> None:
    carried = set(re.findall(r"\$\{__data\.fields\.(\w+)", str(query.panel and query.panel.raw)))
    assert carried <= set(described(query))


@pytest.mark.parametrize("query", [q for q in PANELS if q.format == "time_series"], ids=str)
def test_series_are_named_by_series_or_by_their_columns(described: Describe, query: Query) -> None:
    """Grafana shows ``Value`` as the text of its only label, and any other number column by its name."""
    time, *others = described(query).items()
    assert time[1].startswith("DateTime")
    texts = [name for name, type_ in others if type_ == "String"]
    values = [name for name, type_ in others if type_.startswith(_NUMBERS)]
    assert (texts, values) == (["series"], ["Value"]) or (not texts and values)
    assert len(texts) + len(values) == len(others)


@pytest.mark.parametrize("query", [q for q in PANELS if q.panel and q.panel.kind in ("stat", "bargauge")], ids=str)
def test_a_figure_is_one_number_and_a_bar_a_name_and_a_number(described: Describe, query: Query) -> None:
    assert query.panel
    types = list(described(query).values())
    assert types[-1].startswith(_NUMBERS)
    assert types[:-1] == (["String"] if query.panel.kind == "bargauge" else [])
