"""Usage and caps: how close am I to my caps and limits?"""

from __future__ import annotations

from typing import Final

from infra.grafana import colours, links, marks, thresholds, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards.customer import limits
from infra.grafana.boards.ids import Effect, Throughput, Usage
from infra.grafana.panels import Column, Panel, bargauge, stat, table, timeseries
from infra.grafana.query import IN_MINUTES, USAGE, only, recent, share, whole_minutes_s
from infra.grafana.target import CUSTOMER

_ALL: Final = f"tenant != '' AND {only('site')}"
SCOPE: Final = f"{_ALL} AND {only('product')}"


def board() -> Board:
    return Board(
        uid=Usage.UID,
        title="Usage and caps",
        description="Requests, tokens and throttling, and how near each limit is. Times are UTC, as billed.",
        datasource=CUSTOMER,
        variables=(variables.SITE, variables.PRODUCT),
        annotations=(marks.LIMIT_RAISES, marks.HAND_OVERS),
        time_from="now-6h",
        timezone="utc",
        rows=(
            Row("", _now()),
            Row("Limits", (_headroom(), _bars(), _cap_over_time())),
            Row("Usage", (_requests(), _tokens(), _throttled(), _by_product())),
            Row("For the record", (_changes(), _by_day())),
        ),
    )


def _now() -> tuple[Panel, ...]:
    newest = f"FROM gpufleet.usage_1m FINAL\nWHERE {recent('usage_1m', where=SCOPE)} AND {SCOPE}\nHAVING count() > 0"
    return (
        stat(
            Usage.NEAREST_CAP,
            "Nearest usage cap",
            f'SELECT max(used / limit_) AS "Nearest cap"\nFROM {limits.HEADROOM}\nWHERE limit_ > 0\nHAVING count() > 0',
            unit=units.RATIO,
            decimals=0,
            steps=thresholds.CAP_SHARE,
            means="The fullest of your limits of requests, messages and tokens: used of allowed, at the end of the "
            "range. GPUs and power, of which all may be in use for months, are in Headroom.",
            do="From 80 %: ask for a raise, or move load; Headroom below names it.",
        ),
        stat(
            Usage.TIME_TO_CAP,
            "Time to the first cap",
            f'SELECT min({limits.TIME_TO_CAP}) AS "Time"\nFROM {limits.HEADROOM}\nHAVING count() > 0',
            unit=units.SECONDS,
            decimals=1,
            steps=thresholds.TIME_TO_CAP,
            means="How long until the first 5-hour or weekly window is full, at the rate of the last ten minutes. No "
            "data = none will be at this rate.",
            do="Less than a day: your users meet it tomorrow. Minute limits are not in it: they refill at once.",
        ),
        stat(
            Usage.THROTTLED_SHARE,
            "Throttled",
            f"""SELECT {share("sum(throttled_requests)", "sum(requests)")} AS "Throttled"
FROM {USAGE.rows("throttled_requests, requests", SCOPE)}""",
            unit=units.RATIO,
            decimals=2,
            steps=thresholds.THROTTLED_SHARE,
            links=(links.board("What new capacity did", Effect.UID, {}),),
            means="Requests refused with status 429, of all, over the range.",
            do="Which limit refused them: Used of the minute limits, below.",
        ),
        stat(
            Usage.REQUESTS_NOW,
            "Requests",
            f'SELECT sum(requests) AS "Requests"\n{newest}',
            unit=units.REQUESTS_PER_MINUTE,
            links=(links.board("API throughput", Throughput.UID, {}),),
            means="Requests that began in the newest minute of which usage is known, throttled and failed ones "
            "included.",
            do="No data: your gateway has sent nothing for a quarter of an hour.",
        ),
        stat(
            Usage.TOKENS_NOW,
            "Output tokens/s",
            f'SELECT sum(output_tokens) / 60 AS "Tokens"\n{newest}',
            unit=units.COUNT,
            means="Tokens generated a second, in the newest minute of which usage is known.",
            do="Falling with steady requests: shorter answers, or requests that fail.",
        ),
        usage_completeness(Usage.COMPLETENESS),
    )


