"""Broker, store and proxies that schedules run in, one after another, and the processes between them.

A real Apache Kafka with a listener for consumers and one for producers, each behind a proxy of its own; the embedded
store behind another; the checks reach both directly. The store's folder is a small file system in memory where the
machine lets us mount one, so that its disk can be full.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka.admin import AdminClient, NewTopic

from infra.clickhouse.client import ClickHouse, connect
from infra.clickhouse.migrate import migrate
from infra.clickhouse.tenancy import POLICIES
from infra.embedded.apache_kafka import ApacheKafka
from infra.embedded.child import free_port
from infra.embedded.store.process import StoreProcess
from tests.chaos.disk import Disk
from tests.chaos.process import Running, Where
from tests.chaos.proxy import Proxy
from tests.chaos.roles import TOPICS, consumer, projector
from tests.topics import made_by

PARTITIONS = {"node-telemetry": 4, "node-counters": 2, "node-events": 2}
"""Of each topic; 1 of the others."""
STORE_TIMEOUT_S = 2.5
"""Of a consumer's request: shorter than the store is stopped at times."""
DISK_MB = 6_000
HEALS_S = 120.0
"""How long a store may take to start; nothing is measured by it."""
REFUSED = "SELECT sum(value) FROM system.events WHERE event = 'WriteBufferFromFileDescriptorWriteFailed'"


