"""Power loss: what the disk was made to hold survives, whatever becomes of the rest, under each policy.

A loss is played by a copy of the folder in which each file is as long as it was at its last fsync, and what came
after that is gone, zeroed, or there in part: what a journalling file system leaves of unsynced appends.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from producers.encode import Message
from tests.spool.support import MINUTE_US, NOON_US, Bench, key, until

Synced = dict[int, int]
"""Inode -> its length when it was synced last."""
LOSSES: dict[str, Callable[[random.Random, bytes, int], bytes]] = {
    "the tail is gone": lambda _rng, data, synced: data[:synced],
    "the tail is zeros": lambda _rng, data, synced: data[:synced] + bytes(len(data) - synced),
    "a part of the tail is there": lambda rng, data, synced: data[: rng.randint(synced, len(data))],
    "the tail is there but for a page of zeros": lambda _rng, data, synced: (
        data[:synced] + bytes(min(64, len(data) - synced)) + data[synced + 64 :]
    ),
}


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Synced:
    """Lengths of files at their last fsync, from here on."""
    lengths: Synced = {}
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        state = os.fstat(descriptor)
        lengths[state.st_ino] = state.st_size

    monkeypatch.setattr(os, "fsync", noted)
    return lengths


def after_power_loss(folder: Path, copy: Path, synced: Synced, how: str, rng: random.Random) -> Path:
    """What the disk holds when the machine comes back."""
    shutil.copytree(folder / "journal", copy / "journal")
    (copy / "spool").mkdir(parents=True)
    for path in sorted((folder / "spool").iterdir()):
        data = path.read_bytes()
        # Written by one rename of a synced file, or lost as a whole where nobody synced it.
        (copy / "spool" / path.name).write_bytes(
            LOSSES[how](rng, data, min(len(data), synced.get(path.stat().st_ino, 0)))
        )
    return copy


@pytest.mark.parametrize("how", LOSSES)
@pytest.mark.parametrize("policy", ["event", "interval", "never"])
def test_no_event_that_was_synced_is_lost_and_no_other_is_sent_damaged(
    tmp_path: Path, synced: Synced, policy: str, how: str
) -> None:
    rng = random.Random(f"{policy} {how}")
    bench = Bench(
        tmp_path / "alive",
        contact=lambda: False,
        fsync=policy,
        fsync_interval_s=0.01,
        segment_bytes=4_000,
        max_age_s=1e9,
    )
    events: list[Message] = []
    for minute in range(3):
        events += bench.minutes(1, NOON_US + minute * MINUTE_US)
        events.append(bench.fact(ts=NOON_US + minute * MINUTE_US))
    if policy == "interval":
        bench.tidy()  # a round of the spool's thread: the interval is over
    certain = {"event": len(events), "interval": len(events), "never": 0}[policy]
    if policy != "event":
        events += bench.minutes(1, NOON_US + 3 * MINUTE_US)
    bench.die()
    copy = after_power_loss(tmp_path / "alive", tmp_path / "again", synced, how, rng)
    again = Bench(copy, fsync="never", max_age_s=1e9)
    again.publisher.answers = True
    until(lambda: again.spool.spooled == 0, "what is left is sent")
    sent = {key(m): m.header + m.key + m.value for m in again.publisher.taken if m.topic != "inventory"}
    again.close()
    whole = {key(m): m.header + m.key + m.value for m in events}
    assert {key(m) for m in events[:certain]} <= sent.keys(), f"{policy}: what was synced is sent"
    assert sent.items() <= whole.items(), "and nothing that never was"


def test_an_event_is_on_the_disk_before_it_counts_as_sampled(tmp_path: Path, synced: Synced) -> None:
    """With ``event``, every offer that says yes has synced the file that holds the event, to its end."""
    bench = Bench(tmp_path, contact=lambda: False, fsync="event", segment_bytes=3_000)
    for number in range(40):
        bench.telemetry(NOON_US + number * 5_000_000)
        active = max((tmp_path / "spool").glob("samples-*.log"), key=lambda path: path.name)
        state = active.stat()
        assert synced.get(state.st_ino) == state.st_size
    bench.close()
