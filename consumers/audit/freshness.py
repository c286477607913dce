"""How soon live ticks became rows: store time minus tick time.

A tick counts as live when its run had begun before it (a back-fill tells of earlier times), it is one of at most ten
seconds (a back-fill's are coarse), and its row came within two minutes. What came later waited out an outage, in a
producer's buffer or spool: it would say how long the outage was, not how fresh the store is, so it is counted apart.
"""

from __future__ import annotations

from consumers.audit.report import AuditReport
from consumers.audit.scope import Scope
from consumers.projector.store import Store, rows

LATE_S = 120
"""As in the ingest ledger: older than this on arrival, and a producer is late."""
COARSEST_MS = 10_000

# Grain: one row. Ticks of runs that had begun: those in time, their age when stored (s), those that came late.
AGES = """
SELECT countIf(in_time) AS live, quantilesIf(0.5, 0.99)(age, in_time) AS ages, countIf(NOT in_time) AS late
FROM
(
    SELECT
        (toUnixTimestamp64Micro(stored_at) - toUnixTimestamp64Micro(ts)) / 1e6
            - arrayJoin(range(toUInt32(ticks))) * interval_ms / 1000 AS age,
        abs(age) <= {late} AS in_time
    FROM gpufleet.node_telemetry
    WHERE {scope} AND flaws = 0 AND interval_ms <= {coarsest} AND toUnixTimestamp64Micro(ts) >= run_id
)
"""


def measure(store: Store, scope: Scope, report: AuditReport) -> None:
    """Fill in the report's freshness and what it was measured on."""
    sql = AGES.format(late=LATE_S, coarsest=COARSEST_MS, scope=scope.events("node_id"))
    [(live, ages, late)] = rows(store, sql)
    report.ticks_live, report.ticks_late = int(live), int(late)
    if live:
        report.freshness_p50_s, report.freshness_p99_s = (round(float(age), 3) for age in ages)
