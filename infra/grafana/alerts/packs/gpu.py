"""GPUs, by the action that is asked for: the driver's verdict, else NVIDIA's catalogue (xid.py), else a person.

One fault shows in several ways (an Xid, a counter, a lost GPU). The strongest action speaks: a rule leaves out GPUs
that a stronger rule names. Codes that the catalogue ignores have no rule.
"""

from __future__ import annotations

from infra.grafana.alerts.packs.shapes import GPU_BOARD, GPU_LABELS, NODE_BOARD, NODE_LABELS, SITE_BOARD, of_sick
from infra.grafana.alerts.rule import Owner, Rule, Severity
from infra.grafana.alerts.sql import (
    GPU,
    IN_DARK,
    ORIGIN,
    PLACES,
    RACK,
    SITE,
    TRIPPED,
    answer,
    gpus_with,
    maintained,
)
from infra.grafana.alerts.xid import UNCLASSIFIED, WORKFLOW
from infra.grafana.boards.ids import Gpu, Health, Node

_RESET = "action IN ('reset_gpu', 'drain_p2p', 'drain_and_reset')"
_REPLACE = "action = 'replace_gpu'"
_REBOOT = "action = 'reboot_node'"
_WORKFLOW = f"action IN ({', '.join(repr(each) for each in WORKFLOW)})"
_UNCLASSIFIED = f"action = '{UNCLASSIFIED}'"

AFTER_TRIP = f"""(s.site, toString(s.feed)) IN (SELECT site, feed FROM tripped)
            AND s.since >= (SELECT min(since) FROM tripped) - 60
            AND (s.since < (SELECT min(since) FROM tripped) + 600 OR {IN_DARK})"""
"""What breaks as a feed trips, or on racks that the trip left dark, belongs to the trip."""


def _also(*conditions: str) -> str:
    """GPUs that one of these is said of as well."""
    return f"(s.site, s.node_id, s.gpu_index) IN ({gpus_with(' OR '.join(conditions))})"


_OF_GPU = {"site": SITE, "rack": RACK, "node": ORIGIN, "gpu": f"if(s.scope = 'gpu', {GPU}, 'all')"}
_OF_NODE = {"site": SITE, "rack": RACK, "node": ORIGIN}
_TRIP = (PLACES, TRIPPED)

_XIDS = "ts > $__toTime - 900 AND ts <= $__toTime AND event = 'xid'"
MAINTAINED = maintained(f"SELECT site, node_id FROM gpufleet.node_events WHERE {_XIDS}")

_FAULTY = gpus_with(" OR ".join((_RESET, _REPLACE, _REBOOT, _WORKFLOW)))
_RESTART_APP = f"""    SELECT toString(a.site) AS site, toString(a.rack) AS rack, a.node_id AS node,
        ifNull(toString(a.gpu_index), 'all') AS gpu, sum(a.occurrences) AS value
    FROM gpufleet.gpu_alarms AS a
    WHERE {_XIDS} AND a.action = 'restart_app' AND (a.site, a.node_id) NOT IN (SELECT site, node_id FROM maintained)
        AND (a.site, a.node_id, ifNull(a.gpu_index, -1)) NOT IN ({_FAULTY})
    GROUP BY site, rack, node, gpu"""
_ALONE = f"""    SELECT toString(a.site) AS site, toString(any(a.rack)) AS rack, a.node_id AS node,
        sumIf(a.occurrences, a.action = 'ignore_unless_alone') AS value
    FROM gpufleet.gpu_alarms AS a
    WHERE {_XIDS} AND (a.site, a.node_id) NOT IN (SELECT site, node_id FROM maintained)
    GROUP BY site, node
    HAVING value > 0 AND countIf(a.action != 'ignore_unless_alone') = 0"""

_REPEAT = """    SELECT toString(s.site) AS site, toString(any(s.rack)) AS rack, toString(s.node_id) AS node,
        toString(s.gpu_index) AS gpu, if(argMax(s.in_service, s.ts), uniqExact(s.since), 0) AS value
    FROM gpufleet.sick_1m AS s FINAL
    WHERE s.ts > $__toTime - 86400 AND s.ts <= $__toTime - 60 AND s.scope = 'gpu'
        AND (s.reason LIKE 'xid\\_%' OR s.reason = 'ecc_dbe')
    GROUP BY site, node, gpu
    HAVING uniqExact(s.since) > 1"""


