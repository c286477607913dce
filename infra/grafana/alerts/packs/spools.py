"""What agents' spools tell of themselves (docs/spool.md): disks that refuse, backlogs that stay, events that go."""

from __future__ import annotations

from infra.grafana.alerts.rule import Owner, Rule, Severity
from infra.grafana.alerts.sql import answer
from infra.grafana.boards.ids import Pipeline

_SPOOLS = """spools AS
(
    -- What each agent's spool last said: an agent that started tells again.
    SELECT site, node_id, any(rack) AS rack,
        maxIf(ts, event = 'source_down') AS refused, maxIf(ts, event = 'source_up' OR event = 'agent_start') AS taken,
        minIf(ts, event = 'spool_backlog') AS announced, maxIf(ts, event = 'spool_backlog') AS sending,
        maxIf(ts, event = 'spool_drained' OR event = 'agent_start') AS drained,
        sumIf(occurrences, event = 'events_thinned' AND ts > $__toTime - 900) AS thinned,
        sumIf(occurrences, event = 'events_dropped' AND ts > $__toTime - 900) AS dropped
    FROM gpufleet.node_events
    WHERE flaws = 0 AND ts > $__toTime - 86400 AND ts <= $__toTime
        AND (event IN ('events_thinned', 'events_dropped', 'spool_backlog', 'spool_drained', 'agent_start')
            OR event IN ('source_down', 'source_up') AND value = 'spool')
    GROUP BY site, node_id
)"""
_REFUSES = """    SELECT toString(site) AS site, if(many, 'many', toString(rack)) AS rack,
        if(many, 'many', node_id) AS node, countIf(refused > taken) AS value
    FROM (SELECT *, countIf(refused > taken) OVER (PARTITION BY site) >= 20 AS many FROM spools)
    WHERE refused > toDateTime(0, 'UTC')
    GROUP BY site, rack, node"""
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
        answer(_REFUSES, ("site", "rack", "node"), _SPOOLS),
        ("site", "rack", "node"),
        "Node {{ .Labels.node }}, rack {{ .Labels.rack }}: the agent's spool refuses events (disk full, read-only or"
        " gone); {{ .Values.B.Value | humanize }} nodes hold them in memory alone.",
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
