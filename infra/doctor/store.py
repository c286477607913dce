"""The store: does it answer with these credentials, is it new enough, is its clock ours, room and migrations?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from infra.config import Settings
from infra.connections import connect_store, render
from infra.doctor.kafka import skew
from infra.doctor.report import Finding, fail, ok, skip, warn

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

AREA = "store"
TRIED = (26, 9)
"""The version the test suite runs against."""
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
    yield from _migrations(client, settings)
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
