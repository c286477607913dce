"""GPUs that were swapped: places of a node whose UUID is another one in a later inventory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import pytest

from infra.clickhouse.client import ClickHouse, connect
from infra.grafana.expand import TimeRange, Value
from tests.conftest import migrated
from tests.grafana.boards import HOUR_MS, QUERIES, ask

pytestmark = pytest.mark.store
END_S: Final = int(time.time()) // 60 * 60
[SWAPS] = [query for query in QUERIES if query.panel is not None and query.panel.title == "GPUs swapped in the range"]
A, B, C, NOBODY = ("aa" * 16, "bb" * 16, "cc" * 16, "00" * 16)


def test_a_swap_is_a_place_whose_gpu_is_another_one_and_nothing_else_is(tmp_path: Path) -> None:
    told = [  # (node, seconds ago, GPUs)
        ("same", 7000, [A, B]), ("same", 600, [A, B]),
        ("swapped", 7000, [A, B]), ("swapped", 600, [A, C]),
        ("long-ago", 90_000, [A, B]), ("long-ago", 80_000, [A, C]),
        ("lost-and-found", 7000, [A, B]), ("lost-and-found", 3000, [A, NOBODY]), ("lost-and-found", 600, [A, B]),
        ("grown", 7000, [A]), ("grown", 600, [A, B]), ("shrunk", 7000, [A, B]), ("shrunk", 600, [A]),
        ("new", 600, [A, B]),
    ]  # fmt: skip
    columns = "site, producer_id, run_id, seq, ts, node_id, rack, asset_kind, gpu_model, gpu_index, gpu_uuid"
    rows = ", ".join(
        f"('s', '{node}', 1, {seq}, toDateTime64({END_S - ago}, 6, 'UTC'), '{node}', 'r', 'node', 'H100',"
        f" {list(range(len(uuids)))}, arrayMap(uuid -> unhex(uuid), {uuids}))"
        for seq, (node, ago, uuids) in enumerate(told)
    )
    with migrated(tmp_path / "store") as store:
        client = connect(ClickHouse(store.host, store.port, store.username, store.password, "gpufleet"))
        client.command(f"INSERT INTO inventory ({columns}) VALUES {rows}")
        chosen = {"site": Value(""), "model": Value(""), "gpu_model": Value("")}
        frame = ask(client, SWAPS, TimeRange(END_S * 1000 - 24 * HOUR_MS, END_S * 1000), chosen)
        client.close()
    found = [dict(zip(frame.columns, row, strict=True)) for row in frame.rows]
    assert [(row["node_id"], row["gpu"], row["was"], row["is"]) for row in found if row["node_id"] != "long-ago"] == [
        ("swapped", 1, B, C)
    ]
    assert [(row["gpu"], row["was"], row["is"]) for row in found if row["node_id"] == "long-ago"] == [(1, B, C)]
