"""SQL of who belongs to a minute: the nodes that the inventory expects, and the nodes of each job."""

from __future__ import annotations

from consumers.projector.windows import MINUTE_S, Range, instant64

_FOR_EVER = "toDateTime64('2299-01-01 00:00:00', 6, 'UTC')"
HELD = (
    "dictGetOrDefault('gpufleet.lease_by_node', ('tenant', 'lease_id'), (site, node_id), toDateTime64(ts, 6, 'UTC'),"
    " ('', ''))"
)
"""(tenant, lease) of a row's node at its minute ``ts``."""


def minutes_of(window: Range) -> str:
    """The minutes of a range as an array of DateTime."""
    starts = f"range(toUInt32({window.start}), toUInt32({window.end}), {MINUTE_S})"
    return f"arrayMap(m -> toDateTime(m, 'UTC'), {starts})"


def expected_nodes_sql(window: Range, only: str, *, settled: bool) -> str:
    """One row per minute and node of the inventory: its GPUs (arrays) and its place.

    ``settled``: no node changed its place after the range began, so that node_place knows all of it.
    """
    columns = ("gpu_model", "rack", "feed", "pdu", "cdu", "nvlink_domain")
    plain = ", ".join(f"toString({c}) AS {c}" for c in columns)
    if settled:
        source = f"gpufleet.node_place FINAL ARRAY JOIN {minutes_of(window)} AS ts WHERE ts >= since"
        since = "since"
    else:
        source = (
            f"gpufleet.node_history ARRAY JOIN {minutes_of(window)} AS ts"
            " WHERE asset_kind = 'node' AND ts >= valid_from AND ts < valid_until"
        )
        since = "valid_from AS since"
    return f"""SELECT site, node_id, ts, {since}, gpu_index AS gpus, gpu_uuid AS uuids, {plain}
        FROM {source}{only}"""


def job_nodes_sql(window: Range, jobs: str = "") -> str:
    """One row per minute, job and node: the job's GPUs there (bit mask). A job has a minute whose middle it runs in.

    ``jobs`` narrows by job_id.
    """
    newest = "tuple(ts, state = 'ended', run_id, seq)"
    ended = f"argMax(tuple(if(state = 'ended', ifNull(ended_at, ts), ended_at)), {newest}).1"
    running = f"""SELECT site, job_id FROM gpufleet.allocations
                WHERE flaws = 0 AND started_at < {instant64(window.end)}{jobs}
                GROUP BY site, job_id HAVING ifNull({ended}, {_FOR_EVER}) > {instant64(window.start)}"""
    return f"""SELECT site, job_id, latest.1 AS job_kind, latest.2 AS name, ts, node_id, mask
        FROM
        (
            SELECT
                site, job_id,
                argMax(tuple(toString(job_kind), name, started_at, nodes, gpu_mask), {newest}) AS latest,
                ifNull({ended}, {_FOR_EVER}) AS past
            FROM gpufleet.allocations
            WHERE flaws = 0 AND (site, job_id) IN
            (
                {running}
            )
            GROUP BY site, job_id
        )
        ARRAY JOIN
            latest.4 AS node_id,
            arrayResize(latest.5, length(latest.4), toInt64(0)) AS mask
        ARRAY JOIN {minutes_of(window)} AS ts
        WHERE ts >= subtractSeconds(latest.3, {MINUTE_S // 2}) AND ts < subtractSeconds(past, {MINUTE_S // 2})"""
