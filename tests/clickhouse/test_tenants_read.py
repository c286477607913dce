"""A tenant of the embedded store asks every table and view: it sees its own rows or none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from infra.clickhouse.client import ClickHouse, connect
from infra.clickhouse.migrate import migrate
from infra.clickhouse.tenancy import CLOSED_VIEWS, POLICIES, TABLES, VIEWS
from infra.embedded.store.passwords import hash_password
from infra.embedded.store.process import StoreProcess
from infra.embedded.store.users import Kind, User
from tests.clickhouse.support import MINUTE, Database, inventory, lease, minutes_ago

pytestmark = pytest.mark.store
T = minutes_ago(10)


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Database]]:
    """The operator's and tenant `mine`'s connection to a store with rows of `mine`, `theirs` and nobody."""
    users = [User("mine", Kind.TENANT, hash_password("secret-of-mine"), "mine")]
    with StoreProcess(tmp_path_factory.mktemp("tenants"), users=users, policies=POLICIES) as process:
        operator = Database(connect(ClickHouse(process.host, process.port, process.username, process.password)))
        migrate(operator.client)
        operator.insert("leases", *(lease("s", t, [f"{t}-1"], T - MINUTE, tenant=t) for t in ("mine", "theirs")))
        operator.reload()
        for node in ("mine-1", "theirs-1", "nobody-1"):
            head: dict[str, Any] = {"site": "s", "node_id": node, "ts": T}
            tenant = node.removesuffix("-1").replace("nobody", "")
            operator.insert("inventory", inventory("s", node, T))
            operator.insert("node-telemetry", {**head, "gpu_index": [0], "power_w": [1.0]})
            operator.insert("node-counters", {**head, "gpu_index": [0], "nic_name": ["x"]})
            operator.insert("node-events", {**head, "code": 79, "gpu_index": 0})
            operator.client.command(
                "INSERT INTO gpufleet.gpu_1m (site, ts, node_id, gpu_index, tenant, gpu_model, seconds, version)"
                f" VALUES ('s', {T // 1_000_000}, '{node}', 0, '{tenant}', 'H100', 60, 1)"
            )
            if tenant:
                operator.insert("tenant-usage", {"site": "s", "ts": T, "tenant": tenant, "requests": 5})
                operator.insert("tenant-limits", {"site": "s", "ts": T, "valid_from": T, "tenant": tenant})
        mine = Database(connect(ClickHouse(process.host, process.port, "mine", "secret-of-mine")))
        yield operator, mine
        mine.client.close()
        operator.client.close()


@pytest.mark.parametrize("name", sorted({*TABLES, *VIEWS, *CLOSED_VIEWS}))
def test_a_tenant_sees_its_own_rows_or_none(tenants: tuple[Database, Database], name: str) -> None:
    _, mine = tenants
    recent = " WHERE ts >= now() - 1200" if name in ("gpu_health", "gpu_delivered", "gpu_used") else ""
    recent = " WHERE hour >= now() - 7200" if name == "lease_delivery" else recent
    try:
        text = str(mine.rows(f"SELECT * FROM gpufleet.{name}{recent}"))
    except Exception as error:
        if name in CLOSED_VIEWS or TABLES.get(name, "open") is None:
            return
        raise AssertionError(f"{name} must be readable") from error
    assert "theirs" not in text
    assert "nobody" not in text
    if name in CLOSED_VIEWS or TABLES.get(name, "open") is None:
        assert text == "[]"


@pytest.mark.parametrize(
    "name",
    [
        "node_telemetry",
        "tenant_usage",
        "gpu_samples",
        "gpu_now",
        "gpu_delivered",
        "gpu_faults",
        "xids",
        "tenant_headroom",
    ],
)
def test_and_its_own_rows_are_all_there(tenants: tuple[Database, Database], name: str) -> None:
    operator, mine = tenants
    where = " AND ts >= now() - 1200" if name == "gpu_delivered" else ""
    key = "tenant" if name in ("tenant_usage", "tenant_headroom") else "splitByChar('-', node_id)[1]"
    asked = f"SELECT count() FROM gpufleet.{name} WHERE {key} = 'mine'{where}"
    assert mine.value(asked) == operator.value(asked) > 0
