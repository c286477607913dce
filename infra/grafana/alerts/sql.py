"""Pieces of SQL that rules share. All look at the newest closed minute before ``$__toTime``, never at a clock.

Topology comes from health_1m, which starts from the inventory and has a row for every rack in every minute, silent or
not: what a rule asks about does not vanish with its data.
"""

from __future__ import annotations

LOOK_BACK_S = 1800
"""How long something that ended stays in an answer, with value 0."""

NEWEST = """newest AS
(
    -- The newest minute of each site that the projector has closed.
    SELECT site, max(ts) AS minute
    FROM gpufleet.health_1m
    WHERE ts > $__toTime - 900 AND ts <= $__toTime - 60
    GROUP BY site
)"""

PLACES = """places AS
(
    -- Every rack of the inventory in that minute, and what stands there.
    SELECT site, toString(rack) AS rack, any(toString(feed)) AS feed, any(toString(cdu)) AS cdu,
        sum(gpus_in_service) AS in_service, sum(gpus_unknown) AS silent
    FROM gpufleet.health_1m FINAL
    WHERE ts > $__toTime - 900 AND ts <= $__toTime - 60 AND (site, ts) IN (SELECT site, minute FROM newest)
    GROUP BY site, rack
)"""

TRIPPED = """tripped AS
(
    -- Feeds that tripped within the last ten minutes, and since when (at most three hours back).
    SELECT site, toString(asset_id) AS feed, min(ts) AS since
    FROM gpufleet.facility_1m FINAL
    WHERE ts > $__toTime - 10800 AND ts <= $__toTime - 60 AND asset_kind = 'feed' AND state = 'tripped'
    GROUP BY site, feed
    HAVING max(ts) > $__toTime - 660
)"""

BRAKED = """braked AS
(
    -- Racks that a tripped feed leaves with less power: its own, and those of the feed that carries them now.
    SELECT site, rack FROM places WHERE (site, feed) IN (SELECT site, feed FROM tripped)
    UNION DISTINCT
    SELECT site, rack FROM places
    WHERE (site, feed) IN
    (
        SELECT DISTINCT site, toString(parent_id)
        FROM gpufleet.facility_1m FINAL
        WHERE ts > $__toTime - 660 AND ts <= $__toTime - 60 AND asset_kind = 'pdu' AND (site, toString(rack)) IN
        (
            SELECT site, rack FROM places WHERE (site, feed) IN (SELECT site, feed FROM tripped)
        )
    )
)"""

SICK_CDUS = """loops AS
(
    -- Every coolant unit that served a rack or spoke lately: what it does now, against its own six hours.
    SELECT
        site, toString(asset_id) AS cdu,
        quantileIf(0.5)(flow_lpm_avg, ts <= $__toTime - 1260) AS usual_flow,
        argMaxIf(flow_lpm_min, ts, isNotNull(flow_lpm_min)) AS flow,
        argMaxIf(supply_temp_c_max, ts, isNotNull(supply_temp_c_max)) AS supply,
        argMax(toString(state), ts) AS state_now,
        argMaxIf(leak, ts, isNotNull(leak)) AS leaks,
        maxIf(ts, leak = 1 OR state = 'leak') AS leaked_at,
        maxIf(ts, state NOT IN ('ok', '', 'maintenance')) AS ill_at,
        maxIf(ts, supply_temp_c_max > 45) AS hot_at
    FROM gpufleet.facility_1m FINAL
    WHERE ts > $__toTime - 21600 AND ts <= $__toTime - 60 AND asset_kind = 'cdu'
    GROUP BY site, cdu
),
sick_loops AS
(
    -- Loops that were in trouble within the last twenty minutes: they explain heat.
    SELECT site, cdu FROM loops
    WHERE greatest(leaked_at, ill_at, hot_at) > $__toTime - 1260 OR usual_flow > 0 AND flow < 0.7 * usual_flow
)"""


def maintained(nodes: str) -> str:
    """Of ``nodes`` (a subquery of site and node_id) those whose maintenance has begun and not ended."""
    return f"""maintained AS
(
    SELECT site, node_id
    FROM gpufleet.node_events
    WHERE flaws = 0 AND event IN ('maintenance_begin', 'maintenance_end') AND ts > $__toTime - 2592000
        AND ts <= $__toTime AND (site, node_id) IN ({nodes})
    GROUP BY site, node_id
    HAVING argMax(event, ts) = 'maintenance_begin'
)"""


RECENT = f"ts > $__toTime - {LOOK_BACK_S} AND ts <= $__toTime - 60"


def with_(*pieces: str) -> str:
    """A WITH clause of these pieces, each once."""
    return "WITH\n" + ",\n".join(dict.fromkeys(pieces))


def answer(rows: str, labels: tuple[str, ...], *pieces: str) -> str:
    """A rule's query: ``rows`` gives the labels and ``value``; every site adds a row of its own with value 0.

    ``pieces`` are the named parts that ``rows`` uses; NEWEST is always among them.
    """
    asked = f"""{with_(NEWEST, *pieces)}
SELECT $__toTime AS time, {", ".join(labels)}, toFloat64(value) AS value
FROM
(
{rows}
)"""
    if labels == ("site",):  # the rows are the sites' own
        return asked
    own = ", ".join("toString(site) AS site" if label == "site" else f"'' AS {label}" for label in labels)
    return f"{asked}\nUNION ALL\nSELECT $__toTime AS time, {own}, toFloat64(0) AS value FROM newest"


def gpus_with(condition: str) -> str:
    """A subquery of (site, node_id, gpu_index) that were sick like that lately."""
    return f"SELECT site, node_id, gpu_index FROM gpufleet.sick_1m FINAL WHERE {RECENT} AND ({condition})"


def sick(condition: str, keys: dict[str, str], unless: tuple[str, ...] = ()) -> str:
    """Rows of sick_1m by ``keys`` (label -> expression over s); value = GPUs that are so in the newest minute.

    GPUs out of service (maintenance) do not count. ``unless``: conditions over s that explain it away.
    """
    columns = ", ".join(f"{expression} AS {label}" for label, expression in keys.items())
    explained = "".join(f"\n        AND NOT ({each})" for each in unless)
    return f"""    SELECT {columns}, uniqExactIf((s.node_id, s.gpu_index), s.ts = n.minute) AS value
    FROM gpufleet.sick_1m AS s FINAL
    INNER JOIN newest AS n ON n.site = s.site
    WHERE s.ts > $__toTime - {LOOK_BACK_S} AND s.ts <= $__toTime - 60 AND s.in_service AND ({condition}){explained}
    GROUP BY {", ".join(keys)}"""


SITE = "toString(s.site)"
RACK = "toString(s.rack)"
NODE = "toString(s.node_id)"
GPU = "toString(s.gpu_index)"
ORIGIN = "toString(if(s.origin_node = '', s.node_id, s.origin_node))"
IN_BRAKED = "(s.site, toString(s.rack)) IN (SELECT site, rack FROM braked)"
IN_SICK_LOOP = "(s.site, toString(s.cdu)) IN (SELECT site, cdu FROM sick_loops)"
IN_DARK = (
    "(s.site, toString(s.rack)) IN (SELECT site, rack FROM places WHERE in_service > 0 AND silent >= 0.8 * in_service)"
)
