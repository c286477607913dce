"""What new capacity did: hand-overs and limit raises, and what followed them."""

from __future__ import annotations

from typing import Final

from infra.grafana import colours, marks, thresholds, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards import common
from infra.grafana.boards.customer.limits import NAME
from infra.grafana.boards.ids import Effect
from infra.grafana.panels import Column, Panel, stat, table, timeseries
from infra.grafana.query import HEALTH, USAGE_BESIDE_HEALTH, only, share
from infra.grafana.target import CUSTOMER

SCOPE: Final = f"tenant != '' AND {only('site')}"
_HOURS: Final = 6
"""Whole hours that are compared before and after a change. [h]"""
_ACCEPTED_S: Final = "healthy_s + unhealthy_s + unknown_s + opted_out_s"

_BOTH: Final = f"""(
    SELECT {HEALTH.time}, ts, window_s, healthy_s, {_ACCEPTED_S} AS accepted_s, used_s,
        0 AS asked, 0 AS throttled, 0 AS read, 0 AS written
    FROM {HEALTH.rows("healthy_s, unhealthy_s, unknown_s, opted_out_s, used_s", SCOPE)}
    UNION ALL
    SELECT {HEALTH.time}, ts, window_s, 0, 0, 0, requests, throttled_requests, input_tokens + cached_tokens,
        output_tokens
    FROM {USAGE_BESIDE_HEALTH.rows("requests, throttled_requests, input_tokens, cached_tokens, output_tokens", SCOPE)}
)"""
"""Capacity and usage on one time axis, in the steps of HEALTH."""
_PER_HOUR: Final = share("sum(written)", "(sum(healthy_s) / 3600)")


def board() -> Board:
    return Board(
        uid=Effect.UID,
        title="What new capacity did",
        description="Accepted GPUs, output tokens per GPU-hour and throttling, around each hand-over and limit raise.",
        datasource=CUSTOMER,
        variables=(variables.SITE,),
        annotations=(marks.HAND_OVERS, marks.LIMIT_RAISES),
        time_from="now-24h",
        timezone="utc",
        rows=(
            Row("", _now()),
            Row("Over time", (_accepted(), _per_gpu_hour(), _throttled(), _used(), _tokens())),
            Row("Before and after", (_hand_overs(), _raises())),
        ),
    )


def _now() -> tuple[Panel, ...]:
    both = f"FROM {_BOTH}"
    return (
        stat(
            Effect.ACCEPTED,
            "Accepted GPUs gained",
            f"""SELECT if(count() = 0, NULL, argMax(gpus, ts) - argMin(gpus, ts)) AS "Gained"
FROM
(
    SELECT ts, sum({_ACCEPTED_S}) / any(window_s) AS gpus
    FROM {HEALTH.rows("healthy_s, unhealthy_s, unknown_s, opted_out_s", SCOPE)}
    GROUP BY ts
)""",
            unit=units.WHOLE,
            decimals=0,
            width=5,
            means="Leased GPUs in service at the end of the range, less those at its beginning.",
            do="Choose a range around a hand-over: what you see below is what these GPUs did.",
        ),
        stat(
            Effect.TOKENS_PER_GPU_HOUR,
            "Output tokens per GPU-hour",
            f'SELECT {_PER_HOUR} AS "Tokens per GPU-hour"\n{both}',
            unit=units.COUNT,
            decimals=1,
            width=5,
            means="Tokens generated over delivered GPU-hours, over the range; training GPUs are in it.",
            do="Falls when capacity arrives before load does: raise limits to fill it.",
        ),
        stat(
            Effect.THROTTLED_SHARE,
            "Throttled",
            f'SELECT {share("sum(throttled)", "sum(asked)")} AS "Throttled"\n{both}',
            unit=units.RATIO,
            decimals=2,
            width=4,
            steps=thresholds.THROTTLED_SHARE,
            means="Requests refused with status 429, of all, over the range.",
            do="Still high with free capacity: the limits are too low.",
        ),
        stat(
            Effect.LAST_CHANGE,
            "Since the last change",
            f"""SELECT if(max(at) = toDateTime(0), NULL, dateDiff('second', max(at), $__toTime)) AS "Ago"
FROM
(
    SELECT toDateTime(if(begins, valid_from, valid_to)) AS at
    FROM gpufleet.lease_current ARRAY JOIN [true, false] AS begins
    WHERE {SCOPE} AND if(begins, valid_from, valid_to) <= $__toTime AND notEmpty(nodes)
    UNION ALL
    SELECT toDateTime(valid_from) FROM gpufleet.tenant_limits
    WHERE {SCOPE} AND flaws = 0 AND action = 'raised' AND valid_from <= $__toTime
)""",
            unit=units.SECONDS,
            decimals=1,
            width=5,
            means="Time from the newest hand-over or limit raise to the end of the range.",
            do="Give a change six hours before judging it by the tables below.",
        ),
        common.completeness(Effect.COMPLETENESS, SCOPE, width=5, do=common.CUSTOMERS_COMPLETENESS),
    )