class World:
    """Up between ``with`` and its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count(1)
        self.consumers: list[Running] = []
        self.projector: Running | None = None
        self._owner = "projector"
        self.disk: Disk | None = None
        """The store's, where it can be full."""
        self.consumer_changes: dict[str, Any] = {}
        self.quiet = False
        """No consumer is to run."""
        self.leaving: list[Running] = []
        """Projectors that were told to go."""
        self.ended: list[Running] = []
        """Consumers that ended by themselves with an error."""

    # --- up and down --------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            return self._up()
        except BaseException:
            self._down()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._down()

    def _up(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.proxy = Proxy()
        ports = {name: free_port() for name in ("broker", "controller", "consume", "produce")}
        to_consume = self.proxy.link("127.0.0.1", ports["consume"])
        to_produce = self.proxy.link("127.0.0.1", ports["produce"])
        self.links = {"consume": to_consume, "produce": to_produce}
        kafka = self.folder / "kafka"
        kafka.mkdir()
        (kafka / "ports.json").write_text(json.dumps({name: ports[name] for name in ("broker", "controller")}))
        names = {"PLAINTEXT": ports["broker"], "CONSUME": ports["consume"], "PRODUCE": ports["produce"]}
        told = {"PLAINTEXT": ports["broker"], "CONSUME": to_consume.port, "PRODUCE": to_produce.port}
        listeners = [*(f"{name}://127.0.0.1:{port}" for name, port in names.items())]
        self.kafka = ApacheKafka(
            kafka,
            heap_mb=384,
            properties={
                "listeners": ",".join([*listeners, f"CONTROLLER://127.0.0.1:{ports['controller']}"]),
                "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in told.items()),
                "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in [*names, "CONTROLLER"]),
                "inter.broker.listener.name": "PLAINTEXT",
                "group.min.session.timeout.ms": "500",
                "broker.session.timeout.ms": "1000",
                "broker.heartbeat.interval.ms": "300",
                "offsets.topic.num.partitions": "1",
                "log.message.timestamp.type": "LogAppendTime",
            },
        ).start()
        store = self.folder / "store"
        store.mkdir()
        self.disk = Disk.mount(store, DISK_MB)
        self.store = StoreProcess(store, policies=POLICIES).start()
        self.links["store"] = self.proxy.link("127.0.0.1", self.store.port)
        self.admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap})
        self.make_topics(TOPICS)
        client = self.client()
        migrate(client)
        client.close()
        return self

    def _down(self) -> None:
        for one in [*self.consumers, *self.leaving, *([self.projector] if self.projector else [])]:
            one.kill()
        for child in multiprocessing.active_children():
            child.kill()  # a producer that is stopped would not hear SIGTERM, and be waited for without end
        for name in ("kafka", "store"):
            server = getattr(self, name, None)
            if server is not None:
                with contextlib.suppress(Exception):
                    os.kill(server.pid, signal.SIGCONT)
                server.kill()
        if hasattr(self, "proxy"):
            self.proxy.close()
        if self.disk is not None:
            self.disk.unmount()
            self.disk = None

    def make_topics(self, topics: tuple[str, ...]) -> None:
        """The topics, with append times by the broker."""
        config = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "4000000", "retention.ms": "-1"}
        wanted = [NewTopic(topic, PARTITIONS.get(topic, 1), 1, config=config) for topic in topics]
        made_by(self.admin, wanted)

    # --- ways in ------------------------------------------------------------------------------------------------

    def client(self) -> Any:
        """A connection to the store, past the proxy."""
        return connect(ClickHouse(self.store.host, self.store.port, self.store.username, self.store.password))

    def where(self, link: str, timeout_s: float = STORE_TIMEOUT_S) -> Where:
        """How a process that uses a link (consume, produce) finds broker and store."""
        store = ClickHouse(
            "127.0.0.1",
            self.links["store"].port,
            self.store.username,
            self.store.password,
            connect_timeout_s=2.0,
            read_timeout_s=timeout_s,
        )
        return Where(f"127.0.0.1:{self.links[link].port}", store, self.folder)

    # --- processes ----------------------------------------------------------------------------------------------

    def start_consumer(self, **changes: Any) -> Running:
        """One more member of the group."""
        name = f"consumer-{next(self._numbers)}"
        made = Running(name, consumer, self.where("consume"), name, changes)
        self.consumers.append(made)
        return made

    def start_projector(self, *, anew: bool = False) -> Running:
        """The projector; ``anew``: under a name of its own, so that it must wait for the last one's claim."""
        if anew:
            self._owner = f"projector-{next(self._numbers)}"
        self.projector = Running("projector", projector, self.where("consume", 20.0), "projector", self._owner)
        return self.projector

    def supervise(self) -> None:
        """Start again what died, as a supervisor does; a consumer that left in order stays away, but for the last."""
        for one in [one for one in self.consumers if not one.alive()]:
            self.consumers.remove(one)
            if one.exit_code and not self.quiet:
                if one.exit_code > 0:
                    self.ended.append(one)
                self.start_consumer(**self.consumer_changes)
        if not self.consumers and not self.quiet:
            self.start_consumer(**self.consumer_changes)
        if self.projector is None or not self.projector.alive():
            self.start_projector()

    def group_of(self, wanted: int) -> None:
        """Have so many consumers."""
        self.supervise()
        while len(self.consumers) < wanted:
            self.start_consumer(**self.consumer_changes)
        for one in self.consumers[wanted:]:
            one.order("stop")

    def tell_where_you_are(self) -> None:
        """Every process writes the stacks of its threads to its log."""
        for one in [*self.consumers, *self.leaving, *([self.projector] if self.projector else [])]:
            one.go_on()
            one.signal(signal.SIGUSR1)
        time.sleep(0.5)

    def said(self, one: Running, lines: int = 12) -> str:
        """The end of a process's log."""
        path = self.folder / f"{one.name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def heal(self) -> None:
        """End every fault that lasts."""
        for link in self.links.values():
            link.heal()
        for one in [*self.consumers, *([self.projector] if self.projector else [])]:
            if one.stopped:
                one.go_on()
        for server in (self.kafka, self.store):
            if server.alive() and server.pid is not None:
                os.kill(server.pid, signal.SIGCONT)
        if self.disk is not None and self.disk.full:
            self.disk.make_room()
        self.start_store()
        if not until(self.sound, HEALS_S):
            raise TimeoutError(f"the store does not heal by itself; its log is {self.store.log}")
        if not self.kafka.alive():
            self.kafka.kill()
            self.kafka.start()

    def start_store(self) -> None:
        """As a supervisor does, whose attempts fail while the disk is full."""
        if not self.store.alive() and (self.disk is None or not self.disk.full):
            self.store.start()

    def sound(self) -> bool:
        """Whether the store answers and has lost no write, after which it would start anew by itself."""
        try:
            client = self.client()
            [[refused]] = client.query(REFUSED).result_rows
            client.close()
        except Exception:  # noqa: BLE001 - away, or waiting for room
            return False
        return int(refused) == 0

    def forget(self, seconds: float) -> None:
        """Drop what was inserted in the last seconds, as if it had never reached the disk: whole parts, in every
        table but the migrations'. A merged part holds older rows as well and stays."""
        client = self.client()
        found = client.query(
            "SELECT table, name FROM system.parts"
            " WHERE database = 'gpufleet' AND active AND table NOT LIKE '%migration%'"
            f" AND modification_time >= now() - {seconds} AND match(name, '^[^_]+_[0-9]+_[0-9]+_0$')"
        ).result_rows
        for table, part in found:
            with contextlib.suppress(Exception):  # merged meanwhile: it survived
                client.command(f"ALTER TABLE gpufleet.{table} DROP PART '{part}'")
        client.close()


def until(what: Any, timeout_s: float, every_s: float = 0.05) -> bool:
    """Wait for it to hold; False when time is up."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True
