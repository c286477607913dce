"""Health: what is broken, whose it is, what to do about it."""

from __future__ import annotations

from typing import Final

from infra.grafana import colours, links, marks, thresholds, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards import common
from infra.grafana.boards.ids import Fleet, Health, Power
from infra.grafana.boards.operator import jobs, versions
from infra.grafana.panels import HIDDEN, Column, Panel, stat, table, timeseries
from infra.grafana.query import FLEET, heard, known, newest_sick, only
from infra.grafana.target import OPERATOR

SCOPE: Final = f"{only('site')} AND {only('gpu_model')} AND {only('tenant')}"
_SITE_AND_TENANT: Final = f"{only('site')} AND {only('tenant')}"
_QUIET: Final = "reason NOT IN ('silent', 'opted_out', 'slowdown', 'temp_high', 'straggler', 'clock_offset')"
_IN_RANGE: Final = f"ts >= $__fromTime AND ts <= $__toTime AND {_SITE_AND_TENANT}"
_OWNER: Final = """multiIf(
        action = 'restart_app', 'customer: its application',
        action IN ('ignore', 'none'), 'nobody',
        action = 'ignore_unless_alone', 'nobody, unless alone',
        action IN ('unclassified', 'contact_support'), 'operator, with NVIDIA',
        'operator')"""


def board() -> Board:
    return Board(
        uid=Health.UID,
        title="Health",
        description="Everything that is wrong with GPUs, nodes, links and jobs; whose it is and what to do.",
        datasource=OPERATOR,
        variables=(variables.SITE, variables.MODEL, variables.TENANT),
        annotations=(marks.MAINTENANCE, marks.HAND_OVERS),
        links=(links.board("Fleet", Fleet.UID, {"site": links.variable("site")}),),
        time_from="now-6h",
        rows=(
            Row("", _now()),
            Row("What is wrong", (_over_time(), _sick())),
            Row("XIDs", (_by_action(), _by_owner(), _xids())),
            Row("Memory, links, clocks", (_memory(), _links(), _throttling(), _clocks())),
            Row("Jobs and silence", (jobs.suspicious(Health.JOBS, _SITE_AND_TENANT), _silent())),
            Row("Versions and swaps", (versions.skew(Health.VERSION_SKEW), versions.swaps(Health.GPU_SWAPS))),
        ),
    )


def _count(id_: int, title: str, expression: str, *, means: str, do: str, to: int | None = None) -> Panel:
    """A figure over the newest minute's sick GPUs in service."""
    sql = f"""SELECT {known(expression)} AS "{title}"
FROM gpufleet.sick_1m FINAL
WHERE {newest_sick(SCOPE)} AND in_service"""
    target = (links.board(title, Health.UID, {"site": links.variable("site")}, to),) if to else ()
    return stat(
        id_,
        title,
        sql,
        means=means,
        do=do,
        unit=units.WHOLE,
        width=3,
        steps=thresholds.ANY_IS_NOTICE,
        links=target,
    )


def _now() -> tuple[Panel, ...]:
    return (
        _count(
            Health.OPEN_FAULTS,
            "Open causes",
            f"uniqExactIf((site, origin_node, reason), {_QUIET})",
            means="Different faults open in the newest minute, each counted once at the node where it began, however "
            "many GPUs it reaches.",
            do="One line of work each: Sick GPUs names node, action and since when.",
            to=Health.SICK_GPUS,
        ),
        stat(
            Health.XIDS,
            "XIDs to act on",
            f"""SELECT {heard("count()", SCOPE)} AS "XIDs"
FROM gpufleet.xids
WHERE {_IN_RANGE} AND action NOT IN ('none', 'ignore', 'ignore_unless_alone')""",
            unit=units.WHOLE,
            width=3,
            steps=thresholds.ANY_IS_NOTICE,
            means="XIDs of the range that ask for something, as the driver or NVIDIA's catalogue says. Like ones "
            "within 5 s are one.",
            do="By owner, below: those of applications belong to the customer; the rest is yours.",
        ),
        _count(
            Health.SLOWED,
            "Slowed down",
            "uniqExactIf((site, node_id, gpu_index), reason IN ('slowdown', 'temp_high'))",
            means="GPUs that heat, hardware or a power brake held back in the newest minute, or that are above 93 C. A "
            "software power cap alone is normal and does not count.",
            do="Many at once under one CDU or feed: Power and cooling. One: its node.",
        ),
        _count(
            Health.SILENT_NODES,
            "Silent nodes",
            "uniqExactIf((site, node_id), reason = 'silent')",
            means="Nodes with GPUs of which nothing came in the newest minute and nobody knows why.",
            do="The table Silent nodes says since when, in which rack and on which feed.",
            to=Health.SILENT,
        ),
        jobs.hung_now(Health.HUNG_JOBS, _SITE_AND_TENANT),
        jobs.stragglers_now(Health.STRAGGLERS, _SITE_AND_TENANT),
        common.completeness(Health.COMPLETENESS, SCOPE, width=6),
    )


