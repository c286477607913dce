"""Every alert rule, by name: the table that rule files, runbooks, evaluator and tests start from."""

from __future__ import annotations

from infra.grafana.alerts.packs import capacity, facility, gpu, heat_and_power, jobs, links, nodes, pipeline, spools
from infra.grafana.alerts.rule import Rule

RULES: tuple[Rule, ...] = (
    *facility.RULES,
    *heat_and_power.RULES,
    *gpu.RULES,
    *links.RULES,
    *nodes.RULES,
    *jobs.RULES,
    *capacity.RULES,
    *pipeline.RULES,
    *spools.RULES,
)

BY_NAME = {rule.name: rule for rule in RULES}
