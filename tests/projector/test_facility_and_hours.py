"""Facility per minute, and the hours that follow from minutes."""

from __future__ import annotations

import time
from typing import Any

from consumers.projector.projector import Projector
from consumers.projector.windows import HEALTH_COUNTS, HEALTH_SUMS
from tests.projector.conftest import Bench
from tests.projector.events import US
from tests.projector.test_conditions import minute_of, minutes_ago, placed, told


def test_facility_minutes_hold_means_extremes_the_worst_state_and_the_meters_difference(
    bench: Bench, projector: Projector
) -> None:
    t = minutes_ago(6)

    def reading(asset: str, at: int, **more: Any) -> dict[str, Any]:
        return bench.events.event(
            "facility-telemetry", at, "bms", asset_id=asset, asset_kind="feed", interval_ms=30_000, **more
        )

    bench.events.insert(
        "facility-telemetry",
        [
            reading("f", t, power_w=100.0, energy_j=1000.0, state="ok", power_cap_w=500.0),
            reading("f", t + 30, power_w=300.0, energy_j=4000.0, state="degraded"),
            reading("f", t + 60, power_w=None, energy_j=9000.0, state="tripped"),
            reading("f", t + 90, power_w=50.0, energy_j=9500.0, state="leak", leak=True, flow_lpm=3.0),
            reading("f", t + 120, power_w=10.0, energy_j=20.0, state="ok"),
        ],
    )
    bench.project(projector)
    rows = bench.windows("facility_1m")
    assert [(r["power_w_avg"], r["power_w_max"], r["state"], r["readings"], r["energy_j"]) for r in rows] == [
        (200.0, 300.0, "degraded", 2, 3000.0),
        (50.0, 50.0, "tripped", 2, 5500.0),
        (10.0, 10.0, "ok", 1, 20.0),
    ]
    assert [(r["power_cap_w"], r["leak"], r["flow_lpm_min"]) for r in rows] == [
        (500.0, None, None),
        (None, True, 3.0),
        (None, None, None),
    ]


def test_hours_are_the_sums_of_their_minutes(bench: Bench, projector: Projector) -> None:
    hour = int(time.time()) // 3600 * 3600 - 2 * 3600
    node = f"n{bench.events.site}"
    bench.events.insert("inventory", [placed(bench, node, hour)])
    events = [minute_of(bench, node, hour + 60 * m, power_w=500.0, energy_j=1000 * m) for m in (0, 1, 5)]
    bench.events.insert("node-telemetry", events)
    bench.project(projector)
    minutes = bench.windows("health_1m", f"AND ts < toDateTime({hour + 3600})")
    assert len(minutes) == 60
    (row,) = bench.windows("health_1h", f"AND ts = toDateTime({hour})")
    for name in HEALTH_SUMS:
        assert row[name] == sum(m[name] for m in minutes), name
    for name in HEALTH_COUNTS:
        assert row[name] == max(m[name] for m in minutes), name
    assert row["healthy_s"] == 3 * 2 * 60
    (fleet,) = bench.windows("fleet_1h", f"AND ts = toDateTime({hour})")
    slots = bench.windows("fleet_10s", f"AND ts >= toDateTime({hour}) AND ts < toDateTime({hour + 3600})")
    for name in ("samples", "seconds", "power_w_sum", "power_w_s"):
        assert fleet[name] == sum(s[name] for s in slots), name
    assert (fleet["power_w_min"], fleet["power_w_max"]) == (500.0, 500.0)
    assert (fleet["gpus"], fleet["nodes"], fleet["energy_j"]) == (2, 1, 2 * 5000)


