"""A process that spools and is killed again and again: ``python -m tests.spool.killed FOLDER SEED ROUNDS``.

Every round is a fork that offers events as fast as it can, with a publisher that takes, refuses and acknowledges at
random, until the parent kills it after a random number of events. ``offered`` gets a line for each event once
``offer`` returned, ``wire`` every message that the publisher took, before it may be acknowledged.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from producers.encode import Message
from producers.publisher import Acknowledgements
from producers.spool.pace import Link
from schemas import catalogue
from tests.spool.support import MINUTE_US, NOON_US, TOPICS, Bench, FakePublisher, who

LINE_BYTES = 34


class Wire(FakePublisher):
    """Writes down what it takes, then does as the dice say."""

    rng: random.Random
    file: int

    def __init__(self, told: Acknowledgements) -> None:
        super().__init__(told)

    def offer(self, message: Message) -> bool:
        if self.rng.random() < 0.1:
            return False
        record = pickle.dumps(tuple(message[:4]))
        os.write(self.file, struct.pack("<I", len(record)) + record)
        super().offer(message)
        if self.rng.random() < 0.5:
            self.acknowledge(self.rng.randint(0, len(self.open)))
        return True


def wire(folder: Path) -> Iterator[Message]:
    """Everything that was ever taken; a torn record at the end of a round was not."""
    for path in sorted(folder.glob("wire-*")):
        data = path.read_bytes()
        at = 0
        while at + 4 <= len(data):
            (size,) = struct.unpack_from("<I", data, at)
            if at + 4 + size > len(data):
                break
            topic, key, value, header = pickle.loads(data[at + 4 : at + 4 + size])
            yield Message(topic, key, value, header, -1)
            at += 4 + size


class KilledBench(Bench):
    """A bench whose publisher is a ``Wire``."""

    publisher: Wire

    def __init__(self, folder: Path, rng: random.Random, number: int, **settings: Any) -> None:
        self._rng, self._number = rng, number
        super().__init__(folder, **settings)

    def _publisher(self, told: Acknowledgements) -> Wire:
        made = Wire(told)
        made.rng = random.Random(self._rng.random())
        made.file = os.open(self.folder / f"wire-{self._number:04d}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.publisher = made
        return made


def live(folder: Path, rng: random.Random, number: int) -> None:
    """One round; ends only by the kill."""
    offered = os.open(folder / "offered", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    bench = KilledBench(
        folder,
        rng,
        number,
        segment_bytes=rng.choice([1_500, 6_000, 30_000]),
        max_bytes=rng.choice([15_000, 60_000, 1 << 30]),
        fsync=rng.choice(["event", "interval", "never"]),
        fsync_interval_s=0.005,
        drain_window_bytes=rng.choice([1_000, 100_000]),
    )
    if rng.random() < 0.4:
        bench.spool._link = bench.spool._draining._link = Away(1.0)
    at = NOON_US + number * 40 * MINUTE_US
    while True:
        message = bench.fact(ts=at) if rng.random() < 0.05 else bench.telemetry(at)
        at += 0 if message.topic == "node-events" else 5_000_000
        each = who(message)
        os.write(offered, f"{message.topic} {each.run_id} {each.seq}\n".encode())
        if rng.random() < 0.02:
            bench.spool._wake.set()
            time.sleep(0.002)


class Away(Link):
    """A broker that does not answer."""

    def check(self, now: float, flying: int) -> bool:
        return False


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def main() -> None:
    folder, seed, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    for topic in TOPICS:
        assert catalogue.latest(topic).parsed  # once, not in every fork
    for number in range(rounds):
        child_seed, lines, delay = rng.random(), rng.randint(0, 250), rng.uniform(0.0, 0.01)
        if rng.random() < 0.2:
            lines, delay = 0, rng.uniform(0.0, 0.1)  # killed as it starts, or thereabouts
        until_bytes = size(folder / "offered") + lines * LINE_BYTES
        pid = os.fork()
        if pid == 0:
            try:
                live(folder, random.Random(child_seed), number)
            finally:
                os._exit(3)
        gives_up = time.monotonic() + 20
        while size(folder / "offered") < until_bytes and time.monotonic() < gives_up:
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"round {number} of seed {seed} ended by itself: {status}")


if __name__ == "__main__":
    main()
