"""Coverage-guided fuzzing with Atheris: ``python -m tests.fuzz.run [--minutes N] [TARGET ...]``.

Each target runs in a process of its own for its share of the time, from its seeds, the committed corpus and what
earlier runs on this machine found (``.fuzz/``). An input that breaks a property is kept as ``.fuzz/TARGET/found-*``,
and the exit code is 1: copy it to ``tests/fuzz/corpus/TARGET/`` under a name that tells what it breaks, and mend.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOUND = Path(".fuzz")
LONGEST_INPUT = 1 << 14
OURS = ["schemas", "producers", "consumers", "infra"]
"""What is instrumented: coverage of libraries would lead the search astray."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz gpufleet's readers, guided by coverage.")
    parser.add_argument("--minutes", type=float, default=15.0, help="for all targets together, per core [15]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at the same time")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("target", nargs="*", help="some of the targets [all]")
    told = parser.parse_args()
    if told.one:
        _fuzz(told.one, told.seconds)
        return 0
    from tests.fuzz.targets import TARGETS

    unknown = [name for name in told.target if name not in TARGETS]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    names = told.target or list(TARGETS)
    seconds = max(5, round(told.minutes * 60 * told.jobs / len(names)))
    with ThreadPoolExecutor(told.jobs) as pool:
        codes = list(pool.map(lambda name: _start(name, seconds), names))
    broken = [name for name, code in zip(names, codes, strict=True) if code]
    for name in broken:
        print(f"{name}: broken; see {FOUND / name}/output and the newest {FOUND / name}/found-*")
    print(f"{len(names) - len(broken)} of {len(names)} targets held, {seconds} s each")
    return 1 if broken else 0


def _start(name: str, seconds: int) -> int:
    from tests.fuzz.targets import seeds

    folder = FOUND / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (folder / "corpus" / f"seed-{number}").write_bytes(seed)
    with (folder / "output").open("wb") as output:
        return subprocess.run(
            [sys.executable, "-m", "tests.fuzz.run", "--one", name, "--seconds", str(seconds)],
            stdout=output,
            stderr=output,
        ).returncode


def _fuzz(name: str, seconds: int) -> None:
    try:
        import atheris
    except ImportError:
        sys.exit("coverage-guided fuzzing needs Atheris (Linux, Python 3.11 or newer): pip install 'gpufleet[fuzz]'")
    from tests.fuzz.bounds import bounded

    with atheris.instrument_imports(include=OURS):
        from tests.fuzz.targets import CORPUS, TARGETS

    target = TARGETS[name]

    def once(data: bytes) -> None:
        with bounded():
            target(data)

    folder = FOUND / name
    arguments = [sys.argv[0], str(folder / "corpus")]
    if (CORPUS / name).is_dir():
        arguments.append(str(CORPUS / name))
    arguments += [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/found-", f"-max_len={LONGEST_INPUT}"]
    arguments += ["-timeout=60", "-rss_limit_mb=4096", "-print_final_stats=1"]
    atheris.Setup(arguments, once)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
