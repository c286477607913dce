"""A rack that sends nothing, beside one that does: the fleet's heat map says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import pytest

from infra.clickhouse.client import ClickHouse, connect
from infra.grafana.boards.ids import Fleet
from infra.grafana.expand import TimeRange, choose
from tests.conftest import migrated
from tests.grafana.boards import OPERATOR, QUERIES, ask

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

pytestmark = pytest.mark.store

MINUTE_S: Final = 1_796_000_400
SPAN: Final = TimeRange((MINUTE_S - 1800) * 1000, (MINUTE_S + 300) * 1000)
FLEET: Final = next(board for board in OPERATOR if board.uid == Fleet.UID)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Two racks are expected in a minute; windows there are of one, whose GPUs were busy for 70 % of it."""
    with migrated(tmp_path_factory.mktemp("silent")) as store:
        client = connect(ClickHouse(store.host, store.port, store.username, store.password, "gpufleet"))
        client.command(
            "INSERT INTO health_1m (site, ts, rack, gpus, gpus_in_service, expected_s, version)"
            f" SELECT 'x', toDateTime({MINUTE_S}, 'UTC'), concat('r', toString(number)), 8, 8, 480, 1 FROM numbers(2)"
        )
        client.command(
            "INSERT INTO rack_1m (site, ts, rack, gr_engine_active_sum, gr_engine_active_s, version)"
            f" VALUES ('x', {MINUTE_S}, 'r0', 336, 480, 1)"
        )
        yield client
        client.close()


def test_the_heat_map_counts_it_as_without_data(half: Client) -> None:
    [query] = [q for q in QUERIES if q.dashboard is FLEET and q.panel and q.panel.id == Fleet.RACK_HEATMAP]
    [row] = ask(half, query, SPAN, choose(half, FLEET, SPAN)).dicts()
    assert {name: count for name, count in row.items() if name != "time" and count} == {"no data": 1, "70-80 %": 1}
