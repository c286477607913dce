"""What `gpufleet up` leaves on a terminal when somebody presses Ctrl-C."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

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
