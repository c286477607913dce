"""Broker, store, topics, tables, consumer and projector on one machine, started in order and stopped in order."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from clickhouse_connect.driver.client import Client
from confluent_kafka import ConsumerGroupState, KafkaException

from infra.clickhouse.migrate import migrate
from infra.clickhouse.tenancy import POLICIES
from infra.config import Settings, load, remove_runtime, write_runtime
from infra.connections import connect_store, render
from infra.embedded.apache_kafka import ApacheKafka
from infra.embedded.broker import EmbeddedBroker
from infra.embedded.child import Child
from infra.embedded.store.errors import StoreError
from infra.embedded.store.passwords import hash_password, new_password
from infra.embedded.store.process import StoreProcess
from infra.embedded.store.users import Kind, User, write, write_secret
from infra.errors import UnreachableError, UsageError
from infra.kafka.client import admin, librdkafka
from infra.kafka.topics import Topics, wanted
from infra.signing import signer
from infra.up.accounts import acknowledged
from infra.up.drain import Backlog, log_ends
from infra.up.relog import put_back
from producers.journal import Journal, JournalError, JournalInUseError, lock

Broker = Literal["embedded", "kafka"]
Say = Callable[[str], None]
WRITER, OPERATOR = "writer", "operator"
"""Users of the store: the consumer, and people on the operator's side."""
EMBEDDED_OPTIONS = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "500"}
"""The embedded broker lets a member join after half the session timeout."""
KAFKA_OPTIONS = {"session.timeout.ms": "10000"}
"""After a kill -9 the group waits this long for the member that is gone."""

PROJECTOR = "up"
"""The one projector of a stack: under the same name a restart need not wait for a killed one's claim to run out."""


