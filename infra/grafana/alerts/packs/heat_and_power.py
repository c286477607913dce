"""Heat and power. A software power cap (SwPowerCap) alone is how a loaded GPU works: nothing here looks at it.

What a tripped feed or a sick coolant loop explains is left to their own rules (facility.py).
"""

from __future__ import annotations

from infra.grafana.alerts.packs.shapes import GPU_BOARD, RACK_BOARD, RACK_LABELS, SITE_BOARD, of_sick
from infra.grafana.alerts.rule import Owner, Rule, Severity
from infra.grafana.alerts.sql import (
    BRAKED,
    GPU,
    IN_BRAKED,
    IN_SICK_LOOP,
    NODE,
    PLACES,
    RACK,
    SICK_CDUS,
    SITE,
    TRIPPED,
    answer,
    gpus_with,
)
from infra.grafana.boards.ids import Gpu, Power, Rack

_SLOWED_RACKS = """slowed AS
(
    -- Racks of which a quarter of the GPUs in service is held back: one cause, not many.
    SELECT p.site AS site, p.rack AS rack, uniqExact(s.node_id, s.gpu_index) / any(p.in_service) AS share
    FROM places AS p
    INNER JOIN
    (
        SELECT site, toString(rack) AS rack, node_id, gpu_index
        FROM gpufleet.sick_1m FINAL
        WHERE ts > $__toTime - 900 AND ts <= $__toTime - 60 AND reason IN ('slowdown', 'temp_high') AND in_service
            AND (site, ts) IN (SELECT site, minute FROM newest)
    ) AS s ON s.site = p.site AND s.rack = p.rack
    GROUP BY site, rack
    HAVING share >= 0.25 AND uniqExact(s.node_id, s.gpu_index) >= 4
)"""
_RACK_SLOWED = """    SELECT toString(p.site) AS site, p.rack AS rack, max(w.share) AS value
    FROM places AS p
    LEFT JOIN slowed AS w ON w.site = p.site AND w.rack = p.rack
    WHERE (p.site, p.rack) NOT IN (SELECT site, rack FROM braked)
        AND (p.site, p.cdu) NOT IN (SELECT site, cdu FROM sick_loops)
        AND (p.site, p.rack) IN
        (
            SELECT site, toString(rack) FROM gpufleet.sick_1m FINAL
            WHERE ts > $__toTime - 1800 AND ts <= $__toTime - 60 AND reason IN ('slowdown', 'temp_high')
        )
    GROUP BY site, rack"""
_IN_SLOWED = "(s.site, toString(s.rack)) IN (SELECT site, rack FROM slowed)"
_OF_GPU = {"site": SITE, "rack": RACK, "node": NODE, "gpu": GPU}
_TOO_HOT = gpus_with("reason = 'temp_high'")
_HOT = f"(s.site, s.node_id, s.gpu_index) IN ({_TOO_HOT})"
_EXPLAINED = (PLACES, TRIPPED, BRAKED, SICK_CDUS, _SLOWED_RACKS)

METERS = """meters AS
(
    -- What each meter says in its newest minute of the last ten, over what it may carry.
    SELECT site, toString(asset_id) AS asset, any(toString(asset_kind)) AS kind, argMax(toString(rack), ts) AS rack,
        argMax(toString(state), ts) AS state_now,
        argMaxIf(power_w_avg / power_cap_w, ts, power_cap_w > 0 AND isNotNull(power_w_avg)) AS share
    FROM gpufleet.facility_1m FINAL
    WHERE ts > $__toTime - 660 AND ts <= $__toTime - 60
    GROUP BY site, asset
)"""
_SITE_POWER = """    SELECT toString(n.site) AS site, ifNull(max(m.share), 0) AS value
    FROM newest AS n
    LEFT JOIN meters AS m ON m.site = n.site AND m.kind = 'site'
    GROUP BY site"""
