"""What the store itself says: flawed events, parts, merges, bytes. Panels of Pipeline."""

from __future__ import annotations

from infra.grafana import thresholds, units
from infra.grafana.panels import Column, Panel, bargauge, stat, table
from infra.grafana.query import only

_NEWEST_S = 300
"""Raw events are looked at of the last five minutes only. [s]"""
_NOW = "The store's state at this moment, whatever the range."


_BOUNDS = f"ts > $__toTime - {_NEWEST_S} AND ts <= $__toTime AND {only('site')}"


def flaws_now(id_: int) -> Panel:
    inserts = f"SELECT count() FROM gpufleet.ingest_ledger WHERE at > $__toTime - {_NEWEST_S} AND at <= $__toTime"
    sql = f"""SELECT if(({inserts}) = 0, NULL, count()) AS "Flawed"
FROM gpufleet.flawed_events
WHERE {_BOUNDS}"""
    return stat(
        id_,
        "Flawed events",
        sql,
        unit=units.WHOLE,
        width=3,
        steps=thresholds.ANY_IS_BAD,
        means="Events of the last five minutes that parse and are absurd (ragged arrays, impossible counts): stored, "
        "and left out of every figure.",
        do="The table Flawed events names the producers; it is a fault of their agent.",
    )


def flaws(id_: int) -> Panel:
    sql = f"""SELECT topic, producer_id, count() AS events,
    arrayStringConcat(arraySort(groupUniqArrayArray(flaw)), ', ') AS what, max(ts) AS last
FROM gpufleet.flawed_events
WHERE {_BOUNDS}
GROUP BY topic, producer_id
ORDER BY events DESC LIMIT 50"""
    return table(
        id_,
        "Flawed events (last five minutes)",
        sql,
        {
            "topic": Column("Topic"),
            "producer_id": Column("Producer"),
            "events": Column("Events", width=80),
            "what": Column("What is absurd"),
            "last": Column("Last", units.TIME, width=170),
        },
        width=12,
        none="no flawed event in five minutes",
        means="Who sends absurd events, and what is absurd about them, over the last five minutes of the range.",
        do="Restart or replace that agent; its events are kept and can be looked at (view flawed_events).",
    )


def parts(id_: int) -> Panel:
    sql = """SELECT p.table AS name, p.parts AS parts, p.most AS most, p.rows_ AS stored, p.bytes AS bytes,
    m.merges AS merges, m.left_s AS left_s
FROM
(
    SELECT table, sum(n) AS parts, max(n) AS most, sum(r) AS rows_, sum(b) AS bytes
    FROM
    (
        SELECT table, partition, count() AS n, sum(rows) AS r, sum(bytes_on_disk) AS b
        FROM system.parts WHERE database = 'gpufleet' AND active
        GROUP BY table, partition
    )
    GROUP BY table
) AS p
LEFT JOIN
(
    SELECT table, count() AS merges, max(elapsed / greatest(progress, 0.001) - elapsed) AS left_s
    FROM system.merges WHERE database = 'gpufleet' GROUP BY table
) AS m ON m.table = p.table
ORDER BY most DESC LIMIT 50"""
    return table(
        id_,
        "Tables, parts and merges",
        sql,
        {
            "name": Column("Table"),
            "parts": Column("Parts", width=80),
            "most": Column("Most in a partition", width=150, steps=thresholds.PARTS),
            "stored": Column("Rows", units.COUNT, 1),
            "bytes": Column("On disk", units.BYTES, 1),
            "merges": Column("Merging", width=80),
            "left_s": Column("Longest, to go", units.SECONDS, 0, 120),
        },
        width=14,
        height=10,
        means=f"Parts per table and the most in one partition: from 1,000 on ClickHouse slows inserts. {_NOW}",
        do="Growing for an hour: merges do not keep up with inserts; larger batches, faster disks, more cores.",
    )


def storage(id_: int) -> Panel:
    sql = """SELECT table AS name, sum(bytes_on_disk) AS "On disk"
FROM system.parts
WHERE database = 'gpufleet' AND active
GROUP BY table
ORDER BY "On disk" DESC LIMIT 15"""
    return bargauge(
        id_,
        "Disk by table",
        sql,
        unit=units.BYTES,
        width=10,
        height=10,
        decimals=1,
        means=f"Bytes on disk per table. {_NOW}",
        do="The raw tables should level off at retention.raw_days; see docs/operations.md for what a fleet takes.",
    )
