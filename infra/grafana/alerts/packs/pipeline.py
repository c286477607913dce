"""This system itself: is what the other rules look at true, complete and fresh? Here an answer without rows, or no
answer, wakes somebody."""

from __future__ import annotations

from infra.grafana.alerts.rule import NoData, OnError, Owner, Rule, Severity
from infra.grafana.alerts.sql import answer
from infra.grafana.boards.ids import Pipeline


def _answer(rows: str, label: str, none: str = "") -> str:
    """Rows with the one label; ``none``: a row that is always there. Without it an answer may be empty."""
    own = f"\nUNION ALL\nSELECT $__toTime AS time, '{none}' AS {label}, toFloat64(0) AS value" if none else ""
    return f"""SELECT $__toTime AS time, {label}, toFloat64(value) AS value
FROM
(
{rows}
){own}"""


_LAG_S = """dateDiff('second', max(append_ts_max), $__toTime)"""
_LAG = f"""    SELECT toString(topic) AS topic, {_LAG_S} AS value
    FROM gpufleet.ingest_ledger
    WHERE at > $__toTime - 259200 AND at <= $__toTime
        AND topic IN ('node-telemetry', 'node-counters', 'facility-telemetry')
    GROUP BY topic"""
_STALE = f"""    SELECT toString(s.site) AS site,
        if(
            -- A consumer that is behind has its own page.
            (SELECT {_LAG_S} FROM gpufleet.ingest_ledger
                WHERE topic = 'node-telemetry' AND at > $__toTime - 259200 AND at <= $__toTime) > 120,
            0, least(dateDiff('second', n.minute + 60, $__toTime), 86400)) AS value
    FROM
    (
        SELECT site FROM gpufleet.health_1h WHERE ts > $__toTime - 259200 AND ts <= $__toTime
        UNION DISTINCT
        SELECT site FROM gpufleet.health_1m WHERE ts > $__toTime - 3600 AND ts <= $__toTime
    ) AS s
    LEFT JOIN
    (
        SELECT site, max(ts) AS minute FROM gpufleet.health_1m
        WHERE ts > $__toTime - 86400 AND ts <= $__toTime - 60 GROUP BY site
    ) AS n ON n.site = s.site"""
_DEAD = """    SELECT toString(l.topic) AS topic,
        greatest(toInt64(sumIf(l.dead_letters, l.at > $__toTime - 900)) - toInt64(any(f.letters)), 0) AS value
    FROM gpufleet.ingest_ledger AS l
    LEFT JOIN
    (
        -- Who writes for others has an alert of its own.
        SELECT toString(source_topic) AS topic, count() AS letters
        FROM gpufleet.dead_letters FINAL
        WHERE reason = 'foreign' AND ts > $__toTime - 960 AND ts <= $__toTime
        GROUP BY topic
    ) AS f ON f.topic = l.topic
    WHERE l.at > $__toTime - 3600 AND l.at <= $__toTime
    GROUP BY topic"""
_FOREIGN = """    SELECT toString(site) AS site, if(many, 'many', key) AS signer, sum(recent) AS value
    FROM
    (
        SELECT site, key, countIf(ts > $__toTime - 3600) AS recent,
            countIf(recent > 0) OVER (PARTITION BY site) >= 20 AS many
        FROM
        (
            -- The signature proves whose key it is; whom the message names is that one's claim.
            SELECT site, ts, extractGroups(detail, '^signed by ([a-z]+) .([^'']+)''') AS named,
                if(empty(named), source_producer_id, arrayStringConcat(named, ' ')) AS key
            FROM gpufleet.dead_letters FINAL
            WHERE reason = 'foreign' AND ts > $__toTime - 7200 AND ts <= $__toTime
        )
        GROUP BY site, key
    )
    GROUP BY site, signer"""
_SLOW = """    SELECT toString(topic) AS topic,
        if(countIf(rows > 0) >= 5, quantileIf(0.95)(insert_ms, rows > 0), 0) AS value
    FROM gpufleet.ingest_ledger
    WHERE at > $__toTime - 600 AND at <= $__toTime
    GROUP BY topic"""
_REFUSED = """    SELECT toString(topic) AS topic,
        if(sum(l.messages) > 0, sumIf(l.messages, l.path = 'filter') / sum(l.messages), 0) AS value
    FROM gpufleet.ingest_ledger AS l
    WHERE at > $__toTime - 600 AND at <= $__toTime
    GROUP BY topic"""
