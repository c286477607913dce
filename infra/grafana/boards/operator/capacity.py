"""Capacity and leases: who holds what, what is free, what the leases got."""

from __future__ import annotations

from typing import Final

from infra.grafana import colours, links, marks, thresholds, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards import common
from infra.grafana.boards.ids import Capacity, Fleet
from infra.grafana.panels import HIDDEN, Column, Panel, bargauge, stat, table, timeseries
from infra.grafana.query import HEALTH, held_by, only, recent, share
from infra.grafana.target import OPERATOR

SCOPE: Final = f"{only('site')} AND {only('gpu_model')} AND {only('tenant')}"
_NOW: Final = recent("health_1m", where=SCOPE)
_HERE: Final = f"FROM gpufleet.health_1m FINAL\nWHERE {_NOW} AND {SCOPE}"
_HOLDER: Final = "if(tenant = '', 'free', toString(tenant))"


def board() -> Board:
    return Board(
        uid=Capacity.UID,
        title="Capacity and leases",
        description="What is leased to whom, what is free, what each lease was promised and got.",
        datasource=OPERATOR,
        variables=(variables.SITE, variables.MODEL, variables.TENANT),
        annotations=(marks.HAND_OVERS, marks.MAINTENANCE),
        links=(links.board("Fleet", Fleet.UID, {"site": links.variable("site")}),),
        time_from="now-24h",
        rows=(
            Row("", _now()),
            Row("Who holds what", (_by_tenant(), _by_model(), _free_by_model())),
            Row("Leases", (_leases(), _delivery(), _hand_overs(), _overlaps())),
            Row("Not capacity now", (_not_in_service(),)),
        ),
    )


def _now() -> tuple[Panel, ...]:
    return (
        stat(
            Capacity.LEASED,
            "Leased GPUs",
            f"SELECT sumIf(gpus, tenant != '') AS \"Leased\"\n{_HERE}\nHAVING count() > 0",
            unit=units.WHOLE,
            means="GPUs on leased nodes in the newest minute, healthy or not.",
            do="Compare with the contracts below: Leases.",
        ),
        stat(
            Capacity.FREE,
            "Free and healthy",
            f"SELECT sumIf(gpus_healthy, tenant = '') AS \"Free\"\n{_HERE}\nHAVING count() > 0",
            unit=units.WHOLE,
            means="GPUs that could be leased this minute: in service, healthy, nobody's.",
            do="Customers are short of capacity: a free healthy GPU is money lost by the hour.",
        ),
        stat(
            Capacity.DELIVERED_SHARE,
            "Delivered of leased",
            f"""SELECT {share("sum(healthy_s)", _LEASED_S)} AS "Delivered"
FROM {HEALTH.rows(_CLASSES, f"tenant != '' AND {SCOPE}")}""",
            unit=units.RATIO,
            decimals=2,
            steps=thresholds.DELIVERED_SHARE,
            means="Leased GPU-seconds that were healthy, over the range; what tenants opted out of is left aside. "
            "Unknown counts as not delivered.",
            do="Below target: Delivery names the lease and whether it was faults, silence or maintenance.",
        ),
        stat(
            Capacity.BELOW_TARGET,
            "Leases below target",
            f"""SELECT if(count() = 0, NULL, countIf(delivered < sla_target)) AS "Below"
FROM
(
    SELECT site, lease_id, {share("sum(healthy_s)", _LEASED_S)} AS delivered
    FROM {HEALTH.rows(f"site, lease_id, {_CLASSES}", f"tenant != '' AND {SCOPE}")}
    GROUP BY site, lease_id
) AS d
INNER JOIN gpufleet.lease_current AS l ON l.site = d.site AND l.lease_id = d.lease_id""",
            unit=units.WHOLE,
            steps=thresholds.ANY_IS_BAD,
            means="Leases whose delivered share over the range is below what was promised.",
            do="Each is a credit owed if it stays so to the end of its month.",
        ),
        stat(
            Capacity.USED_SHARE,
            "Used of delivered",
            f"""SELECT {share("sum(used_s)", "sum(healthy_s)")} AS "Used"
FROM {HEALTH.rows("used_s, healthy_s", f"tenant != '' AND {SCOPE}")}""",
            unit=units.RATIO,
            decimals=0,
            means="Healthy leased GPU-seconds in which the engine was busy (at least 5 %).",
            do="Low for a customer that asks for more: its scheduler, not your capacity, is the bottleneck.",
        ),
        common.completeness(Capacity.COMPLETENESS, SCOPE),
    )