def _accepted() -> Panel:
    sql = f"""SELECT {HEALTH.time},
    if(count() = 0, NULL, sum({_ACCEPTED_S}) / {HEALTH.covered_s}) AS "accepted",
    if(count() = 0, NULL, sum(healthy_s) / {HEALTH.covered_s}) AS "delivered"
FROM {HEALTH.rows("healthy_s, unhealthy_s, unknown_s, opted_out_s", SCOPE)}
GROUP BY time
{HEALTH.gaps}"""
    return timeseries(
        Effect.ACCEPTED_OVER_TIME,
        "Accepted GPUs",
        sql,
        unit=units.COUNT,
        colours={"accepted": colours.NEUTRAL, "delivered": colours.GOOD},
        means="Leased GPUs in service (accepted), and of them healthy (delivered), mean over each point.",
        do="A hand-over is a step; accepted but not delivered for long: ask.",
    )


def _per_gpu_hour() -> Panel:
    sql = f"""SELECT time, {_PER_HOUR} AS "output tokens per GPU-hour"
FROM {_BOTH}
GROUP BY time
{HEALTH.gaps}"""
    return timeseries(
        Effect.TOKENS_PER_GPU_HOUR_OVER_TIME,
        "Output tokens per delivered GPU-hour",
        sql,
        unit=units.COUNT,
        means="How much your users got out of a GPU-hour.",
        do="A drop right after a hand-over is normal until load follows; if it stays, limits hold the load back.",
    )


def _throttled() -> Panel:
    sql = f"""SELECT time, {share("sum(throttled)", "sum(asked)")} AS "throttled"
FROM {_BOTH}
GROUP BY time
{HEALTH.gaps}"""
    return timeseries(
        Effect.THROTTLED_OVER_TIME,
        "Throttled share",
        sql,
        unit=units.RATIO,
        decimals=1,
        colours=colours.REQUESTS,
        means="Requests refused with status 429, of all.",
        do="The point of capacity and raises is to bring this to zero.",
    )


def _used() -> Panel:
    sql = f"""SELECT time, {share("sum(used_s)", "sum(healthy_s)")} AS "used of delivered"
FROM {_BOTH}
GROUP BY time
{HEALTH.gaps}"""
    return timeseries(
        Effect.USED,
        "Used of delivered",
        sql,
        unit=units.RATIO,
        top=1,
        means="Share of the delivered GPU time in which engines were busy.",
        do="New GPUs that stay idle: your scheduler does not know them yet.",
    )


def _tokens() -> Panel:
    sql = f"""SELECT time,
    if(sum(asked) = 0, NULL, sum(written) / {HEALTH.covered_s}) AS "output",
    if(sum(asked) = 0, NULL, sum(read) / {HEALTH.covered_s}) AS "input"
FROM {_BOTH}
GROUP BY time
{HEALTH.gaps}"""
    return timeseries(
        Effect.TOKENS,
        "Tokens a second",
        sql,
        unit=units.COUNT,
        width=24,
        colours=colours.TOKENS,
        means="Tokens generated and read (cached ones included) a second.",
        do="The plain effect: more tokens at the same throttling, or the same at less.",
    )