class Stack:
    """Everything between the producers and a question, as child processes of this one.

    ``data`` keeps it all: the store, Kafka's log (the embedded broker keeps none), passwords, journals, logs. One
    process at a time: UsageError when another holds the folder. ``overrides`` are settings (dotted keys) for the
    children; ``tenants`` get a user of the store each, their password in ``data/secrets/TENANT.password``.
    """

    def __init__(
        self,
        data: Path,
        settings: Settings,
        broker: Broker = "embedded",
        overrides: Mapping[str, Any] | None = None,
        tenants: Sequence[str] = (),
        say: Say = lambda _text: None,
    ) -> None:
        self.data = data.absolute()
        self._given = settings
        self._overrides = dict(overrides or {})
        self._tenants = tuple(tenants)
        self._say = say
        self._kind = broker
        self._lock = -1
        self.settings = settings
        self.broker: EmbeddedBroker | ApacheKafka = (
            EmbeddedBroker(self.data / "broker", port=settings.embedded.broker_port)
            if broker == "embedded"
            else ApacheKafka(
                self.data / "kafka", port=settings.embedded.broker_port, heap_mb=settings.embedded.kafka_heap_mb
            )
        )
        self.store: StoreProcess | None = None
        self.children: dict[str, Child] = {}
        self._put_back: Counter[str] = Counter()

    def __enter__(self) -> Stack:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @property
    def journals(self) -> Path:
        """Folder of the producers' journals."""
        return self.data / "journals"

    def client(self) -> Client:
        """A connection to the store as its administrator, in the database."""
        return connect_store(self.settings, database=self.settings.store.database, admin=True)

    def put_back(self, client: Client) -> None:
        """Give a broker that forgets the leases and limits of earlier runs again; before anything reads or sends."""
        sign = signer(self.settings, whole_site=True)
        self._put_back = put_back(client, librdkafka(self.settings.kafka, "producer"), sign)

    def backlog(self, client: Client, journal: Journal) -> Backlog:
        """What is sent and not stored yet; by the journals, from ``journal`` on, where the broker cannot tell."""
        if self._kind == "kafka":
            return Backlog(self.settings.kafka, client, log_ends(self.settings.kafka))
        return Backlog(
            self.settings.kafka, client, lambda: self._put_back + Counter(acknowledged(journal, self.journals))
        )

    def pids(self) -> dict[str, int]:
        """Process ids by role, for CPU and memory meters."""
        known = {name: child.process.pid for name, child in self.children.items()}
        if self.broker.pid is not None:
            known["broker"] = self.broker.pid
        if self.store is not None:
            known["store"] = self.store.pid
        return known

    def start_child(self, name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Child:
        """Run ``gpufleet ARGUMENTS`` against this stack, its output in ``data/log/NAME.log``."""
        child = Child(
            [sys.executable, "-m", "infra.cli.main", *arguments, "--data", str(self.data)],
            self.data / "log" / f"{name}.log",
            environment,
        )
        self.children[name] = child
        return child

    def check(self) -> None:
        """UnreachableError, with its last words, when a part has died."""
        for name, child in self.children.items():
            if not child.alive():
                raise UnreachableError(
                    f"{name} ended with exit code {child.process.returncode}; {child.log}:\n{child.tail()}"
                )
        if not self.broker.alive():
            raise UnreachableError(f"the broker died; its log is in {self.broker.folder}")
        if self.store is not None and not self.store.alive():
            raise UnreachableError(f"the store died; its log is {self.store.log}")

    def stop_child(self, name: str, timeout_s: float = 60.0) -> None:
        """Let one part finish in its own time, e.g. the consumer after the last event."""
        child = self.children.pop(name, None)
        if child is not None:
            child.stop(timeout_s)

    def stop(self) -> None:
        """Stop what runs, readers before what they read from."""
        for name in ("consumer", "projector", *self.children):
            self.stop_child(name)
        with contextlib.suppress(Exception):
            self.broker.stop()
        if self.store is not None:
            self.store.stop()
            self.store = None
        if self._lock >= 0:
            remove_runtime(self.data)
            os.close(self._lock)
            self._lock = -1

    def _start(self) -> None:
        try:
            self._lock = lock(self.data)
        except JournalInUseError:
            raise UsageError(
                f"another `gpufleet up` runs on {self.data}; stop it, or choose another folder with --data"
            ) from None
        except JournalError as error:
            raise UsageError(f"cannot use the data folder {self.data}: {error}; choose another with --data") from None
        self._say(f"broker: {'Apache Kafka' if self._kind == 'kafka' else 'embedded (in memory)'}")
        self.broker.start()
        self._say("store: ClickHouse engine (chDB)")
        self.store = self._start_store()
        found_at = self._found_at()
        self.settings = self._given.with_flags(found_at)
        self._say("topics and tables")
        topics = Topics(admin(self.settings.kafka), self.settings.kafka)
        topics.apply(topics.plan(wanted(self.settings.kafka, self.settings.retention)))
        client = connect_store(self.settings, admin=True)
        try:
            migrate(client, render(self.settings))
        finally:
            client.close()
        # Only now: a command that finds the stack also finds its topics and tables.
        write_runtime(self.data, found_at)
        self.settings = load(data=self.data)

    def start_consumer(self) -> None:
        """Start the consumer, as a user that may read and insert and nothing else."""
        password = str(self._password_file(WRITER))
        as_writer = {"GPUFLEET_STORE_ADMIN_USER": WRITER, "GPUFLEET_STORE_ADMIN_PASSWORD_FILE": password}
        self.start_child("consumer", "consume", environment=as_writer)

    def wait_for_consumer(self, timeout_s: float = 20.0) -> None:
        """Wait until the consumer has joined its group, so that what is sent now is fresh when it is stored."""
        client = admin(self.settings.kafka)
        group = self.settings.consume.group_id
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(KafkaException):
                asked = client.describe_consumer_groups([group], request_timeout=5)
                if asked[group].result().state == ConsumerGroupState.STABLE:
                    return
            time.sleep(0.1)

    def start_projector(self) -> None:
        """Start the projector; rewriting the tenant of rows takes more rights than a writer has."""
        self.start_child("projector", "project", "--owner", PROJECTOR)

    def _password_file(self, user: str) -> Path:
        return self.data / "store" / f"{user}.password"

    def _start_store(self) -> StoreProcess:
        embedded = self._given.embedded
        self._tenants_file()
        store = StoreProcess(
            self.data / "store",
            port=embedded.store_port,
            host=embedded.store_host,
            users=list(self._users()),
            policies=POLICIES,
            database=self._given.store.database,
        )
        try:
            return store.start()
        except StoreError as error:
            raise UnreachableError(str(error)) from None

    def _users(self) -> Iterator[User]:
        yield User(WRITER, Kind.WRITER, _kept_password(self._password_file(WRITER)))
        yield User(OPERATOR, Kind.OPERATOR, _kept_password(self._password_file(OPERATOR)))

    def _tenants_file(self) -> Path:
        """The store's tenants: the scenario's at the folder's first start; then `gpufleet tenant` keeps them."""
        secrets = self.data / "secrets"
        secrets.mkdir(parents=True, exist_ok=True)
        secrets.chmod(0o700)
        path = self.data / "store" / "tenants.toml"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(
                path,
                [
                    User(tenant, Kind.TENANT, _kept_password(secrets / f"{tenant}.password"), tenant)
                    for tenant in self._tenants
                ],
            )
        return path

    def _found_at(self) -> dict[str, Any]:
        """Settings with which every gpufleet command finds this stack: what ``data/runtime.toml`` holds."""
        assert self.store is not None
        return {
            "site.name": self._given.site.name,
            "kafka.bootstrap": self.broker.bootstrap,
            "store.url": self.store.url,
            "store.user": OPERATOR,
            "store.password_file": str(self._password_file(OPERATOR)),
            "store.admin_user": self.store.username,
            "store.admin_password_file": str(self.data / "store" / "admin.password"),
            "store.tenants_file": str(self._tenants_file()),
            "store.tenant_password_dir": str(self.data / "secrets"),
            "agent.state_dir": str(self.journals),
            "simulate.state_dir": str(self.journals),
            "consume.projector": False,
            **self._overrides,
            "kafka.librdkafka": EMBEDDED_OPTIONS if self._kind == "embedded" else KAFKA_OPTIONS,
        }


def _kept_password(path: Path) -> str:
    """Hash of the password in a file, which is made up at the first start."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_secret(path, new_password() + "\n")
    return hash_password(path.read_text().strip())
