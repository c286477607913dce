"""Keeps each run of the audit in audit_runs: when exactness was last looked at, and what was found."""

from __future__ import annotations

import logging
from datetime import datetime

from consumers.audit.report import AuditReport, Kind
from consumers.audit.scope import quoted
from consumers.projector.store import Store

log = logging.getLogger(__name__)

LISTED = 20
"""Findings that the row names."""


def record(store: Store, report: AuditReport, since: datetime | None = None, node: str | None = None) -> bool:
    """Write the run's row. False, with a warning, where the user may only read: the audit itself is done."""
    wrong = sum(f.count for f in report.findings if f.kind is Kind.WINDOW)
    said = sorted(report.findings, key=lambda f: f.harmless)[:LISTED]
    begin = "NULL" if since is None else f"fromUnixTimestamp64Micro({round(since.timestamp() * 1e6)}, 'UTC')"
    try:
        store.command(
            "INSERT INTO gpufleet.audit_runs (since, until, node, ok, lost, doubled, dead_letters, windows_checked,"
            f" windows_wrong, seconds, detail) SELECT {begin}, now64(6), {quoted(node or '')}, {report.ok},"
            f" {report.lost}, {report.duplicated}, {report.dead_letters}, {report.windows_checked}, {wrong},"
            f" {report.seconds}, {quoted(chr(10).join(str(f) for f in said))}",
            settings={"async_insert": 0, "insert_deduplicate": 0},
        )
    except Exception as error:  # noqa: BLE001 - whatever the store answers, the audit's outcome stands
        log.warning("this run is not kept in audit_runs: %s", str(error).strip().split("\n")[0])
        return False
    return True