def test_hours_of_racks_sick_gpus_and_facility(bench: Bench, projector: Projector) -> None:
    hour = int(time.time()) // 3600 * 3600 - 2 * 3600
    site = bench.events.site
    heard, mute = f"a{site}", f"b{site}"
    bench.events.insert("inventory", [placed(bench, node, hour) for node in (heard, mute)])
    bench.events.insert("node-events", [told(bench, heard, "xid", hour + 90, code=48, gpu_index=1)])
    powers = {0: (400.0, 500.0), 1: (300.0, 500.0), 5: (450.0, 700.0)}
    events = [minute_of(bench, heard, hour + 60 * m, power_w=w, energy_j=1000 * m) for m, w in powers.items()]
    bench.events.insert("node-telemetry", events)
    feed = [
        bench.events.event(
            "facility-telemetry", hour + at, "facility", asset_id="f", asset_kind="feed", parent_id="", rack="",
            interval_ms=60_000, power_w=power, power_cap_w=cap, energy_j=energy, state=state, leak=leak,
        )
        for at, power, cap, energy, state, leak in (
            (0, 100.0, 900.0, 1000.0, "ok", None), (60, 300.0, None, 4000.0, "tripped", None),
            (120, None, 800.0, 5000.0, "ok", True),
        )
    ]  # fmt: skip
    bench.events.insert("facility-telemetry", feed)
    bench.project(projector)
    at = f"AND ts = toDateTime({hour})"
    health = bench.windows("health_1m", f"AND ts >= toDateTime({hour}) AND ts < toDateTime({hour + 3600})")

    racks = {row["rack"]: row for row in bench.windows("rack_1h", at)}
    assert racks.keys() == {"a-rack", "b-rack"}, "a rack that was silent all hour has a row"
    for name, row in racks.items():
        of_rack = [minute for minute in health if minute["rack"] == name]
        for column in HEALTH_SUMS:
            if column != "energy_j":
                assert row[column] == sum(minute[column] for minute in of_rack), (name, column)
    row = racks["a-rack"]
    assert (row["power_w_sum"], row["power_w_s"]) == (60 * sum(map(sum, powers.values())), 6 * 60)
    assert (row["power_w_min"], row["power_w_max"], row["gpus"], row["energy_j"]) == (300.0, 700.0, 2, 2 * 5000)
    assert (racks["b-rack"]["samples"], racks["b-rack"]["unknown_s"]) == (0, 2 * 3600)

    spells = {
        (r["node_id"], r["gpu_index"], r["reason"]): r for r in bench.windows("sick_1h", at) if r["minutes"] == 60
    }
    assert {(mute, 0, "silent"), (mute, 1, "silent")} == spells.keys()
    [fault] = [row for row in bench.windows("sick_1h", at) if row["reason"].startswith("xid")]
    assert (fault["node_id"], fault["gpu_index"], fault["minutes"], fault["in_service"]) == (heard, 1, 59, True)
    minutes = bench.windows("sick_1m", f"AND ts >= toDateTime({hour}) AND ts < toDateTime({hour + 3600})")
    assert sum(row["minutes"] for row in bench.windows("sick_1h", at)) == len(minutes)

    [asset] = bench.windows("facility_1h", at)
    assert (asset["state"], asset["minutes"], asset["readings"], asset["leak"]) == ("tripped", 3, 3, True)
    assert (asset["power_w_avg"], asset["power_w_max"], asset["power_cap_w"]) == (200.0, 300.0, 800.0)
    assert asset["energy_j"] == 4000.0

    # What comes late changes its hour: a reading, and a fault of the minute after it.
    bench.events.insert("facility-telemetry", [{**feed[0], "seq": 99, "ts": (hour + 180) * US, "energy_j": 9000.0}])
    bench.events.insert("node-events", [told(bench, heard, "driver_reload", hour + 300, gpu_index=1)])
    bench.project(projector)
    [asset] = bench.windows("facility_1h", at)
    assert (asset["readings"], asset["energy_j"]) == (4, 8000.0)
    [fault] = [row for row in bench.windows("sick_1h", at) if row["reason"].startswith("xid")]
    assert fault["minutes"] == 4
