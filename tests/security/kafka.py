"""A real Apache Kafka that asks everybody who they are, and the settings with which to answer.

One broker process with listeners side by side: SCRAM over TLS, mutual TLS, TLS with an expired certificate, and one for
the broker itself, on which the test's own hands are those of a super user. Whoever has no ACL may do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from infra.config import Settings, load
from infra.embedded.apache_kafka import ApacheKafka
from infra.embedded.child import free_ports
from infra.kafka.client import admin
from infra.kafka.topics import Topics, wanted
from tests.security.certificates import Authority, Pair
from tests.security.recognisable import recognisable

HOST = "127.0.0.1"
SCRAM_USERS = ("admin", "agent", "consumer", "gateway", "operator", "nobody")
CERTIFIED = ("n1", "stranger")


@dataclass
class SecuredKafka:
    """The broker's addresses, and folder with everybody's passwords and certificates."""

    kafka: ApacheKafka
    folder: Path
    ports: Mapping[str, int]

    def own(self, **changes: object) -> Settings:
        """Settings of the test's own hands: the broker's listener, as super user."""
        flags = {
            "kafka.bootstrap": self.kafka.bootstrap,
            "kafka.partitions": 2,
            "kafka.history_partitions": 2,
            "kafka.timeout_s": 30,
        }
        return load(environ={}, cwd=self.folder, flags={**flags, **changes})

    def password(self, user: str) -> str:
        return (self.folder / f"{user}.password").read_text().strip()

    def scram(self, user: str, *, listener: str = "scram", ca: str = "ca.pem", password: str = "") -> Path:
        """A settings file for a SCRAM user; ``password`` names another file than the user's own."""
        return self._settings(
            f"{user}-{listener}-{ca}-{password}",
            listener,
            f'security_protocol = "sasl_ssl"\nsasl_mechanism = "SCRAM-SHA-512"\nsasl_username = "{user}"\n'
            f'sasl_password_file = "{password or user}.password"\nssl_ca = "{ca}"\n',
        )

    def mutual(self, name: str) -> Path:
        """A settings file for whoever shows the certificate NAME."""
        return self._settings(
            name,
            "mutual",
            f'security_protocol = "ssl"\nssl_ca = "ca.pem"\nssl_certificate = "{name}.pem"\nssl_key = "{name}.key"\n',
        )

    def load(self, file: Path, **flags: object) -> Settings:
        return load(file, environ={}, cwd=self.folder, flags=flags)

    def _settings(self, name: str, listener: str, lines: str) -> Path:
        file = self.folder / f"{name}.toml"
        file.write_text(
            f'[kafka]\nbootstrap = "{HOST}:{self.ports[listener]}"\ntimeout_s = 30\npartitions = 2\n'
            f"history_partitions = 2\n{lines}"
        )
        return file


def secured_kafka(folder: Path) -> SecuredKafka:
    """The broker, not yet started, and what is needed to come to it."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, other = Authority(), Authority("another CA")
    (folder / "ca.pem").write_text(authority.certificate)
    (folder / "other-ca.pem").write_text(other.certificate)
    for name in CERTIFIED:
        authority.signed(name).write(folder, name)
    authority.signed("late", expired=True).write(folder, "late")
    other.signed("forger").write(folder, "forger")
    for user in (*SCRAM_USERS, "wrong"):
        (folder / f"{user}.password").write_text(f"{recognisable()}\n")
        (folder / f"{user}.password").chmod(0o600)
    good, late = authority.signed("broker"), authority.signed("broker", expired=True)
    names = ("scram", "mutual", "expired")
    own, controller, *others = free_ports(2 + len(names), HOST)
    ports = dict(zip(names, others, strict=True))
    kafka = ApacheKafka(folder / "kafka", port=own, heap_mb=256, properties=_properties(ports, own, controller))
    kafka.folder.mkdir(parents=True, exist_ok=True)
    (kafka.folder / "ports.json").write_text(f'{{"broker": {own}, "controller": {controller}}}')
    extra = {**_identity("scram", good), **_identity("mutual", good), **_identity("expired", late)}
    extra |= {
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.mutual.ssl.truststore.type": "PEM",
        "listener.name.mutual.ssl.truststore.certificates": _folded(authority.certificate),
    }
    kafka._properties.update(extra)
    return SecuredKafka(kafka, folder, ports)


def prepare(secured: SecuredKafka) -> None:
    """Users and topics, by the broker's own listener."""
    settings = secured.own()
    client = admin(settings.kafka)
    made = client.alter_user_scram_credentials(
        [
            UserScramCredentialUpsertion(
                user, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), secured.password(user).encode()
            )
            for user in SCRAM_USERS
        ]
    )
    for future in made.values():
        future.result(20)
    topics = Topics(client, settings.kafka)
    topics.apply(topics.plan(wanted(settings.kafka, settings.retention)))


def _properties(ports: Mapping[str, int], own: int, controller: int) -> dict[str, str]:
    listeners = {"SCRAM": ports["scram"], "MUTUAL": ports["mutual"], "EXPIRED": ports["expired"], "PLAINTEXT": own}
    addresses = [f"{name}://{HOST}:{port}" for name, port in listeners.items()]
    return {
        "listeners": ",".join([*addresses, f"CONTROLLER://{HOST}:{controller}"]),
        "advertised.listeners": ",".join(addresses),
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SCRAM:SASL_SSL,MUTUAL:SSL,EXPIRED:SASL_SSL"
        ),
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        **{
            f"listener.name.{name}.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            )
            for name in ("scram", "expired")
        },
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }


def _identity(listener: str, pair: Pair) -> dict[str, str]:
    return {
        f"listener.name.{listener}.ssl.keystore.type": "PEM",
        f"listener.name.{listener}.ssl.keystore.certificate.chain": _folded(pair.certificate),
        f"listener.name.{listener}.ssl.keystore.key": _folded(pair.key),
    }


def _folded(pem: str) -> str:
    """PEM on one line of a properties file."""
    return pem.strip().replace("\n", "\\n")
