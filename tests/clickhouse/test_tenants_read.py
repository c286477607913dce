"""A tenant of the embedded store asks every table and view: it sees its own rows or none."""

from __future__ import annotations

import time
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


@pytest.fixture(scope="module")
def handed_over() -> int:
    """When nodes changed hands: minutes ago, since what a tenant sees as now reaches back an hour."""
    return minutes_ago(5)


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory, handed_over: int) -> Iterator[tuple[Database, Database]]:
    """The operator's and tenant `mine`'s connection to a store with rows of `mine`, `theirs` and nobody."""
    begin = handed_over - 5 * MINUTE
    users = [User("mine", Kind.TENANT, hash_password("secret-of-mine"), "mine")]
    with StoreProcess(tmp_path_factory.mktemp("tenants"), users=users, policies=POLICIES) as process:
        operator = Database(connect(ClickHouse(process.host, process.port, process.username, process.password)))
        migrate(operator.client)
        operator.insert("leases", *(lease("s", t, [f"{t}-1"], begin - MINUTE, tenant=t) for t in ("mine", "theirs")))
        operator.reload()
        for node in ("mine-1", "theirs-1", "nobody-1"):
            head: dict[str, Any] = {"site": "s", "node_id": node, "ts": begin}
            tenant = node.removesuffix("-1").replace("nobody", "")
            operator.insert("inventory", inventory("s", node, begin))
            operator.insert("node-telemetry", {**head, "gpu_index": [0], "power_w": [1.0]})
            operator.insert("node-counters", {**head, "gpu_index": [0], "nic_name": ["x"]})
            operator.insert("node-events", {**head, "code": 79, "gpu_index": 0})
            operator.client.command(
                "INSERT INTO gpufleet.gpu_1m (site, ts, node_id, gpu_index, tenant, gpu_model, seconds, version)"
                f" VALUES ('s', {begin // 1_000_000}, '{node}', 0, '{tenant}', 'H100', 60, 1)"
            )
            if tenant:
                operator.insert("tenant-usage", {"site": "s", "ts": begin, "tenant": tenant, "requests": 5})
                operator.insert("tenant-limits", {"site": "s", "ts": begin, "valid_from": begin, "tenant": tenant})
        operator.insert(
            "leases",
            lease("s", "first", ["moved-1"], begin - MINUTE, handed_over, tenant="theirs"),
            lease("s", "second", ["moved-1"], handed_over, tenant="mine"),
            lease("s", "third", ["given-1"], begin - MINUTE, handed_over, tenant="mine"),
            lease("s", "fourth", ["given-1"], handed_over, tenant="theirs"),
        )
        operator.reload()
        operator.insert("inventory", *(inventory("s", node, begin, gpus=2) for node in ("moved-1", "given-1")))
        operator.project(begin, 9)
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
    if name in ("gpu_inventory", "gpu_now", "node_place", "sick_gpus"):
        assert "given" not in text, "a node that the tenant no longer leases"
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
    minute = int(time.time()) // 60 * 60  # both ask for the same minutes, whenever they ask
    closed = f" AND ts >= toDateTime({minute - 1200}, 'UTC') AND ts < toDateTime({minute}, 'UTC')"
    where = closed if name == "gpu_delivered" else ""
    key = "tenant" if name in ("tenant_usage", "tenant_headroom") else "splitByChar('-', node_id)[1]"
    asked = f"SELECT count() FROM gpufleet.{name} WHERE {key} = 'mine'{where}"
    assert mine.value(asked) == operator.value(asked) > 0


def test_after_a_hand_over_the_new_tenant_sees_the_node_and_the_old_one_does_not(
    tenants: tuple[Database, Database], handed_over: int
) -> None:
    """Inventory rows keep the tenant of their own time: moved-1 was told of while `theirs` leased it."""
    operator, mine = tenants
    for view in ("gpu_inventory", "gpu_now"):
        asked = (
            f"SELECT node_id, gpu_index, gpu_model, tenant FROM gpufleet.{view} WHERE node_id IN ('moved-1', 'given-1')"
        )
        moved = [("moved-1", gpu, "H100", "mine") for gpu in (0, 1)]
        assert mine.rows(f"{asked} ORDER BY ALL") == moved
        given = [("given-1", gpu, "H100", "theirs") for gpu in (0, 1)]
        assert operator.rows(f"{asked} ORDER BY ALL") == given + moved
    silent = (
        "SELECT DISTINCT node_id, reason, tenant FROM gpufleet.sick_1m FINAL WHERE ts = toDateTime({}) ORDER BY ALL"
    )
    before, after = (silent.format(at // 1_000_000) for at in (handed_over - MINUTE, handed_over))
    assert ("given-1", "silent", "mine") in mine.rows(before)
    assert not [row for row in mine.rows(before) if row[0] == "moved-1"]
    assert ("moved-1", "silent", "mine") in mine.rows(after)
    assert not [row for row in mine.rows(after) if row[0] == "given-1"]
    assert {"moved-1"} <= {row[0] for row in mine.rows("SELECT node_id FROM gpufleet.sick_gpus")}
    hours = mine.rows("SELECT lease_id, sum(leased_s) FROM gpufleet.lease_delivery GROUP BY lease_id ORDER BY 1")
    leased = dict(hours)
    assert leased["second"] == 2 * 60 * 4
    assert "first" not in leased
    assert leased["third"] == 2 * 60 * 5
