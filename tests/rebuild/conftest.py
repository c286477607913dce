from __future__ import annotations

import pytest

from infra.embedded.broker import EmbeddedBroker
from infra.embedded.store.process import StoreProcess
from tests.consumers.fleet import create_topics
from tests.rebuild.support import Now, Place


@pytest.fixture(autouse=True)
def one_hour() -> None:
    """What "hours ago" means stays the same for a whole test."""
    Now.begin()


@pytest.fixture
def place(embedded_broker: EmbeddedBroker, fresh_store: StoreProcess) -> Place:
    """An empty store and broker with every topic (2 partitions each)."""
    create_topics(embedded_broker.bootstrap, partitions=2)
    return Place(fresh_store, embedded_broker.bootstrap)
