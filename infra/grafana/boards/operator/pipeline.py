"""Pipeline: is what the other boards show true, complete and fresh?"""

from __future__ import annotations

from typing import Final

from infra.grafana import colours, links, marks, thresholds, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards import common
from infra.grafana.boards.ids import Pipeline
from infra.grafana.boards.operator import store
from infra.grafana.panels import HIDDEN, Column, Panel, stat, table, timeseries
from infra.grafana.query import last, only, share
from infra.grafana.target import OPERATOR

_LEDGER: Final = f"FROM gpufleet.ingest_ledger\nWHERE {last(24, 'at')}"
_NEWEST: Final = "FROM gpufleet.ingest_ledger\nWHERE at > $__toTime - 300 AND at <= $__toTime"
_STEP: Final = "toUInt32(greatest($__interval_s, 10))"
_TIME: Final = f"toStartOfInterval(at, toIntervalSecond({_STEP})) AS time"
_AGE: Final = "date_diff('microsecond', event_ts_max, at) / 1e6"
_LIVE: Final = "topic = 'node-telemetry' AND rows > 0 AND date_diff('second', event_ts_max, append_ts_max) < 600"
_DAY: Final = "At most the last 24 hours of the range."


def board() -> Board:
    return Board(
        uid=Pipeline.UID,
        title="Pipeline",
        description="From the agents to the store: fresh, complete, each event once; what was refused, and why.",
        datasource=OPERATOR,
        variables=(variables.SITE,),
        time_from="now-3h",
        annotations=(marks.MAINTENANCE, marks.HAND_OVERS),
        rows=(
            Row("", _now()),
            Row("Speed", (_events(), _freshness(), _insert_time(), _inserts())),
            Row("Exactness", (_filtered(), _late(), _audits(), _topics(), _spools())),
            Row("Refused and absurd", (_dead_letters(), store.flaws(Pipeline.FLAWS))),
            Row("Store", (store.parts(Pipeline.PARTS), store.storage(Pipeline.STORAGE))),
        ),
    )


def _now() -> tuple[Panel, ...]:
    return (
        stat(
            Pipeline.FRESHNESS_NOW,
            "From tick to queryable",
            f'SELECT quantile(0.99)({_AGE}) AS "Freshness"\n{_NEWEST} AND {_LIVE}\nHAVING count() > 0',
            unit=units.SECONDS,
            decimals=1,
            width=4,
            steps=thresholds.FRESHNESS,
            means="99th percentile, over the inserts of the last five minutes, of the time from the newest tick of a "
            "batch to stored. Back-filled batches are left aside.",
            do="Above 12 s: is a consumer missing (Topics), are inserts slow, or does the store merge too much?",
        ),
        stat(
            Pipeline.EVENTS_NOW,
            "Events stored",
            f'SELECT sum(rows) / 300 AS "Events"\n{_NEWEST}\nHAVING count() > 0',
            unit=units.EVENTS_PER_SECOND,
            width=3,
            means="Events stored a second, over the last five minutes of the range.",
            do="No data: no consumer inserted anything for five minutes; that is the first thing to repair.",
        ),
        stat(
            Pipeline.DEAD_LETTERS_NOW,
            "Dead letters",
            f'SELECT sum(dead_letters) AS "Dead letters"\n{_LEDGER}\nHAVING count() > 0',
            unit=units.WHOLE,
            width=3,
            steps=thresholds.ANY_IS_BAD,
            means=f"Messages that could not be stored and were put aside, over the range. {_DAY}",
            do="The table Dead letters says why; `gpufleet audit` says whose events they were.",
        ),
        store.flaws_now(Pipeline.FLAWS_NOW),
        stat(
            Pipeline.GAPS,
            "Lost or doubled",
            """SELECT argMax(lost + doubled + windows_wrong, ts) AS "Lost or doubled"
FROM gpufleet.audit_runs
WHERE ts <= $__toTime AND ts > $__toTime - 604800
HAVING count() > 0""",
            unit=units.WHOLE,
            width=3,
            steps=thresholds.ANY_IS_BAD,
            zero="0: exact",
            means="Events lost or stored twice and windows that were wrong, by the newest audit of the last week. No "
            "data = no audit ran: then nobody knows.",
            do="Anything but 0: the audit's detail names producers and ranges; `gpufleet audit --repair` removes "
            "doubles.",
        ),
        common.completeness(Pipeline.COMPLETENESS, only("site"), width=4),
        stat(
            Pipeline.PROJECTOR_BEHIND,
            "Projector behind",
            f"""SELECT
    if(isNull(stored) OR isNull(projected), NULL, greatest(0, dateDiff('second', projected, stored) - 20)) AS "Behind"
FROM
(
    SELECT
        (SELECT maxOrNull(toDateTime(event_ts_max)) {_NEWEST} AND {_LIVE}) AS stored,
        (SELECT maxOrNull(ts) FROM gpufleet.fleet_10s WHERE ts > $__toTime - 86400 AND ts <= $__toTime) AS projected
)""",
            unit=units.SECONDS,
            decimals=0,
            width=4,
            steps=thresholds.PROJECTOR_LAG,
            means="How far the newest 10-second window lies behind the newest stored tick; the 20 seconds it takes "
            "to close one are taken off.",
            do="Growing: the projector is stopped or overloaded (`gpufleet doctor`); boards show the past meanwhile.",
        ),
    )


