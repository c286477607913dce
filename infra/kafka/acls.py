"""What each role may do on the broker, as Kafka ACLs: no more than its work takes.

Tenants share the topic `tenant-usage`: an ACL cannot tell one tenant's messages from another's, the signature can
(docs/signing.md), and a topic per tenant would multiply partitions and consumers for no more than that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from infra.config import KafkaSettings
from infra.errors import GpufleetError, UsageError
from infra.kafka.client import unreachable
from schemas.catalogue import KINDS
from schemas.signing import TOPICS, Scope

PROBE_TOPIC = "gpufleet-doctor"
CLUSTER = "kafka-cluster"
EMBEDDED_CLUSTER = "tansu_cluster"
"""Id of the cluster that the embedded broker says it is."""
LOG_READER = "gpufleet-log-reader"
"""Group that `lease` and `limit` name (producers/log.py); nobody joins it."""
NO_AUTHORIZER = (
    "this cluster checks no ACLs: set authorizer.class.name (with KRaft: "
    "org.apache.kafka.metadata.authorizer.StandardAuthorizer) and super.users on every broker and controller"
)


class Role(StrEnum):
    """Who comes to the broker. Consumers and administrators can run `gpufleet doctor`, too."""

    AGENT = "agent"
    USAGE = "usage"
    FACILITY = "facility"
    SCHEDULER = "scheduler"
    OPERATOR = "operator"
    CONSUMER = "consumer"
    SIMULATOR = "simulator"
    REPLAY = "replay"
    ADMIN = "admin"


class Rule(NamedTuple):
    """One thing that a principal may do."""

    principal: str
    """User:NAME, or User:DN of a client certificate."""
    operation: AclOperation
    kind: ResourceType
    name: str

    def __str__(self) -> str:
        return f"allow {self.principal} {self.operation.name.lower()} {self.resource} {self.name}"

    @property
    def resource(self) -> str:
        """The kind in Kafka's words; the client library calls the cluster a broker."""
        return "cluster" if self.kind is ResourceType.BROKER else self.kind.name.lower()

    def as_dict(self) -> dict[str, str]:
        return {
            "principal": self.principal,
            "operation": self.operation.name.lower(),
            "resource": self.resource,
            "name": self.name,
        }

    @property
    def binding(self) -> AclBinding:
        return AclBinding(
            self.kind,
            self.name,
            ResourcePatternType.LITERAL,
            self.principal,
            "*",
            self.operation,
            AclPermissionType.ALLOW,
        )


_SCOPES: Mapping[Role, Scope] = {
    Role.AGENT: Scope.NODE,
    Role.USAGE: Scope.TENANT,
    Role.FACILITY: Scope.FACILITY,
    Role.SCHEDULER: Scope.SCHEDULER,
    Role.OPERATOR: Scope.OPERATOR,
}
_LOGS_OF_OPERATOR = ("leases", "tenant-limits")
"""`lease` and `limit` compare a file with these."""


def principal(text: str) -> str:
    """A SCRAM user's name or a certificate's DN as Kafka's principal."""
    return text if text.startswith("User:") else f"User:{text}"


def rules(role: Role, who: str, group: str) -> list[Rule]:
    """What a principal in a role may do. ``group`` is the consumers'."""
    user = principal(who)
    write = (AclOperation.WRITE, AclOperation.DESCRIBE)
    read = (AclOperation.READ, AclOperation.DESCRIBE)
    if role in _SCOPES:
        found = _on_topics(user, write, sorted(TOPICS[_SCOPES[role]]))
        if role is Role.OPERATOR:
            found += _on_topics(user, (AclOperation.READ,), _LOGS_OF_OPERATOR)
            found += [Rule(user, operation, ResourceType.GROUP, LOG_READER) for operation in read]
        return found
    if role in (Role.SIMULATOR, Role.REPLAY):
        return _on_topics(user, write, [topic for topic in KINDS if topic != "dead-letters"])
    if role is Role.CONSUMER:
        return [
            *_on_topics(user, (*read, AclOperation.DESCRIBE_CONFIGS), KINDS),
            *_on_topics(user, (AclOperation.WRITE,), ["dead-letters"]),
            *_on_topics(user, (*write, AclOperation.DESCRIBE_CONFIGS), [PROBE_TOPIC]),
            *(Rule(user, op, ResourceType.GROUP, name) for name in (group, f"{group}-rebuild") for op in read),
        ]
    manage = (
        AclOperation.CREATE,
        AclOperation.DESCRIBE,
        AclOperation.DESCRIBE_CONFIGS,
        AclOperation.ALTER,
        AclOperation.ALTER_CONFIGS,
    )
    return [
        *_on_topics(user, manage, [*KINDS, PROBE_TOPIC]),
        *_on_topics(user, (AclOperation.WRITE,), [PROBE_TOPIC]),
        *(Rule(user, op, ResourceType.BROKER, CLUSTER) for op in (AclOperation.DESCRIBE, AclOperation.ALTER)),
    ]