_FLAWED = "\n    UNION ALL\n".join(
    f"    SELECT '{topic}' AS topic, countIf(ts > $__toTime - 900) AS value FROM gpufleet.{table}\n"
    "    WHERE flaws != 0 AND ts > $__toTime - 1800 AND ts <= $__toTime"
    for topic, table in (
        ("node-telemetry", "node_telemetry"),
        ("node-counters", "node_counters"),
        ("node-events", "node_events"),
        ("inventory", "inventory"),
        ("facility-telemetry", "facility_telemetry"),
        ("leases", "leases"),
        ("allocations", "allocations"),
    )
)
_GAPS = """    SELECT toString(site) AS site, sum(missing) AS value
    FROM
    (
        -- Numbers are given out without gaps: between first and last all must be there, five minutes later.
        SELECT site, producer_id, run_id, max(seq) - min(seq) + 1 - uniqExact(seq) AS missing
        FROM gpufleet.node_telemetry
        WHERE ts > $__toTime - 1200 AND ts <= $__toTime - 300
        GROUP BY site, producer_id, run_id
    )
    GROUP BY site"""
_AUDIT = """    SELECT 'audit' AS part,
        if(argMax(ok, ts), 0, greatest(argMax(lost + doubled + windows_wrong, ts), 1)) AS value
    FROM gpufleet.audit_runs
    WHERE ts > $__toTime - 259200 AND ts <= $__toTime AND node = ''
    HAVING count() > 0"""
_AUDIT_AGE = """    SELECT 'audit' AS part, least(dateDiff('hour', max(ts), $__toTime), 999) AS value
    FROM gpufleet.audit_runs
    WHERE ts <= $__toTime AND node = ''"""
_OPEN_LETTERS = """    SELECT toString(source_topic) AS topic, countIf(ts < $__toTime - 86400) AS value
    FROM gpufleet.dead_letter_states
    WHERE state = 'open' AND ts <= $__toTime
    GROUP BY topic"""
_ALIVE = """    SELECT 'gpufleet' AS part, count() > 0 AS value
    FROM gpufleet.health_1m
    WHERE ts > $__toTime - 900 AND ts <= $__toTime - 60
    HAVING value > 0"""

