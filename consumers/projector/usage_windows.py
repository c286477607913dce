"""The SQL of the usage windows, from tenant_usage.

Of the events of one producer for the same window and dimensions the highest (revision, run_id, seq) holds and carries
the whole window; windows of different producers add up. A usage window counts in the table's window it starts in, if
it is no longer than that. Histograms are summed bucket by bucket, over all bounds seen.
"""

from __future__ import annotations

from consumers.projector.windows import USAGE_SUMS, Range, Table, instant64

_DIMENSIONS = "site, tenant, workspace, product, model, tier"
_ABOVE_ALL = 2**31 - 1
"""Stands for the bucket above the last bound while histograms are summed."""


def usage_sql(table: Table, window: Range) -> str:
    """A usage table (usage_1m, usage_1h, usage_1d) from tenant_usage."""
    held = ", ".join(USAGE_SUMS)
    newest = ", ".join(f"newest.{i} AS {name}" for i, name in enumerate(USAGE_SUMS, 1))
    sums = ",\n    ".join(f"sum({name}) AS {name}" for name in USAGE_SUMS)
    at = len(USAGE_SUMS)
    return f"""SELECT
    {_DIMENSIONS},
    start AS ts,
    count() AS windows,
    {sums},
    sumMap(
        keys,
        arrayResize(ttft, length(keys), 0),
        arrayResize(latency, length(keys), 0),
        arrayMap(k -> toInt64(1), keys)) AS histograms,  -- the ones keep bounds whose buckets are all empty
    arrayFilter(k -> k != {_ABOVE_ALL}, histograms.1) AS latency_bounds_ms,
    if(countIf(notEmpty(ttft)) = 0, [], histograms.2) AS ttft_counts,
    if(countIf(notEmpty(latency)) = 0, [], histograms.3) AS latency_counts
FROM
(
    SELECT
        {_DIMENSIONS}, start, {newest},
        newest.{at + 1} AS bounds,
        newest.{at + 2} AS ttft,
        newest.{at + 3} AS latency,
        if(empty(ttft) AND empty(latency), [], arrayPushBack(bounds, toInt32({_ABOVE_ALL}))) AS keys
    FROM
    (
        SELECT
            {_DIMENSIONS},
            toUnixTimestamp(toDateTime(ts, 'UTC')) AS at,
            toDateTime(intDiv(at, {table.window_s}) * {table.window_s}, 'UTC') AS start,
            argMax(({held}, latency_bounds_ms, ttft_counts, latency_counts), (revision, run_id, seq)) AS newest
        FROM gpufleet.tenant_usage FINAL
        WHERE ts >= {instant64(window.start)} AND ts < {instant64(window.end)} AND flaws = 0
            AND window_s <= {table.window_s}
        GROUP BY {_DIMENSIONS}, producer_id, ts, window_s
    )
)
GROUP BY {_DIMENSIONS}, start"""
