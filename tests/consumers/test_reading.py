"""When the log is read, and when what comes is left with the broker. Kafka's client is a stand-in, clocks are turned
by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaException, TopicPartition

from consumers import reading
from consumers.assignment import Partition
from consumers.commit import CommitHorizon
from consumers.flush import FlushPolicy
from consumers.health import Health
from consumers.intake import PartitionIntake
from consumers.metrics import Metrics
from consumers.reading import GATHER_S, REST_S, Reading
from consumers.settings import ConsumeSettings
from tests.consumers.fakes import FakeClock, FakeMessage
from tests.consumers.fleet import Node
from tests.consumers.test_units import TOPIC, TS, intake

AGE_S = 3.0
AT_ONCE = 10
"""Messages of a poll."""


class Log:
    """One partition: grows when told to, and is handed out a poll at a time. Each poll takes ``poll_s``."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock, self._node = clock, Node("n", "s")
        self.messages: list[FakeMessage] = []
        self.position = 0
        self.polls = 0
        self.poll_s = 0.01
        self.fetched: int | None = None
        """Up to where the client has looked; None: to the end."""
        self.unknown = False

    def grow(self, count: int) -> None:
        for _ in range(count):
            offset = len(self.messages)
            self.messages.append(FakeMessage(self._node.event(TOPIC, ts=TS + offset), offset))

    def subscribe(self, *_: object, **__: object) -> None: ...

    def pause(self, _: object) -> None: ...

    def resume(self, _: object) -> None: ...

    def consume(self, most: int, _timeout_s: float) -> list[Any]:
        self.polls += 1
        self._clock.now += self.poll_s
        some = [_Sound(message) for message in self.messages[self.position : self.position + most]]
        self.position += len(some)
        return some

    def get_watermark_offsets(self, _where: TopicPartition, *, cached: bool) -> tuple[int, int]:
        assert cached, "brokers are not asked before every poll"
        if self.unknown:
            raise KafkaException()
        return 0, len(self.messages) if self.fetched is None else self.fetched


class _Sound:
    """A message without an error."""

    def __init__(self, message: FakeMessage) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)

    def error(self) -> None:
        return None


