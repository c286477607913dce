"""``gpufleet usage``: a customer's request logs as usage events."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from infra.cli.common import Finite, UsageError, json_option, print_json, settings_options
from infra.cli.producing import explained, producer

if TYPE_CHECKING:
    from infra.config import Settings
    from producers.usage.replay import Outcome, Plan
    from producers.usage.request import Request

SHOWN_LINES = 20
"""Malformed lines named on stderr; all are counted, and --rejects names every one."""

Emit = Callable[[int, dict[str, Any]], None]


@click.group(
    "usage",
    epilog="""\b
Examples:
  gpufleet usage replay requests.jsonl --tenant anthropic
  gpufleet usage replay requests.csv --tenant anthropic --dry-run""",
)
def command() -> None:
    """Turn a customer's request logs into usage events."""


@command.command(
    "replay",
    epilog="""\b
Examples:
  gpufleet usage replay requests.csv --tenant anthropic --dry-run
  gpufleet usage replay requests.jsonl --tenant anthropic --speed 60""",
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--tenant", required=True, help="Customer whose requests these are.")
@click.option("--window", default="60s", show_default=True, help="Length of a window: divides a day.")
@click.option("--workspace", default="", help="For requests that name none.")
@click.option("--product", default="", help="For requests that name none.")
@click.option("--model", default="", help="For requests that name none.")
@click.option("--tier", default="", help="For requests that name none.")
@click.option("--speed", type=Finite(min=0, min_open=True), help="Send at X times the log's own pace.")
@click.option("--at-once", is_flag=True, help="Send as fast as the broker takes it (the default).")
@click.option("--shift-to", metavar="TIME", help="Move the first request into the window of this time (with zone).")
@click.option("--keep-times", is_flag=True, help="Keep the log's times. [default: the last request moves to now]")
@click.option(
    "--repeat", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Copies, a workspace each."
)
@click.option("--jitter", metavar="TIME", default="0s", show_default=True, help="Copies move by up to this much.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the jitter.")
@click.option("--out-of-order", default="60s", show_default=True, help="Lateness that needs no second revision.")
@click.option("--revision", type=click.IntRange(1, 2**30), default=1, show_default=True, help="First revision.")
@click.option("--strict", is_flag=True, help="Stop at the first malformed line.")
@click.option("--rejects", type=click.Path(path_type=Path, dir_okay=False), help="Write every malformed line's reason.")
@click.option("--dry-run", is_flag=True, help="Send nothing: show what would be sent.")
@json_option
@settings_options
def replay(settings: Settings, as_json: bool, **options: Any) -> None:
    """Send the requests in FILE (CSV or JSON lines; - reads a pipe) as usage per window.

    Lines that are no requests are named, counted and left out; the exit code is then 1.
    """
    from producers.usage.replay import Replay

    with explained(str(options["file"])):
        plan = _plan(options)
        shift = _shift(options, plan)
        began = time.monotonic()
        with _rejects(options) as on_malformed, _sender(settings, options["tenant"], options["dry_run"]) as emit:
            run = Replay(plan, emit, on_malformed, lambda s: time.sleep(max(0.0, began + s - time.monotonic())))
            with _open(options["file"]) as source:
                outcome = run.run(source, shift)
    _report(outcome, options, as_json)
    if outcome.read.malformed or outcome.too_late:
        raise click.exceptions.Exit(1)


def _plan(options: dict[str, Any]) -> Plan:
    from producers.checks import dimension, duration_us, tenant_name
    from producers.usage.replay import Plan
    from producers.usage.request import Dimensions

    if options["speed"] and options["at_once"]:
        raise UsageError("--speed and --at-once contradict each other")
    if options["shift_to"] and options["keep_times"]:
        raise UsageError("--shift-to and --keep-times contradict each other")
    if options["dry_run"] and options["speed"]:
        raise UsageError("--dry-run sends nothing, so there is no --speed to send it at")
    names = ("workspace", "product", "model", "tier")
    return Plan(
        tenant=tenant_name(options["tenant"]),
        defaults=Dimensions(*(dimension(options[name], f"--{name}") for name in names)),
        window_us=duration_us(options["window"]),
        lateness_us=duration_us(options["out_of_order"]),
        first_revision=options["revision"],
        repeat=options["repeat"],
        jitter_us=duration_us(options["jitter"]),
        seed=options["seed"],
        speed=options["speed"],
    )


def _shift(options: dict[str, Any], plan: Plan) -> Callable[[Request], int]:
    """How far the times move, asked once the first request is known."""
    from producers.checks import zoned_time
    from producers.usage.replay import extent, shift_to_end_now, whole_windows

    if options["keep_times"]:
        return lambda _first: 0
    if options["shift_to"]:
        target = zoned_time(options["shift_to"], "--shift-to")
        begin = whole_windows(target, plan.window_us)
        return lambda first: begin - whole_windows(first.ts, plan.window_us)
    if str(options["file"]) == "-":
        raise UsageError("a pipe does not tell when it ends: give --shift-to TIME or --keep-times")
    with _open(options["file"]) as source:
        known = shift_to_end_now(extent(source, plan), time.time_ns() // 1000, plan)
    return lambda _first: known


@contextmanager
def _open(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        with file.open("rb") as source:
            yield source
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        if error.filename != str(file):
            raise
        raise UsageError(f"cannot read {file}: {error.strerror}") from None


@contextmanager
def _sender(settings: Settings, tenant: str, dry_run: bool) -> Iterator[Emit]:
    from producers.usage.replay import TOPIC

    with nullcontext() if dry_run else producer(settings, "usage-replay", [TOPIC], [tenant]) as session:

        def emit(ts: int, fields: dict[str, Any]) -> None:
            if session:
                session.send(TOPIC, ts, fields)

        yield emit
        if session:
            session.finish()


@contextmanager
def _rejects(options: dict[str, Any]) -> Iterator[Callable[[int, str], None]]:
    """What to do with a malformed line: name it, write it down, or stop."""
    from producers.errors import InputError

    path: Path | None = options["rejects"]
    told = 0
    with path.open("w") if path else nullcontext() as sink:

        def on_malformed(line: int, why: str) -> None:
            nonlocal told
            if options["strict"]:
                raise InputError(f"line {line}: {why}; stopped by --strict, earlier windows may have been sent")
            told += 1
            if told <= SHOWN_LINES:
                click.echo(f"gpufleet: {options['file']}: line {line}: {why}", err=True)
            if sink:
                sink.write(f"{line}\t{why}\n")

        yield on_malformed
    if told > SHOWN_LINES:
        more = f"{told - SHOWN_LINES} more"
        click.echo(f"gpufleet: {options['file']}: {more} like these" + ("" if path else "; see --rejects"), err=True)


def _report(outcome: Outcome, options: dict[str, Any], as_json: bool) -> None:
    from producers.checks import utc_text

    span = [utc_text(us) if us is not None else None for us in (outcome.first_window, outcome.last_window)]
    for name, hint in outcome.read.ignored_fields.items():
        click.echo(f"gpufleet: {options['file']}: {name!r} is not read as usage ({hint})", err=True)
    if as_json:
        print_json(
            {
                "tenant": options["tenant"],
                "lines": outcome.read.lines,
                "malformed": outcome.read.malformed,
                "too_late": outcome.too_late,
                "requests": outcome.requests,
                "input_tokens": outcome.input_tokens,
                "cached_tokens": outcome.cached_tokens,
                "output_tokens": outcome.output_tokens,
                "events": outcome.events,
                "revisions": outcome.revisions,
                "shift_s": outcome.shift_us / 1e6,
                "first_window": span[0],
                "last_window": span[1],
                "dry_run": options["dry_run"],
            }
        )
        return
    verb = "would send" if options["dry_run"] else "sent"
    click.echo(
        f"{verb} {outcome.events} events ({outcome.revisions} of them revisions) for {options['tenant']}: "
        f"{outcome.requests} requests, {outcome.input_tokens} input and {outcome.output_tokens} output tokens, "
        f"windows {span[0]} to {span[1]}"
        + (f"; {outcome.read.malformed} malformed lines left out" if outcome.read.malformed else "")
        + (f"; {outcome.too_late} requests came too late" if outcome.too_late else "")
    )
