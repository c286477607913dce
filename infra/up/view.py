"""What a person sees while ``gpufleet up`` runs: a table that redraws on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import termios
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from infra.up.preview import Preview
from infra.up.snapshot import Snapshot

QUESTIONS = {
    "Which GPUs are sick, and why?": "SELECT * FROM sick_gpus LIMIT 20",
    "What did each tenant lease, and what was delivered?": (
        "SELECT hour, tenant, lease_id, gpu_model, gpus, round(delivered_share, 4) AS delivered, sla_target "
        "FROM lease_delivery WHERE hour < toStartOfHour(now()) ORDER BY hour DESC, tenant LIMIT 20"
    ),
    "How much power does each rack draw?": (
        "SELECT rack, tenant, round(power_w_sum / power_w_s * gpus / 1000, 1) AS kw FROM rack_1m FINAL "
        "WHERE ts = (SELECT max(ts) FROM rack_1m) ORDER BY kw DESC LIMIT 20"
    ),
    "How close is each customer to its limits?": "SELECT * FROM tenant_headroom LIMIT 20",
    "How fresh and complete is the data?": (
        "SELECT topic, inserts, round(rows_per_s, 1) AS rows_s, duplicates, dead_letters, "
        "round(append_to_stored_s_p99, 2) AS stored_s_p99 FROM ingest_health"
    ),
}
"""Five questions to ask a running fleet, with the SQL that answers them."""


KEEPS_UP_S = 240.0
"""A projector without a backlog has closed every minute that is older."""


class View:
    """Progress and state on stderr, so that stdout stays for the answer."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._title = title
        self._rich = self._console.is_terminal and not quiet
        self._echo = without_echo() if self._rich else contextlib.nullcontext()
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._said = 0.0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._echo.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_progress()
        self.settle()
        self._echo.__exit__(kind, error, trace)

    def settle(self) -> None:
        """Leave the last snapshot as it stands: what follows are lines."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """One line of what is being done."""
        self._console.print(f"[dim]{time.monotonic() - self._started:6.1f} s[/dim]  {text}", soft_wrap=True)

    def backfill(self, done: int, total: int) -> None:
        """Progress of the back-fill, in microseconds of event time."""
        share = done / total if total else 1.0
        if self._rich:
            if self._progress is None:
                self._progress = Progress(
                    TextColumn("          back-fill {task.fields[hours]:.1f} h"),
                    BarColumn(),
                    TextColumn("{task.percentage:>3.0f} %"),
                    TimeRemainingColumn(),
                    console=self._console,
                )
                self._progress.start()
                self._task = self._progress.add_task("", total=1.0, hours=total / 3.6e9)
            assert self._task is not None
            self._progress.update(self._task, completed=share)
        elif time.monotonic() - self._said > 5 or done >= total:
            self._said = time.monotonic()
            self.say(f"back-fill {share:4.0%} of {total / 3.6e9:.1f} h")
        if done >= total:
            self._end_progress()

    def show(self, shot: Snapshot, state: str, left_s: float | None, lost: int, doubled: int) -> None:
        """Draw a snapshot."""
        if self._rich:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False)
                self._live.start()
            self._live.update(self._drawn(shot, state, left_s, lost, doubled), refresh=True)
        elif time.monotonic() - self._said >= 10:
            self._said = time.monotonic()
            self.say(
                f"{shot.gpus_reporting} GPUs reporting, {shot.samples_per_s:,.0f} samples/s, "
                f"freshness p99 {_seconds(shot.freshness_p99_s)}, power {_power(shot)}, "
                f"dead letters {shot.dead_letters}, lost {lost}, doubled {doubled}"
                + (f", boards {behind}" if (behind := _behind(shot)) else "")
            )

    def _drawn(self, shot: Snapshot, state: str, left_s: float | None, lost: int, doubled: int) -> Panel:
        table = Table.grid(padding=(0, 3))
        table.add_column(style="dim")
        table.add_column()
        table.add_row("GPUs reporting", f"[bold]{shot.gpus_reporting:,}[/bold]")
        table.add_row("samples stored", f"{shot.samples_per_s:,.0f} /s")
        table.add_row("freshness", f"p50 {_seconds(shot.freshness_p50_s)}   p99 {_seconds(shot.freshness_p99_s)}")
        table.add_row("power", _power(shot))
        table.add_row("tenants", "   ".join(f"{name} {gpus:,}" for name, gpus in shot.tenants.items()) or "-")
        behind = _behind(shot)
        sick = "   ".join(f"{cause} {gpus}" for cause, gpus in shot.sick.items())
        none = Text("not known yet", style="dim") if behind else Text("none", style="green")
        table.add_row("sick GPUs", Text(sick, style="yellow") if sick else none)
        if behind:
            table.add_row("boards", Text(behind, style="yellow"))
        table.add_row("dead letters", f"{shot.dead_letters:,}")
        style = "green" if lost == doubled == 0 else "bold red"
        table.add_row("lost / doubled", Text(f"{lost} / {doubled}", style=style))
        foot = state if left_s is None else f"{state}, {max(0.0, left_s):.0f} s left"
        return Panel(
            Group(table, Text(f"\n{foot}   (Ctrl-C stops)", style="dim")), title=self._title, border_style="blue"
        )

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


@contextlib.contextmanager
def without_echo() -> Iterator[None]:
    """Ctrl-C leaves no ``^C`` on the terminal meanwhile: a line of it would shift what is redrawn."""
    before = _echo(on=False)
    try:
        yield
    finally:
        if before:
            _echo(on=True)


def _echo(*, on: bool) -> bool:
    """Whether control characters were shown; they are (or are no longer) from now on."""
    try:
        terminal = sys.stdin.fileno()
        if os.tcgetpgrp(terminal) != os.getpgrp():
            return False  # in the background, the shell would stop us for touching its terminal
        settings = termios.tcgetattr(terminal)
        shown = bool(settings[3] & termios.ECHOCTL)
        settings[3] = settings[3] | termios.ECHOCTL if on else settings[3] & ~termios.ECHOCTL
        termios.tcsetattr(terminal, termios.TCSADRAIN, settings)
    except (OSError, ValueError, termios.error):  # no terminal
        return False
    return shown


def print_questions(data: str, url: str) -> None:
    """Where to ask, and five things worth asking, on stderr."""
    lines = [f"\nSQL endpoint: {url} (user operator, password in {data}/store/operator.password); in another terminal:"]
    where = "" if data == "gpufleet-data" else f" --data {shlex.quote(str(data))}"
    lines += [f'  # {question}\n  gpufleet sql{where} "{sql}"' for question, sql in QUESTIONS.items()]
    print("\n".join(lines) + "\n", file=sys.stderr)


def print_preview(preview: Preview) -> None:
    """Where the dashboards are, or why they are not, on stderr."""
    where = preview.url or f"not served: {preview.trouble}"
    print(f"Dashboards: {where}\n", file=sys.stderr)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _behind(shot: Snapshot) -> str:
    """How far the projector has still to go through the back-fill, or after it was away; empty when it keeps up."""
    age_s = shot.minutes_behind_s
    if age_s is not None and age_s <= KEEPS_UP_S:
        return ""
    if age_s is None:
        return "being filled"
    return f"{age_s / 3600:.1f} h behind, catching up" if age_s >= 3600 else f"{age_s / 60:.0f} min behind, catching up"


def _power(shot: Snapshot) -> str:
    if shot.power_w is None:
        return "-"
    cap = f" of {shot.power_cap_w / 1e3:,.0f} kW" if shot.power_cap_w else ""
    return f"{shot.power_w / 1e3:,.0f}{cap}" if cap else f"{shot.power_w / 1e3:,.0f} kW"
