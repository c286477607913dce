"""What is now: GPUs, sick ones, limits, jobs, the pipeline. Each case against numbers worked out by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from tests.clickhouse.support import MINUTE, UUID_TEXT, Database, inventory, lease, minutes_ago, not_at_a_minutes_end

pytestmark = pytest.mark.store
SECOND = 1_000_000


def now() -> int:
    return int(time.time()) * SECOND


def live(site: str, node: str, ts: int) -> dict[str, object]:
    return {"site": site, "node_id": node, "ts": ts, "rack": "r1", "gpu_model": "H100", "gpu_index": [0, 1]}


def test_gpu_now_shows_the_newest_tick_and_the_silent_ones(db: Database) -> None:
    site = "gpu-now"
    db.insert(
        "inventory", inventory(site, "a", minutes_ago(9), gpus=2, feed="f1"), inventory(site, "b", minutes_ago(9))
    )
    t = now() - 20 * SECOND
    db.insert(
        "node-telemetry",
        {**live(site, "a", t), "power_w": [100.0, 200.0], "temp_gpu_c": [40, 41]},
        {**live(site, "a", t + SECOND), "power_w": [110.0, float("nan")], "temp_gpu_c": [42, -1]},
    )
    db.project(minutes_ago(2))
    rows = db.rows(
        "SELECT node_id, gpu_index, gpu_uuid, feed, reporting, power_w, temp_gpu_c FROM gpufleet.gpu_now"
        f" WHERE site = '{site}' ORDER BY 1, 2"
    )
    assert rows == [
        ("a", 0, UUID_TEXT, "f1", True, 110.0, 42),
        ("a", 1, UUID_TEXT, "f1", True, None, None),
        ("b", 0, UUID_TEXT, "", False, None, None),
    ]


def test_sick_gpus_names_each_reason_with_its_action(db: Database) -> None:
    site, minute = "sick", minutes_ago(2)
    db.insert("inventory", *(inventory(site, node, minutes_ago(9), gpus=2) for node in "abcd"))
    db.insert(
        "node-events",
        {"site": site, "node_id": "a", "ts": minutes_ago(5), "event": "xid", "code": 62, "gpu_index": 1},
        {"site": site, "node_id": "d", "ts": minutes_ago(5), "event": "xid", "code": 62, "gpu_index": 0},
        {"site": site, "node_id": "d", "ts": minutes_ago(4), "event": "maintenance_begin"},
    )
    db.insert(
        "node-counters",
        {
            "site": site,
            "node_id": "b",
            "ts": minute - MINUTE,
            "gpu_index": [0, 1],
            "row_remap_failure": [0, 1],
            "pcie_link_width": [8, 16],
            "pcie_link_width_max": [16, 16],
        },
    )
    for node in "abd":
        for gpu in (0, 1):
            db.gpu_minute(site, minute, node, gpu, throttle_slowdown_s=12 if (node, gpu) == ("b", 1) else 0)
    db.project(minute)
    rows = db.rows(
        "SELECT node_id, gpu_index, reason, action, in_service FROM gpufleet.sick_gpus WHERE site ="
        f" '{site}' ORDER BY 1, 2, 3"
    )
    assert rows == [
        ("a", 1, "xid_62", "reset_gpu", True),
        ("b", 0, "pcie_downtrained", "reseat_or_replace", True),
        ("b", 1, "row_remap_failure", "replace_gpu", True),
        ("b", 1, "slowdown", "check_cooling_and_power", True),
        ("c", 0, "silent", "check_agent", True),
        ("c", 1, "silent", "check_agent", True),
        ("d", 0, "xid_62", "reset_gpu", False),
    ]


def test_fleet_now_counts_what_is_there_reporting_leased_and_faulty(db: Database) -> None:
    site = "fleet-now"
    db.insert("inventory", inventory(site, "a", minutes_ago(9), gpus=4), inventory(site, "b", minutes_ago(9), gpus=4))
    db.insert("leases", lease(site, "l", ["a"], minutes_ago(9), tenant="t"))
    db.insert(
        "node-events",
        {"site": site, "node_id": "b", "ts": minutes_ago(5), "event": "xid", "code": 95, "gpu_index": 1},
        {"site": site, "node_id": "b", "ts": minutes_ago(5), "event": "lifecycle", "value": "rma", "gpu_index": 2},
    )
    db.reload()
    for node in "ab":
        for gpu in range(4):
            db.gpu_minute(site, minutes_ago(2), node, gpu)
    db.project(minutes_ago(2))
    ts = (int(time.time()) - 30) // 10 * 10
    for tenant, seconds in (("t", 40), ("", 16)):
        db.client.command(
            "INSERT INTO gpufleet.fleet_10s (site, ts, gpu_model, tenant, gpus, seconds, power_w_sum, power_w_s,"
            f" gr_engine_active_sum, gr_engine_active_s, version) VALUES ('{site}', {ts}, 'H100', '{tenant}',"
            f" {seconds // 10}, {seconds}, {500 * seconds}, {seconds}, {0.5 * seconds}, {seconds}, 1)"
        )
    (row,) = db.dicts(f"SELECT * FROM gpufleet.fleet_now WHERE site = '{site}'")
    assert (row["gpus"], row["gpus_in_service"], row["gpus_leased"], row["gpus_faulty"]) == (8, 7, 4, 1)
    assert (row["gpus_reporting"], row["power_w"], row["gr_engine_active"]) == (5, 2500, 0.5)
    assert row["completeness"] == pytest.approx(56 / 70)
    assert row["ts"] == datetime.fromtimestamp(ts, UTC).replace(tzinfo=None)


def test_headroom_is_the_limit_less_what_its_window_holds(db: Database) -> None:
    site = "headroom"
    set_at = minutes_ago(900)

    def limit(name: str, value: float, window: int = 60, **more: object) -> dict[str, object]:
        return {
            "site": site,
            "ts": set_at,
            "valid_from": set_at,
            "limit_name": name,
            "limit_value": value,
            "window_s": window,
            **more,
        }

    not_at_a_minutes_end()
    db.insert(
        "tenant-limits",
        limit("requests", 100),
        limit("requests", 200, ts=set_at + SECOND, action="raised"),
        limit("output_tokens", 1000, window=18_000, model="m1"),
        limit("input_tokens", 10, action="removed"),
        limit("requests", 7, valid_from=now() + 600 * SECOND, product="later"),
        limit("gpu_quota", 8, window=0),
    )
    db.insert("inventory", inventory(site, "a", minutes_ago(9), gpus=2))
    db.insert("leases", lease(site, "l", ["a"], minutes_ago(9), tenant="t"))
    for minutes, model, requests, tokens in (
        (1, "m1", 30, 100),
        (1, "m2", 20, 900),
        (100, "m1", 500, 300),
        (400, "m1", 1, 999),
    ):
        db.client.command(
            "INSERT INTO gpufleet.usage_1m (site, tenant, ts, model, requests, output_tokens, version)"
            f" VALUES ('{site}', 't', {minutes_ago(minutes) // SECOND}, '{model}', {requests}, {tokens}, 1)"
        )
    db.project(minutes_ago(2))
    rows = db.rows(
        "SELECT limit_name, model, limit_value, used, free FROM gpufleet.tenant_headroom WHERE site"
        f" = '{site}' ORDER BY 1, 2"
    )
    assert rows == [("gpu_quota", "", 8, 2, 6), ("output_tokens", "m1", 1000, 400, 600), ("requests", "", 200, 50, 150)]


@pytest.mark.parametrize(("age", "used"), [(1, 30), (2, 30), (9, 30), (40, None)])
def test_a_window_ends_with_the_newest_minute_that_is_known(db: Database, age: int, used: int | None) -> None:
    """Not with the minute that has just ended, whose usage is still on its way."""
    site, set_at = f"headroom-{age}", minutes_ago(900)
    not_at_a_minutes_end()
    limit = {"site": site, "ts": set_at, "valid_from": set_at, "limit_name": "requests", "window_s": 60}
    db.insert("tenant-limits", {**limit, "limit_value": 100})
    for minutes, requests in ((age, 30), (age + 1, 50)):
        db.client.command(
            "INSERT INTO gpufleet.usage_1m (site, tenant, ts, model, requests, version)"
            f" VALUES ('{site}', 't', {minutes_ago(minutes) // SECOND}, 'm', {requests}, 1)"
        )
    rows = db.rows(f"SELECT used FROM gpufleet.tenant_headroom WHERE site = '{site}'")
    assert rows == [(used or 0,)]


def test_a_days_usage_is_summed_per_product_and_model(db: Database) -> None:
    site, day = "daily", int(time.time()) // 86400 * 86400
    for workspace, version, requests in (("w1", 1, 10), ("w1", 2, 12), ("w2", 1, 5)):
        db.client.command(
            "INSERT INTO gpufleet.usage_1d (site, tenant, ts, workspace, product, model, requests,"
            " throttled_requests, version)"
            f" VALUES ('{site}', 't', {day}, '{workspace}', 'api', 'm', {requests}, 1, {version})"
        )
    (row,) = db.dicts(f"SELECT * FROM gpufleet.tenant_usage_daily WHERE site = '{site}'")
    assert (row["requests"], row["throttled_requests"], row["product"]) == (17, 2, "api")
    assert row["throttled_share"] == pytest.approx(2 / 17)


def test_a_job_is_what_the_newest_word_says_and_its_gpus_are_the_bits(db: Database) -> None:
    site, start = "jobs", minutes_ago(50)
    job = {"site": site, "job_id": "j1", "started_at": start, "nodes": ["a", "b"], "gpu_mask": [0b101, 0b10]}
    db.insert(
        "allocations",
        {**job, "ts": start, "state": "started"},
        {**job, "ts": start + 5 * MINUTE, "state": "ended", "ended_at": start + 5 * MINUTE, "exit_reason": "hung"},
        {**job, "ts": start + 2 * MINUTE, "state": "running"},
    )
    (row,) = db.dicts(f"SELECT * FROM gpufleet.jobs WHERE site = '{site}'")
    assert (row["state"], row["gpus"], row["exit_reason"]) == ("ended", 3, "hung")
    gpus = db.rows(f"SELECT node_id, gpu_index FROM gpufleet.job_gpus WHERE site = '{site}' ORDER BY 1, 2")
    assert gpus == [("a", 0), ("a", 2), ("b", 1)]


def test_topology_is_a_history_without_restatements(db: Database) -> None:
    site, t = "topology", minutes_ago(50)
    db.insert(
        "inventory",
        inventory(site, "a", t, feed="f1"),
        inventory(site, "a", t + 5 * MINUTE, feed="f1"),
        inventory(site, "a", t + 9 * MINUTE, feed="f2", coolant_loop="cdu-1"),
    )
    db.reload()
    rows = db.rows(
        "SELECT feed, cdu, nvlink_domain, toUnixTimestamp64Micro(valid_from) FROM"
        f" gpufleet.node_history WHERE site = '{site}' ORDER BY 4"
    )
    assert rows == [("f1", "", "a", t), ("f2", "cdu-1", "a", t + 9 * MINUTE)]
    asked = (
        "SELECT dictGetOrDefault('gpufleet.node_at', 'feed', ('topology', 'a'),"
        " fromUnixTimestamp64Micro({}, 'UTC'), '')"
    )
    assert [db.value(asked.format(t + i * MINUTE)) for i in (-1, 0, 8, 9, 900)] == ["", "f1", "f1", "f2", "f2"]


def test_ingest_health_sums_the_ledger_of_the_last_minutes(db: Database) -> None:
    stamp = "now64(6) - toIntervalSecond({})"
    for age, rows, path, insert_ms in ((10, 300, "steady", 20), (20, 0, "filter", 5), (4000, 9999, "steady", 9999)):
        db.client.command(
            "INSERT INTO gpufleet.ingest_ledger (at, consumer, topic, partition, messages, rows,"
            " duplicates, dead_letters, bytes,"
            f" insert_ms, path, append_ts_max) SELECT {stamp.format(age)}, 'c', 'test-topic', 0, 300,"
            f" {rows}, {300 - rows}, 1,"
            f" 3000, {insert_ms}, '{path}', {stamp.format(age)} - toIntervalMillisecond(1500)"
        )
    (row,) = db.dicts("SELECT * FROM gpufleet.ingest_health WHERE topic = 'test-topic'")
    assert (row["inserts"], row["rows_per_s"], row["bytes_per_s"]) == (1, 1, 20)
    assert (row["duplicates"], row["dead_letters"], row["filtered_share"], row["insert_ms_p50"]) == (300, 2, 0.5, 20)
    assert row["append_to_stored_s_p50"] == pytest.approx(1.5, abs=0.01)


def test_xids_come_with_the_action_and_who_says_so(db: Database) -> None:
    site, t = "xids", minutes_ago(5)
    db.insert(
        "node-events",
        *(
            {
                "site": site,
                "node_id": "a",
                "ts": t + i,
                "event": "xid",
                "code": code,
                "recovery_action": verdict,
                "gpu_index": 0,
            }
            for i, (code, verdict) in enumerate([(79, None), (13, None), (13, 2), (54, None), (9999, None)])
        ),
        {"site": site, "node_id": "a", "ts": t, "event": "gpu_lost", "gpu_index": 0},
    )
    assert db.rows(f"SELECT code, action, action_from FROM gpufleet.xids WHERE site = '{site}' ORDER BY ts") == [
        (79, "reboot_node", "table"),
        (13, "restart_app", "table"),
        (13, "reboot_node", "driver"),
        (54, "check_mechanicals", "table"),
        (9999, "unclassified", "nobody"),
    ]
