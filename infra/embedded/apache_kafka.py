"""A real Apache Kafka in a folder: one process, KRaft, no container. Needs Java 17 and, the first time, Maven.

The log stays in the folder: a restart keeps it, and the ports with it. ``$KAFKA_HOME`` (an unpacked distribution)
is used instead of Maven when set.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.embedded.child import Child, free_ports, port_in_use
from infra.errors import UnreachableError, UsageError

VERSION = "4.1.0"
JAVA_NEEDED = 17
START_TIMEOUT_S = 60.0
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>gpufleet</groupId><artifactId>kafka-jars</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{v}</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{v}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


class KafkaUnavailable(UsageError):  # noqa: N818 - a statement about the machine, not about a call
    """This machine cannot run Apache Kafka: no Java, no Maven, or no way to fetch the jars."""


class ApacheKafka:
    """One broker and controller in a child process.

    ``folder`` keeps log, ports and settings; ``properties`` are laid over server.properties (restarts re-read them).
    KafkaUnavailable from ``start`` when the machine lacks what it takes.
    """

    def __init__(
        self, folder: Path, *, port: int = 0, heap_mb: int = 512, properties: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.host = "127.0.0.1"
        self._asked_port = port
        self._heap_mb = heap_mb
        self._properties = dict(properties or {})
        self._ports: dict[str, int] = {}
        self._child: Child | None = None

    @property
    def bootstrap(self) -> str:
        """host:port for ``bootstrap.servers``; known once started."""
        return f"{self.host}:{self._ports['broker']}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs, for CPU and memory meters."""
        return self._child.process.pid if self._child else None

    def alive(self) -> bool:
        return self._child is not None and self._child.alive()

    def start(self) -> Self:
        """Start on what the folder holds, or on an empty log. UnreachableError with its last words if it fails."""
        java = java_program()
        classpath = f"{kafka_jars()}/*"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ports = self._choose_ports()
        for name, port in self._ports.items():
            if port_in_use(self.host, port, reuse=True):
                raise UnreachableError(
                    f"Apache Kafka cannot listen on port {port} ({name}): it is in use; stop what uses it, "
                    f"or delete {self.folder / 'ports.json'} to choose other ports"
                )
        config = self.folder / "server.properties"
        config.write_text("".join(f"{name}={value}\n" for name, value in self._server_properties().items()))
        if not (self.folder / "log" / "meta.properties").exists():
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            # One argument: an id may begin with a dash, which would read as an option.
            identified = f"--cluster-id={cluster}"
            _run([java, "-cp", classpath, "kafka.tools.StorageTool", "format", identified, "-c", str(config)])
        self._child = Child(
            [
                *(java, f"-Xmx{self._heap_mb}m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
                *("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classpath, "kafka.Kafka", str(config)),
            ],
            self.folder / "kafka.log",
        )
        if not self._child.wait_for_port(self.host, self._ports["broker"], START_TIMEOUT_S):
            words = self._child.tail(8)
            self.kill()
            raise UnreachableError(f"Apache Kafka did not start in {self.folder}: {words or 'no output'}")
        return self

    def stop(self) -> None:
        """Shut down in order; the log stays."""
        if self._child:
            self._child.stop(timeout_s=20.0)
            self._child = None

    def kill(self) -> None:
        """End it as a crash would (SIGKILL); the log stays."""
        if self._child:
            self._child.kill()
            self._child = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _choose_ports(self) -> dict[str, int]:
        """The ports of the last start, so that clients find it again; else free ones."""
        file = self.folder / "ports.json"
        if file.exists():
            kept: dict[str, int] = json.loads(file.read_text())
            if self._asked_port in (0, kept["broker"]):
                return kept
        broker, controller = free_ports(2, self.host)
        ports = {"broker": self._asked_port or broker, "controller": controller}
        file.write_text(json.dumps(ports))
        return ports

    def _server_properties(self) -> dict[str, str]:
        broker, controller = self._ports["broker"], self._ports["controller"]
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self.host}:{controller}",
            "listeners": f"PLAINTEXT://{self.host}:{broker},CONTROLLER://{self.host}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.host}:{broker}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.folder / "log"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "broker.session.timeout.ms": "3000",  # after a crash the controller refuses us until the old session ends
            "broker.heartbeat.interval.ms": "1000",
            "auto.create.topics.enable": "false",
            **self._properties,
        }


def java_program() -> str:
    """The Java to run Kafka with. KafkaUnavailable says what was found instead of Java 17."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if not java:
        raise KafkaUnavailable(f"Apache Kafka {VERSION} needs Java {JAVA_NEEDED} or newer, found none on the PATH")
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KafkaUnavailable(
            f"Apache Kafka {VERSION} needs Java {JAVA_NEEDED}; {java} does not run: {error}"
        ) from None
    version = re.search(r'version "(\d+)', told.stderr + told.stdout)
    if version is None or int(version[1]) < JAVA_NEEDED:
        found = version[1] if version else (told.stderr.strip() or "no version")
        raise KafkaUnavailable(f"Apache Kafka {VERSION} needs Java {JAVA_NEEDED} or newer, found {found} ({java})")
    return java


def kafka_jars(cache: Path | None = None) -> Path:
    """Folder of Kafka's jars: $KAFKA_HOME/libs, else a cache that Maven fills once (54 MB)."""
    home = os.environ.get("KAFKA_HOME")
    if home:
        libs = Path(home) / "libs"
        if not any(libs.glob("kafka_*.jar")):
            raise KafkaUnavailable(f"expected Kafka's jars in $KAFKA_HOME/libs, found none in {libs}")
        return libs
    base = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpufleet"
    jars = base / f"kafka-{VERSION}"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if not maven:
        raise KafkaUnavailable(
            f"Apache Kafka {VERSION} is fetched by Maven, found no mvn on the PATH; "
            "install Maven, or set KAFKA_HOME to an unpacked Kafka"
        )
    base.mkdir(parents=True, exist_ok=True)
    with (base / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs may get here together
        if not jars.is_dir():
            with tempfile.TemporaryDirectory(dir=base) as work:
                pom = Path(work) / "pom.xml"
                pom.write_text(_POM.format(v=VERSION))
                fresh = Path(work) / "jars"
                _run([maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={fresh}"])
                fresh.rename(jars)  # complete or not there
    return jars


def _run(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        words = "\n".join((done.stdout + done.stderr).strip().splitlines()[-6:])
        raise KafkaUnavailable(f"{Path(arguments[0]).name} failed ({done.returncode}): {words}")
