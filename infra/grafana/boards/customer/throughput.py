"""API throughput: what do my users get from the API?"""

from __future__ import annotations

from typing import Final

from infra.grafana import colours, histogram, links, marks, thresholds, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards.customer.usage import usage_columns, usage_completeness
from infra.grafana.boards.ids import Throughput, Usage
from infra.grafana.panels import Column, Panel, heatmap, stat, table, timeseries
from infra.grafana.query import USAGE, chosen, only, recent, share
from infra.grafana.target import CUSTOMER

_DIMENSIONS: Final = ("workspace", "product", "model", "tier")
SCOPE: Final = " AND ".join(["tenant != ''", only("site"), *(only(name) for name in _DIMENSIONS)])
_BY: Final = f"""multiIf({chosen("by")} = 'workspace', toString(workspace), {chosen("by")} = 'model', toString(model),
        {chosen("by")} = 'tier', toString(tier), toString(product))"""


def board() -> Board:
    return Board(
        uid=Throughput.UID,
        title="API throughput",
        description="Requests, tokens and waiting times per workspace, product, model and tier.",
        datasource=CUSTOMER,
        variables=(
            variables.SITE,
            variables.WORKSPACE,
            variables.PRODUCT,
            variables.SERVED_MODEL,
            variables.TIER,
            variables.BY,
        ),
        annotations=(marks.LIMIT_RAISES, marks.HAND_OVERS),
        time_from="now-6h",
        rows=(
            Row("", _now()),
            Row("How long users wait", (_ttft(), _latency(), _heatmap())),
            Row("How much they get", (_requests(), _tokens(), _errors(), _cached())),
            Row("Where", (_breakdown(),)),
        ),
    )


def _now() -> tuple[Panel, ...]:
    newest = f"FROM gpufleet.usage_1m FINAL\nWHERE {recent('usage_1m', where=SCOPE)} AND {SCOPE}\nHAVING count() > 0"
    rows = USAGE.rows("requests, throttled_requests, failed_requests", SCOPE)
    ttft = histogram.merged(
        USAGE.rows("1 AS everything, latency_bounds_ms, ttft_counts", SCOPE), "ttft_counts", "everything"
    )
    return (
        stat(
            Throughput.REQUESTS_NOW,
            "Requests",
            f'SELECT sum(requests) / 60 AS "Requests"\n{newest}',
            unit="reqps",
            decimals=1,
            means="Requests a second in the newest minute of which usage is known.",
            do="No data: the gateway has sent no usage for a quarter of an hour.",
        ),
        stat(
            Throughput.OUTPUT_NOW,
            "Output tokens/s",
            f'SELECT sum(output_tokens) / 60 AS "Tokens"\n{newest}',
            unit=units.COUNT,
            means="Tokens generated a second in the newest minute of which usage is known.",
            do="The plain measure of what your capacity gives.",
        ),
        stat(
            Throughput.TTFT_NOW,
            "First token, p95",
            f'SELECT {histogram.percentile(0.95)} AS "p95"\nFROM {ttft}',
            unit=units.MILLISECONDS,
            means="95 of 100 requests of the range saw their first token within this time. From histograms: exact to "
            "the bucket, linear within.",
            do="Rising with load: prefill is short of GPUs. Rising without: look at Incidents.",
        ),
        stat(
            Throughput.FAILED_SHARE,
            "Failed",
            f'SELECT {share("sum(failed_requests)", "sum(requests)")} AS "Failed"\nFROM {rows}',
            unit=units.RATIO,
            decimals=2,
            steps=thresholds.FAILED_SHARE,
            means="Requests that ended with status 500 or above, of all, over the range.",
            do="Compare with Incidents: serving jobs that lost GPUs.",
        ),
        stat(
            Throughput.THROTTLED_SHARE,
            "Throttled",
            f'SELECT {share("sum(throttled_requests)", "sum(requests)")} AS "Throttled"\nFROM {rows}',
            unit=units.RATIO,
            decimals=2,
            steps=thresholds.THROTTLED_SHARE,
            links=(links.board("Usage and caps", Usage.UID, {}),),
            means="Requests refused with status 429, of all, over the range.",
            do="Usage and caps names the limit.",
        ),
        usage_completeness(Throughput.COMPLETENESS),
    )


def _percentiles(id_: int, title: str, counts: str, *, means: str, do: str) -> Panel:
    rows = USAGE.rows(f"latency_bounds_ms, {counts}", SCOPE)
    timed = f"(SELECT {USAGE.time}, latency_bounds_ms, {counts} FROM {rows})"
    columns = ", ".join(
        f'{histogram.percentile(q)} AS "{name}"' for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    )
    sql = f"""SELECT time, {columns}
FROM {histogram.merged(timed, counts, "time")}
{USAGE.gaps}"""
    return timeseries(
        id_,
        title,
        sql,
        means=means,
        do=do,
        unit=units.of("tenant-usage", "latency_bounds_ms"),
        colours=colours.PERCENTILES,
    )


def _ttft() -> Panel:
    return _percentiles(
        Throughput.TTFT,
        "Time to first token",
        "ttft_counts",
        means="50, 95 and 99 of 100 requests had their first token within this time. From the gateway's histograms: "
        "exact to the bucket, linear within; what lies above the last bound counts as that bound.",
        do="p99 leaving p50 behind: queues. All rising: too few GPUs for prefill, or GPUs that are slowed down.",
    )


