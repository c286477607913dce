"""Event tables made again from the log: compared hour by hour, damaged on purpose, exchanged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumers.attribution.rewrite import reassign, wrong_rows_sql
from consumers.rebuild.tables import RebuildError
from schemas.catalogue import KINDS
from tests.consumers.fleet import Node, Sender
from tests.consumers.running import eventually
from tests.rebuild.support import MUTATION, TABLE, TOPIC, Place, hour_ago, hours_of

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
    place.rebuild().discard()
    narrow = place.run(start=hour[2], end=hour[2] + 3600, swap=True)
    assert [h.start for h in narrow.hours] == [hour[2]]
    left = place.run()
    assert [h.start for h in left.differing] == [hour[4], hour[3]], "hours outside the range are as they were"
    swapped = place.run(swap=True)
    assert swapped.swapped
    assert not place.tables_beside()
    assert ch.query(whole).result_rows == before
    kept = [row for row in stored if not (row[0] == "n1" and row[1] < 5)]
    assert [row for row in ch.query(times).result_rows if not (row[0] == "n1" and row[1] < 5)] == kept
    assert place.run().equal


def test_a_lease_corrected_meanwhile_decides_the_tenant_of_rebuilt_rows(place: Place) -> None:
    nodes = [Node(f"n{i}", place.site) for i in range(2)]
    place.ingest([e for node in nodes for e in hours_of(node, [2, 1], 10)])
    work = place.rebuild()
    work.build(None, None)  # rows beside carry the tenant of now: nobody
    lease = nodes[0].event(
        "leases", lease_id="l1", revision=1, tenant="acme", nodes=["n1"], action="granted",
        valid_from=hour_ago(3), valid_to=hour_ago(0) - 2_400_000_000, sla_target=0.99, price_per_gpu_hour=2.0,
    )  # fmt: skip
    place.ingest([lease])
    place.ch.command(f"ALTER TABLE gpufleet.{TABLE} DELETE WHERE seq = 7", settings=MUTATION)
    reassign(place.ch, since=0, oldest=0, latest=hour_ago(-2))
    tenants = f"SELECT producer_id, tenant, count() FROM gpufleet.{TABLE} GROUP BY ALL ORDER BY ALL"
    before = place.ch.query(tenants).result_rows
    report = place.run(swap=True)
    assert [(h.missing, h.extra, h.different) for h in report.differing] == [(2, 0, 0)]
    after = place.ch.query(tenants).result_rows
    assert [(p, t) for p, t, _ in after] == [(p, t) for p, t, _ in before]
    assert any(t == "acme" for _, t, _ in after)
    assert place.ch.query(wrong_rows_sql(KINDS[TOPIC])).result_rows == [(0,)]


def test_a_message_sent_twice_and_one_that_cannot_be_stored_count_once_and_not_at_all(place: Place) -> None:
    node = Node("n1", place.site)
    events = hours_of(node, [1], 10)
    bad = replace(events[0], value=events[0].value[:20], headers=node.event(TOPIC, ts=hour_ago(1)).headers)
    place.send(events)
    Sender(place.bootstrap).send([*events[:4], bad])
    with place.consumer():
        place.all_stored()
        eventually(lambda: counts_letters(place) == 1)
    report = place.run()
    assert report.equal
    assert (report.rows, report.duplicates, report.bad) == (10, 4, 1)
    assert not report.doubtful
    place.ch.command("ALTER TABLE gpufleet.dead_letters DELETE WHERE 1", settings=MUTATION)
    with pytest.raises(RebuildError, match="1 messages were refused, but only 0"):
        place.run(swap=True)


def counts_letters(place: Place) -> int:
    return int(place.ch.query("SELECT count() FROM gpufleet.dead_letters").result_rows[0][0])
