"""Schedules in which the log itself changes: a topic made anew, retention that overtakes a consumer.

What must be said then is exact: which offsets are gone, which events the audit misses; never a silent jump.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from confluent_kafka import TopicPartition

from consumers.audit import Finding, Kind
from tests.chaos import check
from tests.chaos.log import Log, Logged, Who
from tests.chaos.plan import Plan
from tests.chaos.roles import FATAL
from tests.chaos.world import until

if TYPE_CHECKING:
    from tests.chaos.schedule import Director

TOPIC = "node-telemetry"
ANEW = "node-counters"


class Special:
    """An ordinary schedule: nothing is special."""

    def __init__(self, director: Director) -> None:
        self.director, self.world = director, director.world

    def before(self, plan: Plan) -> None:
        """Before producers start."""

    def after(self, site: str, log: Log) -> Log:
        """Once everything is sent; what of the log must be stored."""
        return log

    def excuses(self, said: str) -> bool:
        """Whether a consumer may have ended with these last words."""
        return False

    def meant(self, site: str, findings: Sequence[Finding]) -> list[Finding]:
        """Findings of the audit that are as they should be."""
        return []

    def end(self, plan: Plan) -> None:
        """Once all is checked."""


class TopicAnew(Special):
    """A topic is deleted and made again under running consumers, which may end with an error, but not go on as if
    nothing had happened."""

    def before(self, plan: Plan) -> None:
        admin, unseen = self.world.admin, plan.seed % 2
        if unseen:  # consumers find another topic where theirs was
            self.world.links["consume"].hold(True)
        for future in admin.delete_topics([ANEW]).values():
            future.result(20)
        assert until(lambda: ANEW not in admin.list_topics(timeout=10).topics, 20)
        time.sleep(plan.seed % 7 / 5)
        assert until(self._made, 20, 0.2)
        self.director.reader.forget(ANEW)
        self.world.links["consume"].hold(False)
        self.world.consumer_changes = {"accept_lost": True}  # what a person does once told

    def _made(self) -> bool:
        try:
            self.world.make_topics((ANEW,))
        except Exception:  # noqa: BLE001 - its deletion may not be over
            return False
        return True

    def excuses(self, said: str) -> bool:
        return ANEW in said and "the topic" in said

    def end(self, plan: Plan) -> None:
        self.world.consumer_changes = {}
        _exchange(plan, self)


class RetentionOvertakes(Special):
    """Consumers are away while events come and go from the log. The next one names the offsets; told to go on, it
    stores the rest, and the audit names every event that is gone."""

    def __init__(self, director: Director) -> None:
        super().__init__(director)
        self._gone: set[Who] = set()
        self._range = (TOPIC, 0, 0, 0)

    def before(self, plan: Plan) -> None:
        self.world.quiet = True
        for one in self.world.consumers:
            one.go_on()
            one.order("stop")
        for one in self.world.consumers:
            assert one.wait(30), self.world.said(one)
        self.world.consumers.clear()

    def after(self, site: str, log: Log) -> Log:
        for one in self.world.consumers:
            one.kill()
        self.world.consumers.clear()
        committed = self.director.committed()
        by_partition: dict[int, list[Logged]] = {}
        for message in log.sound(TOPIC):
            by_partition.setdefault(message.partition, []).append(message)
        partition, messages = max(by_partition.items(), key=lambda item: len(item[1]))
        first = committed.get((TOPIC, partition), 0)
        begin = messages[len(messages) // 2].offset
        for future in self.world.admin.delete_records([TopicPartition(TOPIC, partition, begin)]).values():
            future.result(20)
        kept = Log([m for m in log.messages if (m.topic, m.partition) != (TOPIC, partition) or m.offset >= begin])
        there = {m.who for m in kept.messages if m.topic == TOPIC}
        self._gone = {m.who for m in messages if m.who is not None and m.who not in there}
        self._range = (TOPIC, partition, first, begin)
        if first < begin and (TOPIC, partition) in committed:
            told = f"{TOPIC}[{partition}]: offsets {first} to {begin - 1} are gone, the log begins at {begin}"
            one = self.world.start_consumer()
            assert one.wait(60), "the consumer goes on although retention took what comes next"
            assert one.exit_code == FATAL, self.world.said(one)
            assert told in self.world.said(one), (told, self.world.said(one))
            assert not any(check.count_stored(self.director.client, site).values()), "it stored before it stopped"
            self.world.consumers.remove(one)
        self.world.quiet = False
        self.world.consumer_changes = {"accept_lost": True}
        self.world.start_consumer(accept_lost=True)
        return kept

    def meant(self, site: str, findings: Sequence[Finding]) -> list[Finding]:
        topic, partition, _, begin = self._range
        lost = [f for f in findings if f.kind in (Kind.GAP, Kind.TAIL) and f.topic == topic]
        named = {(f.producer_id, f.run_id, seq) for f in lost for seq in range(f.first, f.last + 1)}
        if named != self._gone:
            return []
        holes = [f for f in findings if f.kind is Kind.LEDGER_HOLE and f.topic == topic and f.last == begin - 1]
        return lost + [f for f in holes if f"partition {partition}:" in f.detail]

    def end(self, plan: Plan) -> None:
        self.world.consumer_changes = {}
        _exchange(plan, self)


def _exchange(plan: Plan, special: Special) -> None:
    """Consumers that go on over losses make room for ordinary ones."""
    world = special.world
    old = list(world.consumers)
    for one in old:
        one.order("stop")
    for one in old:
        one.wait(30)
    world.supervise()
    world.group_of(plan.consumers)


SPECIAL: Mapping[str, type[Special]] = {
    "topic recreated": TopicAnew,
    "retention overtakes": RetentionOvertakes,
}
