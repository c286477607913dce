"""Limits in force at the end of the range, and how much of each is taken: the SQL behind Usage and caps.

The same definition as the view tenant_headroom, at any time: a limit counts what was used in the window that ends with
the newest minute of which usage is known.
"""

from __future__ import annotations

from typing import Final

from infra.grafana.query import only

MINUTE: Final = """(SELECT if(max(ts) = 0, toStartOfMinute($__toTime), max(ts) + 60) FROM gpufleet.usage_1m
        WHERE ts > $__toTime - 900 AND ts <= $__toTime - 60)"""
"""End of the newest minute with usage; the range's last minute where there is none."""
_WEEK_S: Final = 604800
_SHORT_S: Final = 18000
"""Windows up to 5 hours are counted in minutes, longer ones in hours with minutes at both ends. [s]"""
_RATE_S: Final = 600
"""The rate "now" is that of the last ten minutes. [s]"""
_LONG_FROM: Final = f"(edge - {_WEEK_S})"

IN_FORCE: Final = f"""(
    SELECT site, limit_name, window_s, product, model, tier, latest.1 AS limit_value, latest.2 AS since
    FROM
    (
        SELECT site, limit_name, window_s, product, model, tier,
            argMax((l.limit_value, l.valid_from, l.action), (l.valid_from, l.ts, l.run_id, l.seq)) AS latest
        FROM gpufleet.tenant_limits AS l
        WHERE flaws = 0 AND l.valid_from <= $__toTime AND tenant != '' AND {only("site")}
        GROUP BY site, limit_name, window_s, product, model, tier
    )
    WHERE latest.3 != 'removed'
)"""
"""site, limit_name, window_s, product, model, tier, limit_value, since."""

_COUNTED: Final = "l.limit_name IN ('requests', 'messages', 'input_tokens', 'output_tokens')"
"""Limits of usage; the others are levels."""

_TAKEN: Final = f"""(
    -- Per dimensions, not per limit: a customer has a few of them and many rows. Each row is (its age at the edge,
    -- requests, input tokens, output tokens).
    WITH {MINUTE} AS edge
    SELECT site, product, model, tier, groupArrayIf(counted, short) AS fine, groupArrayIf(counted, long) AS coarse
    FROM
    (
        SELECT site, product, model, tier, ts >= edge - {_SHORT_S} AS short,
            ts < toStartOfHour({_LONG_FROM}) + 3600 OR ts >= toStartOfHour(edge) AS long,
            (toUInt32(edge) - toUInt32(ts), requests, input_tokens, output_tokens) AS counted
        FROM gpufleet.usage_1m FINAL
        WHERE (ts >= edge - {_SHORT_S} OR ts < toStartOfHour({_LONG_FROM}) + 3600)
            AND ts >= {_LONG_FROM} AND ts < edge AND tenant != ''
        UNION ALL
        SELECT site, product, model, tier, false AS short, true AS long,
            (toUInt32(edge) - toUInt32(ts), requests, input_tokens, output_tokens) AS counted
        FROM gpufleet.usage_1h FINAL
        WHERE ts >= toStartOfHour({_LONG_FROM}) + 3600 AND ts < toStartOfHour(edge) AND tenant != ''
    )
    GROUP BY site, product, model, tier
)"""
_LEVELS: Final = f"""(
    -- What is taken of a limit that is a level: the newest minute of each site.
    SELECT site, argMax(m.leased, ts) AS gpus, argMax(m.watts, ts) AS power, count() AS minutes
    FROM
    (
        SELECT site, ts, toFloat64(sum(h.gpus)) AS leased, sum(h.energy_j) / 60 AS watts
        FROM gpufleet.health_1m AS h FINAL
        WHERE ts > $__toTime - 900 AND ts <= $__toTime - 60 AND tenant != '' AND {only("site")}
        GROUP BY site, ts
    ) AS m
    GROUP BY site
)"""
_MATCH: Final = """u.site = l.site AND (l.product = '' OR l.product = u.product)
        AND (l.model = '' OR l.model = u.model) AND (l.tier = '' OR l.tier = u.tier)"""


def _amount(window_s: str, rows: str) -> str:
    """What the rows of at most that age add up to, of what the limit counts."""
    kind = "multiIf(l.limit_name IN ('requests', 'messages'), x.2, l.limit_name = 'input_tokens', x.3, x.4)"
    return f"arraySum(x -> if(x.1 <= {window_s}, {kind}, 0), {rows})"


_USED: Final = _amount("l.window_s", f"if(l.window_s > {_SHORT_S}, u.coarse, u.fine)")
_RATE: Final = _amount(str(_RATE_S), "u.fine")
_LIMIT: Final = """l.site AS site, l.limit_name AS limit_name, l.window_s AS window_s,
        l.product AS product, l.model AS model, l.tier AS tier,
        any(l.limit_value) AS limit_, any(l.since) AS since"""

HEADROOM: Final = f"""(
    SELECT {_LIMIT},
        toFloat64(sum({_USED})) AS used,
        sum({_RATE}) / {_RATE_S} AS per_s
    FROM {IN_FORCE} AS l
    CROSS JOIN {_TAKEN} AS u
    WHERE {_COUNTED} AND {_MATCH}
    GROUP BY site, limit_name, window_s, product, model, tier
)"""
"""site, limit_name, window_s, product, model, tier, limit_, since, used, per_s: of limits of usage."""

HEADROOM_AND_LEVELS: Final = f"""(
    SELECT {_LIMIT},
        multiIf(
            {_COUNTED}, toFloat64(sumIf({_USED}, {_MATCH})),
            any(h.minutes) = 0, NULL,
            limit_name = 'gpu_quota', any(h.gpus),
            limit_name = 'power_cap', any(h.power),
            NULL) AS used,
        if({_COUNTED}, sumIf({_RATE}, {_MATCH}) / {_RATE_S}, NULL) AS per_s
    FROM {IN_FORCE} AS l
    LEFT JOIN {_TAKEN} AS u ON u.site = l.site
    LEFT JOIN {_LEVELS} AS h ON h.site = l.site
    GROUP BY site, limit_name, window_s, product, model, tier
    HAVING NOT ({_COUNTED}) OR countIf({_MATCH}) > 0
)"""
"""The same columns, of levels (GPUs, power) as well, which have no rate and no use where no minute is known."""

TIME_TO_CAP: Final = """multiIf(
        used >= limit_, 0,
        window_s <= 60 OR per_s * window_s <= limit_ OR per_s <= used / window_s, NULL,
        (limit_ - used) / (per_s - used / window_s))"""
"""Seconds until the window is full at the rate of the last ten minutes, while what leaves it behind is taken as even.
NULL: never at this rate."""

NAME: Final = """concat(toString(limit_name),
        transform(window_s, [0, 60, 18000, 604800], ['', ' a minute', ' in 5 hours', ' a week'],
            concat(' in ', toString(window_s), ' s')),
        arrayStringConcat(arrayMap(w -> concat(', ', w), arrayFilter(w -> w != '', [toString(product), toString(model),
        toString(tier)]))))"""
"""What people call the limit: 'messages in 5 hours, pro'."""
