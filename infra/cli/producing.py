"""What the commands share that send a few events and end: the session, and errors in a person's words."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from infra.errors import UnreachableError, UsageError

if TYPE_CHECKING:
    from infra.config import Settings
    from producers.session import Session


@contextmanager
def explained(what: str = "") -> Iterator[None]:
    """Turns the producers' errors into messages with an exit code; ``what`` (a file) stands before bad input."""
    from producers.errors import InputError, LogUnreadableError, NotDeliveredError
    from producers.journal import JournalError, JournalInUseError

    try:
        yield
    except InputError as error:
        raise UsageError(f"{what}: {error}" if what else str(error)) from None
    except (LogUnreadableError, NotDeliveredError, JournalError) as error:
        hint = "; another run of this command?" if isinstance(error, JournalInUseError) else ""
        raise UnreachableError(f"{error}{hint}") from None


@contextmanager
def producer(settings: Settings, name: str, topics: Sequence[str]) -> Iterator[Session]:
    """A session as producer ``<name>@<host>``, with a journal of its own in the state folder.

    UnreachableError when the broker does not answer or lacks a topic: said before anything is sent.
    """
    from infra.kafka.client import librdkafka
    from producers.session import Session

    expect_topics(settings, topics)
    with (
        explained(),
        Session(
            settings.agent.state_dir / name,
            settings.site.name,
            f"{name}@{socket.gethostname()}",
            topics,
            {**librdkafka(settings.kafka), "message.max.bytes": settings.kafka.message_max_bytes},
        ) as session,
    ):
        yield session


def expect_topics(settings: Settings, topics: Sequence[str]) -> None:
    """UnreachableError when the broker does not answer, UsageError when it has no such topic."""
    from confluent_kafka import KafkaException

    from infra.kafka.client import admin, unreachable

    try:
        found = admin(settings.kafka).list_topics(timeout=settings.kafka.timeout_s).topics
    except KafkaException as error:
        raise unreachable(settings.kafka, error) from None
    for topic in topics:
        if topic not in found:
            raise UsageError(
                f"topic {topic!r} does not exist on {settings.kafka.bootstrap}: `gpufleet topics` makes it"
            )
