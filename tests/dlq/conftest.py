"""A broker of each test's own: a letter's site is its consumer's, so tests that share topics would share letters."""

from __future__ import annotations

import pytest

from infra.embedded.broker import EmbeddedBroker
from tests.consumers.fleet import create_topics


@pytest.fixture
def bootstrap(embedded_broker: EmbeddedBroker) -> str:
    """The address of an embedded broker with every topic (2 partitions each)."""
    create_topics(embedded_broker.bootstrap, partitions=2)
    return embedded_broker.bootstrap