_CLASSES: Final = "healthy_s, unhealthy_s, unknown_s, opted_out_s, not_in_service_s"
_LEASED_S: Final = "sum(healthy_s + unhealthy_s + unknown_s + not_in_service_s)"


def _gpus_by(id_: int, title: str, name: str, column: str, *, means: str, do: str, width: int = 12) -> Panel:
    whole = "healthy_s + unhealthy_s + unknown_s + opted_out_s + not_in_service_s"
    sql = HEALTH.by_series(f"""SELECT {HEALTH.time}, {name} AS series, sum({whole}) / {HEALTH.covered_s} AS "Value"
FROM {HEALTH.rows(f"{column}, {_CLASSES}", SCOPE)}
GROUP BY time, series""")
    return timeseries(
        id_,
        title,
        sql,
        means=means,
        do=do,
        unit=units.COUNT,
        width=width,
        stack=True,
        colours={"free": colours.QUIET, **colours.MODELS},
    )


def _by_tenant() -> Panel:
    return _gpus_by(
        Capacity.BY_TENANT,
        "GPUs by customer",
        _HOLDER,
        "tenant",
        means="All GPUs of the inventory by who leases them, mean over each point; free = nobody. Steps are "
        "hand-overs.",
        do="A step without an annotation: a lease was corrected; see Hand-overs and changes.",
    )


def _by_model() -> Panel:
    return _gpus_by(
        Capacity.BY_MODEL,
        "Leased GPUs by model",
        "if(tenant = '', 'free', toString(gpu_model))",
        "tenant, gpu_model",
        means="GPUs by model where leased, and the free ones, mean over each point.",
        do="Free ones of a model that customers wait for: lease them.",
    )


def _free_by_model() -> Panel:
    sql = f"""SELECT gpu_model, sumIf(gpus_healthy, tenant = '') AS "Free and healthy"
{_HERE}
GROUP BY gpu_model
ORDER BY gpu_model"""
    return bargauge(
        Capacity.FREE_BY_MODEL,
        "Free and healthy, by model",
        sql,
        unit=units.WHOLE,
        width=24,
        height=4,
        means="GPUs that could be leased this minute, per model.",
        do="What can be offered today.",
    )


def _leases() -> Panel:
    sql = f"""SELECT lease_id, tenant, lease_kind, length(nodes) AS nodes_, h.gpus AS gpus, h.healthy AS healthy,
    valid_from, if(valid_to > toDateTime64('2200-01-01 00:00:00', 6, 'UTC'), NULL, valid_to) AS ends,
    price_per_gpu_hour AS price, currency, sla_target, if(operator_reads_usage, 'yes', 'no') AS reads
FROM gpufleet.lease_current AS l
LEFT JOIN
(
    SELECT lease_id, sum(gpus) AS gpus, sum(gpus_healthy) AS healthy
    {_HERE}
    GROUP BY lease_id
) AS h ON h.lease_id = l.lease_id
WHERE l.valid_from <= $__toTime AND l.valid_to > $__toTime AND notEmpty(l.nodes)
    AND {only("site", "l.site")} AND {only("tenant", "l.tenant")}
ORDER BY tenant, lease_id LIMIT 200"""
    return table(
        Capacity.LEASES,
        "Leases in force",
        sql,
        {
            "lease_id": Column("Lease"),
            "tenant": Column("Customer"),
            "lease_kind": Column("Kind", width=90),
            "nodes_": Column("Nodes", width=70),
            "gpus": Column("GPUs", width=70),
            "healthy": Column("Healthy", width=80),
            "valid_from": Column("From", units.TIME, width=170),
            "ends": Column("To", units.TIME, width=170),
            "price": Column("A GPU-hour", decimals=2, width=100),
            "currency": Column("", width=60),
            "sla_target": Column("Promised", units.RATIO, 2, 90),
            "reads": Column("You may read its usage", width=170),
        },
        none="no lease in force",
        means="Leases that hold at the end of the range, as their newest revision has them; no end = open.",
        do="Usage of a customer is readable only where its lease says so; elsewhere the store refuses.",
    )


