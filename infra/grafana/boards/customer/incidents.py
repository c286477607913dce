"""Incidents: what happened to my GPUs, with the evidence."""

from __future__ import annotations

from typing import Final

from infra.grafana import colours, marks, thresholds, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards import common
from infra.grafana.boards.ids import Incidents
from infra.grafana.panels import Column, Panel, bargauge, stat, table, timeline
from infra.grafana.query import FLEET, HEALTH, SICK, SICK_SUMS, gpu_state, heard, known, last, newest_sick, only, recent
from infra.grafana.target import CUSTOMER

SCOPE: Final = f"tenant != '' AND {only('site')} AND {only('gpu_model')}"
_EVENTS: Final = f"tenant != '' AND {only('site')}"
_WRONG: Final = "in_service AND reason != 'opted_out'"


def board() -> Board:
    return Board(
        uid=Incidents.UID,
        title="Incidents",
        description="What happened to your GPUs: faults, silence, maintenance, slow and hung jobs, with the evidence.",
        datasource=CUSTOMER,
        variables=(variables.SITE, variables.MODEL),
        annotations=(marks.HAND_OVERS, marks.maintenance(_EVENTS)),
        time_from="now-24h",
        timezone="utc",
        rows=(
            Row("", _now()),
            Row("What happened", (_over_time(), _lost_by_cause(), _incidents(), _by_node())),
            Row("Evidence", (_evidence(), _maintenance(), _jobs(), _slowed())),
        ),
    )


def _now() -> tuple[Panel, ...]:
    newest = f"FROM gpufleet.health_1m FINAL\nWHERE {recent('health_1m', where=SCOPE)} AND {SCOPE}\nHAVING count() > 0"
    return (
        stat(
            Incidents.SICK_NOW,
            "Sick now",
            f"""SELECT {known("uniqExact(site, node_id, gpu_index)")} AS "Sick"
FROM gpufleet.sick_1m FINAL
WHERE {newest_sick(SCOPE)} AND in_service AND reason NOT IN ('silent', 'opted_out')""",
            unit=units.WHOLE,
            steps=thresholds.ANY_IS_NOTICE,
            means="Your GPUs in service with something wrong in the newest minute, silence left aside.",
            do="The table Incidents names cause and action; the operator sees the same.",
        ),
        stat(
            Incidents.LOST_NOW,
            "Not delivered now",
            f'SELECT sum(gpus) - sum(gpus_healthy) - sum(gpus_opted_out) AS "Not delivered"\n{newest}',
            unit=units.WHOLE,
            steps=thresholds.ANY_IS_NOTICE,
            means="Leased GPUs that are not healthy in the newest minute: sick, silent or out of service.",
            do="Incidents says which and why; the promise of each lease is on Delivered capacity.",
        ),
        stat(
            Incidents.UNKNOWN_NOW,
            "Silent now",
            f'SELECT sum(gpus_unknown) AS "Silent"\n{newest}',
            unit=units.WHOLE,
            steps=thresholds.ANY_IS_NOTICE,
            means="Your GPUs of which nothing came in the newest minute.",
            do="If your jobs run there, only the data is late.",
        ),
        stat(
            Incidents.XIDS,
            "Application XIDs",
            f"""SELECT {heard("count()", SCOPE)} AS "XIDs"
FROM gpufleet.xids
WHERE ts >= $__fromTime AND ts <= $__toTime AND {_EVENTS} AND action = 'restart_app'""",
            unit=units.WHOLE,
            steps=thresholds.ANY_IS_NOTICE,
            means="XIDs of the range whose remedy is to restart the application: illegal accesses, exceptions in "
            "kernels.",
            do="Yours to look into; Evidence has the kernel's lines with the process.",
        ),
        stat(
            Incidents.WORST,
            "GPU-hours lost",
            f"""SELECT if(count() = 0, NULL, sum(unhealthy_s + unknown_s + not_in_service_s) / 3600) AS "Lost"
FROM {HEALTH.rows("unhealthy_s, unknown_s, not_in_service_s", SCOPE)}""",
            unit=units.COUNT,
            decimals=1,
            means="Leased GPU-hours of the range that were not delivered: unhealthy, unknown or not in service.",
            do="By cause, below.",
        ),
        common.completeness(Incidents.COMPLETENESS, SCOPE, do=common.CUSTOMERS_COMPLETENESS),
    )


