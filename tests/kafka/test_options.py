"""Every client gets the options of its kind: librdkafka never has a reason to warn."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from infra.config import KafkaSettings
from infra.kafka.client import librdkafka
from infra.kafka.options import CONSUMER_ONLY, PRODUCER_ONLY, Client, for_client
from infra.up.stack import EMBEDDED_OPTIONS, KAFKA_OPTIONS

VALUES = {
    "delivery.report.only.error": False,
    "enable.gapless.guarantee": "false",
    "compression.codec": "lz4",
    "compression.level": "1",
    "group.protocol.type": "consumer",
    "compression.type": "lz4",
    "group.protocol": "classic",
    "group.remote.assignor": "uniform",
    "isolation.level": "read_committed",
    "acks": "all",
    "offset.store.method": "broker",
    "offset.store.path": ".",
    "partition.assignment.strategy": "cooperative-sticky",
    "partitioner": "murmur2_random",
    "queuing.strategy": "fifo",
    "request.required.acks": "all",
    "auto.offset.reset": "earliest",
    "group.id": "tests",
    "heartbeat.interval.ms": "500",
    "fetch.max.bytes": "5000000",
}
"""A value that librdkafka takes, where a number or a truth value will not do."""


class Warnings(logging.Handler):
    """What librdkafka says about its configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "CONFWARN" in record.getMessage():
            self.lines.append(record.getMessage())


def warnings(make: Callable[..., Any], options: dict[str, Any]) -> list[str]:
    """The configuration warnings of a client with these options."""
    heard = Warnings()
    logger = logging.Logger("test")
    logger.addHandler(heard)
    client = make({"bootstrap.servers": "127.0.0.1:1", **options}, logger=logger)
    client.poll(0)
    if isinstance(client, Consumer):
        client.close()
    return heard.lines


def value(name: str) -> Any:
    return VALUES.get(
        name, "true" if name.startswith(("enable.", "auto.commit.enable", "check.", "produce.")) else "1000"
    )


@pytest.mark.parametrize("name", sorted(CONSUMER_ONLY))
def test_what_the_table_calls_a_consumers_option_is_none_of_a_producers(name: str) -> None:
    assert warnings(Producer, {name: value(name)}), name


@pytest.mark.parametrize("name", sorted(PRODUCER_ONLY))
def test_what_the_table_calls_a_producers_option_is_none_of_a_consumers(name: str) -> None:
    assert warnings(Consumer, {"group.id": "tests", name: value(name)}), name


@pytest.mark.parametrize("stack", [EMBEDDED_OPTIONS, KAFKA_OPTIONS], ids=["embedded", "kafka"])
@pytest.mark.parametrize(
    ("client", "make"), [("producer", Producer), ("consumer", Consumer), ("admin", AdminClient)], ids=lambda x: str(x)
)
def test_no_client_of_a_stack_warns(client: Client, make: Callable[..., Any], stack: dict[str, str]) -> None:
    settings = KafkaSettings(librdkafka={**stack, "linger.ms": "5", "client.rack": "r1"})
    options = librdkafka(settings, client)
    needed = {"group.id": "tests"} if client == "consumer" else {}
    assert warnings(make, {**options, **needed}) == []
    assert ("session.timeout.ms" in options) == (client == "consumer")
    assert ("linger.ms" in options) == (client != "consumer")
    assert options["client.rack"] == "r1"


def test_an_unknown_option_reaches_every_client_so_that_librdkafka_can_refuse_it() -> None:
    given = {"no.such.option": "1"}
    for client in ("producer", "consumer", "admin"):
        assert for_client(given, client) == given