def _over_time() -> Panel:
    return common.sick_over_time(
        Health.SICK_OVER_TIME,
        "GPUs with something wrong, by reason",
        "in_service AND reason != 'opted_out'",
        SCOPE,
        width=24,
        means="Different GPUs in service per reason and point; a GPU with two reasons counts under both.",
        do="A step of many GPUs at one time is one cause: look at what they share (feed, CDU, rack, job, driver).",
    )


def _sick() -> Panel:
    return common.sick_gpus(Health.SICK_GPUS, SCOPE, height=10, limit=500)


def _by_action() -> Panel:
    sql = f"""SELECT $__timeInterval(ts) AS time, toString(action) AS series, count() AS "Value"
FROM gpufleet.xids
WHERE {_IN_RANGE}
GROUP BY time, series
ORDER BY time, series"""
    return timeseries(
        Health.XIDS_BY_ACTION,
        "XIDs by the action asked for",
        sql,
        unit=units.WHOLE,
        bars=True,
        stack=True,
        interval="5m",
        means="XIDs per action: the driver's own verdict where it gave one, else NVIDIA's catalogue; a code that is "
        "not listed is unclassified, never ignored.",
        do="reset_gpu and reboot_node: drain first. restart_app: tell the customer. unclassified: read the line.",
    )


def _by_owner() -> Panel:
    sql = f"""SELECT {_OWNER} AS owner, action, action_from, code, any(meaning) AS meaning_,
    count() AS times, uniqExact(site, node_id, gpu_index) AS gpus, uniqExact(site, node_id) AS nodes, max(ts) AS last
FROM gpufleet.xids
WHERE {_IN_RANGE}
GROUP BY owner, action, action_from, code
ORDER BY owner LIKE 'nobody%', times DESC LIMIT 100"""
    return table(
        Health.XIDS_BY_OWNER,
        "XIDs by owner and action",
        sql,
        {
            "owner": Column("Owner", colours={"operator": colours.BAD, "operator, with NVIDIA": colours.BAD}),
            "action": Column("Action"),
            "action_from": Column("Says", width=80),
            "code": Column("XID", width=60),
            "meaning_": Column("Meaning"),
            "times": Column("Times", width=70),
            "gpus": Column("GPUs", width=70),
            "nodes": Column("Nodes", width=70),
            "last": Column("Last", units.TIME, width=170),
        },
        width=12,
        none="no XID in the range",
        means="XIDs of the range by who has to act. Says: driver (its own verdict), table (NVIDIA's catalogue), "
        "nobody.",
        do="Start with the operator's rows; 90 % of a code on a handful of GPUs means those GPUs are bad.",
    )


def _xids() -> Panel:
    sql = f"""SELECT ts, site, node_id, gpu_index AS gpu, rack, tenant, code, action, meaning, occurrences, raw
FROM gpufleet.xids
WHERE {_IN_RANGE}
ORDER BY ts DESC LIMIT 200"""
    return table(
        Health.XID_LIST,
        "XIDs",
        sql,
        {
            "ts": Column("Time", units.TIME, width=180),
            "site": HIDDEN,
            "node_id": Column("Node", links=(links.to_node(),)),
            "gpu": Column("GPU", width=60, links=(links.to_gpu(),)),
            "rack": Column("Rack", links=(links.to_rack(),)),
            "tenant": Column("Customer"),
            "code": Column("XID", width=60),
            "action": Column("Action"),
            "meaning": Column("Meaning"),
            "occurrences": Column("Times", width=60),
            "raw": Column("The kernel's line"),
        },
        none="no XID in the range",
        means="The newest 200 XIDs of the range with the kernel's own line.",
        do="The line names PCI address, process and unit: quote it in the ticket.",
    )


