"""What the agent's tests share: clocks they own, an agent without Kafka, sources that do as told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from producers.agent.agent import TOPICS, Agent, MakeSources, journal_folder
from producers.agent.clock import SystemClock
from producers.agent.facts import Fact, Post
from producers.agent.process import MemoryOutbox
from producers.agent.settings import AgentSettings, Place
from producers.agent.sources.base import GpuDevice, Sample, Sampler, SourceError, Watcher
from producers.encode import EventEncoder
from producers.journal import Journal
from producers.publisher import Outbox

MINUTE_US = 60_000_000
START = 1_790_000_000_000_000 // 60_000_000 * 60_000_000 + 50_000
A, B = b"a" * 16, b"b" * 16


def gpu_sample(power: float = 300.0, **more: float) -> Sample:
    """What two GPUs read."""
    devices = [GpuDevice(A, 0, "NVIDIA H100 80GB HBM3", "0000:10:00.0"), GpuDevice(B, 1, "", "0000:11:00.0")]
    values: dict[str, float] = {"power_w": power, "energy_j": 10, **more}
    return Sample(gpus=devices, gpu={A: dict(values), B: dict(values)}, has_gpus=True)


class ManualClock:
    """A clock that only a test moves; waiting moves it to the end of the wait, so that nothing really waits.

    ``busy`` tells whether a source is at work in its thread: then a wait is real, until it has answered.
    """

    def __init__(self, wall_us: int) -> None:
        self.wall = wall_us
        self.mono = 1000.0
        self.busy: Callable[[], bool] = lambda: False

    def wall_us(self) -> int:
        return self.wall

    def mono_s(self) -> float:
        return self.mono

    def advance(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += round(seconds * 1e6)

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        if event.is_set() or (self.busy() and event.wait(5.0)):
            return True
        self.advance(max(timeout_s, 1e-6))
        return False


class Told:
    """A sampler that answers what the test put there, fails, or hangs."""

    period_s = 0.0
    deadline_s = 3.0
    stale_after_s = 2.5

    def __init__(self, name: str, sample: Sample | None = None) -> None:
        self.name = name
        self.answer = sample or Sample()
        self.fails: str | None = None
        self.hang = threading.Event()
        self.hang.set()
        self.asked: list[bool] = []
        self.opened = self.closed = 0

    def open(self) -> None:
        self.opened += 1

    def close(self) -> None:
        self.closed += 1

    def sample(self, slow: bool) -> Sample:
        self.asked.append(slow)
        self.hang.wait(30)
        if self.fails is not None:
            raise SourceError(self.fails)
        return self.answer


def settings(folder: Path, **changed: Any) -> AgentSettings:
    """Settings for a test agent: a tick of 100 ms unless told otherwise."""
    given: dict[str, Any] = {
        "node_id": "node-1",
        "site": "lab",
        "state_dir": folder / "state",
        "place": Place(rack="r1"),
        "interval_ms": 100,
        "ticks": 5,
        "slow_interval_ms": 1000,
        "spread": 0.0,
        **changed,
    }
    return AgentSettings(**given)


def fixed(samplers: Sequence[Sampler], watchers: Sequence[Watcher] = ()) -> MakeSources:
    """A maker of sources that exist already."""
    return lambda _post: (samplers, watchers)


class Bench:
    """An agent whose events end in memory."""

    def __init__(self, told: AgentSettings, make: MakeSources, clock: Any = None, outbox: Outbox | None = None) -> None:
        self.clock = clock or SystemClock()
        self.outbox = outbox or MemoryOutbox()
        self.journal = Journal.start(journal_folder(told.state_dir), told.site, [told.node_id], TOPICS)
        encoder = EventEncoder(self.journal, told.node_id)
        self.agent = Agent(told, self.clock, self.journal, encoder, self.outbox, make, "test")
        if isinstance(self.clock, ManualClock):
            self.clock.busy = lambda: any(runner.busy for runner in self.agent.runners)

    def events(self, topic: str) -> list[dict[str, Any]]:
        assert isinstance(self.outbox, MemoryOutbox)
        return [event for name, event in self.outbox.events() if name == topic]

    def facts(self, *kinds: str) -> list[dict[str, Any]]:
        return [event for event in self.events("node-events") if not kinds or event["event"] in kinds]

    @contextmanager
    def running(self) -> Iterator[Bench]:
        """The agent at work in a thread, stopped at the end."""
        failed: list[BaseException] = []

        def work() -> None:
            try:
                self.agent.run()
            except BaseException as error:
                failed.append(error)
                raise

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield self
        finally:
            self.agent.stop("the test is over")
            thread.join(20)
            self.journal.close()
        assert not thread.is_alive()
        assert not failed

    def run_for(self, seconds: float) -> Bench:
        """Run on this thread until the agent's clock has moved by ``seconds``."""
        self.agent.run(seconds)
        self.journal.close()
        return self


def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Wait for a condition; its value. AssertionError when it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError("the condition did not come true in time")


class Facts(list[Fact]):
    """A list that facts can be posted to."""

    @property
    def post(self) -> Post:
        return self.append
