"""kill -9 at random instants: every event that counted as sampled is sent, under one identity with one content."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from consumers.audit.spools import parsed
from producers.agent.process import decode
from producers.spool.accounts import GIVEN_UP, THINNED, Account
from tests.spool.killed import KilledBench, wire
from tests.spool.support import key, until, who
from tests.spool.test_thinning import numbers

ROUNDS = 14


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_that_counted_as_sampled_is_lost_over_many_kills(tmp_path: Path, seed: int) -> None:
    subprocess.run([sys.executable, "-m", "tests.spool.killed", str(tmp_path), str(seed), str(ROUNDS)], check=True)
    last = KilledBench(tmp_path, random.Random(seed), ROUNDS)
    last.publisher.rng = Generous()
    until(lambda: not last.spool.spooled, f"seed {seed}: the backlog to be sent", 60)
    accounts = [account for _, account in last.spool.notices() if account is not None]
    last.close()

    offered = set()
    for line in (tmp_path / "offered").read_text().splitlines():
        topic, run, seq = line.split()
        offered.add((topic, int(run), int(seq)))
    sent: dict[tuple[str, int, int], set[bytes]] = {}
    for message in wire(tmp_path):
        sent.setdefault(key(message), set()).add(message.header + message.value)
    gone = {(a.topic, a.run_id, seq) for a in accounts for seq in numbers([a])}
    assert len(offered) > 500, f"seed {seed}: too little happened"
    assert offered - sent.keys() - gone == set(), f"seed {seed}: lost"
    assert [k for k, contents in sent.items() if len(contents) > 1] == [], f"seed {seed}: one identity, two contents"
    assert {topic for topic, _, _ in gone} <= {"node-telemetry"}, f"seed {seed}: facts are never dropped"
    _no_second_twice_and_none_missing(tmp_path, offered, accounts, seed)


class Generous(random.Random):
    """Dice that always fall on: taken, and all acknowledged."""

    def random(self) -> float:
        return 0.3

    def randint(self, a: int, b: int) -> int:
        return b


def _no_second_twice_and_none_missing(
    folder: Path, offered: set[tuple[str, int, int]], accounts: list[Account], seed: int
) -> None:
    """Distinct events on the wire cover each second of a run once, and every second that was not given up."""
    covered: dict[int, set[int]] = {}
    seen = set()
    for message in wire(folder):
        if message.topic != "node-telemetry" or key(message) in seen:
            continue
        seen.add(key(message))
        event, each = decode(message), who(message)
        first = each.ts // 1_000_000
        span = set(range(first, first + event["ticks"] * event["interval_ms"] // 1000))
        of_run = covered.setdefault(each.run_id, set())
        assert not of_run & span, f"seed {seed}: run {each.run_id} seq {each.seq} tells seconds twice"
        of_run |= span
    dropped = {(a.run_id, seq) for a in accounts if a.event == GIVEN_UP for seq in numbers([a])}
    # What was merged into an event that a later round gave up went with it: a range follows the event it is part of.
    for account in accounts:
        if account.event == THINNED and account.gone:
            for low, high in parsed(account.gone):
                if (account.run_id, low - 1) in dropped:
                    dropped |= {(account.run_id, seq) for seq in range(low, high + 1)}
    starts = {run: min(seconds) for run, seconds in covered.items()}
    for topic, run, seq in offered:
        if topic == "node-telemetry" and (run, seq) not in dropped and run in starts:
            # Within a round events follow each other every five seconds, so a number tells its time.
            first = _origin(starts[run]) + 5 * seq
            missing = set(range(first, first + 5)) - covered[run]
            told = [(a.event, a.gone, a.kept, a.interval_ms) for a in accounts if a.run_id == run]
            assert not missing, f"seed {seed}: run {run} seq {seq} is not told: {sorted(missing)}; {told}"


def _origin(second: int) -> int:
    """The round's first second, from any of its seconds: rounds begin 40 minutes apart."""
    from tests.spool.support import NOON_US

    noon = NOON_US // 1_000_000
    return noon + (second - noon) // 2400 * 2400