def _over_time() -> Panel:
    return common.sick_over_time(
        Incidents.SICK_OVER_TIME,
        "Your GPUs with something wrong, by reason",
        _WRONG,
        SCOPE,
        width=16,
        means="Different GPUs in service per reason and point.",
        do="A step of many GPUs is one incident; look for it in the table below.",
    )


def _lost_by_cause() -> Panel:
    sql = f"""SELECT toString(reason) AS cause, sum(minutes) / 60 AS "GPU-hours"
FROM {SICK_SUMS.rows("reason, minutes", f"{_WRONG} AND {SCOPE}", fine="reason, 1 AS minutes")}
GROUP BY cause
ORDER BY "GPU-hours" DESC LIMIT 15"""
    return bargauge(
        Incidents.LOST_BY_CAUSE,
        "GPU-hours touched, by cause",
        sql,
        unit=units.COUNT,
        decimals=1,
        none="no trouble known in the range",
        means="GPU-hours of the range in which a reason held, per reason; a GPU with two counts under both.",
        do="The top cause is what to talk to the operator about.",
    )


def _incidents() -> Panel:
    columns = "site, node_id, gpu_index, reason, origin_node, since, action, scope, detail"
    rows = SICK_SUMS.rows(
        f"{columns}, minutes, first_minute, last_minute",
        f"{_WRONG} AND {SCOPE}",
        fine=f"{columns}, 1 AS minutes, ts AS first_minute, ts AS last_minute",
    )
    sql = f"""SELECT
    min(first_minute) AS first_, max(last_minute) + 60 AS last_, toString(reason) AS reason, origin_node,
    uniqExact(site, node_id, gpu_index) AS gpus, uniqExact(site, node_id) AS nodes, sum(minutes) / 60 AS gpu_hours,
    any(toString(action)) AS action_, any(toString(scope)) AS scope_,
    if(max(last_minute) >= (SELECT max(ts) FROM gpufleet.health_1m WHERE ts > $__toTime - 900 AND ts <= $__toTime - 60),
        'open', 'over') AS state, any(detail) AS detail_
FROM {rows}
GROUP BY reason, origin_node, since
ORDER BY last_ DESC, gpu_hours DESC LIMIT 200"""
    return table(
        Incidents.INCIDENTS,
        "Incidents",
        sql,
        {
            "first_": Column("First minute", units.TIME, width=170),
            "last_": Column("Until", units.TIME, width=170),
            "reason": Column("What"),
            "origin_node": Column("Began on"),
            "gpus": Column("GPUs", width=60),
            "nodes": Column("Nodes", width=60),
            "gpu_hours": Column("GPU-hours", decimals=1, width=90),
            "action_": Column("Action"),
            "scope_": Column("Reaches", width=100),
            "state": Column("State", width=70, colours={"open": colours.BAD}),
            "detail_": Column("More"),
        },
        height=10,
        none="no incident known in the range",
        means="Each fault, silence or slowdown of your GPUs, counted once where it began, the newest first; at most "
        "200.",
        do="Quote node and first minute when you talk to the operator: it sees the same rows.",
    )


def _by_node() -> Panel:
    minutes = SICK_SUMS.rows("site, node_id, minutes", f"{_WRONG} AND {SCOPE}", fine="site, node_id, 1 AS minutes")
    # One value and not a table: a table would be computed again wherever it is named.
    sql = f"""WITH
(
    SELECT groupArray((toString(site), toString(node_id)))
    FROM
    (
        SELECT site, node_id FROM {minutes}
        GROUP BY site, node_id ORDER BY sum(minutes) DESC, node_id LIMIT 15
    )
) AS worst
SELECT {SICK.time}, toString(node_id) AS series, max(state) AS "Value"
FROM {gpu_state("tenant != '' AND (site, node_id) IN (SELECT arrayJoin(worst))")}
GROUP BY time, series
ORDER BY time, series"""
    return timeline(
        Incidents.BY_NODE,
        "The 15 nodes with most trouble",
        sql,
        means="Each node's worst GPU in each minute (beyond a day: hour), while it was yours. Healthy is drawn, too: a "
        "blank is a time of which nothing is known.",
        do="Bands that begin together have one cause.",
    )


