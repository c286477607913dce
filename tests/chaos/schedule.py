"""One schedule: producers send, faults happen, everything heals, and the store must say what the log says."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from confluent_kafka import Consumer, TopicPartition

from consumers.audit import Expected, audit
from consumers.audit.repair import repair
from consumers.watchdog import HUNG
from infra.cli.audit import expected as journalled
from tests.chaos import check, expected
from tests.chaos.faults import Injector, Producers
from tests.chaos.log import Log, Reader
from tests.chaos.plan import Plan
from tests.chaos.process import Running
from tests.chaos.producer import Lease, Produce, produce
from tests.chaos.roles import GROUP, TOPICS
from tests.chaos.special import SPECIAL, Special
from tests.chaos.world import World

US = 1_000_000
MINUTE_US = 60 * US
SETTLES_S = 240.0
"""How long a schedule may take to settle before it has failed; nothing is measured by it."""


class NotExactError(AssertionError):
    """A schedule whose outcome is not exact."""


@dataclass
class Outcome:
    """How a schedule went."""

    plan: Plan
    events: int = 0
    """Distinct events of the log."""
    copies: int = 0
    """Messages beyond one per event: sent again by producers."""
    dead_letters: int = 0
    missing: int = 0
    doubled: int = 0
    unmerged: int = 0
    """Rows that the audit found stored twice, and its repair removed; no reader saw them."""
    recovery: list[tuple[str, float]] = field(default_factory=list)
    """(what was killed, seconds from the kill to the first fresh row of the slowest partition)"""
    unmet: list[str] = field(default_factory=list)
    hung: int = 0
    """Consumers that their watchdog had to end."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase."""
    problem: str = ""


