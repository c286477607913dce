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
_DIMENSIONS: Final = "site, ts, product, model, tier, requests, input_tokens, output_tokens"
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

_USAGE: Final = f"""(
    SELECT {_DIMENSIONS}, ts >= edge - {_SHORT_S} AS short,
        ts < toStartOfHour({_LONG_FROM}) + 3600 OR ts >= toStartOfHour(edge) AS long
    FROM gpufleet.usage_1m FINAL
    WHERE (ts >= edge - {_SHORT_S} OR ts < toStartOfHour({_LONG_FROM}) + 3600)
        AND ts >= {_LONG_FROM} AND ts < edge AND tenant != ''
    UNION ALL
    SELECT {_DIMENSIONS}, false AS short, true AS long
    FROM gpufleet.usage_1h FINAL
    WHERE ts >= toStartOfHour({_LONG_FROM}) + 3600 AND ts < toStartOfHour(edge) AND tenant != ''
)"""

_AMOUNT: Final = (
    "multiIf(l.limit_name IN ('requests', 'messages'), u.requests, "
    "l.limit_name = 'input_tokens', u.input_tokens, u.output_tokens)"
)

HEADROOM: Final = f"""(
    WITH {MINUTE} AS edge
    SELECT l.site AS site, l.limit_name AS limit_name, l.window_s AS window_s,
        l.product AS product, l.model AS model, l.tier AS tier,
        any(l.limit_value) AS limit_, any(l.since) AS since,
        toFloat64(sumIf({_AMOUNT}, if(l.window_s > {_SHORT_S}, u.long, u.short) AND u.ts >= edge - l.window_s)) AS used,
        sumIf({_AMOUNT}, u.short AND u.ts >= edge - {_RATE_S}) / {_RATE_S} AS per_s
    FROM {IN_FORCE} AS l
    CROSS JOIN {_USAGE} AS u
    WHERE l.limit_name IN ('requests', 'messages', 'input_tokens', 'output_tokens')
        AND u.site = l.site AND (l.product = '' OR l.product = u.product) AND (l.model = '' OR l.model = u.model)
        AND (l.tier = '' OR l.tier = u.tier)
    GROUP BY site, limit_name, window_s, product, model, tier
)"""
"""site, limit_name, window_s, product, model, tier, limit_, since, used, per_s: of limits of usage."""

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
