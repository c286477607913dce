"""``make chaos``: worlds side by side, schedule after schedule, until time or schedules are used up.

Shows progress, ends (with Ctrl-C, too) with a table for docs/reliability.md, exit code 1 when a schedule failed. One
failed schedule costs its world; a new one goes on with the next seed. With ``--record`` a long run may be done in
parts: each goes on with the seeds after those of the record, and the table is of all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.chaos.results import Results

PER_WORLD = 200
"""Schedules of one world: the store holds all of them, so that the last audit looks at what every one left."""
TOLD_S = 20.0


class Worker:
    """A world in a process of its own."""

    def __init__(self, number: int, seed: int, step: int, schedules: int, seconds: float, log: Path) -> None:
        self.number = number
        arguments = ["--seed", str(seed), "--step", str(step), "--schedules", str(schedules), "--seconds", str(seconds)]
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.worker", *arguments],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def lines(self, into: queue.Queue[tuple[int, str | None]]) -> None:
        """Everything it says, and None at its end."""
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                into.put((self.number, line))
        self.process.wait()
        self._log.close()
        into.put((self.number, None))


def run(
    seed: int, schedules: int, seconds: float, worlds: int, log: Path, record: Path | None = None
) -> tuple[Results, float]:
    """All of it, and the seconds it took. What ``record`` holds counts, too, and every schedule is added to it."""
    results, began = Results(), time.monotonic()
    earlier = results.read(record)
    told: queue.Queue[tuple[int, str | None]] = queue.Queue()
    next_seed = [seed + number for number in range(worlds)]
    end = seed + schedules if schedules else 1 << 62
    workers: dict[int, Worker] = {}

    def start(number: int) -> None:
        left = seconds - (time.monotonic() - began)
        many = min(PER_WORLD, -(-(end - next_seed[number]) // worlds))
        if many > 0 and left > 0:
            worker = workers[number] = Worker(number, next_seed[number], worlds, many, left, log)
            threading.Thread(target=worker.lines, args=(told,), daemon=True).start()

    def count(outcome: dict[str, Any]) -> None:
        results.add(outcome)
        if record is not None:
            with record.open("a") as file:
                print(json.dumps(outcome | {"wall_s": round(earlier + time.monotonic() - began, 1)}), file=file)

    for number in range(worlds):
        start(number)
    shown = began
    try:
        while workers:
            try:
                number, line = told.get(timeout=1.0)
            except queue.Empty:
                number, line = -1, ""
            if line is None:
                dead = workers.pop(number)
                if dead.process.returncode not in (0, 1):
                    count({"seed": next_seed[number], "plan": "", "failed": f"its world ended, see {log}"})
                    next_seed[number] += worlds
                start(number)
            elif line:
                outcome = json.loads(line)
                count(outcome)
                next_seed[number] = outcome["seed"] + worlds
                if "failed" in outcome:
                    print(f"FAILED {outcome['plan']}\n{outcome['failed']}\n{again(outcome['seed'])}", flush=True)
            if time.monotonic() - shown > TOLD_S:
                shown = time.monotonic()
                print(results.progress(earlier + shown - began), flush=True)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        for worker in workers.values():
            worker.process.terminate()
    return results, earlier + time.monotonic() - began


def next_of(record: Path | None) -> int:
    """The first seed that no schedule of the record had."""
    if record is None or not record.exists():
        return 1
    return max((int(json.loads(line)["seed"]) + 1 for line in record.read_text().splitlines()), default=1)


def again(seed: int) -> str:
    """How to do a schedule again."""
    return f'again: make chaos ARGS="--seed {seed} --schedules 1"'


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no schedule later (default: %(default)s)")
    parser.add_argument("--schedules", type=int, default=0, help="as many, whatever the time; 0: until time is up")
    parser.add_argument("--seed", type=int, help="of the first schedule (default: 1, or the next one of the record)")
    parser.add_argument("--worlds", type=int, default=0, help="side by side (default: 3, they mostly wait)")
    parser.add_argument("--table", type=Path, help="write the table there, too")
    parser.add_argument("--record", type=Path, help="JSON lines: go on after the schedules in it, and add to it")
    parser.add_argument(
        "--log", type=Path, default=Path("chaos.log"), help="what the worlds say (default: %(default)s)"
    )
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seconds = 1e9 if given.schedules else given.seconds
    worlds = given.worlds or min(3, given.schedules or 3)
    seed = next_of(given.record) if given.seed is None else given.seed
    results, elapsed = run(seed, given.schedules, seconds, worlds, given.log, given.record)
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    table = results.table(elapsed, machine)
    print(f"\n{table}")
    for one in results.failed:
        print(f"failed: seed {one['seed']}: {one['failed'].splitlines()[0]}; {again(one['seed'])}")
    if given.table:
        given.table.write_text(table + "\n")
    return 1 if results.failed or not results.passed else 0


if __name__ == "__main__":
    raise SystemExit(main())
