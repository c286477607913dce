"""A look into a spool from outside sees what waits, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

from infra.cli import spool
from producers.spool.look import look
from tests.simulator.test_cli import invoke
from tests.spool.support import NODE, NOON_US, Bench, until


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_look_names_what_waits_and_leaves_every_byte(tmp_path: Path) -> None:
    bench = Bench(tmp_path, contact=lambda: False, segment_bytes=3_000)
    bench.minutes(2)
    bench.fact()
    until(lambda: list((tmp_path / "spool").glob("samples-*.z")), "a file to be compressed")
    bench.die()
    before = snapshot(tmp_path / "spool")
    telemetry, fact = sorted(look(tmp_path / "spool"), key=lambda each: each.topic, reverse=True)
    assert (telemetry.ranges, telemetry.events, telemetry.oldest_us) == ([(0, 23)], 24, NOON_US)
    assert (fact.topic, fact.producer_id, fact.run_id) == ("node-events", NODE, bench.journal.run_id)
    assert snapshot(tmp_path / "spool") == before


def test_what_is_acknowledged_does_not_wait(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.minutes(1)
    bench.publisher.acknowledge(7)
    bench.close()
    (waits,) = look(tmp_path / "spool")
    assert waits.ranges == [(7, 11)]


def test_the_command_tells_people_and_programs(tmp_path: Path) -> None:
    assert "nothing waits" in invoke(spool.command, str(tmp_path)).stdout
    bench = Bench(tmp_path, contact=lambda: False)
    bench.minutes(1)
    bench.die()
    shown = invoke(spool.command, str(tmp_path)).stdout
    assert "12 events wait" in shown
    assert f"node-telemetry     {NODE} run {bench.journal.run_id}: 12 events, seq 0..11" in shown
    (one,) = json.loads(invoke(spool.command, str(tmp_path), "--json").stdout)["spools"]
    assert one["folder"] == str(tmp_path / "spool")
    assert (one["waiting"][0]["events"], one["waiting"][0]["ranges"]) == (12, [[0, 11]])
    assert one["bytes"] > 1000
