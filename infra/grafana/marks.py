"""What happened, drawn on the time axis: limit raises, hand-overs, maintenance, XIDs. Each only within the range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard as dashboard_

from infra.grafana.colours import BAD, NEUTRAL, QUIET
from infra.grafana.query import only
from infra.grafana.target import ClickHouseQuery, Target, source


@dataclass(frozen=True, slots=True)
class Annotation:
    """Columns of the query: time, timeEnd where it lasts, title, text, tags."""

    name: str
    colour: str
    sql: str

    def build(self, uid: str) -> dashboard_.AnnotationQuery:
        query = dashboard_.AnnotationQuery().name(self.name).datasource(source(uid)).enable(True).hide(False)
        return query.icon_color(self.colour).target(Target(ClickHouseQuery(self.sql, "table", uid, "Anno")))


LIMIT_RAISES: Final = Annotation(
    "Limit raises",
    "green",
    """SELECT
    valid_from AS time,
    'Limit raised' AS title,
    concat(limit_name,
        transform(window_s, [0, 60, 18000, 604800], ['', ' per minute', ' per 5 hours', ' per week'],
            concat(' per ', toString(window_s), ' s')),
        arrayStringConcat(arrayMap(w -> concat(', ', w), arrayFilter(w -> w != '', [product, model, tier]))),
        ': ', toString(ifNull(previous_value, 0)), ' -> ', toString(limit_value),
        if(reason = '', '', concat(' (', reason, ')'))) AS text,
    'limit' AS tags
FROM gpufleet.tenant_limits FINAL
WHERE valid_from >= $__fromTime AND valid_from <= $__toTime AND action = 'raised' AND flaws = 0
ORDER BY time LIMIT 200""",
)


def hand_overs(scope: str = "1") -> Annotation:
    """Leases that begin or end in the range: when capacity changed hands."""
    return Annotation(
        "Hand-overs",
        NEUTRAL,
        f"""SELECT
    if(begins, valid_from, valid_to) AS time,
    if(begins, 'Capacity handed over', 'Lease ended') AS title,
    concat(lease_id, ': ', toString(length(nodes)), ' nodes, ', tenant) AS text,
    'hand-over' AS tags
FROM gpufleet.lease_current
ARRAY JOIN [true, false] AS begins
WHERE time >= $__fromTime AND time <= $__toTime AND notEmpty(nodes) AND {scope}
ORDER BY time LIMIT 200""",
    )


def maintenance(scope: str) -> Annotation:
    """Maintenance of nodes, one mark for those of a rack that began in the same minute."""
    return Annotation(
        "Maintenance",
        QUIET,
        f"""SELECT
    toStartOfMinute(ts) AS time,
    if(event = 'maintenance_begin', 'Maintenance begins', 'Maintenance ends') AS title,
    concat(rack, ': ', arrayStringConcat(arraySlice(arraySort(groupUniqArray(node_id)), 1, 5), ', '),
        if(uniqExact(node_id) > 5, concat(' and ', toString(uniqExact(node_id) - 5), ' more'), '')) AS text,
    'maintenance' AS tags
FROM gpufleet.node_events FINAL
WHERE ts >= $__fromTime AND ts <= $__toTime AND event IN ('maintenance_begin', 'maintenance_end') AND flaws = 0
    AND {scope}
GROUP BY time, title, rack
ORDER BY time LIMIT 200""",
    )


def xids(scope: str) -> Annotation:
    """XIDs that ask for more than restarting an application, of one rack or node."""
    return Annotation(
        "XIDs",
        BAD,
        f"""SELECT
    ts AS time,
    concat('XID ', toString(code), ' on ', node_id,
        if(isNull(gpu_index), '', concat(' GPU ', toString(gpu_index)))) AS title,
    concat(action, if(meaning = '', '', concat(': ', meaning))) AS text,
    'xid' AS tags
FROM gpufleet.xids
WHERE ts >= $__fromTime AND ts <= $__toTime AND action NOT IN ('none', 'ignore', 'ignore_unless_alone') AND {scope}
ORDER BY time LIMIT 200""",
    )


MAINTENANCE: Final = maintenance(only("site"))
HAND_OVERS: Final = hand_overs(only("site"))
