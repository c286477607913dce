"""A migrated store for the tests of this folder, and one without anything for the tests of the migrations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("chdb", reason="the embedded store needs chdb: pip install 'gpufleet[embedded]'")

from infra.clickhouse.client import ClickHouse, connect
from infra.clickhouse.migrate import migrate
from infra.embedded.store.process import StoreProcess
from tests.clickhouse.support import Database


@pytest.fixture(scope="session")
def store_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    with StoreProcess(tmp_path_factory.mktemp("tables")) as process:
        yield process


@pytest.fixture(scope="session")
def db(store_here: StoreProcess) -> Iterator[Database]:
    """The migrated database; each test uses a site of its own."""
    client = connect(ClickHouse(store_here.host, store_here.port, store_here.username, store_here.password))
    migrate(client)
    yield Database(client)
    client.close()