def _delivery() -> Panel:
    sql = f"""SELECT d.lease_id AS lease_id, d.tenant AS tenant, d.gpu_model AS gpu_model,
    d.leased / 3600 AS leased, d.healthy / 3600 AS delivered, d.used / 3600 AS used, d.unhealthy / 3600 AS unhealthy,
    d.unknown / 3600 AS unknown, d.away / 3600 AS away, d.opted / 3600 AS opted,
    {share("d.healthy", "(d.leased - d.opted)")} AS delivered_share, l.sla_target AS promised,
    delivered_share - promised AS distance
FROM
(
    SELECT site, lease_id, tenant, gpu_model,
        sum(healthy_s + unhealthy_s + unknown_s + opted_out_s + not_in_service_s) AS leased,
        sum(healthy_s) AS healthy, sum(used_s) AS used, sum(unhealthy_s) AS unhealthy, sum(unknown_s) AS unknown,
        sum(not_in_service_s) AS away, sum(opted_out_s) AS opted
    FROM {HEALTH.rows(f"site, lease_id, tenant, gpu_model, used_s, {_CLASSES}", f"tenant != '' AND {SCOPE}")}
    GROUP BY site, lease_id, tenant, gpu_model
) AS d
LEFT JOIN gpufleet.lease_current AS l ON l.site = d.site AND l.lease_id = d.lease_id
ORDER BY distance, lease_id LIMIT 200"""
    return table(
        Capacity.DELIVERY,
        "What the leases got, in GPU-hours of the range",
        sql,
        common.delivery_columns(),
        means="Per lease and model: leased GPU-hours of the range and what became of them; the furthest below its "
        "promise first. Delivered share = delivered / (leased - opted out).",
        do="Unhealthy: Health. Unknown: find the data or the nodes. Not in service: was that maintenance announced?",
    )


def _hand_overs() -> Panel:
    sql = f"""SELECT ts, lease_id, revision, action, tenant, length(nodes) AS nodes_, valid_from, valid_to, reason
FROM gpufleet.leases FINAL
WHERE flaws = 0 AND ts <= $__toTime AND (ts >= $__fromTime OR valid_from BETWEEN $__fromTime AND $__toTime)
    AND {only("site")} AND {only("tenant")}
ORDER BY ts DESC LIMIT 100"""
    return table(
        Capacity.HAND_OVERS,
        "Hand-overs and changes",
        sql,
        {
            "ts": Column("Said", units.TIME, width=170),
            "lease_id": Column("Lease"),
            "revision": Column("Revision", width=80),
            "action": Column("Action", width=90),
            "tenant": Column("Customer"),
            "nodes_": Column("Nodes", width=70),
            "valid_from": Column("From", units.TIME, width=170),
            "valid_to": Column("To", units.TIME, width=170),
            "reason": Column("Why"),
        },
        width=14,
        none="nothing changed hands in the range",
        means="Every word about a lease that was said, or took effect, in the range.",
        do="corrected: windows of the past were computed again; the customer's figures changed with yours.",
    )


def _overlaps() -> Panel:
    sql = f"""SELECT holds, holds_tenant, yields, yields_tenant, count() AS nodes, min(overlap_from) AS from_,
    max(overlap_to) AS to_
FROM gpufleet.lease_overlaps
WHERE overlap_from <= $__toTime AND overlap_to >= $__fromTime AND {only("site")}
GROUP BY holds, holds_tenant, yields, yields_tenant
ORDER BY from_ DESC LIMIT 50"""
    return table(
        Capacity.OVERLAPS,
        "Nodes leased twice",
        sql,
        {
            "holds": Column("Holds"),
            "holds_tenant": Column("Customer"),
            "yields": Column("Yields"),
            "yields_tenant": Column("Customer"),
            "nodes": Column("Nodes", width=70),
            "from_": Column("From", units.TIME, width=170),
            "to_": Column("To", units.TIME, width=170),
        },
        width=10,
        none="no node is leased twice",
        means="Leases that claim the same node at the same time: a mistake. The one that started later holds "
        "meanwhile.",
        do="Correct one of them (gpufleet lease correct); windows and bills follow.",
    )


