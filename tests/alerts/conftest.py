"""A bench of its own for each test, on the session's migrated store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.clickhouse.client import connect
from infra.embedded.store.process import StoreProcess
from tests.alerts.support import Bench, where


@pytest.fixture
def bench(migrated_store: StoreProcess) -> Iterator[Bench]:
    client = connect(where(migrated_store))
    yield Bench(client)
    client.close()
