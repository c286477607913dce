"""A consumer in a thread or a process of the test, and what the store holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import clickhouse_connect

from consumers.consumer import Consumer
from consumers.settings import ConsumeSettings
from consumers.store import EventStore
from infra.embedded.store.process import StoreProcess
from schemas.catalogue import KINDS

QUICK = {"session.timeout.ms": 3_000, "heartbeat.interval.ms": 300, "topic.metadata.refresh.interval.ms": 1_000}
"""The embedded broker lets a member join after half the session timeout."""
KAFKA = {**QUICK, "session.timeout.ms": 6_000}
"""Apache Kafka takes no shorter session timeout."""


def client(store: StoreProcess, password: str | None = None) -> Any:
    return clickhouse_connect.get_client(
        host=store.host,
        port=store.port,
        username=store.username,
        password=store.password if password is None else password,
        autogenerate_session_id=False,
        send_receive_timeout=20,
        connect_timeout=2,
    )


def settings(bootstrap: str, group: str = "test", **changes: Any) -> ConsumeSettings:
    """Settings for tests: quick to flush, to commit and to try again."""
    kafka = {"bootstrap.servers": bootstrap, **QUICK, **changes.pop("kafka", {})}
    quick = {"flush_age_s": 0.3, "flush_min_age_s": 0.05, "inserts_per_second": 20.0, "horizon_s": 0.5}
    quick |= {"bookkeeping_s": 0.2, "backoff_first_s": 0.05, "backoff_max_s": 0.5, "schema_recheck_s": 0.3}
    return ConsumeSettings(kafka=kafka, group=group, **{**quick, "site": "test", **changes})


class Running:
    """A consumer in a thread, stopped at the end of the ``with``; its errors are raised there."""

    def __init__(self, consumer: Consumer, *, expect_error: bool = False) -> None:
        self.consumer = consumer
        self._expect_error = expect_error
        self._thread = threading.Thread(target=self._run)
        self.error: Exception | None = None

    def _run(self) -> None:
        try:
            self.consumer.run()
        except Exception as error:  # noqa: BLE001  # raised in the test's thread, or asked for with ended()
            self.error = error

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.consumer.stop()
        self._thread.join(40)
        assert not self._thread.is_alive(), "the consumer does not stop"
        error = self.ended(0)
        if error is not None and not self._expect_error:
            raise error

    def ended(self, timeout_s: float = 120.0) -> Exception | None:
        """What ``run`` raised, once it ended by itself."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the consumer goes on"
        return self.error


def running(store: StoreProcess, given: ConsumeSettings, **kwargs: Any) -> Running:
    expect_error = kwargs.pop("expect_error", False)
    events = EventStore(lambda: client(store, kwargs.pop("password", None)), given.database)
    return Running(Consumer(given, events, **kwargs), expect_error=expect_error)


def eventually(what: Callable[[], bool], timeout_s: float = 120.0, why: str = "") -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, why or "it does not come to pass"
        time.sleep(0.05)


def counts(ch: Any, topic: str, site: str) -> tuple[int, int]:
    """(rows, distinct identities) of a site's events in a table."""
    rows = ch.query(
        f"SELECT count(), uniqExact(producer_id, run_id, seq) FROM gpufleet.{KINDS[topic].table} WHERE site = '{site}'"
    ).result_rows
    return int(rows[0][0]), int(rows[0][1])


def identities(ch: Any, topic: str, site: str) -> list[tuple[str, int, int]]:
    """Every row's identity, sorted: a row stored twice is there twice."""
    rows = ch.query(
        f"SELECT producer_id, run_id, seq FROM gpufleet.{KINDS[topic].table} WHERE site = '{site}' ORDER BY ALL"
    ).result_rows
    return [(p, r, s) for p, r, s in rows]


def stored_as_sent(ch: Any, sent: Iterable[Any], site: str) -> bool:
    """Whether every table holds exactly the events sent, each once."""
    by_topic: dict[str, set[tuple[str, int, int]]] = {}
    for one in sent:
        by_topic.setdefault(one.topic, set()).add(one.identity)
    return all(identities(ch, topic, site) == sorted(wanted) for topic, wanted in by_topic.items())