def usage_completeness(id_: int, width: int = 4) -> Panel:
    """Minutes of the range for which the gateway sent usage."""
    long = "dateDiff('second', $__fromTime, $__toTime) > 43200"
    sql = f"""SELECT if({long}, hours / {_HOURS}, minutes * 60 / {whole_minutes_s(_BEGIN)}) AS "Minutes with usage"
FROM (SELECT least(toInt64(uniqExactIf(ts, window_s = 3600)), {_HOURS}) AS hours, uniqExact(ts) AS minutes
    FROM {USAGE.rows("requests", f"{_ALL} AND if({long}, ts < toStartOfHour($__toTime), {IN_MINUTES})")})
WHERE hours > 0 OR minutes > 0"""
    return stat(
        id_,
        "Completeness",
        sql,
        unit=units.RATIO,
        decimals=1,
        width=width,
        steps=thresholds.COMPLETENESS,
        means="Minutes of the range (hours, beyond half a day) for which your gateway sent usage, of all since its "
        "first. A minute "
        "without usage is missing data here, not a minute without requests.",
        do="Below 100 %: look at the gateway's usage sender; late usage is filled in when it comes.",
    )


_BEGIN: Final = f"greatest($__fromTime, (SELECT toDateTime(min(ts), 'UTC') FROM gpufleet.usage_1h WHERE {_ALL}))"
"""The range, from the first hour on for which there is usage at all."""
_HOURS: Final = f"greatest(1, dateDiff('hour', toStartOfHour({_BEGIN} + 3599), toStartOfHour($__toTime)))"


def _headroom() -> Panel:
    sql = f"""SELECT limit_name, {_UNIT} AS unit, {_WINDOW} AS window, product, model, tier, limit_ AS allowed, used,
    limit_ - used AS free, if(limit_ > 0, used / limit_, NULL) AS used_share, per_s * 60 AS per_minute,
    if(isNull(per_s), NULL, {limits.TIME_TO_CAP}) AS to_cap, since
FROM {limits.HEADROOM_AND_LEVELS}
ORDER BY window_s = 0, used_share DESC NULLS LAST, limit_name, window, product"""
    return table(
        Usage.HEADROOM,
        "Headroom, the nearest cap first",
        sql,
        {
            "limit_name": Column("Limit"),
            "unit": Column("Unit", width=90),
            "window": Column("Window", width=90),
            "product": Column("Product"),
            "model": Column("Model"),
            "tier": Column("Tier"),
            "allowed": Column("Allowed", units.COUNT, 2),
            "used": Column("Used", units.COUNT, 2),
            "free": Column("Free", units.COUNT, 2),
            "used_share": Column("Used share", units.RATIO, 1, steps=thresholds.CAP_SHARE),
            "per_minute": Column("Now a minute", units.COUNT, 1),
            "to_cap": Column("To the cap at this rate", units.SECONDS, 1, steps=thresholds.TIME_TO_CAP),
            "since": Column("In force since", units.TIME, width=170),
        },
        height=9,
        none="no limit in force",
        means="Each limit in force at the end of the range, and what is taken of it in the window that ends with the "
        "newest known minute. GPUs and power are levels, and come last. An empty product, model or tier = all.",
        do="The top line is what your users meet next: raise it first. Empty time to the cap: not at this rate.",
    )


_UNIT: Final = """transform(toString(limit_name), ['input_tokens', 'output_tokens', 'gpu_quota', 'power_cap'],
        ['tokens', 'tokens', 'GPUs', 'W'], toString(limit_name))"""
_WINDOW: Final = """transform(window_s, [0, 60, 18000, 604800], ['level', 'a minute', '5 hours', 'a week'],
        concat(toString(window_s), ' s'))"""


def _bars() -> Panel:
    sql = f"""SELECT concat({limits.NAME}, if(uniqExact(site) OVER () > 1, concat(', ', toString(site)), '')) AS name,
    if(limit_ > 0, used / limit_, NULL) AS "Used"
FROM {limits.HEADROOM}
ORDER BY "Used" DESC LIMIT 20"""
    return bargauge(
        Usage.HEADROOM_BARS,
        "Used of each limit",
        sql,
        unit=units.RATIO,
        decimals=0,
        steps=thresholds.CAP_SHARE,
        top=1,
        none="no limit of usage in force",
        means="How full each limit's window is at the end of the range.",
        do="Red bars are refusing requests now, or will within hours.",
    )


