from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from infra.clickhouse.tenancy import CLOSED_VIEWS, DICTIONARIES, POLICIES, TABLES, USAGE_TABLES, VIEWS
from tests.clickhouse.support import Database

pytestmark = pytest.mark.store


def test_every_table_is_either_filtered_by_tenant_or_closed(db: Database) -> None:
    tables = {
        row[0]
        for row in db.rows("SELECT name FROM system.tables WHERE database = 'gpufleet' AND engine LIKE '%MergeTree'")
    }
    assert tables == set(TABLES)


def test_every_view_is_either_open_to_tenants_or_closed(db: Database) -> None:
    views = {
        row[0] for row in db.rows("SELECT name FROM system.tables WHERE database = 'gpufleet' AND engine LIKE '%View'")
    }
    assert views == set(VIEWS) | set(CLOSED_VIEWS)
    assert set(VIEWS).isdisjoint(CLOSED_VIEWS)


def test_no_dictionary_holds_usage(db: Database) -> None:
    """Operators may ask every dictionary, and their filters do not reach into them."""
    made = dict(
        db.rows(
            "SELECT name, create_table_query FROM system.tables WHERE database = 'gpufleet' AND engine = 'Dictionary'"
        )
    )
    assert made.keys() == set(DICTIONARIES)
    for query in made.values():
        source = re.search(r"TABLE '(\w+)'", query)
        assert source is not None
        assert source[1] not in USAGE_TABLES
        assert source[1].startswith(("lease_", "node_", "usage_grants"))


def test_the_tenant_columns_are_there(db: Database) -> None:
    for table, column in TABLES.items():
        if column:
            assert db.rows(
                f"SELECT 1 FROM system.columns WHERE database = 'gpufleet' AND table = '{table}' AND name = '{column}'"
            )


def test_views_of_tenants_read_nothing_but_filtered_tables(db: Database) -> None:
    made = dict(db.rows("SELECT name, as_select FROM system.tables WHERE database = 'gpufleet'"))
    kinds = dict(db.rows("SELECT name, engine FROM system.tables WHERE database = 'gpufleet'"))
    for view in VIEWS:
        for name in re.findall(r"gpufleet\.(\w+)", made[view]):
            if kinds[name] == "View":
                assert name in VIEWS, (view, name)
            else:
                assert TABLES[name] is not None, (view, name)
        assert "dictGet" not in made[view]


def test_views_read_as_whoever_asks(db: Database) -> None:
    made = db.rows("SELECT name, create_table_query FROM system.tables WHERE database = 'gpufleet' AND engine = 'View'")
    assert [name for name, query in made if "SQL SECURITY" in query and "SQL SECURITY INVOKER" not in query] == []


def test_the_policies_of_the_embedded_store_cover_tables_and_open_views() -> None:
    plain = {name: rows["tenant"] if isinstance(rows, Mapping) else rows for name, rows in POLICIES.items()}
    assert plain == {**TABLES, **dict.fromkeys(VIEWS, "*"), **dict.fromkeys((*CLOSED_VIEWS, *DICTIONARIES))}
    assert {name for name, rows in POLICIES.items() if isinstance(rows, Mapping)} == {*USAGE_TABLES, "tenant_limits"}
    assert all(TABLES[table] == "tenant" for table in USAGE_TABLES)
