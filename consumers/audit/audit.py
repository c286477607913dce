"""The audit as a whole."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable
from datetime import datetime

from consumers.audit import freshness, hours, offsets, sequences, tenants, windows
from consumers.audit.offsets import Committed
from consumers.audit.report import AuditReport, Expected, Kind
from consumers.audit.scope import Scope
from consumers.audit.spools import Spooled
from consumers.projector.store import Store, scalar

TELL_S = 5.0


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
    spooled: Collection[Spooled] = (),
    pick: random.Random | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> AuditReport:
    """Check what is stored.

    ``expected``: what producers' runs gave out. ``since``, ``node``: look at events from that time on, at one
    producer. ``committed``: the consumer group's offsets. ``compare_windows``: which minutes and hours to
    compute again.
    ``in_flight_s``: the tail of a run that stored something this recently is not held against it.
    ``spooled``: what waits in spools that can be looked at from here. ``say`` is told what is being looked at, and
    every few seconds how far it is.
    """
    started = time.monotonic()
    now = int(scalar(store, "SELECT toUnixTimestamp64Micro(now64(6))")) / 1e6
    scope = Scope(now, now - raw_days * 86_400, since.timestamp() if since else None, node, in_flight_s)
    report = AuditReport()
    say("numbers of every run, against what its producer gave out")
    sequences.check(store, scope, expected, report, spooled)
    if node is None:
        say("offsets in the ledger, against Kafka's")
        report.add(offsets.check(store, scope, committed))
    say("tenants of the rows, against the leases")
    report.add(tenants.check(store, scope))
    told = time.monotonic()

    def tell(what: str) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_S:
            told = time.monotonic()
            say(what)

    def minute_checked(_minute: int) -> None:
        report.windows_checked += 1
        tell(f"{report.windows_checked:,} minutes computed again")

    def hour_checked(_hour: int) -> None:
        report.hours_checked += 1
        tell(f"{report.hours_checked:,} hours added up again")

    chance = pick or random.Random()  # noqa: S311
    say("windows, computed again")
    minutes = list(windows.check(store, scope, compare_windows, chance, minute_checked))
    report.add(minutes)
    wrong = [finding for finding in minutes if finding.kind is Kind.WINDOW]
    report.add(hours.check(store, scope, compare_windows, chance, hour_checked, wrong))
    say("samples and freshness")
    _samples(store, scope, report)
    freshness.measure(store, scope, report)
    report.seconds = time.monotonic() - started
    return report


def _samples(store: Store, scope: Scope, report: AuditReport) -> None:
    counted = (
        f"SELECT sum(length(gpu_index) * ticks) FROM gpufleet.node_telemetry FINAL WHERE {scope.events('node_id')}"
    )
    report.gpu_samples = int(scalar(store, counted))
