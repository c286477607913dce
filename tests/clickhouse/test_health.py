"""Health, delivered, used and lifecycle against cases worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clickhouse.support import MINUTE, Database, inventory, lease, minutes_ago

pytestmark = pytest.mark.store
T = minutes_ago(60)
SECOND = 1_000_000


def event(site: str, node: str, what: str, ts: int, **more: Any) -> dict[str, Any]:
    return {"site": site, "node_id": node, "event": what, "ts": ts, "host_boot_id": "boot-1", **more}


def health(db: Database, site: str, node: str = "a", gpu: int = 0, minutes: int = 1) -> list[tuple[Any, ...]]:
    """(class, healthy, unhealthy, unknown, opted out, not in service) of the minutes from T on."""
    rows = db.rows(
        "SELECT class, healthy_s, unhealthy_s, unknown_s, opted_out_s, not_in_service_s FROM gpufleet.gpu_health"
        f" WHERE site = '{site}' AND node_id = '{node}' AND gpu_index = {gpu}"
        f" AND ts >= {T // SECOND} AND ts < {T // SECOND + 60 * minutes} ORDER BY ts"
    )
    assert all(sum(row[1:]) == 60 for row in rows)
    return rows


def test_a_gpu_that_reports_all_of_a_minute_was_healthy(db: Database) -> None:
    db.insert("inventory", inventory("well", "a", T - MINUTE))
    db.gpu_minute("well", T, "a")
    assert health(db, "well") == [("healthy", 60, 0, 0, 0, 0)]


def test_silence_is_unknown_and_neither_healthy_nor_sick(db: Database) -> None:
    db.insert("inventory", inventory("silent", "a", T - MINUTE))
    db.gpu_minute("silent", T, "a", seconds=20)
    assert health(db, "silent", minutes=2) == [("unknown", 20, 0, 40, 0, 0), ("unknown", 0, 0, 60, 0, 0)]


def test_slowdown_is_unhealthy(db: Database) -> None:
    db.insert("inventory", inventory("slow", "a", T - MINUTE))
    db.gpu_minute("slow", T, "a", throttle_slowdown_s=45)
    assert health(db, "slow") == [("unhealthy", 15, 45, 0, 0, 0)]


def test_a_fault_lasts_from_the_alarm_to_what_clears_it(db: Database) -> None:
    db.insert("inventory", inventory("fault", "a", T - MINUTE, gpus=2))
    db.insert(
        "node-events",
        event("fault", "a", "xid", T + 15 * SECOND, code=48, gpu_index=0),
        event("fault", "a", "driver_reload", T + 90 * SECOND),
    )
    for gpu in (0, 1):
        for minute in range(3):
            db.gpu_minute("fault", T + minute * MINUTE, "a", gpu)
    assert health(db, "fault", minutes=3) == [
        ("unhealthy", 15, 45, 0, 0, 0),
        ("healthy", 30, 30, 0, 0, 0),
        ("healthy", 60, 0, 0, 0, 0),
    ]
    assert health(db, "fault", gpu=1, minutes=3) == [("healthy", 60, 0, 0, 0, 0)] * 3


def test_a_lost_gpu_is_sick_and_not_unknown_until_it_is_found(db: Database) -> None:
    db.insert("inventory", inventory("lost", "a", T - MINUTE, gpus=2))
    db.insert(
        "node-events",
        event("lost", "a", "gpu_lost", T + 30 * SECOND, gpu_index=1),
        event("lost", "a", "gpu_found", T + 60 * SECOND, gpu_index=0),
        event("lost", "a", "driver_reload", T + 70 * SECOND),
        event("lost", "a", "gpu_found", T + 90 * SECOND, gpu_index=1),
    )
    db.gpu_minute("lost", T, "a", 1, seconds=30)
    db.gpu_minute("lost", T + MINUTE, "a", 1, seconds=30)
    assert health(db, "lost", gpu=1, minutes=2) == [("healthy", 30, 30, 0, 0, 0), ("healthy", 30, 30, 0, 0, 0)]


@pytest.mark.parametrize(
    ("alarm", "faulty"),
    [
        ({"code": 79}, True),
        ({"code": 94}, False),
        ({"code": 43}, False),
        ({"code": 45}, False),
        ({"code": 9999}, True),
        ({"code": 13, "recovery_action": 1}, True),
        ({"code": 79, "recovery_action": 0}, False),
    ],
    ids=["off the bus", "application", "ignored", "unless alone", "unclassified", "verdict reset", "verdict none"],
)
def test_the_action_decides_whether_an_xid_is_a_fault(
    db: Database, alarm: dict[str, Any], faulty: bool, request: pytest.FixtureRequest
) -> None:
    site = request.node.name
    db.insert("inventory", inventory(site, "a", T - MINUTE))
    db.insert("node-events", event(site, "a", "xid", T, gpu_index=0, **alarm))
    db.gpu_minute(site, T, "a")
    assert health(db, site) == [("unhealthy", 0, 60, 0, 0, 0) if faulty else ("healthy", 60, 0, 0, 0, 0)]


def test_a_fault_counts_over_its_blast_radius(db: Database) -> None:
    domain: dict[str, Any] = {"nvlink_domain": "cluster-1/0"}
    db.insert(
        "inventory",
        inventory("blast", "a", T - MINUTE, gpus=2, **domain),
        inventory("blast", "b", T - MINUTE, **domain),
        inventory("blast", "c", T - MINUTE, nvlink_domain="cluster-2/0"),
    )
    db.insert(
        "node-events",
        # The whole node: XID 79 asks for a reboot of the host.
        event("blast", "a", "xid", T, code=79, gpu_index=0, ended_at=T + MINUTE),
        # The NVLink domain: a switch error.
        event("blast", "a", "sxid", T + MINUTE, code=12028, ended_at=T + 2 * MINUTE),
    )
    for node, gpu in (("a", 0), ("a", 1), ("b", 0), ("c", 0)):
        for minute in range(3):
            db.gpu_minute("blast", T + minute * MINUTE, node, gpu)

    def classes(node: str, gpu: int) -> list[str]:
        return [row[0] for row in health(db, "blast", node, gpu, minutes=3)]

    assert classes("a", 0) == classes("a", 1) == ["unhealthy", "unhealthy", "healthy"]
    assert classes("b", 0) == ["healthy", "unhealthy", "healthy"]
    assert classes("c", 0) == ["healthy"] * 3


def test_two_faults_at_once_count_once(db: Database) -> None:
    db.insert("inventory", inventory("twice", "a", T - MINUTE))
    db.insert(
        "node-events",
        event("twice", "a", "xid", T, code=79, gpu_index=0, ended_at=T + 40 * SECOND),
        event("twice", "a", "xid", T + 10 * SECOND, code=48, gpu_index=0, ended_at=T + 20 * SECOND),
        event("twice", "a", "ecc_dbe", T + 30 * SECOND, gpu_index=0, ended_at=T + 50 * SECOND),
    )
    db.gpu_minute("twice", T, "a")
    assert health(db, "twice") == [("unhealthy", 10, 50, 0, 0, 0)]
    pieces = db.rows(
        "SELECT fault, toUnixTimestamp64Micro(valid_to) - toUnixTimestamp64Micro(valid_from)"
        " FROM gpufleet.gpu_fault_periods WHERE site = 'twice' ORDER BY valid_from"
    )
    assert pieces == [("xid_79", 40 * SECOND), ("ecc_dbe", 10 * SECOND)]


def test_a_reboot_clears_faults_and_a_restart_of_the_agent_does_not(db: Database) -> None:
    db.insert("inventory", inventory("reboot", "a", T - MINUTE))
    db.insert(
        "node-events",
        event("reboot", "a", "xid", T, code=79, gpu_index=0),
        event("reboot", "a", "agent_start", T + 60 * SECOND),
        event("reboot", "a", "agent_start", T + 120 * SECOND, host_boot_id="boot-2"),
    )
    cleared = db.value("SELECT toUnixTimestamp64Micro(cleared_at) FROM gpufleet.gpu_faults WHERE site = 'reboot'")
    assert cleared == T + 120 * SECOND


def test_a_link_is_down_until_it_is_up(db: Database) -> None:
    db.insert("inventory", inventory("link", "a", T - MINUTE, gpus=2))
    db.insert(
        "node-events",
        event("link", "a", "link_down", T, value="mlx5_0/1"),
        event("link", "a", "driver_reload", T + 10 * SECOND),
        event("link", "a", "link_up", T + 20 * SECOND, value="mlx5_0/1"),
    )
    for gpu in (0, 1):
        db.gpu_minute("link", T, "a", gpu)
        assert health(db, "link", gpu=gpu) == [("healthy", 40, 20, 0, 0, 0)]


def test_an_agent_that_the_tenant_switched_off_is_opted_out_and_not_silent(db: Database) -> None:
    db.insert("inventory", inventory("optout", "a", T - MINUTE))
    db.insert(
        "node-events",
        event("optout", "a", "source_down", T + 30 * SECOND, value="agent", attributes={"reason": "opted_out"}),
        event("optout", "a", "source_up", T + 90 * SECOND, value="agent"),
    )
    db.gpu_minute("optout", T, "a", seconds=30)
    first, second = health(db, "optout", minutes=2)
    assert first[1:] == (30, 0, 0, 30, 0)
    assert second[1:] == (0, 0, 30, 30, 0)


def test_maintenance_is_out_of_service_and_gives_way_to_what_was_before(db: Database) -> None:
    site = "maintained"
    db.insert("inventory", inventory(site, "a", T - 9 * MINUTE, lifecycle="burn-in", gpus=2))
    db.insert(
        "node-events",
        event(site, "a", "lifecycle", T - 5 * MINUTE, value="accepted"),
        event(site, "a", "maintenance_begin", T + 20 * SECOND),
        event(site, "a", "maintenance_end", T + 80 * SECOND),
        event(site, "a", "lifecycle", T + 2 * MINUTE, value="rma", gpu_index=1),
    )
    for minute in range(3):
        db.gpu_minute(site, T + minute * MINUTE, "a")
    stretches = db.rows(
        f"SELECT lifecycle, in_service FROM gpufleet.gpu_lifecycle WHERE site = '{site}' AND"
        " gpu_index = 1 ORDER BY valid_from"
    )
    assert stretches == [
        ("burn-in", False),
        ("accepted", True),
        ("maintenance", False),
        ("accepted", True),
        ("rma", False),
    ]
    assert [row[1:] for row in health(db, site, minutes=3)] == [(20, 0, 0, 0, 40), (40, 0, 0, 0, 20), (60, 0, 0, 0, 0)]


def test_a_restated_inventory_does_not_end_maintenance(db: Database) -> None:
    site = "restated"
    db.insert("inventory", inventory(site, "a", T - 9 * MINUTE))
    db.insert("node-events", event(site, "a", "maintenance_begin", T - 5 * MINUTE))
    db.insert(
        "inventory",
        inventory(site, "a", T - 2 * MINUTE, driver_version="new"),
        inventory(site, "a", T - MINUTE, rack="r2"),
    )
    assert [row[0] for row in health(db, site)] == ["not_in_service"]


def test_delivered_is_leased_and_healthy_and_used_is_delivered_and_busy(db: Database) -> None:
    site, hour = "delivery", T // (60 * MINUTE) * 60 * MINUTE - 60 * MINUTE
    db.insert("inventory", inventory(site, "a", hour - MINUTE, gpus=2))
    db.insert("inventory", inventory(site, "b", hour - MINUTE))
    db.insert("leases", lease(site, "l1", ["a"], hour + 10 * MINUTE, hour + 13 * MINUTE, tenant="t", sla_target=0.9))
    db.insert(
        "node-events", event(site, "a", "xid", hour + 11 * MINUTE, code=48, gpu_index=1, ended_at=hour + 12 * MINUTE)
    )
    for minute in range(9, 14):
        db.gpu_minute(site, hour + minute * MINUTE, "a", 0, active_s=30)
        db.gpu_minute(site, hour + minute * MINUTE, "b", 0, active_s=60)
    db.gpu_minute(site, hour + 10 * MINUTE, "a", 1, seconds=50, active_s=50)
    db.gpu_minute(site, hour + 11 * MINUTE, "a", 1, active_s=60)
    # GPU 0: 3 minutes healthy, 30 s busy each. GPU 1: 50 s healthy and 10 s unknown, then a minute under a fault in
    # which being busy is not use, then a minute of silence.
    db.reload()
    db.project(hour + 9 * MINUTE, 5)
    (row,) = db.dicts(f"SELECT * FROM gpufleet.lease_delivery WHERE site = '{site}' AND hour >= {hour // SECOND}")
    assert row["tenant"] == "t"
    assert row["lease_id"] == "l1"
    assert row["gpu_model"] == "H100"
    assert row["gpus"] == 2
    assert row["leased_s"] == 2 * 3 * 60
    assert row["delivered_s"] == 3 * 60 + 50
    assert row["used_s"] == 3 * 30 + 50
    assert row["unhealthy_s"] == 60
    assert row["unknown_s"] == 10 + 60
    assert row["delivered_share"] == pytest.approx(230 / 360)
    assert row["sla_target"] == 0.9
    assert db.value(f"SELECT sum(used_s) FROM gpufleet.gpu_used WHERE site = '{site}' AND gpu_index = 0") == 90
