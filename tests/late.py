"""A broker that clients have been trying to reach for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.embedded.broker import EmbeddedBroker
from tests import topics
from tests.chaos.proxy import Proxy


@contextmanager
def late_broker(folder: Path, port: int, names: Iterable[str]) -> Iterator[EmbeddedBroker]:
    """An embedded broker that answers on ``port`` once it has these topics, of one partition each.

    Not before: it makes whatever topic a client asks for, with more partitions, and somebody who waits asks at once.
    """
    with EmbeddedBroker(folder) as broker:
        topics.create(broker.bootstrap, names)
        proxy = Proxy()
        try:
            proxy.link(broker.host, broker.port, at=port)
            yield broker
        finally:
            proxy.close()