def _latency() -> Panel:
    return _percentiles(
        Throughput.LATENCY,
        "Whole answer",
        "latency_counts",
        means="The same for the time from a request to the end of its answer.",
        do="Rising with steady time to first token: decode is slower, or answers are longer.",
    )


def _heatmap() -> Panel:
    rows = USAGE.rows("latency_bounds_ms, ttft_counts", SCOPE)
    timed = f"(SELECT {USAGE.time}, latency_bounds_ms, ttft_counts FROM {rows})"
    sql = f"""SELECT time,
    {histogram.buckets()}
FROM {histogram.merged(timed, "ttft_counts", "time")}
ORDER BY time"""
    return heatmap(
        Throughput.TTFT_HEATMAP,
        "Requests by time to first token",
        sql,
        width=24,
        means="How many requests waited how long for their first token, over time: two bands are two kinds of "
        "requests.",
        do="A band that moves up at a hand-over or a limit raise is its effect.",
    )


def _requests() -> Panel:
    sql = USAGE.by_series(f"""SELECT {USAGE.time}, {_BY} AS series, sum(requests) / {USAGE.covered_s} AS "Value"
FROM {USAGE.rows("workspace, product, model, tier, requests", SCOPE)}
GROUP BY time, series""")
    return timeseries(
        Throughput.REQUESTS_BY,
        "Requests, split",
        sql,
        unit="reqps",
        stack=True,
        means="Requests a second per value of the chosen dimension (Split by, above).",
        do="Which part of your traffic grew.",
    )


def _tokens() -> Panel:
    sql = USAGE.by_series(f"""SELECT {USAGE.time}, {_BY} AS series, sum(output_tokens) / {USAGE.covered_s} AS "Value"
FROM {USAGE.rows("workspace, product, model, tier, output_tokens", SCOPE)}
GROUP BY time, series""")
    return timeseries(
        Throughput.TOKENS_BY,
        "Output tokens a second, split",
        sql,
        unit=units.COUNT,
        stack=True,
        means="Tokens generated a second per value of the chosen dimension.",
        do="Requests steady and tokens falling: answers got shorter, or fail.",
    )


def _errors() -> Panel:
    sql = f"""SELECT {USAGE.time},
    {share("sum(throttled_requests)", "sum(requests)")} AS "throttled",
    {share("sum(failed_requests)", "sum(requests)")} AS "failed"
FROM {USAGE.rows("requests, throttled_requests, failed_requests", SCOPE)}
GROUP BY time
{USAGE.gaps}"""
    return timeseries(
        Throughput.ERRORS,
        "Throttled and failed",
        sql,
        unit=units.RATIO,
        decimals=1,
        colours=colours.REQUESTS,
        means="Share of requests refused with 429, and of those that failed with 500 or above.",
        do="Throttled is a limit, failed is a fault: they have different owners.",
    )


def _cached() -> Panel:
    sql = f"""SELECT {USAGE.time},
    {share("sum(cached_tokens)", "sum(input_tokens + cached_tokens)")} AS "cached"
FROM {USAGE.rows("input_tokens, cached_tokens", SCOPE)}
GROUP BY time
{USAGE.gaps}"""
    return timeseries(
        Throughput.CACHED_SHARE,
        "Input from the prompt cache",
        sql,
        unit=units.RATIO,
        top=1,
        means="Share of input tokens that came from the prompt cache.",
        do="A fall after a release: prompts no longer begin alike.",
    )


def _breakdown() -> Panel:
    rows = USAGE.rows(
        "workspace, product, model, tier, requests, throttled_requests, failed_requests, input_tokens, cached_tokens, "
        "output_tokens, latency_bounds_ms, ttft_counts",
        SCOPE,
    )
    keys = "workspace, product, model, tier"
    sql = f"""SELECT u.workspace AS workspace, u.product AS product, u.model AS model, u.tier AS tier,
    u.requests_ AS requests_, u.throttled AS throttled, u.failed AS failed,
    u.input AS input, u.cached AS cached, u.output AS output, h.p50 AS p50, h.p95 AS p95
FROM
(
    SELECT {keys}, sum(requests) AS requests_, {share("sum(throttled_requests)", "sum(requests)")} AS throttled,
        {share("sum(failed_requests)", "sum(requests)")} AS failed, sum(input_tokens) AS input,
        sum(cached_tokens) AS cached, sum(output_tokens) AS output
    FROM {rows}
    GROUP BY {keys}
) AS u
LEFT JOIN
(
    SELECT {keys}, {histogram.percentile(0.5)} AS p50, {histogram.percentile(0.95)} AS p95
    FROM {histogram.merged(rows, "ttft_counts", keys)}
) AS h ON h.workspace = u.workspace AND h.product = u.product AND h.model = u.model AND h.tier = u.tier
ORDER BY requests_ DESC LIMIT 200"""
    return table(
        Throughput.BREAKDOWN,
        "Workspaces, products, models, tiers",
        sql,
        {
            "workspace": Column("Workspace"),
            "product": Column("Product"),
            "model": Column("Model"),
            "tier": Column("Tier"),
            **usage_columns(),
            "p50": Column("First token, p50", units.MILLISECONDS),
            "p95": Column("First token, p95", units.MILLISECONDS),
        },
        height=9,
        means="Sums and percentiles of the range, the busiest first.",
        do="Pick a line's values in the pickers above to see it alone.",
    )
