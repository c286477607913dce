"""What `gpufleet up` leaves on a terminal when somebody presses Ctrl-C."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import termios

import pytest
from rich.console import Console

from infra.up.snapshot import Snapshot
from infra.up.view import View

PROGRAM = """
import signal, time
from infra.up.view import without_echo
stopped = []
signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
with {how}:
    print("ready", flush=True)
    while not stopped:
        time.sleep(0.01)
print("stopped", flush=True)
"""


def pressed(how: str) -> tuple[bytes, bool]:
    """What the terminal shows of a program in which Ctrl-C is pressed, and whether it shows ^C afterwards."""
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(how=how)], preexec_fn=lambda: os.login_tty(theirs), close_fds=False
    )
    shown = b""
    while b"ready" not in shown:
        shown += os.read(ours, 1000)
    os.write(ours, b"\x03")
    while b"stopped" not in shown:
        shown += os.read(ours, 1000)
    assert program.wait(timeout=60) == 0
    after = bool(termios.tcgetattr(theirs)[3] & termios.ECHOCTL)
    os.close(ours)
    os.close(theirs)
    return shown, after


def test_ctrl_c_leaves_no_mark_that_would_shift_the_redrawn_table() -> None:
    shown, after = pressed("without_echo()")
    assert b"^C" not in shown
    assert after, "the terminal is as it was"
    shown, _ = pressed("open('/dev/null')")
    assert b"^C" in shown, "a terminal shows it where nothing is done"


@pytest.mark.parametrize(
    ("age_s", "row", "sick"),
    [
        (70, None, "none"),
        (None, "being filled", "not known yet"),
        (1500, "25 min behind, catching up", "not known yet"),
        (33_000, "9.2 h behind, catching up", "not known yet"),
    ],
)
def test_boards_that_are_still_filled_are_not_taken_for_a_fleet_without_faults(
    age_s: float | None, row: str | None, sick: str
) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    view = View("a fleet", quiet=True)
    console.print(view._drawn(Snapshot(minutes_behind_s=age_s), "live", None, 0, 0))
    lines = {line[1:19].strip(): line[19:-2].strip() for line in out.getvalue().splitlines()}
    assert (lines.get("boards"), lines["sick GPUs"]) == (row, sick), out.getvalue()
