from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from infra.clickhouse.client import ClickHouse, connect
from infra.embedded.store.process import StoreProcess
from infra.errors import UnreachableError

pytestmark = pytest.mark.store


def where(store: StoreProcess) -> ClickHouse:
    return ClickHouse(store.host, store.port, store.username, store.password)


def test_an_insert_means_stored_since_asynchronous_inserts_are_off(store_here: StoreProcess) -> None:
    client = connect(where(store_here))
    assert client.query("SELECT value FROM system.settings WHERE name = 'async_insert'").result_rows == [("0",)]
    client.close()


def test_a_wrong_password_is_told_and_not_shown(store_here: StoreProcess) -> None:
    with pytest.raises(UnreachableError, match=r"as 'gpufleet'.*store.password") as refused:
        connect(replace(where(store_here), password="not-the-one"))
    assert "not-the-one" not in str(refused.value)
    assert "not-the-one" not in repr(replace(where(store_here), password="not-the-one"))


def test_nothing_listening_is_told_with_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(UnreachableError, match=rf"http://127.0.0.1:{port}.*check that it runs"):
        connect(ClickHouse(port=port))
