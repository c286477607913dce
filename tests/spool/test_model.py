"""The spool against a model of it, whatever order things happen in: what was taken and not acknowledged is there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from producers.encode import Message
from tests.spool.support import NOON_US, Bench, key, until

Key = tuple[str, int, int]


class SpoolMachine(RuleBasedStateMachine):
    """Model: events by key, those whose acknowledgement the spool was told, and those it may have forgotten again."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="spool-model-"))
        self.events: dict[Key, Message] = {}
        self.acknowledged: set[Key] = set()
        self.forgettable: set[Key] = set()
        """Acknowledged since the process started: a kill may make the spool forget it."""
        self.risen: set[Key] = set()
        """Forgotten so, perhaps: on disk again until acknowledged again."""
        self.wire: list[Message] = []
        self.at = NOON_US
        self.contact = True

    @initialize(segment_bytes=st.sampled_from([700, 5_000, 1 << 20]), window=st.sampled_from([600, 1 << 20]))
    def begin(self, segment_bytes: int, window: int) -> None:
        self.told = {"segment_bytes": segment_bytes, "live_window_bytes": window, "max_age_s": 1e9}
        self._start()

    def _start(self) -> None:
        self.bench = Bench(self.folder, lambda: self.contact, **self.told)

    @rule(count=st.integers(1, 8))
    def telemetry(self, count: int) -> None:
        for _ in range(count):
            message = self.bench.telemetry(self.at)
            self.events[key(message)] = message
            self.at += 5_000_000

    @rule()
    def fact(self) -> None:
        message = self.bench.fact(ts=self.at)
        self.events[key(message)] = message

    @rule(count=st.integers(1, 30))
    def acknowledge(self, count: int) -> None:
        ready = [key(message) for message in self.bench.publisher.open[:count]]
        self.bench.publisher.acknowledge(len(ready))
        self.acknowledged |= set(ready)
        self.forgettable |= set(ready)
        self.risen -= set(ready)

    @rule()
    def lose_contact(self) -> None:
        self.contact = False

    @rule()
    def gain_contact(self) -> None:
        self.contact = True
        self.bench.spool._wake.set()

    @rule(full=st.booleans())
    def publisher(self, full: bool) -> None:
        self.bench.publisher.full = full

    @rule()
    def restart(self) -> None:
        self.wire += self.bench.publisher.taken
        self.bench.close()
        self.forgettable.clear()
        self._start()

    @rule()
    def kill(self) -> None:
        self.wire += self.bench.publisher.taken
        self.bench.die()
        self.risen |= self.forgettable
        self.forgettable.clear()
        self._start()

    @invariant()
    def what_was_not_acknowledged_is_on_disk(self) -> None:
        if not hasattr(self, "bench"):
            return
        owed = len(self.events) - len(self.acknowledged)
        assert owed <= self.bench.spool.spooled <= owed + len(self.risen)

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.contact = True
            self.bench.publisher.full, self.bench.publisher.answers = False, True
            self.bench.publisher.acknowledge()
            self.bench.spool._wake.set()
            until(lambda: self.bench.spool.spooled == 0)
            self.wire += self.bench.publisher.taken
            self.bench.close()
            contents: dict[Key, set[bytes]] = {}
            for message in self.wire:
                contents.setdefault(key(message), set()).add(message.header + message.key + message.value)
            assert contents == {k: {m.header + m.key + m.value} for k, m in self.events.items()}
            assert list((self.folder / "spool").iterdir()) == []
        shutil.rmtree(self.folder)


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
