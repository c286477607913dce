"""Jobs that hang or are held back by one GPU: panels of Health."""

from __future__ import annotations

from infra.grafana import colours, links, thresholds, units
from infra.grafana.boards.ids import Health
from infra.grafana.panels import HIDDEN, Column, Panel, stat, table
from infra.grafana.query import recent


def hung_now(id_: int, scope: str) -> Panel:
    return _now(
        id_,
        "Hung jobs",
        "hung",
        scope,
        means="Training jobs whose GPUs spin without working for five minutes: engines busy, tensor pipes idle, "
        "power low, no traffic. Utilisation alone would not show it.",
        do="Tell its owner with the job's id; get stacks before it is killed. Look for a silent node in it first.",
    )


def stragglers_now(id_: int, scope: str) -> Panel:
    return _now(
        id_,
        "Jobs held back",
        "straggler",
        scope,
        means="Jobs in which a busy GPU's SM clock is below 92 % of the job's median for three minutes, and no "
        "slowdown explains it.",
        do="The table names node and GPU: replace it in the job, then look into it.",
    )


def _now(id_: int, title: str, flag: str, scope: str, *, means: str, do: str) -> Panel:
    sql = f"""SELECT countIf({flag}) AS "{title}"
FROM gpufleet.job_1m FINAL
WHERE {recent("job_1m", where=scope)} AND {scope}
HAVING count() > 0"""
    to = links.board("Jobs", Health.UID, {"site": links.variable("site")}, Health.JOBS)
    return stat(
        id_,
        title,
        sql,
        means=means,
        do=do,
        unit=units.WHOLE,
        width=3,
        steps=thresholds.ANY_IS_BAD,
        links=(to,),
    )


def suspicious(id_: int, scope: str) -> Panel:
    """Jobs with a verdict first, then the ones with the slowest GPU."""
    sql = f"""SELECT site, job_id, multiIf(hung, 'hung', straggler, 'held back', quiet, 'quiet', '') AS verdict,
    slowest_node AS node_id, slowest_gpu AS gpu, slowest_ratio, tenant, gpus, gpus_reporting,
    gr_engine_active, tensor_active, power_w, name, job_kind
FROM gpufleet.job_1m FINAL
WHERE {recent("job_1m", where=scope)} AND {scope}
ORDER BY hung DESC, straggler DESC, slowest_ratio LIMIT 50"""
    return table(
        id_,
        "Jobs, the suspicious first",
        sql,
        {
            "site": HIDDEN,
            "job_id": Column("Job"),
            "verdict": Column("Verdict", width=90, colours={"hung": colours.BAD, "held back": colours.WARN}),
            "node_id": Column("Slowest", links=(links.to_node(),)),
            "gpu": Column("GPU", width=50, links=(links.to_gpu(),)),
            "slowest_ratio": Column("Its clock", units.RATIO, 0, 80, steps=thresholds.STRAGGLER_RATIO),
            "tenant": Column("Customer"),
            "gpus": Column("GPUs", width=60),
            "gpus_reporting": Column("Reporting", width=80),
            "gr_engine_active": Column("Busy", units.RATIO, 0, 60),
            "tensor_active": Column("Tensor", units.RATIO, 0, 70),
            "power_w": Column("Power a GPU", units.WATT, 0, 100),
            "name": Column("Name"),
            "job_kind": Column("Kind", width=80),
        },
        width=12,
        none="no job known",
        means="Jobs of the newest minute, and of each its slowest busy GPU against the median of the job.",
        do="hung: call the owner. held back: open the GPU. Fewer reporting than GPUs: a node of the job is silent.",
    )
