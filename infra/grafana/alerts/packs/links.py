"""NVLink, network and PCIe links."""

from __future__ import annotations

from infra.grafana.alerts.packs.gpu import AFTER_TRIP
from infra.grafana.alerts.packs.shapes import (
    GPU_BOARD,
    NODE_BOARD,
    NODE_LABELS,
    RACK_BOARD,
    RACK_LABELS,
    SITE_BOARD,
    of_sick,
)
from infra.grafana.alerts.rule import Owner, Rule, Severity
from infra.grafana.alerts.sql import GPU, NODE, PLACES, RACK, SITE, TRIPPED, answer, gpus_with
from infra.grafana.boards.ids import Gpu, Health, Node, Rack

_FAULTY = gpus_with("action IN ('reset_gpu', 'drain_p2p', 'drain_and_reset', 'reboot_node', 'replace_gpu', 'workflow')")
_BROKEN = f"(s.site, s.node_id, s.gpu_index) IN ({_FAULTY})"
_DOWN_RACKS = """down AS
(
    -- Racks with a network link down on four nodes or more: their switch or cable tray, not their adapters.
    SELECT site, toString(rack) AS rack, uniqExact(node_id) AS nodes
    FROM gpufleet.sick_1m FINAL
    WHERE ts > $__toTime - 900 AND ts <= $__toTime - 60 AND reason = 'link_down' AND in_service
        AND (site, ts) IN (SELECT site, minute FROM newest)
    GROUP BY site, rack
    HAVING nodes >= 4
)"""
_RACK_LINKS = """    SELECT toString(p.site) AS site, p.rack AS rack, max(d.nodes) AS value
    FROM places AS p
    LEFT JOIN down AS d ON d.site = p.site AND d.rack = p.rack
    WHERE (p.site, p.feed) NOT IN (SELECT site, feed FROM tripped) AND (p.site, p.rack) IN
    (
        SELECT site, toString(rack) FROM gpufleet.sick_1m FINAL
        WHERE ts > $__toTime - 1800 AND ts <= $__toTime - 60 AND reason = 'link_down'
    )
    GROUP BY site, rack"""
_FLAPS = """    SELECT toString(s.site) AS site, toString(any(s.rack)) AS rack, toString(s.node_id) AS node,
        if(argMax(s.in_service, s.ts), uniqExact(s.since), 0) AS value
    FROM gpufleet.sick_1m AS s FINAL
    WHERE s.ts > $__toTime - 10800 AND s.ts <= $__toTime - 60 AND s.reason = 'link_down'
    GROUP BY site, node
    HAVING uniqExact(s.since) > 1"""

RULES = (
    of_sick(
        "nvlink_down",
        "NVLinks are down",
        "links",
        Owner.FLEET,
        "s.reason = 'nvlink_inactive'",
        {"site": SITE, "rack": RACK, "domain": "toString(s.nvlink_domain)"},
        "NVLink domain {{ .Labels.domain }}, rack {{ .Labels.rack }}: {{ .Values.B.Value | humanize }} GPUs have"
        " fewer NVLinks up than they should, and no Xid explains it.",
        (Rack.UID, Rack.NVLINK_DOMAIN),
        unless=(_BROKEN, AFTER_TRIP),
        pieces=(
            PLACES,
            TRIPPED,
        ),
        for_s=180,
        board=RACK_BOARD,
    ),
    of_sick(
        "nic_down",
        "A node's network link is down",
        "links",
        Owner.NETWORK,
        "s.reason = 'link_down'",
        {"site": SITE, "rack": RACK, "node": NODE},
        "Node {{ .Labels.node }}, rack {{ .Labels.rack }}: a network port is without link;"
        " {{ .Values.B.Value | humanize }} GPUs cannot take part in jobs of several nodes.",
        (Node.UID, Node.NETWORK),
        unless=("(s.site, toString(s.rack)) IN (SELECT site, rack FROM down)", AFTER_TRIP),
        pieces=(
            PLACES,
            TRIPPED,
            _DOWN_RACKS,
        ),
        for_s=120,
        board=NODE_BOARD,
    ),
    Rule(
        "rack_links_down",
        "Network links of a whole rack are down",
        "links",
        Severity.PAGE,
        Owner.NETWORK,
        answer(_RACK_LINKS, RACK_LABELS, PLACES, TRIPPED, _DOWN_RACKS),
        RACK_LABELS,
        "Rack {{ .Labels.rack }}: {{ .Values.B.Value | humanize }} nodes have a network port without link."
        " Look at the rack's switch.",
        (Health.UID, Health.LINKS),
        for_s=120,
        board=SITE_BOARD,
    ),
    Rule(
        "nic_flapping",
        "A network link flaps",
        "links",
        Severity.TICKET,
        Owner.NETWORK,
        answer(_FLAPS, NODE_LABELS),
        NODE_LABELS,
        "Node {{ .Labels.node }}, rack {{ .Labels.rack }}: a network link went down"
        " {{ .Values.B.Value | humanize }} times within three hours. Change cable or transceiver.",
        (Node.UID, Node.NETWORK),
        above=2,
        keep_s=1800,
        interval_s=300,
        board=NODE_BOARD,
    ),
    of_sick(
        "pcie_downtrained",
        "A PCIe link is narrower than it could be",
        "links",
        Owner.FLEET,
        "s.reason = 'pcie_downtrained'",
        {"site": SITE, "rack": RACK, "node": NODE, "gpu": GPU},
        "Node {{ .Labels.node }} GPU {{ .Labels.gpu }}, rack {{ .Labels.rack }}: its PCIe link runs with fewer lanes"
        " than it has. Reseat or replace.",
        (Gpu.UID, Gpu.COUNTERS),
        unless=(_BROKEN,),
        for_s=300,
        keep_s=900,
        board=GPU_BOARD,
    ),
)