_FEED_POWER = """    SELECT toString(site) AS site, asset AS feed, ifNull(share, 0) AS value
    FROM meters
    WHERE kind = 'feed' AND state_now != 'maintenance' AND (site, asset) NOT IN
    (
        SELECT site, feed FROM places WHERE (site, rack) IN (SELECT site, rack FROM braked)
    )"""
_PDU_POWER = """    SELECT toString(site) AS site, rack, share AS value
    FROM meters
    WHERE kind = 'pdu' AND state_now != 'maintenance' AND share > 0.8"""

RULES = (
    of_sick(
        "gpu_hot",
        "A GPU is too hot",
        "thermal",
        Owner.FLEET,
        "s.reason = 'temp_high'",
        _OF_GPU,
        "Node {{ .Labels.node }} GPU {{ .Labels.gpu }}, rack {{ .Labels.rack }} is above 93 C and its coolant loop is"
        " fine: look at its cold plate or fans.",
        (Gpu.UID, Gpu.TEMPERATURE),
        unless=(IN_SICK_LOOP, _IN_SLOWED),
        pieces=_EXPLAINED,
        for_s=300,
        keep_s=600,
        board=GPU_BOARD,
    ),
    of_sick(
        "gpu_slowed",
        "A GPU is held back by heat or hardware",
        "thermal",
        Owner.FLEET,
        "s.reason = 'slowdown'",
        _OF_GPU,
        "Node {{ .Labels.node }} GPU {{ .Labels.gpu }}, rack {{ .Labels.rack }} has been slowed down by heat, hardware"
        " or power brake for ten minutes, and neither feed nor coolant loop explains it.",
        (Gpu.UID, Gpu.THROTTLING),
        unless=(IN_BRAKED, IN_SICK_LOOP, _IN_SLOWED, _HOT),
        pieces=_EXPLAINED,
        for_s=600,
        keep_s=600,
        board=GPU_BOARD,
    ),
    Rule(
        "rack_slowed",
        "A rack is held back by heat or hardware",
        "thermal",
        Severity.PAGE,
        Owner.FACILITIES,
        answer(_RACK_SLOWED, RACK_LABELS, *_EXPLAINED),
        RACK_LABELS,
        "Rack {{ .Labels.rack }}: {{ .Values.B.Value | humanizePercentage }} of its GPUs are slowed down or too hot,"
        " and neither feed nor coolant loop explains it.",
        (Rack.UID, Rack.TEMPERATURE_BY_NODE),
        above=0.2499,
        for_s=300,
        board=RACK_BOARD,
    ),
    Rule(
        "site_power",
        "The site is close to its power cap",
        "power",
        Severity.PAGE,
        Owner.FACILITIES,
        answer(_SITE_POWER, ("site",), METERS),
        ("site",),
        "Site {{ .Labels.site }} draws {{ .Values.B.Value | humanizePercentage }} of the power it may draw.",
        (Power.UID, Power.SITE),
        above=0.98,
        for_s=300,
        keep_s=600,
        board=SITE_BOARD,
    ),
    Rule(
        "feed_power",
        "A feed is close to its limit",
        "power",
        Severity.PAGE,
        Owner.FACILITIES,
        answer(_FEED_POWER, ("site", "feed"), METERS, PLACES, TRIPPED, BRAKED),
        ("site", "feed"),
        "Feed {{ .Labels.feed }} carries {{ .Values.B.Value | humanizePercentage }} of what it may carry, and no other"
        " feed has tripped. Its breaker is next.",
        (Power.UID, Power.FEED_LOAD),
        above=0.95,
        for_s=300,
        keep_s=600,
        board=SITE_BOARD,
    ),
    Rule(
        "rack_power",
        "A rack draws more than its PDU should carry",
        "power",
        Severity.TICKET,
        Owner.FACILITIES,
        answer(_PDU_POWER, RACK_LABELS, METERS),
        RACK_LABELS,
        "Rack {{ .Labels.rack }} draws {{ .Values.B.Value | humanizePercentage }} of what its PDU may carry.",
        (Power.UID, Power.PDUS),
        above=0.95,
        for_s=600,
        keep_s=600,
        board=SITE_BOARD,
    ),
)
