"""The node agent: asks its sources at every tick, gathers lanes, sends events, and outlives whatever fails.

One thread, this one, owns everything but the sources and the outbox: it never calls into hardware, so nothing that
hangs there can stop the clock. Its order of work: wait for the next thing due -> facts -> tick (ask, wait a grace,
merge, watch, gather) -> send what is due -> retry what was refused.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from producers.agent.clock import Clock, ClockSteppedError, Ticker
from producers.agent.coalesce import XidMerger
from producers.agent.detect import SlowWatch, ThrottleWatch
from producers.agent.facts import Fact, Post
from producers.agent.gpus import EpochFile, Gpus
from producers.agent.inventory import Inventory
from producers.agent.lanes import Lane, LaneEvent
from producers.agent.layout import metrics
from producers.agent.merge import PRECEDENCE, Merger, Picture
from producers.agent.outgoing import Outgoing
from producers.agent.runner import SamplerRunner, WatcherRunner
from producers.agent.settings import MINUTE_MS, AgentSettings
from producers.agent.sources.base import Sample, Sampler, Watcher
from producers.agent.sources.kmsg import KERNEL_SEQUENCE
from producers.agent.state import boot_id, save_kernel_position
from producers.encode import EventEncoder
from producers.journal import Journal, previous
from producers.publisher import Outbox
from producers.spool.outbox import SpoolOutbox

TOPICS = ("node-telemetry", "node-counters", "node-events", "inventory")
GRACE = 0.4
"""Share of the interval that a tick waits for its sources' answers."""
LONGEST_GRACE_S = 0.4
RETRY_S = 1.0
FIRST_GPUS_S = 5.0
"""How long after the start an XID waits for the first list of GPUs, so that it can say which one it is about."""
KNOW_GPUS = ("nvml", "dcgm")
"""Sources that list the GPUs."""
MakeSources = Callable[[Post], tuple[Sequence[Sampler], Sequence[Watcher]]]
"""Builds the sources, which post their facts through what they are given."""