def _evidence() -> Panel:
    sql = f"""SELECT ts, node_id, gpu_index AS gpu, gpu_uuid AS uuid, event, code, action, action_from, meaning,
    message, raw
FROM gpufleet.gpu_alarms
WHERE ts >= $__fromTime AND ts <= $__toTime AND {_EVENTS}
ORDER BY ts DESC LIMIT 300"""
    return table(
        Incidents.EVIDENCE,
        "Evidence: alarms with the kernel's own lines",
        sql,
        {
            "ts": Column("Time, UTC", units.TIME, width=180),
            "node_id": Column("Node"),
            "gpu": Column("GPU", width=50),
            "uuid": Column("UUID"),
            "event": Column("Event", width=90),
            "code": Column("XID", width=60),
            "action": Column("Action"),
            "action_from": Column("Says", width=70),
            "meaning": Column("Meaning"),
            "message": Column("What happened"),
            "raw": Column("The line itself"),
        },
        height=10,
        none="no alarm in the range",
        means="XIDs, ECC errors, remaps, lost GPUs and links of your nodes in the range, unchanged as agents sent "
        "them; the newest 300.",
        do="Attach the lines to a claim; each is stored once and can be recomputed by both sides.",
    )


def _maintenance() -> Panel:
    sql = f"""SELECT ts, node_id, rack, event, value, message
FROM gpufleet.node_events FINAL
WHERE ts >= $__fromTime AND ts <= $__toTime AND flaws = 0 AND {_EVENTS}
    AND event IN ('maintenance_begin', 'maintenance_end', 'lifecycle')
ORDER BY ts DESC LIMIT 200"""
    return table(
        Incidents.MAINTENANCE,
        "Maintenance and lifecycle",
        sql,
        {
            "ts": Column("Time, UTC", units.TIME, width=180),
            "node_id": Column("Node"),
            "rack": Column("Rack"),
            "event": Column("Event"),
            "value": Column("State"),
            "message": Column("Why"),
        },
        width=12,
        none="nothing of the kind in the range",
        means="When your nodes went into maintenance, came back, or changed their lifecycle, in the range.",
        do="Not in service is not delivered; was it announced?",
    )


def _jobs() -> Panel:
    sql = f"""SELECT job_id, any(name) AS name_, any(toString(job_kind)) AS kind, max(gpus) AS gpus_,
    countIf(hung) AS hung_min, countIf(straggler) AS slow_min, argMaxIf(toString(slowest_node), ts, straggler) AS node,
    argMaxIf(slowest_gpu, ts, straggler) AS gpu, minIf(slowest_ratio, straggler) AS ratio,
    min(ts) AS first_, max(ts) AS last_
FROM gpufleet.job_1m FINAL
WHERE {last(24)} AND {_EVENTS} AND (hung OR straggler)
GROUP BY job_id
ORDER BY hung_min + slow_min DESC LIMIT 50"""
    return table(
        Incidents.JOBS,
        "Jobs that hung or were held back",
        sql,
        {
            "job_id": Column("Job"),
            "name_": Column("Name"),
            "kind": Column("Kind", width=80),
            "gpus_": Column("GPUs", width=60),
            "hung_min": Column("Minutes hung", width=110, steps=thresholds.ANY_IS_BAD),
            "slow_min": Column("Minutes held back", width=130, steps=thresholds.ANY_IS_NOTICE),
            "node": Column("By node"),
            "gpu": Column("GPU", width=50),
            "ratio": Column("Its clock", units.RATIO, 0, 80),
            "first_": Column("First", units.TIME, width=170),
            "last_": Column("Last", units.TIME, width=170),
        },
        width=12,
        none="no such job known",
        means="Your jobs that spun without working for five minutes and more, or waited for one slow GPU. At most "
        "the last 24 hours of the range.",
        do="hung: take stacks, restart. held back: exclude that GPU and restart; the operator replaces it.",
    )


def _slowed() -> Panel:
    return common.throttling(Incidents.SLOWED, FLEET, SCOPE, width=24, do=common.CUSTOMERS_THROTTLING)