RULES = (
    Rule(
        "consumer_lag",
        "The consumer is behind",
        "pipeline",
        Severity.PAGE,
        Owner.PIPELINE,
        _answer(_LAG, "topic", none="none"),
        ("topic",),
        "The newest stored event of {{ .Labels.topic }} is {{ .Values.B.Value | humanizeDuration }} old. Kafka keeps"
        " three days: nothing is lost yet.",
        (Pipeline.UID, Pipeline.FRESHNESS),
        above=120,
        for_s=180,
    ),
    Rule(
        "freshness",
        "Rollups are stale",
        "pipeline",
        Severity.PAGE,
        Owner.PIPELINE,
        _answer(_STALE, "site"),
        ("site",),
        "{{ if .Labels.site }}Site {{ .Labels.site }}: the newest closed minute is"
        " {{ .Values.B.Value | humanizeDuration }} old although events come in: the projector stands, and with it every"
        " other alert.{{ else }}The store gives no answer, or has nothing: no other alert can fire.{{ end }}",
        (Pipeline.UID, Pipeline.PROJECTOR_BEHIND),
        above=300,
        for_s=120,
        no_data=NoData.ALERTING,
        on_error=OnError.ALERTING,
    ),
    Rule(
        "dead_letters",
        "Messages cannot be stored",
        "pipeline",
        Severity.TICKET,
        Owner.PIPELINE,
        _answer(_DEAD, "topic", none="none"),
        ("topic",),
        "{{ .Values.B.Value | humanize }} messages of {{ .Labels.topic }} went to dead-letters within fifteen minutes.",
        (Pipeline.UID, Pipeline.DEAD_LETTERS),
        for_s=60,
        keep_s=900,
    ),
    Rule(
        "foreign_letters",
        "Somebody writes for others",
        "pipeline",
        Severity.PAGE,
        Owner.PIPELINE,
        answer(_FOREIGN, ("site", "signer")),
        ("site", "signer"),
        "Site {{ .Labels.site }}: {{ .Values.B.Value | humanize }} messages within an hour carry a good signature of"
        " {{ .Labels.signer }} and say something in another's name. None was stored; that key is in wrong hands or on"
        " the wrong machine.",
        (Pipeline.UID, Pipeline.DEAD_LETTERS),
        keep_s=900,
        board="site={{ .Labels.site }}",
    ),
    Rule(
        "dead_letters_open",
        "Dead letters wait for somebody",
        "pipeline",
        Severity.TICKET,
        Owner.PIPELINE,
        _answer(_OPEN_LETTERS, "topic", none="none"),
        ("topic",),
        "{{ .Values.B.Value | humanize }} dead letters of {{ .Labels.topic }} are open for more than a day: send them"
        " again or drop them, each with a reason.",
        (Pipeline.UID, Pipeline.DEAD_LETTERS),
        keep_s=0,
        interval_s=300,
    ),
    Rule(
        "flaws",
        "Events are absurd",
        "pipeline",
        Severity.TICKET,
        Owner.PIPELINE,
        _answer(_FLAWED, "topic"),
        ("topic",),
        "{{ .Values.B.Value | humanize }} events of {{ .Labels.topic }} within fifteen minutes parse and are absurd:"
        " they are stored and left out of every figure.",
        (Pipeline.UID, Pipeline.FLAWS),
        keep_s=900,
    ),
    Rule(
        "gaps",
        "Events are missing",
        "pipeline",
        Severity.TICKET,
        Owner.PIPELINE,
        _answer(_GAPS, "site", none="none"),
        ("site",),
        "Site {{ .Labels.site }}: {{ .Values.B.Value | humanize }} events of the last twenty minutes were numbered by"
        " their nodes and are not in the store.",
        (Pipeline.UID, Pipeline.GAPS),
        for_s=300,
        keep_s=600,
        interval_s=300,
    ),
    Rule(
        "inserts_slow",
        "Inserts are slow",
        "pipeline",
        Severity.TICKET,
        Owner.PIPELINE,
        _answer(_SLOW, "topic", none="none"),
        ("topic",),
        "One insert in twenty of {{ .Labels.topic }} takes {{ .Values.B.Value | humanize }} ms or longer.",
        (Pipeline.UID, Pipeline.INSERT_TIME),
        above=5000,
        for_s=600,
    ),
    Rule(
        "inserts_refused",
        "The store refuses or loses inserts",
        "pipeline",
        Severity.TICKET,
        Owner.PIPELINE,
        _answer(_REFUSED, "topic", none="none"),
        ("topic",),
        "{{ .Values.B.Value | humanizePercentage }} of the messages of {{ .Labels.topic }} had to be looked up before"
        " they were stored: inserts end without a plain success, or consumers keep moving.",
        (Pipeline.UID, Pipeline.FILTERED),
        above=0.2,
        for_s=600,
    ),
    Rule(
        "audit_failed",
        "The audit found something",
        "pipeline",
        Severity.PAGE,
        Owner.PIPELINE,
        _answer(_AUDIT, "part", none="none"),
        ("part",),
        "The last audit is not ok: {{ .Values.B.Value | humanize }} events lost or doubled, or windows that are not"
        " what their events say.",
        (Pipeline.UID, Pipeline.AUDITS),
        keep_s=0,
        interval_s=300,
    ),
    Rule(
        "audit_missing",
        "No audit for more than a day",
        "pipeline",
        Severity.TICKET,
        Owner.PIPELINE,
        _answer(_AUDIT_AGE, "part"),
        ("part",),
        "The last audit of everything is {{ .Values.B.Value | humanize }} hours old (999: none ever ran): exactness is"
        " not proved since.",
        (Pipeline.UID, Pipeline.AUDITS),
        above=26,
        for_s=3600,
        interval_s=300,
    ),
    Rule(
        "dead_mans_switch",
        "Dead man's switch: gpufleet watches",
        "pipeline",
        Severity.HEARTBEAT,
        Owner.PIPELINE,
        _answer(_ALIVE, "part"),
        ("part",),
        "From agent to alert everything runs. Somebody outside has to be woken when this message stays away.",
        (Pipeline.UID, Pipeline.FRESHNESS_NOW),
        keep_s=0,
        no_data=NoData.OK,
        on_error=OnError.OK,
    ),
)
