"""The loop: read the ledger, let leases take effect, recompute what is due, remember the position.

One projector works at a time (``lock``); any number may run. In ``consume`` it is a thread, with a connection of its
own; ``gpufleet project`` runs it alone.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from consumers.attribution import rewrite
from consumers.attribution.changes import Touched
from consumers.boot import BootWatch
from consumers.failpoints import failpoint
from consumers.projector import ledger
from consumers.projector.conditions import Conditions
from consumers.projector.lock import OwnershipLostError, StoreLock
from consumers.projector.passes import Passes
from consumers.projector.recompute import Limits, Recomputer, narrowed
from consumers.projector.requests import Request, answered, unanswered
from consumers.projector.store import Store, StoreFactory, rows, scalar
from consumers.projector.windows import MINUTE_S
from consumers.projector.worklist import Pace, WorkList
from consumers.store import BOOT_SQL, booted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProjectorSettings:
    """How the projector works."""

    owner: str
    """Name of this process; a restart under the same name takes its lock over at once."""
    every_s: float = 2.0
    """Between two steps,"""
    rest: float = 4.0
    """or this many times as long as the step took,"""
    most_s: float = 15.0
    """but at most this."""
    step_s: float = 20.0
    """How long a step works on a backlog before it looks at the ledger again: one part of it takes longer at times."""
    cut_rest: float = 0.25
    """Between two steps that work on one backlog, so many times as long as the step took: ingestion needs room."""
    raw_days: int = 9
    """Age at which the store lets raw events go: windows older than that are never recomputed."""
    ledger_overlap_s: float = 120.0
    """How far the clocks of consumers may be apart: that much of the ledger is read again each time."""
    late_inserts_s: float = 10.0
    """How long after a lease change an insert that resolved the old tenant may still land."""
    pace: Pace = field(default_factory=Pace)
    limits: Limits = field(default_factory=Limits)
    lock_ttl_s: float = 60.0
    lock_settle_s: float = 0.5


@dataclass(slots=True)
class Step:
    """What one step did."""

    owner: bool
    """False: another projector works, nothing was done."""
    entries: int = 0
    """Ledger rows read."""
    windows: dict[str, int] = field(default_factory=dict)
    """Windows recomputed, by table."""
    statements: int = 0
    rows_reassigned: dict[str, int] = field(default_factory=dict)
    """Rows that moved to another tenant, by table."""
    open_windows: int = 0
    """Windows touched and not recomputed yet, closed or not."""
    overdue: int = 0
    """Of these, how many could be computed now."""
    cut: bool = False
    """Whether it ended before all was done that was due: there is too much of it for one step."""
    position: float = 0.0
    """Ledger time up to which all work is done."""
    seconds: float = 0.0


class Projector:
    """Follows the ledger. Not shared between threads; ``run`` may live in a thread of its own."""

    def __init__(
        self,
        store_factory: StoreFactory,
        settings: ProjectorSettings,
        on_step: Callable[[Step], None] = lambda step: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = store_factory
        self._settings = settings
        self._on_step = on_step
        self._monotonic = monotonic
        self._store: Store | None = None
        self._lock = StoreLock(settings.owner, settings.lock_ttl_s, settings.lock_settle_s, monotonic)
        self._watch = BootWatch()
        self._work: WorkList | None = None
        self._conditions: Conditions | None = None
        self._frontier = -1
        self._reader: ledger.LedgerReader | None = None
        self._saved = -1.0
        self._saved_at = 0.0
        self._leases: dict[float, float] = {}

    def step(self) -> Step:
        """Do what is due now. Errors of the store pass through; nothing is forgotten by them."""
        started = self._monotonic()
        store = self._opened()
        if not self._lock.acquire(store):
            self._work = self._reader = None  # another one works on from the saved position
            return Step(owner=False)
        if self._watch.restarted(booted(rows(store, BOOT_SQL)[0])):
            log.info("the store was restarted: windows may be gone that it had taken; on from the saved position")
            self._forget()
        work, reader, conditions = self._started(store)
        step = Step(owner=True)
        now = float(scalar(store, "SELECT toUnixTimestamp64Micro(now64(6))")) / 1e6
        oldest_raw = now - self._settings.raw_days * 86_400
        for entry in reader.read(store, now):
            work.add(entry, oldest_raw)
            step.entries += 1
        conditions.read_at = self._monotonic()
        requests = unanswered(store)
        for request in requests:
            for minute in request.minutes(oldest_raw):
                work.touch(minute, narrowed(request.nodes) if request.nodes else None, now)
                if not request.nodes:
                    work.touch_usage(minute, now)
                    conditions.touch_facility(minute, now)
        self._apply_leases(store, work, now, oldest_raw, step)
        recomputer = Recomputer(store, self._settings.limits, lambda: self._lock.check(store))
        passes = Passes(store, recomputer, work, self._settings.owner, self._settings.step_s)
        try:
            passes.run(now, oldest_raw)
        finally:
            step.windows, step.statements = recomputer.done.windows, recomputer.done.statements
        self._answer(store, work, requests)
        step.open_windows = len(work.slots) + len(work.minutes) + len(work.hours) + len(work.usage) + conditions.count()
        step.overdue = len(work.due_slots(now)) + len(work.due_minutes(now)) + len(work.due_hours(now))
        step.cut = passes.cut
        step.position = self._save(store, work)
        step.seconds = self._monotonic() - started
        self._on_step(step)
        return step

    def catch_up(
        self, timeout_s: float = 600.0, stop: threading.Event | None = None, *, leave_to_others: bool = False
    ) -> bool:
        """Step until nothing that is closed is open any more; False when time ran out first.

        With ``leave_to_others``, a projector that works already may do it: then only its answers to requests are
        waited for.
        """
        deadline = self._monotonic() + timeout_s
        stop = stop or threading.Event()
        while self._monotonic() < deadline and not stop.is_set():
            step = self.step()
            if step.owner and not step.entries and not step.windows and not self._waiting():
                return True
            if leave_to_others and not step.owner and self._lock.waiting and not unanswered(self._opened()):
                return True
            stop.wait(0.1 if step.windows else 0.3)
        return False

    def run(self, stop: threading.Event) -> None:
        """Step until ``stop`` is set, whatever happens to the store in between."""
        failures = 0
        while not stop.is_set():
            try:
                step = self.step()
                failures = 0
                # A step that takes long makes room for ingestion: what comes meanwhile is done at once.
                pause = max(self._settings.every_s, min(self._settings.most_s, self._settings.rest * step.seconds))
                if step.cut:
                    pause = self._settings.cut_rest * step.seconds
            except Exception as error:  # noqa: BLE001 - a store that is away may answer with anything
                failures += 1
                pause = min(30.0, 0.5 * 2**failures) * random.uniform(0.5, 1.0)  # noqa: S311
                level = logging.DEBUG if isinstance(error, OwnershipLostError) else logging.WARNING
                log.log(level, "projector: %s; again in %.1f s", str(error).strip().split("\n")[0], pause)
                self._dropped()
            stop.wait(pause)
        self.close()

    def close(self) -> None:
        """Let the lock and the connection go."""
        if self._store is not None:
            try:
                if self._lock.held and self._work is not None:
                    self._lock.check(self._store)
                    ledger.save(self._store, self._work.position(), self._settings.owner)
                self._lock.release(self._store)
            except Exception as error:  # noqa: BLE001 - the lock runs out by itself
                log.debug("projector: lock not released: %s", error)
        self._dropped()

    def _opened(self) -> Store:
        if self._store is None:
            self._store = self._connect()
        return self._store

    def _forget(self) -> None:
        self._work = self._reader = None
        self._leases.clear()

    def _dropped(self) -> None:
        """Forget what is in memory and the connection; the next step starts from the saved position."""
        self._forget()
        store, self._store = self._store, None
        if store is not None:
            try:
                store.close()
            except Exception as error:  # noqa: BLE001 - it is gone either way
                log.debug("projector: connection not closed: %s", error)

    def _started(self, store: Store) -> tuple[WorkList, ledger.LedgerReader, Conditions]:
        if self._work is None or self._reader is None or self._conditions is None:
            position, hours = ledger.load(store)
            if position is None:
                position = ledger.oldest(store)
            frontier = ledger.load_frontier(store)
            self._frontier = -1 if frontier is None else frontier
            begin = ledger.load_begin(store)
            self._conditions = Conditions(self._settings.pace, self._monotonic, frontier, begin)
            self._work = WorkList(self._settings.pace, self._monotonic, newest=position, conditions=self._conditions)
            self._reader = ledger.LedgerReader(position, self._settings.ledger_overlap_s)
            for hour in hours:
                self._work.touch_hour(hour, None, position)
        return self._work, self._reader, self._conditions

    def _apply_leases(self, store: Store, work: WorkList, now: float, oldest_raw: float, step: Step) -> None:
        """Rewrite rows of changed leases at once, and again when the last insert that missed it must have landed."""
        for at in work.leases:
            if at in self._leases and self._leases[at] > self._monotonic():
                continue
            last_time = at in self._leases
            self._lock.check(store)
            failpoint("lease read")
            done = rewrite.reassign(
                store,
                since=int((at - 600) * 1e6),  # the ledger's row carries the consumer's clock
                oldest=int(oldest_raw * 1e6),
                latest=int((now + 600) * 1e6),
            )
            for minute, nodes in done.minutes.items():
                work.touch(minute, narrowed(nodes), at)
            if work.conditions is not None and not last_time:
                self._conditions_follow(work.conditions, done.changes, at, oldest_raw)
            for table, count in done.rows.items():
                step.rows_reassigned[table] = step.rows_reassigned.get(table, 0) + count
            self._leases[at] = self._monotonic() + self._settings.late_inserts_s
            if last_time:
                self._leases[at] = -1.0
        work.leases = [at for at in work.leases if self._leases.get(at) != -1.0]
        self._leases = {at: due for at, due in self._leases.items() if due != -1.0}

    def _conditions_follow(
        self, conditions: Conditions, changes: Sequence[Touched], at: float, oldest_raw: float
    ) -> None:
        """Health counts silent GPUs, too: their minutes follow the lease although no row of theirs changed."""
        conditions.places_changed = True
        for change in changes:
            start = max(change.start // 1_000_000, int(oldest_raw)) // MINUTE_S * MINUTE_S
            conditions.since(start, narrowed(change.nodes), at, health=True, end=change.end // 1_000_000)

    def _answer(self, store: Store, work: WorkList, requests: list[Request]) -> None:
        for request in requests:
            minutes = request.minutes(0.0)
            lists = [work.minutes, work.slots, work.usage]
            if work.conditions is not None:
                lists += [work.conditions.full, work.conditions.partial, work.conditions.facility]
            if not any(m in windows for windows in lists for m in minutes):
                answered(store, request)

    def _save(self, store: Store, work: WorkList) -> float:
        position = work.position()
        if position != self._saved and self._monotonic() - self._saved_at > 5:
            ledger.save(store, position, self._settings.owner)
            self._saved, self._saved_at = position, self._monotonic()
            failpoint("position saved")
        frontier = work.conditions.frontier if work.conditions is not None else None
        if frontier is not None and frontier != self._frontier:
            ledger.save_frontier(store, frontier, self._settings.owner)
            self._frontier = frontier
        return position

    def _waiting(self) -> bool:
        """Whether work is open that time alone will not close: older windows that wait for more, or leases."""
        if self._work is None:
            return True
        now = float(scalar(self._opened(), "SELECT toUnixTimestamp64Micro(now64(6))")) / 1e6
        closed = now - self._settings.pace.grace_s
        conditions = self._conditions
        return bool(
            any(m + MINUTE_S <= closed for m in (*self._work.minutes, *self._work.slots))
            or (conditions is not None and conditions.waiting(now))
            or self._work.usage
            or self._work.leases
        )