def _events() -> Panel:
    sql = f"""SELECT {_TIME}, toString(topic) AS series, sum(rows) / {_STEP} AS "Value"
{_LEDGER}
GROUP BY time, series
ORDER BY time, series"""
    return timeseries(
        Pipeline.EVENTS,
        "Events stored, by topic",
        sql,
        unit=units.EVENTS_PER_SECOND,
        stack=True,
        interval="10s",
        means=f"Rows inserted a second per topic. {_DAY}",
        do="One topic gone: its producer or its consumer's assignment. All gone: consumer, broker or store.",
    )


def _freshness() -> Panel:
    sql = f"""SELECT {_TIME},
    quantile(0.5)({_AGE}) AS "p50", quantile(0.99)({_AGE}) AS "p99"
{_LEDGER} AND {_LIVE}
GROUP BY time
ORDER BY time WITH FILL STEP {_STEP}"""
    sql = sql.replace("quantile(0.5)", "quantileOrNull(0.5)").replace("quantile(0.99)", "quantileOrNull(0.99)")
    return timeseries(
        Pipeline.FRESHNESS,
        "From tick to queryable",
        sql,
        unit=units.SECONDS,
        colours=colours.PERCENTILES,
        steps=thresholds.FRESHNESS,
        interval="10s",
        means="Time from the newest tick of a batch of node telemetry to stored, per insert. Batches that were back-"
        f"filled (appended ten minutes or more after their tick) are left aside. {_DAY}",
        do="Rising steadily: the consumer cannot keep up; add one, or look at insert times. Jumping: a rebalance.",
    )


def _insert_time() -> Panel:
    sql = f"""SELECT {_TIME},
    quantileOrNull(0.5)(insert_ms) AS "p50", quantileOrNull(0.95)(insert_ms) AS "p95"
{_LEDGER} AND rows > 0
GROUP BY time
ORDER BY time WITH FILL STEP {_STEP}"""
    return timeseries(
        Pipeline.INSERT_TIME,
        "Time of an insert",
        sql,
        unit=units.MILLISECONDS,
        colours=colours.PERCENTILES,
        interval="10s",
        means=f"How long the store took for an insert. {_DAY}",
        do="Seconds: too many parts, a slow disk, or queries that take the store's cores.",
    )


def _inserts() -> Panel:
    sql = f"""SELECT {_TIME},
    countIf(rows > 0) / {_STEP} AS "inserts", sum(bytes) / {_STEP} / 1048576 AS "MiB read"
{_LEDGER}
GROUP BY time
ORDER BY time"""
    return timeseries(
        Pipeline.INSERTS,
        "Inserts and bytes",
        sql,
        unit=units.PER_SECOND,
        interval="10s",
        means=f"Inserts a second, and MiB of messages a second. {_DAY}",
        do="Many small inserts cost the store 60 ms of CPU each: raise consume.flush_age_s.",
    )


