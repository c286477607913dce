"""Nodes and racks that fall silent, clocks that run away, versions that differ."""

from __future__ import annotations

from infra.grafana.alerts.packs.gpu import AFTER_TRIP
from infra.grafana.alerts.packs.shapes import NODE_BOARD, RACK_BOARD, RACK_LABELS, SITE_BOARD, of_sick
from infra.grafana.alerts.rule import Owner, Rule, Severity
from infra.grafana.alerts.sql import IN_DARK, NODE, PLACES, RACK, SITE, TRIPPED, answer, gpus_with, maintained
from infra.grafana.boards.ids import Health, Node, Rack

_LOST_GPUS = gpus_with("action = 'reboot_node'")
_LOST = f"(s.site, s.node_id, s.gpu_index) IN ({_LOST_GPUS})"

_SILENT_RACK = """    SELECT toString(site) AS site, if(many, 'many', rack) AS rack, sum(dark) AS value
    FROM
    (
        SELECT site, rack, in_service > 0 AND silent >= 0.8 * in_service AS dark,
            countIf(in_service > 0 AND silent >= 0.8 * in_service) OVER (PARTITION BY site) AS all_dark,
            all_dark > 5 AND all_dark > 0.5 * count() OVER (PARTITION BY site) AS many
        FROM places
        WHERE (site, feed) NOT IN (SELECT site, feed FROM tripped)
    )
    GROUP BY site, rack"""

_CLOCKS = """clocks AS
(
    SELECT site, uniqExact(node_id) AS nodes
    FROM gpufleet.sick_1m FINAL
    WHERE ts > $__toTime - 900 AND ts <= $__toTime - 60 AND reason = 'clock_offset' AND in_service
        AND (site, ts) IN (SELECT site, minute FROM newest)
    GROUP BY site
)"""
_MANY_CLOCKS = "(s.site IN (SELECT site FROM clocks WHERE nodes >= 20))"

_MADE = """made AS
(
    -- What each node is made of, by its newest inventory.
    SELECT site, node_id,
        argMax(tuple(toString(gpu_model), toString(driver_version), gpu_vbios), tuple(ts, run_id, seq)) AS latest
    FROM gpufleet.inventory
    WHERE flaws = 0 AND asset_kind = 'node' AND ts <= $__toTime AND ts > $__toTime - 2592000
    GROUP BY site, node_id
)"""

_MAINTAINED = maintained("SELECT site, node_id FROM made")


def _skew(version: str) -> str:
    """Per site and model: nodes in service that have not the version that most have. ``version``: an array of texts."""
    return f"""    SELECT toString(site) AS site, model, sum(nodes) - max(nodes) AS value
    FROM
    (
        SELECT site, tupleElement(latest, 1) AS model,
            arrayJoin(arrayDistinct(arrayFilter(v -> v != '', {version}))) AS version,
            uniqExact(node_id) AS nodes
        FROM made
        WHERE (site, node_id) NOT IN (SELECT site, node_id FROM maintained)
        GROUP BY site, model, version
    )
    GROUP BY site, model"""


RULES = (
    of_sick(
        "silent_node",
        "A node is silent",
        "silence",
        Owner.FLEET,
        "s.reason = 'silent'",
        {"site": SITE, "rack": RACK, "node": NODE},
        "Node {{ .Labels.node }}, rack {{ .Labels.rack }}: nothing from {{ .Values.B.Value | humanize }} of its GPUs"
        " for five minutes, while its rack reports.",
        (Health.UID, Health.SILENT),
        unless=(IN_DARK, _LOST, AFTER_TRIP),
        pieces=(
            PLACES,
            TRIPPED,
        ),
        for_s=300,
        board=SITE_BOARD,
    ),
    Rule(
        "silent_rack",
        "A rack is silent",
        "silence",
        Severity.PAGE,
        Owner.FLEET,
        answer(_SILENT_RACK, RACK_LABELS, PLACES, TRIPPED),
        RACK_LABELS,
        "Site {{ .Labels.site }}, rack {{ .Labels.rack }}: {{ .Values.B.Value | humanize }} racks are silent, and no"
        " feed has tripped. Look at its management switch and PDU.",
        (Rack.UID, Rack.REPORTING),
        for_s=180,
        board=RACK_BOARD,
    ),
    of_sick(
        "clock_offset",
        "A host's clock is off",
        "clocks",
        Owner.FLEET,
        "s.reason = 'clock_offset'",
        {
            "site": SITE,
            "rack": f"if({_MANY_CLOCKS}, 'many', {RACK})",
            "node": f"if({_MANY_CLOCKS}, 'many', {NODE})",
        },
        "Node {{ .Labels.node }}, rack {{ .Labels.rack }}: its clock is more than 0.5 s off or not synchronised"
        " ({{ .Values.B.Value | humanize }} GPUs). Its data lands in wrong minutes.",
        (Node.UID, Node.CLOCK_OFFSET),
        pieces=(_CLOCKS,),
        for_s=300,
        board=NODE_BOARD,
    ),
    Rule(
        "driver_skew",
        "Nodes run different drivers",
        "versions",
        Severity.TICKET,
        Owner.FLEET,
        answer(_skew("[tupleElement(latest, 2)]"), ("site", "model"), _MADE, _MAINTAINED),
        ("site", "model"),
        "Site {{ .Labels.site }}: {{ .Values.B.Value | humanize }} {{ .Labels.model }} nodes have had another driver"
        " than the rest for half a day.",
        (Health.UID, Health.VERSION_SKEW),
        for_s=43_200,
        keep_s=3600,
        interval_s=600,
        board=SITE_BOARD,
    ),
    Rule(
        "vbios_skew",
        "GPUs run different VBIOS versions",
        "versions",
        Severity.TICKET,
        Owner.FLEET,
        answer(_skew("tupleElement(latest, 3)"), ("site", "model"), _MADE, _MAINTAINED),
        ("site", "model"),
        "Site {{ .Labels.site }}: {{ .Values.B.Value | humanize }} {{ .Labels.model }} nodes have had a GPU with"
        " another VBIOS than the rest for half a day.",
        (Health.UID, Health.VERSION_SKEW),
        for_s=43_200,
        keep_s=3600,
        interval_s=600,
        board=SITE_BOARD,
    ),
)
