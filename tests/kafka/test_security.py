"""SASL and TLS against a real Apache Kafka: the settings a person writes are enough, and wrong ones are told."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.cli.main import cli
from infra.embedded.apache_kafka import ApacheKafka, KafkaUnavailable
from tests.conftest import missing

PASSWORD = "correct-horse"


@dataclass
class Secured:
    """A broker that wants TLS and a password, and the settings for it."""

    bootstrap: str
    folder: Path

    def settings(self, password: str = PASSWORD, ca: str = "ca.pem") -> Path:
        (self.folder / "kafka.password").write_text(password + "\n")
        file = self.folder / "gpufleet.toml"
        file.write_text(
            f'[kafka]\nbootstrap = "{self.bootstrap}"\nsecurity_protocol = "sasl_ssl"\nsasl_mechanism = "PLAIN"\n'
            f'sasl_username = "fleet"\nsasl_password_file = "kafka.password"\nssl_ca = "{ca}"\ntimeout_s = 4\n'
        )
        return file


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured-kafka")
    certificate, key = certificate_for("127.0.0.1")
    (folder / "ca.pem").write_text(certificate)
    (folder / "other-ca.pem").write_text(certificate_for("127.0.0.1")[0])
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    kafka = ApacheKafka(
        folder / "kafka",
        heap_mb=256,
        properties={
            "listener.security.protocol.map": "PLAINTEXT:SASL_SSL,CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "listener.name.plaintext.plain.sasl.jaas.config": (
                f'{plain} username="fleet" password="{PASSWORD}" user_fleet="{PASSWORD}";'
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": folded(certificate),
            "ssl.keystore.key": folded(key),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.certificates": folded(certificate),
        },
    )
    try:
        kafka.start()
    except KafkaUnavailable as error:
        missing("kafka", str(error))
    yield Secured(kafka.bootstrap, folder)
    kafka.stop()


def folded(pem: str) -> str:
    """PEM on one line of a properties file."""
    return pem.strip().replace("\n", "\\n")


def certificate_for(address: str) -> tuple[str, str]:
    """A certificate that signs itself, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


@pytest.mark.kafka
def test_tls_and_a_password_from_the_settings_file_are_enough(secured: Secured) -> None:
    result = CliRunner().invoke(cli, ["topics", "apply", "--config", str(secured.settings())])
    assert result.exit_code == 0, result.output
    examined = CliRunner().invoke(cli, ["doctor", "--only", "kafka", "--config", str(secured.settings())])
    assert examined.exit_code == 0, examined.output
    assert "security: sasl_ssl" in examined.output
    assert "kafka     topics: all 10 as they should be" in examined.output
    assert "ok    kafka     clock:" in examined.output


@pytest.mark.kafka
def test_a_wrong_password_is_told_and_not_shown(secured: Secured) -> None:
    result = CliRunner().invoke(cli, ["topics", "list", "--config", str(secured.settings(password="wrong-horse"))])
    assert result.exit_code == 3
    assert "sasl_ssl with PLAIN" in result.output
    assert "authentication" in result.output.lower()
    assert "wrong-horse" not in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.kafka
def test_a_broker_that_our_ca_did_not_sign_is_refused(secured: Secured) -> None:
    result = CliRunner().invoke(cli, ["topics", "list", "--config", str(secured.settings(ca="other-ca.pem"))])
    assert result.exit_code == 3
    assert "certificate verify failed" in result.output.lower()