def _on_topics(user: str, operations: Iterable[AclOperation], topics: Iterable[str]) -> list[Rule]:
    operations = tuple(operations)
    return [Rule(user, operation, ResourceType.TOPIC, topic) for topic in topics for operation in operations]


class Acls:
    """Reads and sets a cluster's ACLs. UnreachableError when the broker does not answer."""

    def __init__(self, client: AdminClient, kafka: KafkaSettings) -> None:
        self._client, self._kafka = client, kafka

    def held(self, principals: Iterable[str]) -> set[Rule]:
        """What these principals are allowed already, on anything, by literal names and from any host."""
        self._keeps_acls()
        found: set[Rule] = set()
        for user in principals:
            every = AclBindingFilter(
                ResourceType.ANY,
                None,  # type: ignore[arg-type]  # any name, any host: the annotations know no None
                ResourcePatternType.ANY,
                user,
                None,  # type: ignore[arg-type]
                AclOperation.ANY,
                AclPermissionType.ALLOW,
            )
            for binding in self._ask(self._client.describe_acls(every, request_timeout=self._kafka.timeout_s)):
                if binding.resource_pattern_type is ResourcePatternType.LITERAL and binding.host == "*":
                    operation, kind = AclOperation(binding.operation), ResourceType(binding.restype)
                    found.add(Rule(binding.principal, operation, kind, binding.name))
        return found

    def _keeps_acls(self) -> None:
        """UsageError for the broker of `gpufleet up`, to whose answer librdkafka would end the process."""
        try:
            cluster = self._client.list_topics(timeout=self._kafka.timeout_s).cluster_id
        except KafkaException as error:
            raise unreachable(self._kafka, error, self._client) from None
        if cluster == EMBEDDED_CLUSTER:
            raise UsageError(
                f"the embedded broker at {self._kafka.bootstrap} keeps no ACLs: leave --apply out, or name a Kafka"
                " with kafka.bootstrap"
            )

    def add(self, missing: Iterable[Rule]) -> None:
        """Set them, and wait until the broker that answers us has heard. GpufleetError says what it refuses."""
        wanted = set(missing)
        if not wanted:
            return
        bindings = [rule.binding for rule in wanted]
        for future in self._client.create_acls(bindings, request_timeout=self._kafka.timeout_s).values():
            self._ask(future)
        users, deadline = {rule.principal for rule in wanted}, time.monotonic() + self._kafka.timeout_s
        while not wanted <= self.held(users) and time.monotonic() < deadline:
            time.sleep(0.05)

    def remove(self, surplus: Iterable[Rule]) -> None:
        """Take them away, and nothing else."""
        filters = [
            AclBindingFilter(
                rule.kind,
                rule.name,
                ResourcePatternType.LITERAL,
                rule.principal,
                "*",
                rule.operation,
                AclPermissionType.ALLOW,
            )
            for rule in surplus
        ]
        if filters:
            for future in self._client.delete_acls(filters, request_timeout=self._kafka.timeout_s).values():
                self._ask(future)

    def _ask(self, future: object) -> list[AclBinding]:
        try:
            return list(future.result() or ())  # type: ignore[attr-defined]  # a Future
        except KafkaException as error:
            reason = error.args[0]
            if reason.code() == KafkaError.SECURITY_DISABLED:
                raise GpufleetError(NO_AUTHORIZER) from None
            if reason.code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
                raise GpufleetError(
                    "this user may not see or set ACLs: come as a super user, or as one with alter on the cluster "
                    "(`gpufleet topics acl --admin`)"
                ) from None
            raise unreachable(self._kafka, error, self._client) from None