def _cap_over_time() -> Panel:
    sql = f"""SELECT time, name AS series, avg(amount / limit_value) AS "Value"
FROM
(
    SELECT {USAGE.time}, u.name AS name, u.amount AS amount, l.limit_value AS limit_value
    FROM
    (
        SELECT ts, any(window_s) AS window_s, pair.1 AS name, sum(pair.2) * 60 / window_s AS amount
        FROM
        (
            SELECT ts, window_s,
                arrayJoin([('requests', requests), ('input_tokens', input_tokens),
                    ('output_tokens', output_tokens)]) AS pair
            FROM {USAGE.rows("requests, input_tokens, output_tokens", _ALL)}
        )
        GROUP BY ts, name
    ) AS u
    ASOF INNER JOIN
    (
        SELECT toString(limit_name) AS name, toDateTime(valid_from, 'UTC') AS since,
            argMax(limit_value, ts) AS limit_value
        FROM gpufleet.tenant_limits
        WHERE flaws = 0 AND window_s = 60 AND product = '' AND model = '' AND tier = '' AND {_ALL}
        GROUP BY name, since
    ) AS l ON l.name = u.name AND u.ts >= l.since
    WHERE limit_value > 0
)
GROUP BY time, series
ORDER BY time, series"""
    return timeseries(
        Usage.CAP_OVER_TIME,
        "Used of the minute limits",
        sql,
        unit=units.RATIO,
        width=16,
        steps=thresholds.CAP_SHARE,
        means="Mean use of each limit per minute (requests, input and output tokens over all products), against the "
        "limit that was in force then. Within an hour or a minute peaks may have been higher.",
        do="Flat at 100 %: the limit decides your throughput; a raise shows as a drop here and in Throttled.",
    )


def _requests() -> Panel:
    sql = f"""SELECT {USAGE.time},
    if(count() = 0, NULL, sum(requests - throttled_requests - failed_requests) * 60 / {USAGE.covered_s}) AS "served",
    if(count() = 0, NULL, sum(throttled_requests) * 60 / {USAGE.covered_s}) AS "throttled",
    if(count() = 0, NULL, sum(failed_requests) * 60 / {USAGE.covered_s}) AS "failed"
FROM {USAGE.rows("requests, throttled_requests, failed_requests", SCOPE)}
GROUP BY time
{USAGE.gaps}"""
    return timeseries(
        Usage.REQUESTS,
        "Requests a minute",
        sql,
        unit=units.REQUESTS_PER_MINUTE,
        stack=True,
        colours=colours.REQUESTS,
        means="Requests by how they ended: served, refused with 429, failed with 500 or above. A gap = no usage was "
        "sent.",
        do="Throttled grows: a limit. Failed grows: your serving jobs; see Incidents.",
    )


def _tokens() -> Panel:
    sql = f"""SELECT {USAGE.time},
    if(count() = 0, NULL, sum(input_tokens) * 60 / {USAGE.covered_s}) AS "input",
    if(count() = 0, NULL, sum(cached_tokens) * 60 / {USAGE.covered_s}) AS "cached input",
    if(count() = 0, NULL, sum(output_tokens) * 60 / {USAGE.covered_s}) AS "output"
FROM {USAGE.rows("input_tokens, cached_tokens, output_tokens", SCOPE)}
GROUP BY time
{USAGE.gaps}"""
    return timeseries(
        Usage.TOKENS,
        "Tokens a minute",
        sql,
        unit=units.COUNT,
        stack=True,
        colours=colours.TOKENS,
        means="Tokens read (cached ones apart, which limits do not count) and generated, a minute.",
        do="Much input and little cached: prompt caching would save input tokens and time.",
    )


def _throttled() -> Panel:
    sql = USAGE.by_series(f"""SELECT {USAGE.time}, toString(product) AS series,
    {share("sum(throttled_requests)", "sum(requests)")} AS "Value"
FROM {USAGE.rows("product, throttled_requests, requests", SCOPE)}
GROUP BY time, series""")
    return timeseries(
        Usage.THROTTLED,
        "Throttled share, by product",
        sql,
        unit=units.RATIO,
        decimals=1,
        means="Requests refused with status 429, of all, per product.",
        do="Limit raises are marked on the axis: the share should fall there; What new capacity did shows by how much.",
    )