def _compared(changes: str, names: str) -> str:
    """Each change of ``changes`` (columns ``at`` and ``names``) with the whole hours before and after its own."""
    before = f"h.ts >= c.hour - {_HOURS * 3600} AND h.ts < c.hour"
    after = f"h.ts >= c.hour + 3600 AND h.ts < c.hour + {(_HOURS + 1) * 3600}"

    def mean(part: str, whole: str, when: str) -> str:
        return share(f"sumIf({part}, {when})", f"sumIf({whole}, {when})")

    return f"""SELECT c.at AS at, {", ".join(f"c.{name} AS {name}" for name in names.split(", "))},
    {mean("h.accepted_s", "h.length", before)} AS gpus_before, {mean("h.accepted_s", "h.length", after)} AS gpus_after,
    {mean("h.output", "h.gpu_hours", before)} AS tokens_before,
    {mean("h.output", "h.gpu_hours", after)} AS tokens_after,
    {mean("h.throttled", "h.requests", before)} AS throttled_before,
    {mean("h.throttled", "h.requests", after)} AS throttled_after
FROM
(
    SELECT *, toStartOfHour(at) AS hour FROM ({changes})
) AS c
CROSS JOIN
(
    SELECT ts, sum(accepted) AS accepted_s, if(accepted_s > 0, 3600, 0) AS length, sum(healthy) / 3600 AS gpu_hours,
        sum(requests_) AS requests, sum(throttled_) AS throttled, sum(output_) AS output
    FROM
    (
        SELECT ts, {_ACCEPTED_S} AS accepted, healthy_s AS healthy, 0 AS requests_, 0 AS throttled_, 0 AS output_
        FROM gpufleet.health_1h FINAL
        WHERE {_NEAR} AND {SCOPE}
        UNION ALL
        SELECT ts, 0, 0, requests, throttled_requests, output_tokens
        FROM gpufleet.usage_1h FINAL
        WHERE {_NEAR} AND {SCOPE}
    )
    GROUP BY ts
) AS h
GROUP BY at, {names}
ORDER BY at DESC LIMIT 50"""


_NEAR: Final = f"ts >= toStartOfHour($__fromTime) - {_HOURS * 3600} AND ts < toStartOfHour($__toTime) + {_HOURS * 3600}"


def _columns() -> dict[str, Column]:
    return {
        "gpus_before": Column("GPUs before", decimals=1),
        "gpus_after": Column("after", decimals=1),
        "tokens_before": Column("Tokens a GPU-hour before", units.COUNT, 2),
        "tokens_after": Column("after", units.COUNT, 2),
        "throttled_before": Column("Throttled before", units.RATIO, 2, steps=thresholds.THROTTLED_SHARE),
        "throttled_after": Column("after", units.RATIO, 2, steps=thresholds.THROTTLED_SHARE),
    }


_COMPARED: Final = (
    f"Means of the {_HOURS} whole hours before and after; the hour of the change itself is left out, and so is one "
    "that is still open."
)


def _hand_overs() -> Panel:
    changes = f"""
        SELECT if(begins, valid_from, valid_to) AS at, lease_id, if(begins, 'begins', 'ends') AS what,
            length(nodes) AS nodes_
        FROM gpufleet.lease_current ARRAY JOIN [true, false] AS begins
        WHERE {SCOPE} AND notEmpty(nodes) AND at >= $__fromTime AND at <= $__toTime"""
    return table(
        Effect.HAND_OVERS,
        "Hand-overs",
        _compared(changes, "lease_id, what, nodes_"),
        {
            "at": Column("When", units.TIME, width=170),
            "lease_id": Column("Lease"),
            "what": Column("It", width=70),
            "nodes_": Column("Nodes", width=70),
            **_columns(),
        },
        none="no lease began or ended in the range",
        means=f"Leases of yours that began or ended in the range. {_COMPARED}",
        do="Tokens per GPU-hour unchanged and throttling down: the capacity went to your users.",
    )


def _raises() -> Panel:
    changes = f"""
        SELECT valid_from AS at, {NAME} AS name, previous_value AS was, limit_value AS is
        FROM gpufleet.tenant_limits FINAL
        WHERE {SCOPE} AND flaws = 0 AND action = 'raised' AND at >= $__fromTime AND at <= $__toTime"""
    return table(
        Effect.LIMIT_RAISES,
        "Limit raises",
        _compared(changes, "name, was, is"),
        {
            "at": Column("When", units.TIME, width=170),
            "name": Column("Limit"),
            "was": Column("Was", units.COUNT, 2),
            "is": Column("Is", units.COUNT, 2),
            **_columns(),
        },
        none="no limit was raised in the range",
        means=f"Limits that were raised in the range. {_COMPARED}",
        do="Throttling unchanged: another limit was the one that refused; see Used of the minute limits.",
    )
