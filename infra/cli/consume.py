"""``gpufleet consume``: events from Kafka into the store, each exactly once, until it is told to stop."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from infra.cli.common import GpufleetError, UnreachableError, UsageError, settings_options
from infra.config import Settings

if TYPE_CHECKING:
    from consumers.consumer import Consumer
    from consumers.schema_book import AskRegistry
    from consumers.settings import ConsumeSettings
    from schemas.catalogue import Schema
    from schemas.registry import Registry

DAY_S = 86_400.0
MIB = 1 << 20
HANGS_S = 180.0
"""A main loop that has not moved for so long never will; no wait of its own, stopping included, is as long."""


@click.command(
    epilog="""\b
Examples:
  gpufleet consume
  gpufleet consume --topics node-telemetry,node-events --metrics-port 9465"""
)
@click.option("--topics", metavar="NAME,...", help="Topics to read.  [default: every kind of event]")
@click.option("--group", metavar="ID", help="Kafka consumer group; else consume.group_id.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Port of /metrics and /health; 0 = none.")
@click.option("--accept-lost", is_flag=True, help="Go on at what Kafka still has when retention overtook the group.")
@settings_options
def command(
    settings: Settings, topics: str | None, group: str | None, metrics_port: int | None, accept_lost: bool
) -> None:
    """Read events from Kafka and store each exactly once. Ctrl-C or SIGTERM stops cleanly.

    Exit codes: 0 stopped as asked, 1 a person must decide (offsets lost, too many refused messages), 3 the store
    refuses the credentials. A broker or store that is away is waited for.
    """
    from consumers import garbage
    from consumers.errors import FatalError, StoreCredentialsError
    from consumers.watchdog import Watchdog

    settings = settings.with_flags({"consume.group_id": group, "consume.metrics_port": metrics_port})
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    consumer = build(settings, _topics(topics), accept_lost=accept_lost)
    garbage.settle()
    with _health_server(settings, consumer), _projector(settings), _signals(consumer.stop):
        try:
            with Watchdog(lambda: consumer.health.last_poll, HANGS_S):
                consumer.run()
        except StoreCredentialsError as error:
            raise UnreachableError(f"{error}; check store.user and store.password") from error
        except FatalError as error:
            raise GpufleetError(str(error)) from error


def build(settings: Settings, topics: tuple[str, ...] | None = None, *, accept_lost: bool = False) -> Consumer:
    """The consumer that the settings describe. Connects to nothing yet."""
    import clickhouse_connect  # noqa: F401  # the driver's import takes half a second: not while polling

    from consumers.consumer import Consumer
    from consumers.store import EventStore
    from infra.cli.schema import registry
    from infra.connections import connect_store
    from infra.signing import consumer_signing

    store = EventStore(lambda: connect_store(settings, admin=True), settings.store.database)
    known = registry(settings.registry) if settings.registry.url else None
    return Consumer(
        consume_settings(settings, topics, accept_lost=accept_lost),
        store,
        ask_registry=_ask(known) if known else None,
        dead_letter_id=_dead_letter_id(known) if known else None,
        signing=consumer_signing(settings),
    )


def consume_settings(
    settings: Settings, topics: tuple[str, ...] | None = None, *, accept_lost: bool = False
) -> ConsumeSettings:
    """The consumer's own plain record."""
    from consumers.settings import ConsumeSettings
    from infra.kafka.client import librdkafka
    from schemas.catalogue import KINDS

    consume = settings.consume
    return ConsumeSettings(
        kafka=librdkafka(settings.kafka, "consumer"),
        kafka_writing=librdkafka(settings.kafka, "producer"),
        topics=topics or tuple(KINDS),
        group=consume.group_id,
        site=settings.site.name,
        database=settings.store.database,
        flush_bytes=int(consume.flush_mb * MIB),
        flush_messages=consume.flush_events,
        flush_age_s=consume.flush_age_s,
        flush_min_age_s=min(0.2, consume.flush_age_s),
        inserts_per_second=consume.inserts_per_second,
        memory_bytes=consume.memory_mb * MIB,
        message_max_bytes=settings.kafka.message_max_bytes,
        horizon_s=consume.horizon_s,
        quarantine_share_limit=consume.quarantine_share_limit,
        future_limit_s=consume.future_limit_s,
        past_limit_s=consume.past_limit_days * DAY_S,
        accept_lost=accept_lost,
    )


def ask_registry(settings: Settings) -> AskRegistry | None:
    """The registry that the settings name, as the consumer asks it; None where the catalogue's ids count."""
    from infra.cli.schema import registry

    return _ask(registry(settings.registry)) if settings.registry.url else None


def _topics(text: str | None) -> tuple[str, ...] | None:
    from schemas.catalogue import KINDS

    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in KINDS]
    if unknown or not names:
        raise UsageError(f"--topics expects some of {', '.join(KINDS)}, found {', '.join(unknown) or 'nothing'}")
    return names


def _ask(registry: Registry) -> AskRegistry:
    """The registry as the consumer asks it."""
    from consumers.errors import RegistryUnavailableError
    from schemas.registry import RegistryError

    def ask(schema_id: int) -> Schema | None:
        try:
            return registry.resolve(schema_id)
        except RegistryError as error:
            raise RegistryUnavailableError(str(error)) from error

    return ask


def _dead_letter_id(registry: Registry) -> Callable[[Schema], int]:
    """The registry's id of the dead letters' schema, asked for with the first dead letter."""
    from consumers.errors import KafkaUnavailableError
    from schemas.registry import RegistryError

    def identifier(schema: Schema) -> int:
        try:
            return registry.ids()[schema.kind.topic]
        except RegistryError as error:
            raise KafkaUnavailableError(f"dead letters cannot be written: {error}") from error

    return identifier


@contextmanager
def _projector(settings: Settings) -> Iterator[None]:
    if not settings.consume.projector:
        yield
        return
    from consumers.projector.projector import Projector
    from infra.cli.project import projector_settings
    from infra.connections import connect_store

    stop = threading.Event()
    projector = Projector(lambda: connect_store(settings, admin=True), projector_settings(settings))
    thread = threading.Thread(target=projector.run, args=(stop,), name="projector", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)


@contextmanager
def _health_server(settings: Settings, consumer: Consumer) -> Iterator[None]:
    from consumers.health import HealthServer

    if not settings.consume.metrics_port:
        yield
        return
    host, port = settings.consume.metrics_host, settings.consume.metrics_port
    try:
        server = HealthServer(host, port, consumer.metrics, consumer.health)
    except OSError as error:
        raise UsageError(
            f"cannot serve /metrics on {host}:{port}: {error.strerror}; choose another --metrics-port, or 0 for none"
        ) from error
    try:
        yield
    finally:
        server.close()


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT stop the consumer; a second one ends the process as usual."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def once(number: int, _frame: object) -> None:
        stop()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, once)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
