"""How each fault is done to a world, and undone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Producer

from tests.chaos.plan import Fault
from tests.chaos.process import Running
from tests.chaos.proxy import Matches, http_any, http_insert, kafka_request
from tests.chaos.world import World

Undo = Callable[[], None]
FORGETS_S = 1.0
"""How much of what it acknowledged a store loses; less than a consumer's commit horizon."""


@dataclass
class Producers:
    """The producer processes of a schedule, and how to start one again."""

    running: list[Running] = field(default_factory=list)
    start_again: Callable[[int], None] = lambda number: None
    skews: list[float] = field(default_factory=list)


@dataclass
class Injector:
    """Does faults. ``kills`` are noted with their time, for the measuring of recovery."""

    world: World
    producers: Producers
    kills: list[tuple[str, float]] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)
    """Faults that could not be done here."""

    def do(self, fault: Fault) -> Undo | None:
        """Do it; what ends it, to be called ``fault.lasts`` later."""
        done: Undo | None = getattr(self, "_" + "".join(c if c.isalpha() else "_" for c in fault.kind))(fault)
        return done

    # --- consumers ----------------------------------------------------------------------------------------------

    def _consumer_killed(self, fault: Fault) -> Undo | None:
        one = _one(self.world.consumers, fault)
        if one is not None:
            self._kill(one, "consumer")
        return self._supervise

    def _consumer_stopped(self, fault: Fault) -> Undo | None:
        one = _one(self.world.consumers, fault)
        if one is None:
            return None
        one.stop()
        return one.go_on

    def _consumer_joins(self, fault: Fault) -> Undo | None:
        if len(self.world.consumers) < 3 and not self.world.quiet:
            self.world.start_consumer()
        return None

    def _consumer_leaves(self, fault: Fault) -> Undo | None:
        one = _one(self.world.consumers, fault)
        if one is not None and len(self.world.consumers) > 1:
            one.order("stop")
        return None

    def _consumer_at_a_failpoint(self, fault: Fault) -> Undo | None:
        one = _one(self.world.consumers, fault)
        if one is not None:
            one.order("arm", fault.detail)
        return None

    def _killed_before_the_answer(self, fault: Fault) -> Undo | None:
        one = _one(self.world.consumers, fault)
        if one is not None:
            # Whoever inserts next: with several consumers it may be another one's answer that is lost.
            self.world.links["store"].trap(http_insert, answer=False, then=lambda: self._kill(one, "consumer"))
        return self._supervise

    # --- producers ----------------------------------------------------------------------------------------------

    def _producer_killed(self, fault: Fault) -> Undo | None:
        number = int(fault.which * len(self.producers.running))
        self._kill(self.producers.running[number], "producer")
        return lambda: self.producers.start_again(number)

    def _producer_stopped(self, fault: Fault) -> Undo | None:
        one = self.producers.running[int(fault.which * len(self.producers.running))]
        one.stop()
        return one.go_on

    def _producer_s_clock_steps(self, fault: Fault) -> Undo | None:
        number = int(fault.which * len(self.producers.running))
        self.producers.skews[number] += float(fault.detail)
        self.producers.running[number].order("step", float(fault.detail))
        return None

    def _garbage(self, fault: Fault) -> Undo | None:
        """Messages without identity, without framing, of an unknown schema."""
        sender = Producer({"bootstrap.servers": self.world.kafka.bootstrap, "message.timeout.ms": 3000})
        for number in range(1 + int(fault.which * 4)):
            value = [b"", b"\x00\x00\x00\x00\x65garbage", b"\x01 no framing", b"\x00\x7f\x00\x00\x00?"][number % 4]
            sender.produce("node-telemetry" if fault.which < 0.7 else "tenant-usage", value, b"chaos-bad")
        sender.flush(3)
        return None

    # --- projector ----------------------------------------------------------------------------------------------

    def _projector_killed(self, fault: Fault) -> Undo | None:
        if self.world.projector is not None:
            self._kill(self.world.projector, "projector")
        return self._supervise

    def _projector_stopped(self, fault: Fault) -> Undo | None:
        one = self.world.projector
        if one is None:
            return None
        one.stop()
        return one.go_on

    def _projector_at_a_failpoint(self, fault: Fault) -> Undo | None:
        if self.world.projector is not None:
            self.world.projector.order("arm", fault.detail)
        return None

    def _projector_replaced(self, fault: Fault) -> Undo | None:
        """Another one, which does not know the first one's claim, while the first is told to go."""
        one = self.world.projector
        if one is not None:
            one.go_on()
            self.world.leaving.append(one)
            one.order("stop")
        self.world.start_projector(anew=True)
        return None

    # --- broker and store ---------------------------------------------------------------------------------------

    def _broker_killed(self, fault: Fault) -> Undo | None:
        self.world.kafka.kill()
        self.kills.append(("broker", time.time()))
        return lambda: _ignore(self.world.kafka.start())

    def _broker_stopped(self, fault: Fault) -> Undo | None:
        return _stop_server(self.world.kafka.pid)

    def _store_killed(self, fault: Fault) -> Undo | None:
        self.world.store.kill()
        self.kills.append(("store", time.time()))
        return self.world.start_store

    def _store_stopped(self, fault: Fault) -> Undo | None:
        return _stop_server(self.world.store.pid) if self.world.store.alive() else None

    def _store_s_disk_full(self, fault: Fault) -> Undo | None:
        if self.world.disk is None:
            self.unmet.append(fault.kind)
            return None
        self.world.disk.fill()
        return self.world.disk.make_room

    def _store_forgets(self, fault: Fault) -> Undo | None:
        """A power cut: what was acknowledged in the last second is gone, and the process with it."""
        if not self.world.store.alive():
            return None
        with contextlib.suppress(Exception):  # a store that is stopped, or whose disk is full, forgets nothing
            self.world.forget(FORGETS_S)
        self.world.store.kill()
        self.kills.append(("store", time.time()))
        return self.world.start_store

    # --- connections --------------------------------------------------------------------------------------------

    def _link(self, fault: Fault) -> Any:
        names = sorted(self.world.links)
        return self.world.links[names[int(fault.which * len(names))]]

    def _connections_cut(self, fault: Fault) -> Undo | None:
        self._link(fault).cut()
        return None

    def _connections_refused(self, fault: Fault) -> Undo | None:
        link = self._link(fault)
        link.refuse(True)
        return lambda: _ignore(link.refuse(False))

    def _connections_slowed(self, fault: Fault) -> Undo | None:
        link = self._link(fault)
        link.slow(0.05)
        return lambda: _ignore(link.slow(0.0))

    def _connections_held(self, fault: Fault) -> Undo | None:
        link = self._link(fault)
        link.hold(True)
        return lambda: _ignore(link.hold(False))

    def _answer_lost(self, fault: Fault) -> Undo | None:
        link, matches = _place(fault)
        self.world.links[link].trap(matches, answer=True)
        return None

    def _request_cut(self, fault: Fault) -> Undo | None:
        link, matches = _place(fault)
        self.world.links[link].trap(matches, answer=False)
        return None

    # --- help ---------------------------------------------------------------------------------------------------

    def _kill(self, one: Running, role: str) -> None:
        if one.alive():
            self.kills.append((role, time.time()))
            one.signal(signal.SIGKILL)

    def _supervise(self) -> None:
        self.world.supervise()


def _one(some: list[Running], fault: Fault) -> Running | None:
    alive = [one for one in some if one.alive()]
    return alive[int(fault.which * len(alive))] if alive else None


def _ignore(_: object) -> None:
    return None


def _stop_server(pid: int | None) -> Undo | None:
    if pid is None:
        return None
    os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    return go_on


def _place(fault: Fault) -> tuple[str, Matches]:
    link, _, what = fault.detail.partition(" ")
    if link == "store":
        return link, http_insert if what == "insert" else http_any
    return link, kafka_request(int(what))