def _by_product() -> Panel:
    sql = f"""SELECT product, model, sum(requests) AS requests_,
    {share("sum(throttled_requests)", "sum(requests)")} AS throttled,
    {share("sum(failed_requests)", "sum(requests)")} AS failed,
    sum(input_tokens) AS input, sum(cached_tokens) AS cached, sum(output_tokens) AS output
FROM {USAGE.rows("product, model, requests, throttled_requests, failed_requests, " + _TOKENS, SCOPE)}
GROUP BY product, model
ORDER BY requests_ DESC LIMIT 50"""
    return table(
        Usage.BY_PRODUCT,
        "By product and model, over the range",
        sql,
        {"product": Column("Product"), "model": Column("Model"), **usage_columns()},
        width=12,
        means="Sums of the range per product and model, the busiest first.",
        do="Which product takes the tokens, and which is throttled: they need not be the same.",
    )


_TOKENS: Final = "input_tokens, cached_tokens, output_tokens"


def usage_columns(unit: str = units.COUNT, decimals: int = 1) -> dict[str, Column]:
    return {
        "requests_": Column("Requests", unit, decimals),
        "throttled": Column("Throttled", units.RATIO, 2, steps=thresholds.THROTTLED_SHARE),
        "failed": Column("Failed", units.RATIO, 2, steps=thresholds.FAILED_SHARE),
        "input": Column("Input tokens", unit, decimals),
        "cached": Column("Cached", unit, decimals),
        "output": Column("Output tokens", unit, decimals),
    }


def _changes() -> Panel:
    sql = f"""SELECT valid_from, action, {limits.NAME} AS name, previous_value, limit_value,
    if(ifNull(previous_value, 0) > 0, limit_value / previous_value - 1, NULL) AS change, reason
FROM gpufleet.tenant_limits FINAL
WHERE flaws = 0 AND valid_from <= $__toTime AND {_ALL}
ORDER BY valid_from DESC, name LIMIT 50"""
    return table(
        Usage.LIMIT_CHANGES,
        "Limits set, raised and lowered",
        sql,
        {
            "valid_from": Column("From", units.TIME, width=170),
            "action": Column("Action", width=80, colours={"raised": colours.GOOD, "lowered": colours.BAD}),
            "name": Column("Limit"),
            "previous_value": Column("Was", units.COUNT, 2),
            "limit_value": Column("Is", units.COUNT, 2),
            "change": Column("Change", units.RATIO, 0),
            "reason": Column("Why"),
        },
        height=6,
        none="no limit was ever set",
        means="The newest 50 changes of your limits up to the end of the range.",
        do="What a raise did to throttling: What new capacity did.",
    )


def _by_day() -> Panel:
    sql = f"""SELECT day, product, sum(requests_n) AS requests_,
    {share("sum(throttled_n)", "sum(requests_n)")} AS throttled,
    {share("sum(failed_n)", "sum(requests_n)")} AS failed, sum(i) AS input, sum(c) AS cached, sum(o) AS output
FROM
(
    SELECT toString(toDate(ts, 'UTC')) AS day, product, requests AS requests_n, throttled_requests AS throttled_n,
        failed_requests AS failed_n, input_tokens AS i, cached_tokens AS c, output_tokens AS o
    FROM gpufleet.usage_1d FINAL
    WHERE ts >= toStartOfDay(greatest($__fromTime, $__toTime - 34560000)) AND ts <= $__toTime AND {SCOPE}
)
GROUP BY day, product
ORDER BY day DESC, requests_ DESC LIMIT 400"""
    return table(
        Usage.BY_DAY,
        "Day by day (UTC)",
        sql,
        {"day": Column("Day, UTC"), "product": Column("Product"), **usage_columns(units.EXACT, 0)},
        means="Whole UTC days that the range touches, as billed; today's is still growing.",
        do="These are the figures of the bill; revisions of your gateway change them until the month is closed.",
    )