RULES = (
    Rule(
        "gpu_restart_app",
        "Restart the application",
        "gpu",
        Severity.INFO,
        Owner.TENANT,
        answer(_RESTART_APP, GPU_LABELS, MAINTAINED),
        GPU_LABELS,
        "Node {{ .Labels.node }} GPU {{ .Labels.gpu }}: {{ .Values.B.Value | humanize }} Xids say that its"
        " application has failed; the GPU itself is fine. Restart the application.",
        (Node.UID, Node.EVENTS),
        keep_s=0,
        board=NODE_BOARD,
    ),
    of_sick(
        "gpu_reset",
        "Reset the GPU",
        "gpu",
        Owner.FLEET,
        _RESET,
        _OF_GPU,
        "Node {{ .Labels.node }} GPU {{ .Labels.gpu }}, rack {{ .Labels.rack }}: drain it and reset it;"
        " {{ .Values.B.Value | humanize }} GPUs are unhealthy until then.",
        (Health.UID, Health.SICK_GPUS),
        unless=(_also(_REBOOT, _REPLACE), AFTER_TRIP),
        pieces=_TRIP,
        for_s=120,
        board=SITE_BOARD,
    ),
    of_sick(
        "gpu_reboot",
        "Reboot the node",
        "gpu",
        Owner.FLEET,
        _REBOOT,
        _OF_NODE,
        "Node {{ .Labels.node }}, rack {{ .Labels.rack }}: a GPU is lost or the driver asks for a reboot;"
        " {{ .Values.B.Value | humanize }} GPUs are unhealthy until then.",
        (Node.UID, Node.GPU_HEALTH),
        unless=(AFTER_TRIP,),
        pieces=_TRIP,
        for_s=60,
        board=NODE_BOARD,
    ),
    of_sick(
        "gpu_replace",
        "Replace the GPU",
        "gpu",
        Owner.FLEET,
        _REPLACE,
        _OF_GPU,
        "Node {{ .Labels.node }} GPU {{ .Labels.gpu }}, rack {{ .Labels.rack }}: a row could not be remapped, or SRAM"
        " errors passed NVIDIA's limit. Field diagnostics, then RMA.",
        (Gpu.UID, Gpu.COUNTERS),
        for_s=60,
        keep_s=900,
        board=GPU_BOARD,
    ),
    Rule(
        "gpu_fabric_manager",
        "Restart the Fabric Manager",
        "gpu",
        Severity.TICKET,
        Owner.FLEET,
        answer(_ALONE, NODE_LABELS, MAINTAINED),
        NODE_LABELS,
        "Node {{ .Labels.node }}, rack {{ .Labels.rack }}: {{ .Values.B.Value | humanize }} times Xid 45 and no"
        " other Xid beside it. Restart the Fabric Manager.",
        (Node.UID, Node.EVENTS),
        for_s=180,
        keep_s=0,
        board=NODE_BOARD,
    ),
    of_sick(
        "gpu_workflow",
        "Read the Xid and follow NVIDIA's workflow",
        "gpu",
        Owner.FLEET,
        _WORKFLOW,
        _OF_GPU,
        "Node {{ .Labels.node }} GPU {{ .Labels.gpu }}, rack {{ .Labels.rack }}: an Xid whose action depends on its"
        " line (48, 74, 144 to 150 ...) has come, and nothing else decides it.",
        (Health.UID, Health.XID_LIST),
        unless=(_also(_REBOOT, _REPLACE, _RESET), AFTER_TRIP),
        pieces=_TRIP,
        for_s=120,
        board=SITE_BOARD,
    ),
    of_sick(
        "gpu_unclassified",
        "An Xid that nobody has classified",
        "gpu",
        Owner.FLEET,
        _UNCLASSIFIED,
        {**_OF_GPU, "code": "toString(s.reason)"},
        "Node {{ .Labels.node }} GPU {{ .Labels.gpu }}, rack {{ .Labels.rack }}: {{ .Labels.code }} is not in the"
        " catalogue and the driver says nothing. Read the line and decide.",
        (Health.UID, Health.XID_LIST),
        unless=(_also(_REBOOT, _REPLACE, _RESET),),
        board=SITE_BOARD,
    ),
    Rule(
        "gpu_repeat",
        "The same GPU fails again and again",
        "gpu",
        Severity.TICKET,
        Owner.FLEET,
        answer(_REPEAT, GPU_LABELS),
        GPU_LABELS,
        "Node {{ .Labels.node }} GPU {{ .Labels.gpu }}, rack {{ .Labels.rack }}: {{ .Values.B.Value | humanize }}"
        " faults within 24 h. Resetting it again will not help: take it out.",
        (Gpu.UID, Gpu.EVENTS),
        above=2,
        keep_s=3600,
        interval_s=300,
        board=GPU_BOARD,
    ),
)
