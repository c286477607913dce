"""One world and its schedules: ``python -m tests.chaos.worker``. Writes a line of JSON for each (results.py)."""

from __future__ import annotations

import argparse
import faulthandler
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import results
from tests.chaos.plan import SPECIAL, plan
from tests.chaos.schedule import Director
from tests.chaos.world import World

FAILED = 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.worker", description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="of the first schedule")
    parser.add_argument("--step", type=int, default=1, help="from one schedule's seed to the next one's")
    parser.add_argument("--schedules", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no schedule later than this")
    parser.add_argument("--special", choices=[*SPECIAL, ""], help="overrules what the seeds say")
    parser.add_argument("--keep", action="store_true", help="leave the folder with all logs behind")
    given = parser.parse_args()
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing that was started or mounted is left behind
    began, one = time.monotonic(), plan(given.seed, given.special)
    folder = Path(tempfile.mkdtemp(prefix="gpufleet-chaos-"))
    try:
        with World(folder) as world:
            director = Director(world)
            for number in range(given.schedules):
                if time.monotonic() - began > given.seconds:
                    break
                one = plan(given.seed + number * given.step, given.special)
                try:
                    outcome = director.run(one)
                    given.keep = given.keep or outcome.hung > 0  # its stacks are worth reading
                    print(results.line(outcome), flush=True)
                except Exception as error:  # noqa: BLE001 - whatever it is, its seed is told
                    print(results.failure(one, error), flush=True)
                    world.tell_where_you_are()
                    given.keep = True
                    return FAILED
            try:
                director.last_look()
            except Exception as error:  # noqa: BLE001 - as above
                print(results.failure(one, error), flush=True)
                given.keep = True
                return FAILED
            director.close()
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"logs are in {folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
