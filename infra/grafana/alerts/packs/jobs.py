"""Jobs: one that hangs, and one GPU that makes a whole job wait. Utilisation hides both; clocks and power show them."""

from __future__ import annotations

from infra.grafana.alerts.rule import Owner, Rule, Severity
from infra.grafana.alerts.sql import answer, maintained
from infra.grafana.boards.ids import Gpu, Health

_JOBS = "FROM gpufleet.job_1m FINAL\n    WHERE ts > $__toTime - 1800 AND ts <= $__toTime - 60"
_RECENT = "j.ts > $__toTime - 1800 AND j.ts <= $__toTime - 60"

_HUNG_NODES = f"""hung_nodes AS
(
    SELECT DISTINCT site, job_id, node_id
    FROM gpufleet.allocations
    ARRAY JOIN nodes AS node_id
    WHERE flaws = 0 AND ts <= $__toTime AND (site, job_id) IN (SELECT site, job_id {_JOBS} AND hung)
)"""
_HUNG = f"""    SELECT toString(j.site) AS site, toString(j.job_id) AS job, toString(any(j.tenant)) AS tenant,
        -- With a node of its own in maintenance it waits for that node.
        maxIf(j.gpus, j.hung AND j.ts = n.minute AND (j.site, j.job_id) NOT IN (
            SELECT site, job_id FROM hung_nodes WHERE (site, node_id) IN (SELECT site, node_id FROM maintained)
        )) AS value
    FROM gpufleet.job_1m AS j FINAL
    INNER JOIN newest AS n ON n.site = j.site
    WHERE {_RECENT}
    GROUP BY site, job
    HAVING max(j.hung)"""

_STRAGGLER = f"""    SELECT toString(site) AS site, job, node, gpu,
        -- Slow in each of the last three minutes that its job has.
        if(slow >= 3 AND (site, node) NOT IN (SELECT site, node_id FROM maintained), 1 - ratio, 0) AS value
    FROM
    (
        SELECT j.site AS site, toString(j.job_id) AS job, toString(tupleElement(each, 1)) AS node,
            toString(tupleElement(each, 2)) AS gpu,
            countIf(j.ts > n.minute - 180 AND j.ts <= n.minute) AS slow,
            avgIf(tupleElement(each, 3), j.ts > n.minute - 180) AS ratio
        FROM gpufleet.job_1m AS j FINAL
        INNER JOIN newest AS n ON n.site = j.site
        ARRAY JOIN arrayZip(j.slow_nodes, j.slow_gpus, j.slow_ratios) AS each
        WHERE {_RECENT}
        GROUP BY site, job, node, gpu
    )"""

RULES = (
    Rule(
        "hung_job",
        "A job hangs",
        "jobs",
        Severity.PAGE,
        Owner.TENANT,
        answer(_HUNG, ("site", "job", "tenant"), _HUNG_NODES, maintained("SELECT site, node_id FROM hung_nodes")),
        ("site", "job", "tenant"),
        "Job {{ .Labels.job }} of {{ .Labels.tenant }} hangs: {{ .Values.B.Value | humanize }} GPUs look busy and have"
        " done nothing for five minutes (no tensor work, low power, no network).",
        (Health.UID, Health.HUNG_JOBS),
        keep_s=180,
        board="site={{ .Labels.site }}",
    ),
    Rule(
        "straggler",
        "One GPU makes its job wait",
        "jobs",
        Severity.TICKET,
        Owner.FLEET,
        answer(_STRAGGLER, ("site", "job", "node", "gpu"), maintained(f"SELECT site, arrayJoin(slow_nodes) {_JOBS}")),
        ("site", "job", "node", "gpu"),
        "Node {{ .Labels.node }} GPU {{ .Labels.gpu }} runs {{ .Values.B.Value | humanizePercentage }} below the median"
        " clock of its job {{ .Labels.job }}; every other GPU of the job waits for it.",
        (Gpu.UID, Gpu.PEERS),
        above=0.05,
        keep_s=600,
        board="site={{ .Labels.site }}&node={{ .Labels.node }}&gpu={{ .Labels.gpu }}",
    ),
)