def _not_in_service() -> Panel:
    # As the view gpu_lifecycle has it, which would go through the history of every node of the fleet.
    nodes = f"""node_id IN
        (
            SELECT node_id FROM gpufleet.node_place FINAL
            WHERE (site, rack) IN (SELECT site, rack {_HERE} AND gpus_not_in_service > 0)
        )"""
    sql = f"""SELECT site, node_id, any(rack) AS rack_, any(gpu_model) AS model_, any(tenant) AS tenant_, state,
    count() AS gpus, min(heard[-1].1) AS since
FROM
(
    SELECT p.site AS site, p.node_id AS node_id, rack, gpu_model, tenant, arrayJoin(gpu_index) AS gpu,
        arraySort(arrayFilter(w -> w.3 IN (-1, gpu), words)) AS heard,
        -- An end of maintenance brings back the last state before it; one never told of counts as accepted.
        if(heard[-1].4 != '', heard[-1].4, coalesce(
            nullIf(arrayLast(w -> w.4 NOT IN ('', 'maintenance'), heard).4, ''), 'accepted')) AS state
    FROM
    (
        SELECT site, node_id, rack, gpu_model, {held_by("site", "node_id")} AS tenant, gpu_index
        FROM gpufleet.node_place FINAL
        WHERE {nodes}
    ) AS p
    INNER JOIN
    (
        SELECT site, node_id, groupArray((ts, rank, gpu, state)) AS words
        FROM
        (
            SELECT site, node_id, ts, 1 AS rank, -1 AS gpu, state
            FROM
            (
                SELECT site, node_id, minute AS ts, state, lagInFrame(state, 1, '') OVER (
                    PARTITION BY site, node_id ORDER BY minute
                    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS before
                FROM
                (
                    -- The inventory's word of a minute is the last one in it; a restatement is none.
                    SELECT site, node_id, toDateTime64(toStartOfMinute(i.ts), 6, 'UTC') AS minute,
                        argMax(toString(i.lifecycle), (i.ts, i.run_id, i.seq)) AS state
                    FROM gpufleet.inventory AS i
                    WHERE flaws = 0 AND ts <= $__toTime AND {nodes}
                    GROUP BY site, node_id, minute
                )
            )
            WHERE state != before
            UNION ALL
            SELECT site, node_id, ts, 2 AS rank, ifNull(gpu_index, -1) AS gpu, multiIf(
                event = 'maintenance_begin', 'maintenance', event = 'maintenance_end', '', toString(value)) AS state
            FROM gpufleet.node_events
            WHERE flaws = 0 AND event IN ('lifecycle', 'maintenance_begin', 'maintenance_end') AND ts <= $__toTime
                AND {nodes}
        )
        GROUP BY site, node_id
    ) AS w ON w.site = p.site AND w.node_id = p.node_id
)
WHERE state NOT IN ('accepted', 'leased', 'draining')
GROUP BY site, node_id, state
ORDER BY since DESC LIMIT 200"""
    return table(
        Capacity.NOT_IN_SERVICE,
        "Nodes not in service",
        sql,
        {
            "site": HIDDEN,
            "node_id": Column("Node", links=(links.to_node(),)),
            "rack_": Column("Rack", links=(links.to_rack(links.field("rack_")),)),
            "model_": Column("Model", width=80),
            "tenant_": Column("Customer"),
            "state": Column("State", width=120),
            "gpus": Column("GPUs", width=70),
            "since": Column("Since", units.TIME, width=170),
        },
        none="no such node known",
        means="Nodes with GPUs that do not count as capacity at the end of the range: racked, burn-in, maintenance, "
        "RMA.",
        do="The longest in maintenance first: what does it wait for?",
    )
