"""Each source in its own thread, watched from outside: none can delay or lose another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from producers.agent.clock import Clock
from producers.agent.facts import Fact, Post
from producers.agent.sources.base import Sample, Sampler, SourceError, Watcher

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


class Health:
    """Whether a source works, and the facts that say when that changed. One thread calls it: the agent's."""

    def __init__(self, name: str, clock: Clock, post: Post) -> None:
        self.name = name
        self.up: bool | None = None
        """None until the source has answered or failed for the first time."""
        self._clock = clock
        self._post = post
        self._down_since = 0
        self._reason = ""

    def is_up(self) -> None:
        if self.up is False:
            now = self._clock.wall_us()
            self._post(
                Fact(
                    "source_up",
                    "agent",
                    now,
                    value=self.name,
                    ended_at=now,
                    message=f"{self.name} answers again after {(now - self._down_since) / 1e6:.1f} s",
                    attributes={"was": self._reason},
                )
            )
        self.up = True

    def is_down(self, reason: str) -> None:
        if self.up is not False:
            self._down_since = self._clock.wall_us()
            self._reason = reason
            self._post(
                Fact("source_down", "agent", self._down_since, value=self.name, message=f"{self.name}: {reason}")
            )
        self.up = False


@dataclass(frozen=True, slots=True)
class Reading:
    """A sample and when it was asked for, on the monotonic clock."""

    at_s: float
    sample: Sample


class SamplerRunner:
    """Asks a sampler from a thread of its own and keeps its last answers."""

    def __init__(self, source: Sampler, clock: Clock, post: Post, answered: Callable[[], None]) -> None:
        self.source = source
        self.health = Health(source.name, clock, post)
        self._clock = clock
        self._answered = answered
        self._ask = threading.Event()
        self._slow = False
        self._stopping = False
        self._lock = threading.Lock()
        self._busy_since: float | None = None
        self._last: Reading | None = None
        self._last_slow: Reading | None = None
        self._failure: str | None = None
        self._reloaded = False
        self._pause = FIRST_PAUSE_S
        self._not_before = 0.0
        self._next_due = 0.0
        self._thread = threading.Thread(target=self._run, name=f"source-{source.name}", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._busy_since is not None

    def request(self, slow: bool) -> bool:
        """Ask for a sample, unless the last one is still under way or it is not time yet; whether it was asked."""
        now = self._clock.mono_s()
        with self._lock:
            if self._busy_since is not None or now < self._not_before or now + 0.05 < self._next_due:
                return False
            self._busy_since = now
            # A source with a period of its own is not asked at every slow tick, so it always reads everything.
            self._slow = slow or self.source.period_s > 0
            self._next_due = now + self.source.period_s
        self._ask.set()
        return True

    def check(self) -> None:
        """Judge the source's health; the agent calls this every tick, whatever the source does."""
        now = self._clock.mono_s()
        with self._lock:
            busy_since, failure, answered = self._busy_since, self._failure, self._last is not None
        if busy_since is not None and now - busy_since > self.source.deadline_s:
            self.health.is_down(f"no answer within {self.source.deadline_s:g} s")
        elif failure is not None:
            self.health.is_down(failure)
        elif answered and busy_since is None:
            self.health.is_up()

    def fast(self) -> Sample | None:
        """The newest sample, or None when it is older than the source's bound."""
        return self._fresh(self._last, self.source.stale_after_s)

    def slow(self, bound_s: float) -> Sample | None:
        """The newest sample with the slow lane's fields that is not older than ``bound_s``."""
        return self._fresh(self._last_slow, max(bound_s, self.source.stale_after_s))

    def take_reloaded(self) -> bool:
        """Whether the driver was loaded anew since this was asked last."""
        with self._lock:
            reloaded, self._reloaded = self._reloaded, False
        return reloaded

    def stop(self, timeout_s: float) -> None:
        """Let the thread close its source and end; one that hangs is left behind."""
        self._stopping = True
        self._ask.set()
        self._thread.join(timeout_s)

    def _fresh(self, reading: Reading | None, bound_s: float) -> Sample | None:
        if reading is None or self._clock.mono_s() - reading.at_s > bound_s:
            return None
        return reading.sample

    def _run(self) -> None:
        opened = False
        while True:
            self._ask.wait()
            self._ask.clear()
            if self._stopping:
                break
            at, sample, failure = self._busy_since or 0.0, None, None
            try:
                if not opened:
                    self.source.open()
                    opened = True
                sample = self.source.sample(self._slow)
            except SourceError as error:
                failure = str(error)
            except Exception as error:  # noqa: BLE001  # whatever a source does, the others go on
                failure = f"{type(error).__name__}: {error}"
            if failure is not None:
                opened = False
                self.source.close()
            with self._lock:
                self._failure = failure
                if sample is not None:
                    self._last = Reading(at, sample)
                    if self._slow:
                        self._last_slow = self._last
                    self._reloaded = self._reloaded or sample.driver_reloaded
                    self._pause = FIRST_PAUSE_S
                    self._not_before = 0.0
                else:
                    self._not_before = self._clock.mono_s() + self._pause
                    self._pause = min(self._pause * 2, LONGEST_PAUSE_S)
                self._busy_since = None
            self._answered()
        if opened:
            self.source.close()


class WatcherRunner:
    """Runs a watcher in a thread of its own and knows when it last gave a sign of life."""

    def __init__(self, source: Watcher, clock: Clock, post: Post) -> None:
        self.source = source
        self.health = Health(source.name, clock, post)
        self._clock = clock
        self._post = post
        self._stop = threading.Event()
        self._alive_at = clock.mono_s()
        self._failure: str | None = None
        self._working = False
        self._thread = threading.Thread(target=self._run, name=f"source-{source.name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Judge the source's health; the agent calls this every tick, whatever the source does."""
        failure, working = self._failure, self._working
        if failure is not None:
            self.health.is_down(failure)
        elif self._clock.mono_s() - self._alive_at > self.source.deadline_s:
            self.health.is_down(f"no sign of life for {self.source.deadline_s:g} s")
        elif working:
            self.health.is_up()

    def stop(self, timeout_s: float) -> None:
        """Ask the watcher to end and wait for it; one that hangs is left behind."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _alive(self) -> bool:
        self._alive_at = self._clock.mono_s()
        self._working = True
        self._failure = None
        return not self._stop.is_set()

    def _run(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._stop.is_set():
            self._alive_at = began = self._clock.mono_s()
            try:
                self.source.watch(self._post, self._alive)
                failure = "stopped watching"
            except SourceError as error:
                failure = str(error)
            except Exception as error:  # noqa: BLE001  # whatever a source does, the others go on
                failure = f"{type(error).__name__}: {error}"
            if self._stop.is_set():
                return
            self._working, self._failure = False, failure
            if self._clock.mono_s() - began > LONGEST_PAUSE_S:
                pause = FIRST_PAUSE_S
            self._stop.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)
