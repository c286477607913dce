"""A rebuild and an exchange while events arrive and are stored, on a real Apache Kafka; a log whose head is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.audit import audit
from consumers.rebuild import swap as swapping
from infra.embedded.apache_kafka import ApacheKafka
from infra.embedded.store.process import StoreProcess
from tests.conftest import started_kafka
from tests.consumers.fleet import Node, Sender, create_topics
from tests.consumers.running import KAFKA, counts, eventually
from tests.rebuild.support import MUTATION, TABLE, TOPIC, Place, hour_ago, hours_of

pytestmark = [pytest.mark.store, pytest.mark.kafka]


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """A broker for this file; each test uses topics of its own kind."""
    made = started_kafka(tmp_path_factory.mktemp("kafka"))
    create_topics(made.bootstrap, partitions=2)
    yield made
    made.stop()


@contextmanager
def arriving(place: Place, nodes: list[Node]) -> Iterator[None]:
    """Events of now, all the time."""
    stop = threading.Event()

    def run() -> None:
        sender = Sender(place.bootstrap)
        while not stop.wait(0.02):
            some = [node.event(TOPIC, ts=time.time_ns() // 1000) for node in nodes]
            sender.send(some)
            place.sent.extend(some)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_ingestion_goes_on_and_ends_exact(kafka: ApacheKafka, fresh_store: StoreProcess) -> None:
    place = Place(fresh_store, kafka.bootstrap, "live", KAFKA)
    nodes = [Node(f"n{i}", place.site) for i in range(5)]
    place.ingest([e for node in nodes for e in hours_of(node, [2, 1], 10)])
    with place.consumer(), arriving(place, nodes):
        eventually(lambda: counts(place.ch, TOPIC, place.site)[0] > 500)
        # Events of this very minute among them: what is exchanged is the partition that is being written to.
        place.ch.command(
            f"ALTER TABLE gpufleet.{TABLE} DELETE WHERE producer_id = 'n1' AND seq % 7 = 3", settings=MUTATION
        )
        lost = len(place.sent)
        report = place.run(swap=True)
        assert report.swapped
        assert report.differing
        assert sum(h.extra + h.doubled + h.different for h in report.differing) == 0
        assert len(place.sent) > lost, "nothing arrived meanwhile: the test shows nothing"
        stored = counts(place.ch, TOPIC, place.site)[0]
        eventually(lambda: counts(place.ch, TOPIC, place.site)[0] > stored + 100)
    with place.consumer():
        place.all_stored()
    assert place.exact()
    assert not place.tables_beside()
    found = audit(place.ch, compare_windows="none")
    assert (found.lost, found.duplicated) == (0, 0), found.findings
    assert place.run().equal


def test_an_exchange_cut_short_is_finished_by_the_next_run(
    kafka: ApacheKafka, fresh_store: StoreProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(fresh_store, kafka.bootstrap, "cut", KAFKA)
    node = Node("n1", place.site)
    topic, table = "node-counters", "node_counters"
    place.ingest(hours_of(node, [2, 1], 10, topic))
    place.ch.command(f"ALTER TABLE gpufleet.{table} DELETE WHERE seq = 3", settings=MUTATION)
    exchange = swapping.replace

    def and_late_rows(*arguments: object) -> None:
        place.ingest(hours_of(node, [2, 1], 5, topic))  # stored, and dropped by the exchange
        exchange(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(swapping, "replace", and_late_rows)
    with pytest.raises(KeyboardInterrupt):
        place.run(topic, swap=True)
    monkeypatch.undo()
    assert "until the same command is run again" in place.said[-1]
    assert counts(place.ch, topic, place.site)[0] < len(place.sent)
    report = place.run(topic)
    assert report.put_back
    assert place.exact(topic)
    assert report.equal


def test_what_retention_took_is_named_and_left_alone(kafka: ApacheKafka, fresh_store: StoreProcess) -> None:
    place = Place(fresh_store, kafka.bootstrap, "retention", KAFKA)
    topic, table = "node-events", "node_events"
    nodes = [Node(f"n{i}", place.site) for i in range(6)]
    for hours in ([5], [4], [3, 2]):
        place.ingest([e for node in nodes for e in hours_of(node, hours, 10, topic)])
    ends = {p: end for p, (_, end) in place.rebuild(topic).reader(None, None, None).bounds().items()}  # type: ignore[arg-type]
    # Half-way into the hour before the last batch: the hours that rest on it cannot be made again as a whole.
    cut = {p: end // 2 - end // 8 for p, end in ends.items()}
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.delete_records([TopicPartition(topic, p, low) for p, low in cut.items()]).values():
        future.result(20)
    place.ch.command(f"ALTER TABLE gpufleet.{table} DELETE WHERE producer_id = 'n2'", settings=MUTATION)
    report = place.run(topic, swap=True)
    assert {(g.partition, g.first, g.last) for g in report.gone} == {(p, 0, low - 1) for p, low in cut.items()}
    assert all(g.start == hour_ago(5) // 1_000_000 for g in report.gone)
    verdicts = {h.start: (h.gone, h.differs) for h in report.hours}
    hour = [(hour_ago(h) - 600_000_000) // 1_000_000 for h in range(6)]
    assert verdicts == {hour[5]: (True, False), hour[4]: (True, False), hour[3]: (False, True), hour[2]: (False, True)}
    rows = dict(
        place.ch.query(
            f"SELECT toUnixTimestamp(toStartOfHour(ts)), count() FROM gpufleet.{table} GROUP BY 1"
        ).result_rows
    )
    assert rows == {hour[5]: 50, hour[4]: 50, hour[3]: 60, hour[2]: 60}
