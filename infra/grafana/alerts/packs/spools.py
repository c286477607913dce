"""What agents tell of their disks (docs/spool.md): spools and journals that refuse, backlogs that stay, events that
go."""

from __future__ import annotations

from infra.grafana.alerts.packs.shapes import NODE_LABELS
from infra.grafana.alerts.rule import Owner, Rule, Severity
from infra.grafana.alerts.sql import answer, maintained
from infra.grafana.boards.ids import Pipeline

_SAID_S = 604_800
"""How far back an agent's word is looked for: that a disk refuses is said once, however long it lasts. [s]"""


def _disks(value: str) -> str:
    """Every agent that said something of its ``value`` (spool, journal): an agent that started tells again."""
    return f"""disks AS
(
    SELECT site, node_id, any(rack) AS rack, maxIf(ts, event = 'source_down') AS refused,
        maxIf(ts, event IN ('source_up', 'agent_start', 'agent_stop')) AS taken
    FROM gpufleet.node_events
    WHERE flaws = 0 AND ts > $__toTime - {_SAID_S} AND ts <= $__toTime
        AND (event IN ('agent_start', 'agent_stop') OR event IN ('source_down', 'source_up') AND value = '{value}')
    GROUP BY site, node_id
    HAVING refused > toDateTime(0, 'UTC')
)"""


_MAINTAINED = maintained("SELECT site, node_id FROM disks")
_REFUSES = """    SELECT toString(site) AS site, if(many, 'many', toString(rack)) AS rack,
        if(many, 'many', node_id) AS node, countIf(refuses) AS value
    FROM
    (
        SELECT site, rack, node_id,
            refused > taken AND (site, node_id) NOT IN (SELECT site, node_id FROM maintained) AS refuses,
            countIf(refuses) OVER (PARTITION BY site) >= 20 AS many
        FROM disks
    )
    GROUP BY site, rack, node"""
_SPOOLS = f"""spools AS
(
    -- What each agent's spool last said of its backlog: an agent that started tells again.
    SELECT site, node_id, maxIf(ts, event = 'spool_backlog') AS sending,
        maxIf(ts, event = 'spool_drained' OR event = 'agent_start') AS drained,
        -- Of the backlog that is being sent, not of an earlier one.
        arrayMin(arrayFilter(t -> t > drained, groupArrayIf(ts, event = 'spool_backlog'))) AS announced,
        sumIf(occurrences, event = 'events_thinned' AND ts > $__toTime - 900) AS thinned,
        sumIf(occurrences, event = 'events_dropped' AND ts > $__toTime - 900) AS dropped
    FROM gpufleet.node_events
    WHERE flaws = 0 AND ts > $__toTime - {_SAID_S} AND ts <= $__toTime
        AND event IN ('events_thinned', 'events_dropped', 'spool_backlog', 'spool_drained', 'agent_start')
    GROUP BY site, node_id
)"""
_DRAINS = """    SELECT toString(site) AS site, countIf(sending > drained AND announced < $__toTime - 7200) AS value
    FROM spools
    WHERE sending > toDateTime(0, 'UTC')
    GROUP BY site"""
_THINS = """    SELECT toString(site) AS site, sum(thinned) + sum(dropped) AS value
    FROM spools
    GROUP BY site"""

RULES = (
    Rule(
        "spool_refuses",
        "A spool takes no events",
        "pipeline",
        Severity.TICKET,
        Owner.FLEET,
        answer(_REFUSES, NODE_LABELS, _disks("spool"), _MAINTAINED),
        NODE_LABELS,
        "Node {{ .Labels.node }}, rack {{ .Labels.rack }}: the agent's spool refuses events (disk full, read-only or"
        " gone); {{ .Values.B.Value | humanize }} nodes hold them in memory alone.",
        (Pipeline.UID, Pipeline.SPOOLS),
        for_s=120,
        board="site={{ .Labels.site }}",
    ),
    Rule(
        "agent_journal",
        "An agent cannot keep its numbers",
        "pipeline",
        Severity.TICKET,
        Owner.FLEET,
        answer(_REFUSES, NODE_LABELS, _disks("journal"), _MAINTAINED),
        NODE_LABELS,
        "Node {{ .Labels.node }}, rack {{ .Labels.rack }}: the agent's journal is not on disk (full, read-only or"
        " gone); of {{ .Values.B.Value | humanize }} nodes a killed agent could not say which events it had numbered.",
        (Pipeline.UID, Pipeline.SPOOLS),
        for_s=120,
        board="site={{ .Labels.site }}",
    ),
    Rule(
        "spool_backlog",
        "Backlogs do not drain",
        "pipeline",
        Severity.TICKET,
        Owner.PIPELINE,
        answer(_DRAINS, ("site",), _SPOOLS),
        ("site",),
        "Site {{ .Labels.site }}: {{ .Values.B.Value | humanize }} nodes have been sending the backlog of an outage for"
        " two hours and are not done.",
        (Pipeline.UID, Pipeline.SPOOLS),
        for_s=300,
        keep_s=600,
        interval_s=300,
        board="site={{ .Labels.site }}",
    ),
    Rule(
        "spool_thins",
        "Spools thin or give up events",
        "pipeline",
        Severity.TICKET,
        Owner.PIPELINE,
        answer(_THINS, ("site",), _SPOOLS),
        ("site",),
        "Site {{ .Labels.site }}: an outage outgrows the spools: {{ .Values.B.Value | humanize }} events were thinned"
        " to one in ten seconds, or given up, within fifteen minutes.",
        (Pipeline.UID, Pipeline.SPOOLS),
        keep_s=900,
        interval_s=300,
        board="site={{ .Labels.site }}",
    ),
)
