"""The checks of the chaos suite must fail when the store is wrong: a lost row, a doubled one, a changed value."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.embedded.store.process import StoreProcess
from tests.chaos import check, expected, results
from tests.chaos.__main__ import next_of
from tests.chaos.log import Log, Logged, decoded, identity
from tests.chaos.plan import plan
from tests.chaos.proxy import Proxy, http_insert
from tests.chaos.results import Results
from tests.chaos.schedule import NotExactError, Outcome
from tests.consumers.fleet import Node, Sent
from tests.consumers.running import client
from tests.projector import model
from tests.projector.conftest import Bench, bench_on

pytestmark = pytest.mark.store
MINUTE = 60_000_000


def logged(number: int, sent: Sent) -> Logged:
    return Logged(
        sent.topic, 0, number, sent.record["ts"], identity(sent.headers), decoded(sent.topic, sent.value), sent.value
    )


@pytest.fixture
def bench(migrated_store: StoreProcess) -> Iterator[Bench]:
    yield from bench_on(migrated_store)


def stored_and_logged(bench: Bench) -> Log:
    """Some events in the store and the same in a log."""
    start = int(time.time()) // 60 * 60 - 600
    events = [
        bench.events.telemetry(f"{bench.events.site}-n", start + 5 * at, gpus=(0,), power_w=[float(at)] * 5)
        for at in range(20)
    ]
    bench.events.insert("node-telemetry", events)
    messages = [
        Logged("node-telemetry", 0, at, 0, (e["producer_id"], e["run_id"], e["seq"]), _whole(e), b"")
        for at, e in enumerate(events)
    ]
    return Log(messages)


def _whole(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "gpu_uuid"}


def test_rows_are_compared_one_by_one_and_field_by_field(bench: Bench) -> None:
    log, site = stored_and_logged(bench), bench.events.site
    assert check.raw(bench.client, site, log).exact
    table = "ALTER TABLE gpufleet.node_telemetry"
    now = {"mutations_sync": 1}
    bench.client.command(f"{table} UPDATE clock_offset_s = 1 WHERE site = '{site}' AND seq = 3", settings=now)
    [wrong] = check.raw(bench.client, site, log).wrong
    assert "clock_offset_s is 1.0, the log says 0.0" in wrong
    bench.client.command(f"{table} UPDATE clock_offset_s = 0 WHERE site = '{site}' AND seq = 3", settings=now)
    bench.client.command(f"{table} DELETE WHERE site = '{site}' AND seq = 7", settings=now)
    found = check.raw(bench.client, site, log)
    assert (found.missing, found.exact) == (1, False)
    short = Log([one for one in log.messages if one.who is not None and one.who[2] not in (7, 9)])
    found = check.raw(bench.client, site, short)
    assert not found.exact
    assert "is stored and not in the log" in found.wrong[0]


def test_a_row_that_is_there_twice_is_seen(bench: Bench) -> None:
    log, site = stored_and_logged(bench), bench.events.site
    bench.client.command("SYSTEM STOP MERGES gpufleet.node_telemetry")
    try:
        again = f"SELECT * FROM gpufleet.node_telemetry WHERE site = '{site}' AND seq = 5"
        bench.client.command(f"INSERT INTO gpufleet.node_telemetry {again}")
        found = check.raw(bench.client, site, log)
        assert (found.unmerged, found.doubled) == (1, 0)
    finally:
        bench.client.command("SYSTEM START MERGES gpufleet.node_telemetry")


def test_windows_are_compared_with_what_the_log_says(bench: Bench) -> None:
    log, site = stored_and_logged(bench), bench.events.site
    projector = bench.projector()
    bench.project(projector)
    projector.close()
    wanted = expected.windows(log, 0)
    assert wanted["gpu_1m"]
    assert check.windows(bench.client, site, wanted, 0) == []
    wanted["rack_10s"][next(iter(wanted["rack_10s"]))]["power_w_sum"] += 1.0
    wanted["gpu_1m"].popitem()
    wrong = check.windows(bench.client, site, wanted, 0)
    assert any("power_w_sum" in one for one in wrong)
    assert any(one.startswith("gpu_1m") and "no event is" in one for one in wrong)


def test_energy_by_minutes_is_energy_by_ticks_while_clocks_go_forward() -> None:
    events = [
        {"producer_id": "n", "run_id": 1, "seq": at, "node_id": "n", "gpu_index": [0], "ticks": 2, "interval_ms": 1000,
         "ts": at * 20_000_000, "driver_epoch": [1], "energy_j": [at * 10, -1 if at % 3 else at * 10 + 4]}
        for at in range(12)
    ]  # fmt: skip
    assert expected.energy(events) == model.energy(events)


def test_what_cannot_be_read_is_told_from_what_can() -> None:
    sent = Node("n", "s").event("node-telemetry")
    assert identity(sent.headers) == sent.identity
    event = decoded(sent.topic, sent.value)
    assert event is not None
    assert event["seq"] == sent.record["seq"]
    assert decoded("node-counters", sent.value) is None
    assert decoded(sent.topic, sent.value[:-1]) is None
    assert decoded(sent.topic, sent.value + b"\0") is None
    assert decoded(sent.topic, b"\1" + sent.value[1:]) is None
    assert identity([("gpufleet", b"\2" + sent.headers[0][1][1:])]) is None
    assert Log([logged(0, sent), logged(1, sent)]).events(sent.topic) == [event]


def test_a_plan_follows_from_its_seed() -> None:
    assert plan(7) == plan(7)
    assert plan(7) != plan(8)
    assert plan(7, "topic recreated").special == "topic recreated"


def test_a_long_run_goes_on_where_its_record_ends(tmp_path: Path) -> None:
    record = tmp_path / "chaos.jsonl"
    assert (next_of(record), Results().read(record)) == (1, 0.0)
    first = json.loads(results.line(Outcome(plan(7), events=30, recovery=[("store", 2.0)])))
    second = json.loads(results.failure(plan(8), NotExactError("a row is gone")))
    record.write_text("".join(json.dumps(one | {"wall_s": 60.0 * at}) + "\n" for at, one in enumerate([first, second])))
    assert next_of(record) == 9
    sums = Results()
    assert sums.read(record) == 60.0
    assert (sums.passed, sums.events, len(sums.failed)) == (1, 30, 1)
    assert "| schedules failed | 1 |" in sums.table(60.0, "")


def test_an_answer_that_the_proxy_drops_belongs_to_an_insert_that_was_done(migrated_store: StoreProcess) -> None:
    proxy = Proxy()
    try:
        link = proxy.link(migrated_store.host, migrated_store.port)
        direct = client(migrated_store)
        direct.command("CREATE TABLE IF NOT EXISTS default.chaos_proxy (x Int64) ENGINE = MergeTree ORDER BY x")

        def insert(value: int) -> int:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", link.port, timeout=20)) as connection:
                headers = {"X-ClickHouse-User": migrated_store.username, "X-ClickHouse-Key": migrated_store.password}
                connection.request("POST", "/?query=INSERT+INTO+default.chaos_proxy+FORMAT+TSV", f"{value}\n", headers)
                with connection.getresponse() as answer:
                    return answer.status

        assert insert(1) == 200
        link.trap(http_insert, answer=True)
        with pytest.raises(ConnectionError):
            insert(2)
        assert link.trapped == 1
        assert insert(3) == 200
        rows = direct.query("SELECT x FROM default.chaos_proxy ORDER BY x").result_rows
        assert [int(row[0]) for row in rows] == [1, 2, 3]
        direct.command("DROP TABLE default.chaos_proxy")
        direct.close()
    finally:
        proxy.close()
