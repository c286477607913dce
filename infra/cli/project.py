"""``gpufleet project``: keep the windows (rack_10s, fleet_10s, rack_1m, gpu_1m, gpu_1h, usage) equal to the events."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from infra.cli.common import GpufleetError, UnreachableError, UsageError, json_option, print_json, settings_options
from infra.config import Settings

if TYPE_CHECKING:
    from consumers.projector.projector import ProjectorSettings, Step

_REFUSED = re.compile(r"Code: (192|193|194|516)\b")
"""ClickHouse's error codes for unknown users and wrong passwords."""


def projector_settings(settings: Settings, owner: str = "") -> ProjectorSettings:
    """What the projector needs of the settings. Without ``owner``: a name of this process alone."""
    from consumers.projector.projector import ProjectorSettings
    from consumers.projector.recompute import Limits
    from consumers.projector.worklist import Pace

    return ProjectorSettings(
        owner=owner or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}",
        every_s=settings.project.tail_s,
        raw_days=settings.retention.raw_days,
        pace=Pace(grace_s=settings.project.minute_grace_s),
        limits=Limits(threads=settings.project.threads),
    )


@click.command(
    epilog="""\b
Examples:
  gpufleet project
  gpufleet project --once
  gpufleet project --from 2026-11-17T10:00 --to 2026-11-17T11:00"""
)
@click.option("--once", is_flag=True, help="Stop when every window that has closed is up to date.")
@click.option("--from", "start", metavar="TIME", help="Recompute from this time on (ISO 8601, UTC); implies --once.")
@click.option("--to", "end", metavar="TIME", help="End of the range to recompute. [default: now]")
@click.option("--node", "nodes", multiple=True, help="Recompute only these nodes' windows and their racks'.")
@click.option("--owner", default="", help="Name under which a restart takes over at once; one process at a time.")
@json_option
@settings_options
def command(
    settings: Settings,
    once: bool,
    start: str | None,
    end: str | None,
    nodes: tuple[str, ...],
    owner: str,
    as_json: bool,
) -> None:
    """Recompute windows from the events, following the ledger.

    Any number of projectors may run, alone or inside `gpufleet consume`: one at a time works. A range asked for with
    --from is left in the store for whichever that is.
    """
    from consumers.projector.projector import Projector
    from consumers.projector.requests import ask
    from consumers.projector.windows import Range
    from infra.connections import connect_store

    if (end or nodes) and not start:
        raise UsageError("--to and --node narrow a range: say with --from where it begins")
    if start:
        window = Range(when(start), when(end) if end else int(datetime.now(UTC).timestamp()))
        if window.start >= window.end:
            raise UsageError(f"--from {start} is not before --to {end or 'now'}")
        client = connect_store(settings, admin=True)
        ask(client, window, nodes or None, "gpufleet project --from")
        client.close()
    once = once or bool(start)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    def show(step: Step) -> None:
        if step.windows and not as_json:
            done = ", ".join(f"{table} {count}" for table, count in sorted(step.windows.items()))
            click.echo(f"{datetime.now(UTC):%H:%M:%S} {step.seconds:.1f} s: {done}", err=once)

    totals: dict[str, int] = {}

    def count(step: Step) -> None:
        for table, number in step.windows.items():
            totals[table] = totals.get(table, 0) + number
        show(step)
        if as_json and not once:
            print_json(asdict(step))

    projector = Projector(
        lambda: connect_store(settings, admin=True), projector_settings(settings, owner), on_step=count
    )
    if not once:
        _say_what_is_refused(settings)
        projector.run(stop)
        return
    try:
        done = projector.catch_up(timeout_s=3600, stop=stop, leave_to_others=True)
    finally:
        projector.close()
    if as_json:
        print_json({"up_to_date": done, "windows": totals})
    elif done:
        click.echo("windows are up to date" + (f": {sum(totals.values())} recomputed" if totals else ""))
    if not done and not stop.is_set():
        raise GpufleetError("the windows are not up to date after an hour; `gpufleet doctor` says how the store is")


def _say_what_is_refused(settings: Settings) -> None:
    """A wrong password ends it at once; a store that does not answer is waited for, like one that goes away later."""
    from infra.connections import connect_store

    try:
        connect_store(settings, admin=True).close()
    except UnreachableError as error:
        if _REFUSED.search(str(error)):
            raise
        click.echo(f"{error}; waiting for it", err=True)


def when(text: str) -> int:
    """Seconds since 1970 of an ISO 8601 time; without a zone it is UTC. UsageError when it cannot be read."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"expected a time such as 2026-11-17T10:00, found {text!r}") from None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())