def _filtered() -> Panel:
    sql = f"""SELECT {_TIME},
    {share("sumIf(messages, path = 'filter')", "sum(messages)")} AS "looked up before the insert",
    {share("sum(duplicates)", "sum(messages)")} AS "stored already"
{_LEDGER}
GROUP BY time
ORDER BY time"""
    return timeseries(
        Pipeline.FILTERED,
        "Messages looked up, and found stored",
        sql,
        unit=units.RATIO,
        interval="10s",
        means="Share of messages whose identity was looked up before the insert (after a restart, a rebalance, an "
        f"unclear insert), and of those that were stored already and dropped. {_DAY}",
        do="Normal after restarts. All the time: a consumer keeps losing its place, or a producer sends twice.",
    )


def _late() -> Panel:
    sql = f"""SELECT {_TIME}, uniqExactArray(late_producers) AS "late producers"
{_LEDGER}
GROUP BY time
ORDER BY time"""
    return timeseries(
        Pipeline.LATE,
        "Producers whose events came late",
        sql,
        unit=units.WHOLE,
        bars=True,
        interval="10s",
        means=f"Producers that sent events of minutes that had closed: spools that drain after an outage. {_DAY}",
        do="Many at once: a link came back; their windows are computed again by themselves. A few for ever: clocks.",
    )


def _audits() -> Panel:
    sql = """SELECT ts, if(ok, 'exact', 'off') AS verdict, if(node = '', 'all', node) AS producer, since, until,
    lost, doubled, dead_letters, windows_checked, windows_wrong, seconds, detail
FROM gpufleet.audit_runs
WHERE ts >= $__toTime - 2592000 AND ts <= $__toTime
ORDER BY ts DESC LIMIT 20"""
    return table(
        Pipeline.AUDITS,
        "Audits",
        sql,
        {
            "ts": Column("Ended", units.TIME, width=170),
            "verdict": Column("Verdict", width=80, colours={"exact": colours.GOOD, "off": colours.BAD}),
            "producer": Column("Producer"),
            "since": Column("From", units.TIME, width=170),
            "until": Column("To", units.TIME, width=170),
            "lost": Column("Lost", width=70, steps=thresholds.ANY_IS_BAD),
            "doubled": Column("Doubled", width=80, steps=thresholds.ANY_IS_BAD),
            "dead_letters": Column("Dead letters", width=100),
            "windows_checked": Column("Minutes checked", width=130),
            "windows_wrong": Column("Windows wrong", width=120, steps=thresholds.ANY_IS_BAD),
            "seconds": Column("Took", units.SECONDS, 1, 80),
            "detail": Column("Found"),
        },
        none="no audit ran in the range",
        means="The newest 20 audits of the last 30 days: journals, offsets, ledger, rows and windows compared.",
        do="None today: run `gpufleet audit`, and put it into cron. off: read Found, then docs/operations.md.",
    )


def _topics() -> Panel:
    sql = f"""SELECT topic, uniqExact(consumer) AS consumers, uniqExact(partition) AS partitions,
    countIf(l.rows > 0) AS inserts, sum(l.rows) AS stored,
    sum(l.duplicates) AS duplicates_, sum(l.dead_letters) AS dead,
    quantile(0.99)(date_diff('microsecond', append_ts_max, at) / 1e6) AS lag_s, max(at) AS newest,
    dateDiff('second', max(at), $__toTime) AS quiet_s
FROM gpufleet.ingest_ledger AS l
WHERE {last(6, "at")}
GROUP BY topic
ORDER BY topic"""
    return table(
        Pipeline.TOPICS,
        "Topics",
        sql,
        {
            "topic": Column("Topic"),
            "consumers": Column("Consumers", width=90),
            "partitions": Column("Partitions", width=90),
            "inserts": Column("Inserts"),
            "stored": Column("Events stored"),
            "duplicates_": Column("Stored already"),
            "dead": Column("Dead letters", steps=thresholds.ANY_IS_BAD),
            "lag_s": Column("Append to stored, p99", units.SECONDS, 1),
            "newest": Column("Newest insert", units.TIME, width=170),
            "quiet_s": Column("Ago", units.SECONDS, 0, 90),
        },
        means="Each topic over the last six hours of the range at most; append to stored is the lag in seconds.",
        do="node-telemetry must never be quiet. inventory and leases may be for hours: they speak on change.",
    )


