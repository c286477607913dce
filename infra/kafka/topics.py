"""Kafka's topics as the catalogue wants them: what is there, what differs, what would be created."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from infra.config import KafkaSettings, RetentionSettings
from infra.errors import GpufleetError
from infra.kafka.client import unreachable
from schemas.catalogue import KINDS, EventKind, Retention


@dataclass(frozen=True, slots=True)
class Wanted:
    """A topic as it should be."""

    name: str
    partitions: int
    replication: int
    """-1 = whatever the broker's default is."""
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as the broker describes it."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


class Status(Enum):
    """What a plan says about one topic."""

    OK = "ok"
    CREATE = "create"
    ALTER = "alter"
    """Settings differ and can be set in place."""
    CONFLICT = "conflict"
    """Partitions or copies differ: not changed here, for a change would move keys between partitions."""


@dataclass(frozen=True, slots=True)
class Step:
    """One topic's line of the plan."""

    wanted: Wanted
    found: Found | None
    status: Status
    differences: tuple[str, ...] = field(default=())
    """Each as "setting: expected X, found Y"."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "topic": self.wanted.name,
            "status": self.status.value,
            "partitions": self.found.partitions if self.found else self.wanted.partitions,
            "replication": self.found.replication if self.found else self.wanted.replication,
            "config": dict(self.wanted.config),
            "differences": list(self.differences),
        }


def wanted(kafka: KafkaSettings, retention: RetentionSettings) -> list[Wanted]:
    """Every kind's topic.

    LogAppendTime: back-filled events must not be old on arrival, or retention deletes them before they are read.
    Histories are kept for ever and never compacted: every revision counts.
    """
    return [_wanted(kind, kafka, retention) for kind in KINDS.values()]


def _wanted(kind: EventKind, kafka: KafkaSettings, retention: RetentionSettings) -> Wanted:
    telemetry = kind.retention is Retention.TELEMETRY
    config = {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": str(int(retention.topic_days * 86_400_000)) if telemetry else "-1",
        "retention.bytes": "-1",
        "max.message.bytes": str(kafka.message_max_bytes),
    }
    if kafka.min_insync_replicas:
        config["min.insync.replicas"] = str(kafka.min_insync_replicas)
    return Wanted(kind.topic, kafka.partitions if telemetry else kafka.history_partitions, kafka.replication, config)


def compare(want: Wanted, found: Found | None) -> Step:
    """The plan for one topic. A setting the broker does not report is not compared."""
    if found is None:
        return Step(want, None, Status.CREATE)
    shape = []
    if found.partitions != want.partitions:
        shape.append(f"partitions: expected {want.partitions}, found {found.partitions}")
    if want.replication != -1 and found.replication != want.replication:
        shape.append(f"replication: expected {want.replication}, found {found.replication}")
    settings = [
        f"{name}: expected {value}, found {found.config[name]}"
        for name, value in want.config.items()
        if name in found.config and found.config[name] != value
    ]
    status = Status.CONFLICT if shape else Status.ALTER if settings else Status.OK
    return Step(want, found, status, (*shape, *settings))


class Topics:
    """Reads and changes a cluster's topics. UnreachableError when the broker does not answer."""

    def __init__(self, client: AdminClient, kafka: KafkaSettings) -> None:
        self._client = client
        self._kafka = kafka

    def found(self, names: Iterable[str] | None = None) -> dict[str, Found]:
        """Topics that exist, with their settings; all (without the broker's own) when no names are given."""
        try:
            metadata = self._client.list_topics(timeout=self._kafka.timeout_s).topics
        except KafkaException as error:
            raise unreachable(self._kafka, error, self._client) from None
        chosen = set(metadata if names is None else names) & {name for name in metadata if not name.startswith("__")}
        configs = self._configs(sorted(chosen))
        topics = {}
        for name in sorted(chosen):
            partitions = metadata[name].partitions
            copies = len(next(iter(partitions.values())).replicas) if partitions else 0
            topics[name] = Found(name, len(partitions), copies, configs.get(name, {}))
        return topics

    def plan(self, wanted_topics: Iterable[Wanted]) -> list[Step]:
        """What would be done, topic by topic."""
        wanted_topics = list(wanted_topics)
        found = self.found(topic.name for topic in wanted_topics)
        return [compare(topic, found.get(topic.name)) for topic in wanted_topics]

    def apply(self, steps: Iterable[Step]) -> list[Step]:
        """Create what lacks, set what differs; conflicts are left alone. The steps that were carried out.

        Returns once the broker that answers us shows the change: it is told of it a moment after the controller.
        """
        steps = list(steps)
        create = [step for step in steps if step.status is Status.CREATE]
        alter = [step for step in steps if step.status is Status.ALTER]
        if create:
            new = [
                NewTopic(s.wanted.name, s.wanted.partitions, s.wanted.replication, config=dict(s.wanted.config))
                for s in create
            ]
            timeout_s = self._kafka.timeout_s
            asked = self._client.create_topics(new, operation_timeout=timeout_s, request_timeout=timeout_s + 5)
            self._wait(asked, "create")
        if alter:
            resources = [_alteration(step) for step in alter]
            self._wait(
                self._client.incremental_alter_configs(resources, request_timeout=self._kafka.timeout_s), "alter"
            )
        done = [*create, *alter]
        deadline = time.monotonic() + self._kafka.timeout_s
        while not self._shown(done) and time.monotonic() < deadline:
            time.sleep(0.05)
        return done

    def _shown(self, steps: list[Step]) -> bool:
        return all(step.status in (Status.OK, Status.CONFLICT) for step in self.plan(step.wanted for step in steps))

    def _configs(self, names: list[str]) -> dict[str, dict[str, str]]:
        """Settings by topic; none where the broker does not describe them, or not to us."""
        if not names:
            return {}
        futures = self._client.describe_configs(
            [ConfigResource(ResourceType.TOPIC, name) for name in names], request_timeout=self._kafka.timeout_s
        )
        configs = {}
        for resource, future in futures.items():
            try:
                configs[resource.name] = {name: entry.value for name, entry in future.result().items()}
            except KafkaException as error:
                if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    continue  # this user may see topics and not their settings
                raise unreachable(self._kafka, error, self._client) from None
        return configs

    def _wait(self, futures: Mapping[Any, Future[Any]], verb: str) -> None:
        wrong = []
        for target, future in futures.items():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].name() == "TOPIC_ALREADY_EXISTS":
                    continue  # somebody else was faster; the next plan compares it
                wrong.append(f"cannot {verb} topic {getattr(target, 'name', target)}: {error.args[0].str()}")
        if wrong:
            raise GpufleetError("\n".join(wrong))


def _alteration(step: Step) -> ConfigResource:
    assert step.found is not None
    found = step.found.config
    return ConfigResource(
        ResourceType.TOPIC,
        step.wanted.name,
        incremental_configs=[
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in step.wanted.config.items()
            if found.get(name) != value
        ],
    )