class Scene:
    """A reading of one partition."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.clock = FakeClock()
        self.log = Log(self.clock)
        monkeypatch.setattr(reading, "Consumer", lambda *_, **__: self.log)
        self.settings = ConsumeSettings(kafka={}, poll_messages=AT_ONCE, flush_age_s=AGE_S, **changes)
        self.intake: PartitionIntake = intake(clock=self.clock)
        self.partition = Partition(TOPIC, 0, self.intake, CommitHorizon(60.0, 0, None))
        self.rested: list[float] = []
        self.held: set[str] = set()

        class Members:
            error = None
            assigned = revoked = lost = None

        self.reading = Reading(
            self.settings,
            {(TOPIC, 0): self.partition},
            Members(),  # type: ignore[arg-type]
            self.held,
            lambda *_: None,
            health=Health(self.clock, 1e9, 1e9, 1e9),
            metrics=Metrics(),
            clock=self.clock,
            jitter=lambda: 0.5,
        )

    def _wait(self, seconds: float) -> None:
        self.rested.append(seconds)
        self.clock.now += seconds

    def poll(self, *, busy: bool = True) -> int:
        """One turn; how many messages it took."""
        before = self.intake.next_offset
        self.reading.poll(lambda: self.intake.held_bytes, busy=busy, wait=self._wait)
        return self.intake.next_offset - before


Make = Callable[..., Scene]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda **changes: Scene(monkeypatch, **changes)


def test_a_store_that_is_not_busy_is_read_for_without_a_rest(make: Make) -> None:
    scene = make()
    for _ in range(20):
        scene.log.grow(3)
        assert scene.poll(busy=False) == 3
    assert not scene.rested


def test_for_a_busy_store_what_comes_is_left_with_the_broker_until_it_is_due_and_then_gathered(make: Make) -> None:
    scene = make()
    scene.log.grow(5)
    assert scene.poll() == 5
    emptied = scene.clock.now
    scene.intake.take_chunk()
    while scene.clock.now < emptied + AGE_S:
        scene.log.grow(13)
        assert scene.poll() == 0, "nothing is due yet"
    assert sum(scene.rested) == pytest.approx(AGE_S)
    assert max(scene.rested) <= REST_S, "a turn has more to see to than messages"
    waiting = len(scene.log.messages) - 5
    assert waiting > 3 * AT_ONCE
    assert scene.poll() == waiting, "in one turn, however many polls it takes"
    assert scene.intake.waiting[0].opened_at == emptied, "what was read may have come right after the last time"
    policy = FlushPolicy(scene.settings, scene.clock.now)
    policy.took(10.0)
    assert policy.overdrawn
    assert policy.choose([scene.intake], set(), scene.clock.now) is not None, "due at once: it has waited already"
    assert scene.poll() == 0
    assert scene.rested[-1] == REST_S, "the next rest begins"


def test_gathering_begins_so_early_that_it_is_done_when_the_insert_is_due(make: Make) -> None:
    scene = make()
    scene.log.poll_s = 0.1
    scene.poll()
    for cycle in range(5):
        emptied = scene.clock.now
        scene.intake.waiting.clear()
        scene.log.grow(6 * AT_ONCE)
        while not scene.poll():
            pass
        late = scene.clock.now - (emptied + AGE_S)
        assert scene.intake.next_offset == len(scene.log.messages)
        assert late == pytest.approx(0.6 if cycle == 0 else 0.0, abs=0.11), "the first time nobody knew how long"


def test_a_backlog_is_read_without_a_rest_and_its_age_counts_from_now(make: Make) -> None:
    scene = make()
    scene.log.grow(200)
    for _ in range(19):
        before = scene.clock.now
        assert scene.poll() == AT_ONCE
        assert scene.intake.waiting[-1].opened_at >= scene.intake.waiting[0].opened_at
        scene.intake.take_chunk()
        assert scene.clock.now - before == pytest.approx(scene.log.poll_s)
    assert not scene.rested
    assert scene.poll() == AT_ONCE, "the end"
    assert scene.poll() == 0
    assert scene.rested, "only then"


def test_a_backlog_that_the_client_has_not_fetched_yet_is_none_that_was_read(make: Make) -> None:
    scene = make()
    scene.log.grow(100)
    for fetched in range(10, 90, 10):  # each answer of the broker tells the log's end, far away
        held, scene.log.messages = scene.log.messages, scene.log.messages[:fetched]
        scene.log.fetched = 100
        assert scene.poll() == 10
        assert scene.poll() == 0, "nothing fetched at this moment"
        scene.log.messages = held
    assert not scene.rested


def test_gathering_ends_after_a_while_and_goes_on_without_a_rest(make: Make) -> None:
    scene = make()
    scene.poll()
    scene.clock.now += AGE_S
    scene.log.poll_s = GATHER_S / 4
    scene.log.grow(1000)
    assert scene.poll() == 5 * AT_ONCE, "so that batches can start"
    assert scene.poll() == AT_ONCE
    assert not scene.rested


def test_gathering_takes_no_more_than_there_is_memory_for(make: Make) -> None:
    scene = make(memory_bytes=100_000)
    scene.poll()
    scene.clock.now += AGE_S
    scene.log.grow(1000)
    taken = scene.poll()
    each = scene.intake.held_bytes // taken
    assert scene.settings.memory_bytes <= scene.intake.held_bytes <= scene.settings.memory_bytes + AT_ONCE * each
    scene.poll()
    while scene.intake.waiting:
        scene.intake.take_chunk()
    scene.rested.clear()
    while scene.log.position < 1000:
        assert scene.poll()
        while scene.intake.waiting:
            scene.intake.take_chunk()
    assert not scene.rested, "a log that was paused for want of memory was not read to its end"


def test_partitions_that_may_not_be_read_keep_nobody_awake(make: Make) -> None:
    scene = make()
    scene.log.grow(5)
    scene.poll()
    scene.partition.paused = True  # its table is behind
    scene.held.add(TOPIC)
    scene.log.messages += scene.log.messages[:1]
    scene.clock.now += AGE_S
    scene.log.position = len(scene.log.messages)  # a paused partition hands out nothing
    scene.poll()
    assert scene.poll() == 0
    assert scene.rested


def test_a_log_whose_end_nobody_knows_is_read_without_a_rest(make: Make) -> None:
    scene = make()
    scene.log.unknown = True
    for _ in range(5):
        scene.log.grow(1)
        assert scene.poll() == 1
    assert not scene.rested


def test_a_store_that_is_no_longer_busy_ends_the_rest(make: Make) -> None:
    scene = make()
    scene.log.grow(1)
    scene.poll()
    scene.log.grow(2)
    assert scene.poll() == 0
    assert scene.poll(busy=False) == 2