def _spools() -> Panel:
    shown = last(24)
    sql = f"""SELECT site, node_id, rack_, multiIf(
        refused > taken, 'refuses events', unsaved > saved, 'keeps no journal', sending > drained, 'sends its backlog',
        thinned + dropped > 0, 'done', '') AS state,
    if(sending > toDateTime(0, 'UTC'), began, NULL) AS backlog_from, thinned, dropped, newest
FROM
(
    SELECT site, node_id, any(rack) AS rack_, max(ts) AS newest,
        maxIf(ts, event = 'source_down' AND value = 'spool') AS refused,
        maxIf(ts, event = 'source_up' AND value = 'spool' OR event = 'agent_start') AS taken,
        maxIf(ts, event = 'source_down' AND value = 'journal') AS unsaved,
        maxIf(ts, event = 'source_up' AND value = 'journal' OR event = 'agent_start') AS saved,
        maxIf(ts, event = 'spool_backlog') AS sending, minIf(ts, event = 'spool_backlog' AND {shown}) AS began,
        maxIf(ts, event IN ('spool_drained', 'agent_start')) AS drained,
        sumIf(occurrences, event = 'events_thinned' AND {shown}) AS thinned,
        sumIf(occurrences, event = 'events_dropped' AND {shown}) AS dropped
    FROM gpufleet.node_events FINAL
    -- That a disk refuses is said once, however long it lasts.
    WHERE ts > $__toTime - 604800 AND ts <= $__toTime AND flaws = 0 AND {only("site")}
        AND (event IN ('events_thinned', 'events_dropped', 'spool_backlog', 'spool_drained', 'agent_start')
            OR event IN ('source_down', 'source_up') AND value IN ('spool', 'journal'))
    GROUP BY site, node_id
    HAVING countIf(event != 'agent_start' AND {shown}) > 0 OR refused > taken OR unsaved > saved
)
ORDER BY state IN ('refuses events', 'keeps no journal') DESC, state = 'sends its backlog' DESC, newest DESC
LIMIT 200"""
    return table(
        Pipeline.SPOOLS,
        "Spools",
        sql,
        {
            "site": HIDDEN,
            "node_id": Column("Node", links=(links.to_node(),)),
            "rack_": Column("Rack", links=(links.to_rack(links.field("rack_")),)),
            "state": Column(
                "Spool",
                width=150,
                colours={
                    "refuses events": colours.BAD,
                    "keeps no journal": colours.BAD,
                    "sends its backlog": colours.WARN,
                },
            ),
            "backlog_from": Column("Backlog told", units.TIME, width=170),
            "thinned": Column("Events thinned", steps=thresholds.ANY_IS_NOTICE),
            "dropped": Column("Events given up", steps=thresholds.ANY_IS_BAD),
            "newest": Column("Last word", units.TIME, width=170),
        },
        none="no agent told of a spool",
        means="Agents whose spool refused events, bridged an outage, thinned events to one in ten seconds or gave "
        f"some up, or whose journal of numbers is in memory alone. {_DAY}",
        do="Refuses, no journal: the disk of that node. Backlog: wait; windows are computed again as it comes. Given "
        "up: lost; `gpufleet audit` says which.",
    )


def _dead_letters() -> Panel:
    sql = f"""SELECT source_topic, reason, source_producer_id AS producer, count() AS letters,
    countIf(state = 'open') AS open_, min(ts) AS first_, max(ts) AS last_, any(detail) AS example
FROM gpufleet.dead_letter_states
WHERE ts >= $__fromTime AND ts <= $__toTime AND {only("site")}
GROUP BY source_topic, reason, producer
ORDER BY letters DESC LIMIT 100"""
    return table(
        Pipeline.DEAD_LETTERS,
        "Dead letters",
        sql,
        {
            "source_topic": Column("Topic"),
            "reason": Column("Why", width=130),
            "producer": Column("Producer"),
            "letters": Column("Letters", width=80),
            "open_": Column("Open", width=70, steps=thresholds.ANY_IS_BAD),
            "first_": Column("First", units.TIME, width=170),
            "last_": Column("Last", units.TIME, width=170),
            "example": Column("For example"),
        },
        width=12,
        none="no dead letter in the range",
        means="Messages put aside in the range, by topic, reason and producer, with one example; open = neither sent "
        "again nor dropped.",
        do="One producer: its version or its disk. unknown_schema: register it. too_old, in_future: clocks. Then "
        "`gpufleet dlq` sends them again, or drops them.",
    )
