"""The audit as a whole."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from datetime import datetime

from consumers.audit import offsets, sequences, tenants, windows
from consumers.audit.offsets import Committed
from consumers.audit.report import AuditReport, Expected
from consumers.audit.scope import Scope
from consumers.projector.store import Store, rows, scalar


def audit(
    store: Store,
    expected: Iterable[Expected] = (),
    since: datetime | None = None,
    node: str | None = None,
    *,
    committed: Committed | None = None,
    compare_windows: windows.How = "sample",
    raw_days: int = 9,
    in_flight_s: float = 0.0,
    live_since: datetime | None = None,
    pick: random.Random | None = None,
) -> AuditReport:
    """Check what is stored.

    ``expected``: what producers' runs gave out. ``since``, ``node``: look at events from that time on, at one
    producer. ``committed``: the consumer group's offsets. ``compare_windows``: which minutes to compute again.
    ``in_flight_s``: the tail of a run that stored something this recently is not held against it. ``live_since``:
    from when on freshness is measured; default ``since``.
    """
    started = time.monotonic()
    now = int(scalar(store, "SELECT toUnixTimestamp64Micro(now64(6))")) / 1e6
    scope = Scope(now, now - raw_days * 86_400, since.timestamp() if since else None, node, in_flight_s)
    report = AuditReport()
    sequences.check(store, scope, expected, report)
    if node is None:
        report.add(offsets.check(store, scope, committed))
    report.add(tenants.check(store, scope))

    def count(_minute: int) -> None:
        report.windows_checked += 1

    report.add(windows.check(store, scope, compare_windows, pick or random.Random(), count))  # noqa: S311
    _samples(store, scope, report)
    _freshness(store, scope, live_since or since, report)
    report.seconds = time.monotonic() - started
    return report


def _samples(store: Store, scope: Scope, report: AuditReport) -> None:
    counted = (
        f"SELECT sum(length(gpu_index) * ticks) FROM gpufleet.node_telemetry FINAL WHERE {scope.events('node_id')}"
    )
    report.gpu_samples = int(scalar(store, counted))


def _freshness(store: Store, scope: Scope, live_since: datetime | None, report: AuditReport) -> None:
    """Store time minus tick time; ticks of more than 10 s are back-fill and do not count."""
    since = (
        "" if live_since is None else f" AND ts >= fromUnixTimestamp64Micro({int(live_since.timestamp() * 1e6)}, 'UTC')"
    )
    found = rows(
        store,
        f"""SELECT count(), quantiles(0.5, 0.99)(age)
FROM
(
    SELECT
        (toUnixTimestamp64Micro(stored_at) - toUnixTimestamp64Micro(ts)) / 1e6
            - arrayJoin(range(toUInt32(ticks))) * interval_ms / 1000 AS age
    FROM gpufleet.node_telemetry
    WHERE {scope.events("node_id")}{since} AND flaws = 0 AND interval_ms <= 10000
)""",
    )
    if found[0][0]:
        report.freshness_p50_s, report.freshness_p99_s = (round(float(q), 3) for q in found[0][1])
