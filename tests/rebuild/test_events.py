"""Event tables made again from the log: compared hour by hour, damaged on purpose, exchanged."""

from __future__ import annotations

import pytest

from tests.consumers.fleet import Node
from tests.rebuild.support import MUTATION, TABLE, Place, hour_ago, hours_of

pytestmark = [pytest.mark.store, pytest.mark.kafka]


def test_a_sound_table_is_equal_and_stays_untouched(place: Place) -> None:
    nodes = [Node(f"n{i}", place.site) for i in range(4)]
    place.ingest([e for node in nodes for e in hours_of(node, [3, 2, 1], 20)])
    before = place.ch.query(f"SELECT max(stored_at), count() FROM gpufleet.{TABLE}").result_rows
    report = place.run()
    assert report.equal, report.hours
    assert [(h.live, h.rebuilt) for h in report.hours] == [(80, 80)] * 3
    assert (report.read, report.rows, report.duplicates, report.bad) == (240, 240, 0, 0)
    assert place.ch.query(f"SELECT max(stored_at), count() FROM gpufleet.{TABLE}").result_rows == before
    assert not place.tables_beside()


def test_every_kind_of_damage_is_named_and_put_right(place: Place) -> None:
    nodes = [Node(f"n{i}", place.site) for i in range(4)]
    place.ingest([e for node in nodes for e in hours_of(node, [4, 3, 2, 1], 20)])
    whole = f"SELECT * EXCEPT stored_at FROM gpufleet.{TABLE} ORDER BY ALL"
    times = f"SELECT producer_id, seq, stored_at FROM gpufleet.{TABLE} ORDER BY ALL"
    before, stored = place.ch.query(whole).result_rows, place.ch.query(times).result_rows
    ch = place.ch
    ch.command("SYSTEM STOP MERGES")
    in_hour = "ts >= fromUnixTimestamp64Micro({}) AND ts < fromUnixTimestamp64Micro({}) + INTERVAL 1 HOUR"
    at = [in_hour.format(hour_ago(h) - 600_000_000, hour_ago(h) - 600_000_000) for h in range(5)]
    ch.command("SYSTEM START MERGES")
    ch.command(
        f"ALTER TABLE gpufleet.{TABLE} DELETE WHERE {at[4]} AND producer_id = 'n1' AND seq < 5", settings=MUTATION
    )
    ch.command(
        f"ALTER TABLE gpufleet.{TABLE} UPDATE clock_offset_s = 99 WHERE {at[2]} AND producer_id = 'n2'",
        settings=MUTATION,
    )
    ch.command("SYSTEM STOP MERGES")
    ch.command(
        f"INSERT INTO gpufleet.{TABLE} SELECT * EXCEPT (flaws) FROM gpufleet.{TABLE} WHERE {at[3]} AND seq % 20 < 3"
    )
    report = place.run()
    found = {h.start: (h.missing, h.extra, h.doubled, h.different) for h in report.differing}
    hour = [(hour_ago(h) - 600_000_000) // 1_000_000 for h in range(5)]
    assert found == {hour[4]: (5, 0, 0, 0), hour[3]: (0, 0, 12, 0), hour[2]: (0, 0, 0, 20)}
    assert [h.columns for h in report.hours] == [[], [], ["clock_offset_s"], []]
    assert "missing: n1 run 1700000000000000 seq 0" in report.hours[0].examples
    swapped = place.run(swap=True)
    assert swapped.swapped
    assert not place.tables_beside()
    assert ch.query(whole).result_rows == before
    kept = [row for row in stored if not (row[0] == "n1" and row[1] < 5)]
    assert [row for row in ch.query(times).result_rows if not (row[0] == "n1" and row[1] < 5)] == kept
    assert place.run().equal