class Director:
    """Runs schedules in a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client = world.client()
        self.reader = Reader(world.kafka.bootstrap, TOPICS)
        self._offsets = Consumer(
            {"bootstrap.servers": world.kafka.bootstrap, "group.id": GROUP, "enable.auto.commit": False}
        )
        self._number = 0
        self.special = Special(self)
        self.hung: list[str] = []
        """Consumers that their watchdog ended."""
        self.accepted: set[str] = set()
        """Findings of the audit that a schedule caused on purpose."""

    def last_look(self) -> None:
        """At the end of a world: the audit computes every window once more, also of health, jobs and sick GPUs."""
        deadline = time.monotonic() + SETTLES_S
        while True:
            self.world.supervise()
            report = audit(self.client, committed=self.committed(), compare_windows="all", raw_days=9)
            bad = [str(f) for f in report.findings if not f.harmless and str(f) not in self.accepted]
            if not bad:
                return
            if time.monotonic() > deadline:
                raise NotExactError("the audit of the whole world is not clean:\n" + "\n".join(bad[: check.SHOWN]))
            time.sleep(2.0)

    def close(self) -> None:
        self.reader.close()
        self._offsets.close()
        self.client.close()

    def run(self, plan: Plan) -> Outcome:
        """Do it. NotExactError when anything is not as the log says; the world is of no use then."""
        outcome = Outcome(plan)
        clock = _Phases(outcome.seconds)
        self._number += 1
        site = f"s{plan.seed}n{self._number}"
        self.special = special = SPECIAL[plan.special](self) if plan.special else Special(self)
        special.before(plan)
        injector, begun = self.play(plan, site)
        clock("faults")
        log = self.logged(site)
        clock("log")
        log = special.after(site, log)
        self._settle(site, log)
        clock("rows")
        found = check.raw(self.client, site, log)
        outcome.events = sum(len(log.events(topic)) for topic in check.TOPICS)
        outcome.copies = sum(len(log.sound(topic)) for topic in check.TOPICS) - outcome.events
        outcome.dead_letters = len(log.bad())
        outcome.missing, outcome.doubled, outcome.unmerged = found.missing, found.doubled, found.unmerged
        if not found.exact:
            raise NotExactError(f"the event tables are not what the log says: {found}")
        clock("compared")
        self._windows(site, log)
        clock("windows")
        self._audit(site, outcome, special)
        special.end(plan)
        clock("audit")
        outcome.recovery = self._recovery(site, log, injector, begun)
        outcome.unmet, outcome.hung, self.hung = injector.unmet, len(self.hung), []
        return outcome

    # --- the schedule -------------------------------------------------------------------------------------------

    def play(self, plan: Plan, site: str) -> tuple[Injector, float]:
        world = self.world
        world.ended.clear()
        if not world.quiet:
            world.group_of(plan.consumers)
        producers = self._producers(plan, site, time.time())
        for one in producers.running:
            if not one.ready(SETTLES_S):
                raise NotExactError(f"{one.name} does not start:\n{self.world.said(one)}")
        begun = time.time()
        injector = Injector(world, producers)
        pending: list[tuple[float, int, Callable[[], None]]] = []
        faults = list(plan.faults)
        while faults or pending or time.time() - begun < plan.seconds:
            now = time.time() - begun
            if faults and faults[0].at <= now:
                fault = faults.pop(0)
                undo = injector.do(fault)
                if undo is not None:
                    pending.append((now + fault.lasts, len(pending), undo))
            for due in [due for due in pending if due[0] <= now]:
                pending.remove(due)
                due[2]()
            time.sleep(0.01)
        world.heal()
        if not world.quiet:
            world.group_of(plan.consumers)
        self._finish(producers)
        return injector, begun

    def _producers(self, plan: Plan, site: str, begun: float) -> Producers:
        base = int(begun - plan.back_s) // 60 * MINUTE_US
        pick = random.Random(plan.seed + 1)
        given = []
        for number in range(plan.producers):
            name = f"{site}p{number}"
            nodes = tuple(f"{name}-n{node}" for node in range(plan.nodes))
            leases = _leases(pick, name, nodes, base, plan.seconds) if plan.leased else ()
            given.append(
                Produce(name, site, nodes, plan.seed, base, plan.back_s - 75.0, plan.speed, plan.every_s, begun, leases)
            )
        producers = Producers(skews=[0.0] * len(given))

        def start(number: int) -> None:
            if number < len(producers.running) and producers.running[number].alive():
                return
            one = given[number]
            made = Running(one.name, produce, self.world.where("produce"), one, producers.skews[number])
            producers.running[number : number + 1] = [made]

        producers.start_again = start
        for number in range(len(given)):
            start(number)
        return producers

    def _finish(self, producers: Producers) -> None:
        """Until the broker has everything that was given out."""
        deadline = time.monotonic() + SETTLES_S
        for number in range(len(producers.running)):
            while True:
                one = producers.running[number]
                one.go_on()
                one.order("finish")
                if one.wait(1.0) and one.exit_code == 0:
                    break
                if not one.alive():
                    if (one.exit_code or 0) > 0:
                        raise NotExactError(f"a producer ended with {one.exit_code}:\n{self.world.said(one)}")
                    producers.start_again(number)
                if time.monotonic() > deadline:
                    raise NotExactError(f"{one.name} does not get rid of its events:\n{self.world.said(one)}")

    def logged(self, site: str) -> Log:
        log = self.reader.read()
        strangers = {e["site"] for topic in check.TOPICS for e in log.events(topic)} - {site}
        if strangers:
            raise NotExactError(f"events of earlier schedules came only now: {sorted(strangers)}")
        given = {(entry.producer_id, entry.run_id, entry.topic): entry.given for entry in self.journals(site)}
        there: dict[tuple[str, int, str], set[int]] = {}
        for one in log.messages:
            if one.who is not None:
                there.setdefault((one.who[0], one.who[1], one.topic), set()).add(one.who[2])
        for key, count in given.items():
            if there.get(key, set()) != set(range(count)):
                raise NotExactError(f"{key}: gave out {count} events, the log holds {len(there.get(key, ()))}")
        return log

    def journals(self, site: str) -> list[Expected]:
        folders = tuple(sorted(self.world.folder.glob(f"{site}p*")))
        return list(journalled(tuple(folder for folder in folders if folder.is_dir())))

    # --- the outcome --------------------------------------------------------------------------------------------

    def _settle(self, site: str, log: Log) -> None:
        """Until every event of the log is stored."""
        wanted = {topic: len(log.events(topic)) for topic in check.TOPICS}
        bad = [one for one in log.bad() if one.topic != "dead-letters"]
        stored: dict[str, int] = {}
        dead = 0
        deadline = time.monotonic() + SETTLES_S
        while stored != wanted or dead != len(bad):
            if time.monotonic() > deadline:
                raise NotExactError(
                    f"{SETTLES_S:.0f} s after the last fault: stored {stored}, the log has {wanted};"
                    f" {dead} of {len(bad)} dead letters"
                )
            self.world.supervise()
            self._complain()
            time.sleep(0.1)
            stored = check.count_stored(self.client, site)
            dead = check.count_dead(self.client, bad)

    def _complain(self) -> None:
        for one in self.world.ended:
            if one.exit_code == HUNG:
                self.hung.append(one.name)  # the watchdog did its work; its log holds the stacks
            elif "failpoint" not in self.world.said(one) and not self.special.excuses(self.world.said(one)):
                raise NotExactError(f"{one.name} ended with {one.exit_code}:\n{self.world.said(one)}")
        self.world.ended.clear()

    def _windows(self, site: str, log: Log) -> None:
        """Until the projector has said all there is to say; what it says must be what the log says."""
        wrong, known, wanted = [""], -1, {}
        deadline = time.monotonic() + SETTLES_S
        while wrong:
            self.world.supervise()
            self._complain()
            if (
                known == -1
                and time.monotonic() < deadline - SETTLES_S / 2
                and not check.projected(self.client, site, log)
            ):
                time.sleep(0.15)
                continue
            closed = int(time.time() - 5) // 3600 * 3600
            if closed != known:
                known, wanted = closed, expected.windows(log, closed)
            wrong = [*check.tenants(self.client, site, log), *check.windows(self.client, site, wanted, closed)]
            if wrong and time.monotonic() > deadline:
                raise NotExactError("the windows are not what the log says:\n" + "\n".join(wrong[: check.SHOWN]))
            if wrong:
                time.sleep(0.25)

    def _audit(self, site: str, outcome: Outcome, special: Special) -> None:
        given = self.journals(site)
        for attempt in range(3):
            report = audit(self.client, given, committed=self.committed(), compare_windows="none", raw_days=9)
            bad = [f for f in report.findings if not f.harmless and str(f) not in self.accepted]
            self.accepted |= {str(f) for f in special.meant(site, bad)}
            bad = [f for f in bad if str(f) not in self.accepted]
            if not bad:
                return
            doubles = [f for f in bad if f.kind.value == "double" and f.producer_id.startswith(site)]
            if len(doubles) != len(bad) or attempt == 2:
                raise NotExactError("the audit is not clean:\n" + "\n".join(str(f) for f in bad[: check.SHOWN]))
            # An insert that outlived its sender: one row for every reader, and for the disk after the next merge.
            outcome.unmerged = max(outcome.unmerged, sum(f.count for f in doubles))
            repair(self.client, doubles)

    def committed(self) -> dict[tuple[str, int], int]:
        topics = self._offsets.list_topics(timeout=20).topics
        places = [TopicPartition(t, p) for t in TOPICS if t in topics for p in topics[t].partitions]
        answer = self._offsets.committed(places, timeout=20)
        return {(one.topic, one.partition): one.offset for one in answer if one.offset >= 0}

    def _recovery(self, site: str, log: Log, injector: Injector, begun: float) -> list[tuple[str, float]]:
        """From each kill to the first row of an event that the broker took after it, of the slowest partition."""
        if not injector.kills:
            return []
        found = self.client.query(
            "SELECT producer_id, run_id, seq, toUnixTimestamp64Micro(min(stored_at)) FROM gpufleet.node_telemetry"
            f" WHERE site = '{site}' GROUP BY ALL"
        ).result_rows
        stored = {(str(p), int(r), int(s)): int(at) for p, r, s, at in found}
        measured = []
        for what, at in injector.kills:
            first: dict[int, int] = {}
            for one in log.messages:
                if one.topic == "node-telemetry" and one.who in stored and one.append_us >= at * US:
                    first[one.partition] = min(first.get(one.partition, 1 << 62), stored[one.who])
            if first:
                measured.append((what, max(0.0, max(first.values()) / US - at)))
        return measured


def _leases(pick: random.Random, name: str, nodes: tuple[str, ...], base: int, seconds: float) -> tuple[Lease, ...]:
    """One lease that is granted, and maybe changes hands, grows or ends."""
    tenant, other = f"{name}-a", f"{name}-b"
    some = tuple(node for node in nodes if pick.random() < 0.7) or nodes[:1]
    start = base + pick.choice([-5, 0, 1]) * MINUTE_US
    at = pick.uniform(0.0, seconds)
    leases = [Lease(at, f"{name}-lease", 1, "granted", tenant, some, start, None)]
    kind = pick.choice(["none", "hands", "grows", "ends"])
    later = pick.uniform(at, seconds)
    if kind == "hands":
        leases.append(Lease(later, f"{name}-lease", 2, "corrected", other, some, start, None))
    elif kind == "grows":
        leases.append(Lease(later, f"{name}-lease", 2, "changed", tenant, nodes, start, None))
    elif kind == "ends":
        leases.append(Lease(later, f"{name}-lease", 2, "ended", tenant, some, start, start + MINUTE_US))
    return tuple(leases)


class _Phases:
    """Wall time of each phase."""

    def __init__(self, into: dict[str, float]) -> None:
        self._into, self._at = into, time.monotonic()

    def __call__(self, name: str) -> None:
        now = time.monotonic()
        self._into[name], self._at = now - self._at, now
