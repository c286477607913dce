"""From settings to librdkafka's configuration: where the broker is and how to prove who we are."""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from infra.config import KafkaSettings
from infra.errors import ConfigError, UnreachableError
from infra.kafka.options import Client, for_client
from infra.kafka.reasons import in_words

_NOT_ALLOWED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}


def librdkafka(settings: KafkaSettings, client: Client) -> dict[str, Any]:
    """Options for one kind of client, in librdkafka's names.

    The free table ``kafka.librdkafka`` comes last and wins; what only another kind understands is left out.
    """
    options: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap,
        "client.id": settings.client_id,
        "security.protocol": settings.security_protocol,
        "sasl.mechanism": settings.sasl_mechanism,
        "sasl.username": settings.sasl_username,
        "sasl.password": settings.sasl_password.get_secret_value() if settings.sasl_password else "",
        "ssl.ca.location": str(settings.ssl_ca or ""),
        "ssl.certificate.location": str(settings.ssl_certificate or ""),
        "ssl.key.location": str(settings.ssl_key or ""),
        "ssl.key.password": settings.ssl_key_password.get_secret_value() if settings.ssl_key_password else "",
    }
    return {name: value for name, value in options.items() if value} | for_client(settings.librdkafka, client)


class Admin(AdminClient):
    """An administration client that remembers why the broker could not be used.

    Requests fail with "transport failure" whatever the cause; the cause (refused password, unknown certificate)
    comes separately, as an event.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._reasons: list[str] = []
        options: dict[str, Any] = {**librdkafka(settings, "admin"), "error_cb": self._on_error}
        super().__init__(options, logger=quiet_logger())

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._reasons.append(error.str())

    def reason(self) -> str:
        """The last cause told; empty when there is none."""
        self.poll(0)
        return self._reasons[-1] if self._reasons else ""


def admin(settings: KafkaSettings) -> Admin:
    """A client for topics and cluster facts. ConfigError when librdkafka refuses an option."""
    try:
        return Admin(settings)
    except KafkaException as error:
        raise ConfigError(f"kafka: librdkafka refuses the settings: {error.args[0].str()}") from None


def unreachable(settings: KafkaSettings, error: KafkaException, client: AdminClient | None = None) -> UnreachableError:
    """What to tell a person about a broker that does not answer as it should."""
    how = settings.security_protocol + (f" with {settings.sasl_mechanism}" if settings.sasl_mechanism else "")
    kafka_error = error.args[0] if error.args and isinstance(error.args[0], KafkaError) else None
    if kafka_error is not None and kafka_error.code() in _NOT_ALLOWED:
        return UnreachableError(
            f"Kafka at {settings.bootstrap} ({how}) does not allow this: {kafka_error.str()} "
            "`gpufleet topics acl` prints what each role needs"
        )
    reason = client.reason() if isinstance(client, Admin) else ""
    if not reason:
        reason = kafka_error.str() if kafka_error is not None else str(error)
    reason = in_words(settings, reason)
    return UnreachableError(
        f"Kafka at {settings.bootstrap} ({how}) does not answer: {reason}; "
        "check that it runs, kafka.bootstrap, and the credentials (`gpufleet doctor`)"
    )


def quiet_logger() -> logging.Logger:
    """librdkafka's own lines would stand between ours; what matters comes back as exceptions."""
    logger = logging.Logger("gpufleet.librdkafka")
    logger.addHandler(logging.NullHandler())
    return logger
