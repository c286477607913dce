"""The store: does it answer with these credentials, is it new enough, is its clock ours, room and migrations?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from infra.config import Settings
from infra.connections import connect_store, render
from infra.doctor.kafka import skew
from infra.doctor.report import Finding, Status, fail, ok, skip, warn

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

AREA = "store"
TRIED = (26, 9)
"""The version the test suite runs against."""
PROJECTED_WITHIN_S = 180
"""A minute is computed 15 s after its end (project.minute_grace_s) by a projector that is not behind."""
LEAST = (25, 3)
"""Older servers lack parts of the SQL used here."""


def check(settings: Settings, clock: Callable[[], float] = time.time) -> Iterator[Finding]:
    """UnreachableError when the store does not answer or refuses the credentials."""
    client = connect_store(settings)
    version, uptime = client.query("SELECT version(), uptime()").result_rows[0]
    yield ok(AREA, "reach", f"ClickHouse {version} as {settings.store.user!r}, up for {int(uptime) // 3600} h")
    yield _version(str(version))
    before = clock()
    theirs = float(client.query("SELECT toUnixTimestamp64Micro(now64(6)) / 1e6").result_rows[0][0])
    yield skew(AREA, theirs, before, clock())
    pending = list(_migrations(client, settings))
    yield from pending
    if all(finding.status is Status.OK for finding in pending):
        yield projector(client, theirs)
    yield from _disks(client)


def _version(version: str) -> Finding:
    found = tuple(int(part) for part in version.split(".")[:2])
    if found < LEAST:
        return fail(AREA, "version", version, f"use ClickHouse {LEAST[0]}.{LEAST[1]} or newer")
    if found[0] < TRIED[0]:
        return warn(AREA, "version", version, f"the tests run against {TRIED[0]}.{TRIED[1]}: try it out first")
    return ok(AREA, "version", version)


def _migrations(client: Client, settings: Settings) -> Iterator[Finding]:
    from infra.clickhouse.migrate import applied, migrate

    pending = migrate(client, render(settings), dry_run=True)
    if pending:
        names = ", ".join(migration.title for migration in pending[:3]) + (" ..." if len(pending) > 3 else "")
        yield fail(AREA, "migrations", f"{len(pending)} to apply: {names}", "run `gpufleet migrate`")
    else:
        yield ok(AREA, "migrations", f"all {len(applied(client))} applied")


def projector(client: Client, now: float) -> Finding:
    """Whether windows follow the events. ``now``: the store's clock, seconds since 1970."""
    from consumers.projector.ledger import load_frontier

    frontier = load_frontier(client)
    advice = "let `gpufleet consume` run with consume.projector, or run `gpufleet project`"
    if frontier is None:
        if not int(client.query("SELECT count() FROM gpufleet.ingest_ledger").result_rows[0][0]):
            return skip(AREA, "projector", "nothing is stored yet")
        return warn(AREA, "projector", "events are stored, and no minute has been computed yet", advice)
    at = datetime.fromtimestamp(frontier, UTC)
    seen = f"minutes are computed up to {at:%Y-%m-%d %H:%M} UTC, {now - frontier:.0f} s ago"
    if now - frontier > PROJECTED_WITHIN_S:
        return warn(AREA, "projector", seen, f"it is behind, and newer panels are empty: wait for it, or {advice}")
    return ok(AREA, "projector", seen)


def _disks(client: Client) -> Iterator[Finding]:
    disks = client.query("SELECT name, free_space, total_space FROM system.disks").result_rows
    for name, free, total in disks:
        yield room(AREA, f"disk {name}", int(free), int(total))
    if not disks:
        yield skip(AREA, "disk", "the store does not say")


def room(area: str, name: str, free: int, total: int) -> Finding:
    """Judge free space (bytes): less than 5 % or 1 GiB fails, less than 15 % or 5 GiB warns."""
    share = free / total if total else 1.0
    seen = f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} GiB ({share:.0%})"
    advice = "free some space, add a disk, or shorten [retention]"
    if free < 2**30 or share < 0.05:
        return fail(area, name, seen, advice)
    if free < 5 * 2**30 or share < 0.15:
        return warn(area, name, seen, advice)
    return ok(area, name, seen)