def spread_s(node_id: str, period_s: float, share: float) -> float:
    """This node's delay before it sends: the same every time, evenly spread over ``share`` of the period."""
    digest = hashlib.sha256(node_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * share * period_s


class Agent:
    """One run of a node's agent. ``journal`` is new and its folder locked; ``outbox`` is open."""

    def __init__(
        self,
        settings: AgentSettings,
        clock: Clock,
        journal: Journal,
        encoder: EventEncoder,
        outbox: Outbox,
        make_sources: MakeSources,
        version: str = "",
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._journal = journal
        self._outbox = outbox
        self.on_tick: Callable[[], None] | None = None
        """Called after every tick."""
        self._facts: queue.SimpleQueue[Fact] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._stop_reason: str | None = None
        self._boot = boot = boot_id(settings.procfs)
        self._introduced = False
        self._kernel_sequence = self._kernel_saved = -1
        self._early: list[Fact] = []
        """XIDs from before the first list of GPUs."""
        self._early_until = clock.mono_s() + FIRST_GPUS_S
        common = {"node_id": settings.node_id, "rack": settings.place.rack, "host_boot_id": boot}
        self.outgoing = Outgoing(encoder, outbox, common, settings.pending_facts, settings.pending_samples)
        self._state = settings.state_dir
        self.gpus = Gpus(EpochFile(self._state / "driver-epochs.json", boot), self.post)
        samplers, watchers = make_sources(self.post)
        self.runners = [SamplerRunner(source, clock, self.post, self._wake.set) for source in samplers]
        self.runners.sort(key=lambda runner: PRECEDENCE.index(runner.source.name))
        self.watchers = [WatcherRunner(source, clock, self.post) for source in watchers]
        self._all: list[SamplerRunner | WatcherRunner] = [*self.runners, *self.watchers]
        self._fast, self._slow = self._lanes()
        self._throttle = ThrottleWatch(self._fact, settings.interval_ms * 1000)
        self._slow_watch = SlowWatch(self._fact, self.gpus)
        self._xids = XidMerger(self._send_fact, lambda: self._up("kmsg"), lambda: self._up("nvml-events"))
        self._inventory = Inventory(settings.place, self.gpus, version)
        self._ticker = Ticker(settings.interval_ms * 1000)
        self._scheduled: deque[tuple[float, LaneEvent]] = deque()
        self._retry_at = 0.0
        self._journal_told = False

    def _lanes(self) -> tuple[tuple[Lane, Merger], tuple[Lane, Merger]]:
        settings, lanes = self._settings, []
        slow_ticks = MINUTE_MS // settings.slow_interval_ms
        for topic, interval_ms, ticks in (
            ("node-telemetry", settings.interval_ms, settings.ticks),
            ("node-counters", settings.slow_interval_ms, slow_ticks),
        ):
            counters = frozenset(m.name for m in metrics(topic, "gpu_tick") if m.kind == "counter")
            lanes.append((Lane(topic, interval_ms * 1000, ticks, self.gpus), Merger(self.gpus, counters)))
        return lanes[0], lanes[1]

    @property
    def run_id(self) -> int:
        return self._journal.run_id

    @property
    def introduced(self) -> bool:
        """Whether every source has answered or failed, and the inventory was sent."""
        return self._introduced

    @property
    def journal_unsaved(self) -> str:
        """Why the journal is in memory alone; empty = it is on disk."""
        return self._journal.unsaved

    def sources_up(self) -> list[tuple[str, bool]]:
        """Each source, and whether it answers."""
        return [(runner.source.name, bool(runner.health.up)) for runner in self._all]

    def post(self, fact: Fact) -> None:
        """Take a fact from any thread."""
        self._facts.put(fact)
        self._wake.set()

    def stop(self, reason: str) -> None:
        """End the run soon; from any thread or a signal handler."""
        self._stop_reason = self._stop_reason or reason
        self._wake.set()

    def run(self, for_s: float | None = None) -> str:
        """Run until ``stop`` or ``for_s`` is over; the reason it ended. ClockSteppedError asks for a new run."""
        end = None if for_s is None else self._clock.mono_s() + for_s
        self._say_start()
        try:
            while self._stop_reason is None:
                if end is not None and self._clock.mono_s() >= end:
                    self.stop("its time was over")
                    break
                self._turn(end)
        except ClockSteppedError as stepped:
            self._stop_reason = str(stepped)
            raise
        finally:
            self._finish(self._stop_reason or "failed")
        return self._stop_reason or ""

    def _turn(self, end: float | None) -> None:
        now = self._clock.mono_s()
        wall = self._clock.wall_us()
        tick = self._ticker.next(wall)
        if wall >= tick:
            self._tick(tick)
            now = self._clock.mono_s()
            wake_at = now
        else:
            wake_at = now + min((tick - wall) / 1e6, self._settings.interval_ms / 1e3)
        self._drain()
        later = (self._xids.due(now), self._send_scheduled(now), self._retry(now), end)
        wake_at = min([wake_at, *(at for at in later if at is not None)])
        self._clock.wait(self._wake, wake_at - self._clock.mono_s())
        self._wake.clear()
        self._drain()

    def _tick(self, tick: int) -> None:
        settings = self._settings
        slow = tick % (settings.slow_interval_ms * 1000) == 0
        self._ticker.take(tick)
        asked = [runner for runner in self.runners if runner.request(slow)]
        self._await(asked)
        for runner in self._all:
            runner.check()
        fast_samples = self._samples(lambda runner: runner.fast())
        self._take_over(fast_samples, tick)
        picture = self._picture(self._fast, fast_samples, tick)
        self._throttle.tick(tick, self.gpus.slots, picture)
        period_s = settings.interval_ms * settings.ticks / 1e3
        for event in self._fast[0].add(tick, picture):
            self._schedule(event, spread_s(settings.node_id, period_s, settings.spread))
        if slow:
            self._slow_tick(tick)
        if slow or not self._introduced:
            self._send_inventory()
        self._save_kernel_position()
        if self.on_tick is not None:
            self.on_tick()

    def _slow_tick(self, tick: int) -> None:
        bound_s = self._settings.slow_interval_ms / 1e3
        picture = self._picture(self._slow, self._samples(lambda runner: runner.slow(bound_s)), tick)
        changed = self._slow_watch.tick(tick, picture)
        lane = self._slow[0]
        delay_s = 0.0 if changed else spread_s(self._settings.node_id, bound_s, self._settings.spread)
        for event in (*lane.add(tick, picture), *(lane.flush() if changed else ())):
            self._schedule(event, delay_s)
        self.gpus.save()

    def _send_inventory(self) -> None:
        """First when every source has answered or failed, so that the first one is whole if it can be."""
        if not self._introduced and any(runner.health.up is None for runner in self.runners):
            return
        self._introduced = True
        fields = self._inventory.due(self._clock.mono_s())
        if fields is not None:
            self.outgoing.send("inventory", self._clock.wall_us(), fields)

    def _save_kernel_position(self) -> None:
        """Remember how far the kernel log is reported, once nothing of it waits in the merger."""
        if (
            self._kernel_sequence != self._kernel_saved
            and self._xids.idle
            and save_kernel_position(self._state, self._boot, self._kernel_sequence)
        ):
            self._kernel_saved = self._kernel_sequence

    def _await(self, asked: list[SamplerRunner]) -> None:
        """Give the sources that were asked a moment to answer; one that is late is picked up at the next tick."""
        interval_s = self._settings.interval_ms / 1e3
        until = self._clock.mono_s() + min(GRACE * interval_s, LONGEST_GRACE_S)
        while any(runner.busy for runner in asked):
            left = until - self._clock.mono_s()
            if left <= 0 or self._stop_reason is not None:
                return
            self._clock.wait(self._wake, left)
            self._wake.clear()

    def _samples(self, pick: Callable[[SamplerRunner], Sample | None]) -> list[tuple[str, Sample]]:
        picked = [(runner.source.name, pick(runner)) for runner in self.runners]
        return [(name, sample) for name, sample in picked if sample is not None]

    def _take_over(self, samples: list[tuple[str, Sample]], tick: int) -> None:
        for runner in self.runners:
            if runner.take_reloaded():
                self.gpus.reloaded(runner.source.name, tick)
        self.gpus.see(samples, tick)
        self._inventory.see(samples)

    def _picture(self, lane: tuple[Lane, Merger], samples: list[tuple[str, Sample]], tick: int) -> Picture:
        picture = lane[1].merge(samples)
        source = picture.source_of.get("energy_j", "")
        for slot, values in zip(self.gpus.slots, picture.gpu, strict=True):
            if "energy_j" in values:
                self.gpus.observe(source, slot.device.uuid, int(values["energy_j"]), tick)
        return picture

    def _drain(self) -> None:
        while True:
            try:
                fact = self._facts.get_nowait()
            except queue.Empty:
                break
            self._fact(fact)
        self._release_early()

    def _fact(self, fact: Fact) -> None:
        """Send a fact, its GPU filled in; XIDs by way of the merger."""
        if fact.event in ("xid", "sxid") and self._gpus_to_come():
            self._early.append(fact)
            return
        if KERNEL_SEQUENCE in fact.attributes:
            self._kernel_sequence = max(self._kernel_sequence, int(fact.attributes[KERNEL_SEQUENCE]))
        slot = self.gpus.find(fact.gpu_uuid, fact.pci_address)
        if slot is not None:
            device = slot.device
            fact = replace(
                fact, gpu_uuid=device.uuid, gpu_index=device.index, pci_address=fact.pci_address or device.pci_address
            )
        if fact.event in ("xid", "sxid"):
            self._xids.add(fact, self._clock.mono_s())
        else:
            self._send_fact(fact)

    def _gpus_to_come(self) -> bool:
        """Whether no GPU is known yet, and a source that knows them has still to answer or to fail."""
        if self.gpus.slots or self._clock.mono_s() >= self._early_until:
            return False
        return any(runner.source.name in KNOW_GPUS and runner.health.up is None for runner in self.runners)

    def _release_early(self, *, anyway: bool = False) -> None:
        """Take in the XIDs that waited for the first list of GPUs, once it is there or not to be had."""
        if self._early and (anyway or not self._gpus_to_come()):
            early, self._early, self._early_until = self._early, [], 0.0
            for fact in early:
                self._fact(fact)

    def _send_fact(self, fact: Fact) -> None:
        self.outgoing.fact(fact)

    def _schedule(self, event: LaneEvent, delay_s: float) -> None:
        self._scheduled.append((self._clock.mono_s() + delay_s, event))

    def _send_scheduled(self, now: float, everything: bool = False) -> float | None:
        """Send the lane events whose time has come, each lane's in its order; when the next one is due."""
        kept: deque[tuple[float, LaneEvent]] = deque()
        held_back: set[str] = set()
        for due, event in self._scheduled:
            if everything or (due <= now and event.topic not in held_back):
                self.outgoing.send(event.topic, event.ts, event.fields)
            else:
                kept.append((due, event))
                held_back.add(event.topic)
        self._scheduled = kept
        return min((due for due, _ in kept), default=None)

    def _retry(self, now: float) -> float | None:
        if now >= self._retry_at:
            self._retry_at = now + RETRY_S
            self.outgoing.retry()
            self.outgoing.report_dropped(self._clock.wall_us())
            self._tell_of_spool()
            self._save_journal()
        return self._retry_at if self.outgoing.waiting or self._journal_told else None

    def _save_journal(self) -> None:
        """A journal that began in memory, the disk being full, is told once and moved to the disk when it can be."""
        if self._journal.unsaved and not self._journal_told:
            self._journal_told = True
            self._tell_of_journal("source_down", f"{self._journal.unsaved}; numbers are kept in memory alone")
        elif self._journal_told and self._journal.save():
            self._journal_told = False
            self._tell_of_journal("source_up", "journal: the disk takes it again")

    def _tell_of_journal(self, event: str, message: str) -> None:
        self._send_fact(Fact(event, "agent", self._clock.wall_us(), value="journal", message=message))

    def _tell_of_spool(self) -> None:
        """Send what the spool wants told; what it thinned or gave up counts as told once that event is on disk."""
        if not isinstance(self._outbox, SpoolOutbox):
            return
        for notice, account in self._outbox.notices():
            self._send_fact(
                Fact(
                    notice.event,
                    "agent",
                    self._clock.wall_us(),
                    value=notice.value,
                    occurrences=notice.occurrences,
                    message=notice.message,
                    attributes=notice.attributes,
                )
            )
            if account is not None:
                self._outbox.settle(account)

    def _up(self, name: str) -> bool:
        return any(runner.health.up for runner in self.watchers if runner.source.name == name)

    def _say_start(self) -> None:
        folder = journal_folder(self._state)
        given = previous(folder, self._settings.node_id, self._journal.run_id)
        before = given[0].run_id if given else None
        self._send_fact(
            Fact(
                "agent_start",
                "agent",
                self._clock.wall_us(),
                value=",".join(self._settings.sources),
                message="first run on this state folder" if before is None else f"the run before was {before}",
                previous_run_id=before,
                previous_last_seq={each.topic: each.given - 1 for each in given},
            )
        )

    def _finish(self, reason: str) -> None:
        for runner in self._all:
            runner.stop(0.5)
        self._drain()
        self._release_early(anyway=True)
        self._xids.flush()
        for lane, _ in (self._fast, self._slow):
            for event in lane.flush():
                self._schedule(event, 0.0)
        self._send_scheduled(self._clock.mono_s(), everything=True)
        self._save_kernel_position()
        self._tell_of_spool()
        self._send_fact(Fact("agent_stop", "agent", self._clock.wall_us(), value=reason, message=f"stopped: {reason}"))
        self.gpus.save()


def journal_folder(state_dir: Path) -> Path:
    """Where an agent's journal lies in its state folder."""
    return state_dir / "journal"
