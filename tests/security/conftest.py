"""One broker that asks who everybody is, for all tests of this folder (they run in one process)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.embedded.apache_kafka import KafkaUnavailable
from tests.conftest import missing
from tests.security.kafka import SecuredKafka, prepare, secured_kafka


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """A real Apache Kafka with SCRAM, mutual TLS and ACLs; its topics are there, and nobody is allowed anything."""
    made = secured_kafka(tmp_path_factory.mktemp("secured") / "broker")
    try:
        made.kafka.start()
    except KafkaUnavailable as error:
        missing("kafka", str(error))
    try:
        prepare(made)
        yield made
    finally:
        made.kafka.stop()
