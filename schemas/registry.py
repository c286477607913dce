"""A schema registry that speaks the Confluent API: publish our schemas, and know its ids.

Without one, the ids of the committed catalogue are on the wire. With one, producers use the ids it gave, and a
consumer resolves an id it has not met by the schema's canonical fingerprint: an id says nothing, the form does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import fastavro

from schemas import catalogue, compatibility
from schemas.catalogue import Schema

T = TypeVar("T")
NOT_FOUND = 404
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
"""What Avro lets a field be called; the store is asked for columns of these names."""


class RegistryError(Exception):
    """The registry does not answer, refuses the credentials, or refuses a schema."""


@dataclass(frozen=True, slots=True)
class RegistryParams:
    """Where the registry is and how to prove who we are."""

    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    ca: str = ""
    certificate: str = ""
    key: str = ""
    timeout_s: float = 10.0


class Registry:
    """Our schemas in a registry, under the subject ``<topic>-value``.

    Every method raises RegistryError with the registry's URL and reason.
    """

    def __init__(self, params: RegistryParams) -> None:
        from confluent_kafka.schema_registry import SchemaRegistryClient

        options: dict[str, Any] = {"url": params.url, "timeout": params.timeout_s, "max.retries": 1}
        if params.username:
            options["basic.auth.user.info"] = f"{params.username}:{params.password}"
        for name, path in (
            ("ssl.ca.location", params.ca),
            ("ssl.certificate.location", params.certificate),
            ("ssl.key.location", params.key),
        ):
            if path:
                options[name] = path
        self._url = params.url
        self._client = SchemaRegistryClient(options)

    def register(self) -> dict[str, int]:
        """Publish every version of every kind, oldest first; the registry's id of each topic's newest.

        Doing it again changes nothing: a registry answers with the id it gave before.
        """
        ids = {}
        for schema in catalogue.published():
            subject = subject_of(schema)
            if schema.version == 1:
                self._ask(partial(self._demand_compatibility, subject))
            ids[schema.kind.topic] = self._ask(partial(self._client.register_schema, subject, _avro(schema)))
        return ids

    def ids(self) -> dict[str, int]:
        """The registry's id of each topic's newest schema. RegistryError names topics it does not know."""
        known = self.known_ids()
        missing = [topic for topic, found in known.items() if found is None]
        if missing:
            raise RegistryError(
                f"the schema registry at {self._url} lacks the newest schema of {', '.join(missing)}; "
                "run `gpufleet schema register`"
            )
        return {topic: found for topic, found in known.items() if found is not None}

    def known_ids(self) -> dict[str, int | None]:
        """As ``ids``, with None for a topic whose newest schema the registry does not know."""
        return {topic: self._lookup(catalogue.latest(topic)) for topic in catalogue.KINDS}

    def resolve(self, schema_id: int) -> Schema | None:
        """The schema behind one of the registry's ids; None when there is no such id, or it is not one of ours.

        A version newer than this program's catalogue comes back with version 0 and the registry's definition: it
        bears the name of a kind that we know.
        """
        found = self._ask_or_none(partial(self._client.get_schema, schema_id))
        if found is None or found.schema_type not in (None, "AVRO") or not found.schema_str:
            return None
        try:
            definition = json.loads(found.schema_str)
            fingerprint = catalogue.canonical_fingerprint(definition)
            fastavro.parse_schema(definition)
            names = [field["name"] for field in definition["fields"]]
        except Exception:  # noqa: BLE001 - somebody else's schema, in whatever shape: not one of ours
            return None
        if not all(_NAME.fullmatch(name) for name in names):
            return None
        same = [schema for schema in catalogue.published() if schema.fingerprint == fingerprint]
        if same:
            return same[-1]
        for kind in catalogue.KINDS.values():
            if compatibility.full_name(definition) == compatibility.full_name(catalogue.latest(kind.topic).definition):
                return Schema(kind, 0, schema_id, definition, fingerprint)
        return None

    def _lookup(self, schema: Schema) -> int | None:
        found = self._ask_or_none(partial(self._client.lookup_schema, subject_of(schema), _avro(schema)))
        return found.schema_id if found else None

    def _demand_compatibility(self, subject: str) -> None:
        from confluent_kafka.schema_registry import ConfigCompatibilityLevel, ServerConfig

        self._client.set_config(subject, ServerConfig(compatibility=ConfigCompatibilityLevel.BACKWARD_TRANSITIVE))

    def _ask_or_none(self, question: Callable[[], T]) -> T | None:
        """The answer; None when the registry says that there is no such thing."""
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        try:
            return question()
        except SchemaRegistryError as error:
            if error.http_status_code == NOT_FOUND:
                return None
            raise RegistryError(self._refused(error)) from None
        except Exception as error:
            raise self._unreachable(error) from error

    def _ask(self, question: Callable[[], T]) -> T:
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        try:
            return question()
        except SchemaRegistryError as error:
            raise RegistryError(self._refused(error)) from None
        except Exception as error:
            raise self._unreachable(error) from error

    def _refused(self, error: Any) -> str:
        return f"the schema registry at {self._url} refuses: {error.error_message} (HTTP {error.http_status_code})"

    def _unreachable(self, error: Exception) -> RegistryError:
        """For whatever its HTTP client raises: connection, TLS, time-out, an answer that is not JSON."""
        return RegistryError(
            f"the schema registry at {self._url} does not answer as one: {error or type(error).__name__}"
        )


def subject_of(schema: Schema) -> str:
    """The subject a kind's values are registered under (the registry's TopicNameStrategy)."""
    return f"{schema.kind.topic}-value"


def _avro(schema: Schema) -> Any:
    from confluent_kafka.schema_registry import Schema as Registered

    return Registered(schema.text, "AVRO")
