"""NVLink, network and PCIe links."""

from __future__ import annotations

from infra.grafana.alerts.packs.gpu import AFTER_TRIP
from infra.grafana.alerts.rule import Owner, Rule, Severity
from infra.grafana.alerts.sql import GPU, NODE, PLACES, RACK, SITE, TRIPPED, answer, gpus_with, sick
from infra.grafana.boards.ids import Gpu, Health, Node, Rack

_FAULTY = gpus_with(
    "action IN ('reset_gpu', 'drain_p2p', 'drain_and_reset', 'reboot_node', 'replace_gpu', 'workflow')"
    " AND reason != 'nvlink_inactive'"
)
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
_NODE_LABELS = ("site", "rack", "node")
_NODE_BOARD = "site={{ .Labels.site }}&node={{ .Labels.node }}"

RULES = (
    Rule(
        "nvlink_down",
        "NVLinks are down",
        "links",
        Severity.TICKET,
        Owner.FLEET,
        answer(
            sick(
                "s.reason = 'nvlink_inactive'",
                {"site": SITE, "rack": RACK, "domain": "toString(s.nvlink_domain)"},
                (_BROKEN, AFTER_TRIP),
            ),
            ("site", "rack", "domain"),
            PLACES,
            TRIPPED,
        ),
        ("site", "rack", "domain"),
        "NVLink domain {{ .Labels.domain }}, rack {{ .Labels.rack }}: {{ .Values.B.Value | humanize }} GPUs have"
        " fewer NVLinks up than they should, and no Xid explains it.",
        (Rack.UID, Rack.NVLINK_DOMAIN),
        for_s=180,
        board="site={{ .Labels.site }}&rack={{ .Labels.rack }}",
    ),
    Rule(
        "nic_down",
        "A node's network link is down",
        "links",
        Severity.TICKET,
        Owner.NETWORK,
        answer(
            sick(
                "s.reason = 'link_down'",
                {"site": SITE, "rack": RACK, "node": NODE},
                ("(s.site, toString(s.rack)) IN (SELECT site, rack FROM down)", AFTER_TRIP),
            ),
            _NODE_LABELS,
            PLACES,
            TRIPPED,
            _DOWN_RACKS,
        ),
        _NODE_LABELS,
        "Node {{ .Labels.node }}, rack {{ .Labels.rack }}: a network port is without link;"
        " {{ .Values.B.Value | humanize }} GPUs cannot take part in jobs of several nodes.",
        (Node.UID, Node.NETWORK),
        for_s=120,
        board=_NODE_BOARD,
    ),
    Rule(
        "rack_links_down",
        "Network links of a whole rack are down",
        "links",
        Severity.PAGE,
        Owner.NETWORK,
        answer(_RACK_LINKS, ("site", "rack"), PLACES, TRIPPED, _DOWN_RACKS),
        ("site", "rack"),
        "Rack {{ .Labels.rack }}: {{ .Values.B.Value | humanize }} nodes have a network port without link."
        " Look at the rack's switch.",
        (Health.UID, Health.LINKS),
        for_s=120,
        board="site={{ .Labels.site }}",
    ),
    Rule(
        "nic_flapping",
        "A network link flaps",
        "links",
        Severity.TICKET,
        Owner.NETWORK,
        answer(_FLAPS, _NODE_LABELS),
        _NODE_LABELS,
        "Node {{ .Labels.node }}, rack {{ .Labels.rack }}: a network link went down"
        " {{ .Values.B.Value | humanize }} times within three hours. Change cable or transceiver.",
        (Node.UID, Node.NETWORK),
        above=2,
        keep_s=1800,
        interval_s=300,
        board=_NODE_BOARD,
    ),
    Rule(
        "pcie_downtrained",
        "A PCIe link is narrower than it could be",
        "links",
        Severity.TICKET,
        Owner.FLEET,
        answer(
            sick("s.reason = 'pcie_downtrained'", {"site": SITE, "rack": RACK, "node": NODE, "gpu": GPU}, (_BROKEN,)),
            ("site", "rack", "node", "gpu"),
        ),
        ("site", "rack", "node", "gpu"),
        "Node {{ .Labels.node }} GPU {{ .Labels.gpu }}, rack {{ .Labels.rack }}: its PCIe link runs with fewer lanes"
        " than it has. Reseat or replace.",
        (Gpu.UID, Gpu.COUNTERS),
        for_s=300,
        keep_s=900,
        board="site={{ .Labels.site }}&node={{ .Labels.node }}&gpu={{ .Labels.gpu }}",
    ),
)
