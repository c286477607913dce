"""What the commands share that read the log, send a few events and end; and errors in a person's words."""

from __future__ import annotations

import socket
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from infra.errors import UnreachableError, UsageError

if TYPE_CHECKING:
    from infra.config import Settings
    from producers.log import LogEvent
    from producers.session import Session
    from schemas.registry import Registry


@contextmanager
def explained(what: str = "") -> Iterator[None]:
    """Turns the producers' errors into messages with an exit code; ``what`` (a file) stands before bad input."""
    from producers.errors import InputError, LogUnreadableError, NotDeliveredError
    from producers.journal import JournalError, JournalInUseError
    from schemas.registry import RegistryError

    try:
        yield
    except InputError as error:
        raise UsageError(f"{what}: {error}" if what else str(error)) from None
    except JournalInUseError as error:
        raise UnreachableError(f"{error}: wait for the other run of this command") from None
    except (LogUnreadableError, NotDeliveredError, JournalError, RegistryError) as error:
        raise UnreachableError(str(error)) from None


@contextmanager
def producer(settings: Settings, name: str, topics: Sequence[str], keys: Collection[str] = ("",)) -> Iterator[Session]:
    """A session as producer ``<name>@<host>``, with a journal of its own in the state folder.

    ``keys`` are Kafka keys that it is going to write, for which it must have a signing key where events are signed.
    UnreachableError when the broker does not answer or lacks a topic: said before anything is sent.
    """
    from infra.kafka.client import librdkafka
    from infra.signing import signer
    from producers.session import Session

    who = f"{name}@{socket.gethostname()}"
    sign = signer(settings, expect=[(topic, who, key) for topic in topics for key in keys])
    expect_topics(settings, topics)
    with explained():
        registry = _registry(settings)
        with Session(
            settings.agent.state_dir / name,
            settings.site.name,
            who,
            topics,
            {"message.max.bytes": settings.kafka.message_max_bytes, **librdkafka(settings.kafka, "producer")},
            schema_ids=registry.ids() if registry else {},
            sign=sign,
        ) as session:
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
            where = settings.kafka.bootstrap
            raise UsageError(f"topic {topic!r} does not exist on {where}: `gpufleet topics apply` creates it")


def read_log(settings: Settings, topic: str, start: Mapping[int, int] | None = None) -> Iterator[LogEvent]:
    """A topic's events; a message that is none is named on stderr and left out, as the consumer leaves it out."""
    from infra.kafka.client import librdkafka
    from producers.log import read_topic
    from schemas import catalogue

    expect_topics(settings, [topic])
    with explained():
        registry = _registry(settings)
        yield from read_topic(
            librdkafka(settings.kafka, "consumer"),
            topic,
            start=start,
            on_unreadable=lambda why: click.echo(f"gpufleet: {why}; left out", err=True),
            schema_by_id=registry.resolve if registry else catalogue.by_id().get,
        )


def log_end(settings: Settings, topic: str) -> dict[int, int]:
    """The offset after the last event of every partition."""
    from infra.kafka.client import librdkafka
    from producers.log import end_offsets

    expect_topics(settings, [topic])
    with explained():
        return end_offsets(librdkafka(settings.kafka, "consumer"), topic)


def confirm(question: str, yes: bool) -> None:
    """Ask on a terminal; elsewhere --yes must have said it. UsageError or Abort when the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nothing was sent: there is no terminal to ask on, say --yes (or look with --dry-run)")
    click.confirm(question, abort=True, err=True)


def _registry(settings: Settings) -> Registry | None:
    if not settings.registry.url:
        return None
    from infra.cli.schema import registry

    return registry(settings.registry)