def _facts(events: str) -> str:
    return f"""SELECT $__timeInterval(ts) AS time,
    if(isNull(code), toString(event), concat('XID ', toString(code))) AS series,
    count() AS "Value"
FROM gpufleet.gpu_alarms
WHERE {_IN_RANGE} AND ({events})
GROUP BY time, series
ORDER BY time, series"""


def _memory() -> Panel:
    return timeseries(
        Health.ECC_AND_REMAPS,
        "ECC errors and remaps",
        _facts(
            "event IN ('ecc_dbe', 'row_remap') OR event = 'xid' AND code IN (48, 63, 64, 92, 94, 95, 140, 171, 172)"
        ),
        unit=units.WHOLE,
        bars=True,
        stack=True,
        interval="5m",
        means="Uncorrected ECC errors, row remaps and the XIDs that go with them, as they happened.",
        do="A pending remap needs a reset when the GPU is free; a failed one (XID 64) or a passed SRAM threshold a "
        "new GPU.",
    )


def _links() -> Panel:
    return common.sick_over_time(
        Health.LINKS,
        "Links: down, inactive, downtrained",
        _LINK_REASONS,
        SCOPE,
        means="GPUs behind a link that is down, with inactive NVLinks, an NVLink or NVSwitch fault, or PCIe below "
        "its best generation or width.",
        do="PCIe: reseat or replace. NVLink on one GPU: the GPU; on a whole domain: the switch tray.",
    )


_LINK_REASONS: Final = """(reason IN ('link_down', 'nvlink_inactive', 'pcie_downtrained', 'xid_74')
        OR reason LIKE 'sxid%'
        OR reason IN ('xid_144', 'xid_145', 'xid_146', 'xid_147', 'xid_148', 'xid_149', 'xid_150'))"""


def _throttling() -> Panel:
    return common.throttling(Health.THROTTLING, FLEET, SCOPE)


def _clocks() -> Panel:
    return common.sick_over_time(
        Health.CLOCKS,
        "Clocks off, and slow ones",
        "reason IN ('clock_offset', 'straggler')",
        SCOPE,
        count="if(any(reason) = 'clock_offset', uniqExact(site, node_id), uniqExact(site, node_id, gpu_index))",
        means="Nodes whose clock is more than 0.5 s off or not synchronised, and GPUs that are stragglers of their "
        "job.",
        do="Clock: chrony and its servers. Straggler: drain the GPU, then see why its clock is held down.",
    )


def _silent() -> Panel:
    sql = f"""SELECT site, node_id, any(rack) AS rack_, any(feed) AS feed_, any(cdu) AS cdu_, any(tenant) AS tenant_,
    uniqExact(gpu_index) AS gpus, min(since) AS since_,
    dateDiff('second', min(since), $__toTime) AS silent_s
FROM gpufleet.sick_1m FINAL
WHERE {newest_sick(SCOPE)} AND in_service AND reason = 'silent'
GROUP BY site, node_id
ORDER BY since_, node_id LIMIT 200"""
    return table(
        Health.SILENT,
        "Silent nodes",
        sql,
        {
            "site": HIDDEN,
            "node_id": Column("Node", links=(links.to_node(),)),
            "rack_": Column("Rack", links=(links.to_rack(links.field("rack_")),)),
            "feed_": Column("Feed", links=(links.board("Power and cooling", Power.UID, links.SITE),)),
            "cdu_": Column("CDU"),
            "tenant_": Column("Customer"),
            "gpus": Column("GPUs", width=60),
            "since_": Column("Since", units.TIME, width=170),
            "silent_s": Column("For", units.SECONDS, 0, 90),
        },
        width=12,
        none="no silent node known",
        means="Nodes of which nothing came in the newest minute, the longest silence first. The list starts from the "
        "inventory: a node that never sent anything is on it, too.",
        do="Same rack or feed: one cause, start there. Single: is the host up, is the agent running.",
    )
