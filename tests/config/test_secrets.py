"""Secrets: from files and variables only, and never shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from infra.cli.config import command
from infra.config import Settings, load
from infra.config.leaves import leaves
from infra.config.secrets import secret_option
from infra.connections import as_tenant, clickhouse
from infra.errors import ConfigError, UsageError
from infra.kafka.client import librdkafka

SECRET = "hunter2-correct-horse"


def secret_environment() -> dict[str, str]:
    """Every secret there is, set to SECRET."""
    variables = {leaf.variable: SECRET for leaf in leaves().values() if leaf.secret}
    assert len(variables) >= 4
    return {**variables, "GPUFLEET_KAFKA_LIBRDKAFKA": json.dumps({"ssl.key.pem": SECRET, "log_level": "6"})}


def load_in(folder: Path, environ: dict[str, str]) -> Settings:
    return load(environ=environ, cwd=folder)


def test_a_secret_comes_from_its_file_without_the_line_break(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(SECRET + "\n")
    (tmp_path / "gpufleet.toml").write_text('[store]\npassword_file = "pw"\n')
    settings = load_in(tmp_path, {})
    assert settings.store.password is not None
    assert settings.store.password.get_secret_value() == SECRET
    assert settings.origin("store.password") == f"secret file {tmp_path / 'pw'}"


def test_a_variable_beats_the_file_that_a_settings_file_names(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("other")
    (tmp_path / "gpufleet.toml").write_text('[store]\npassword_file = "pw"\n')
    settings = load_in(tmp_path, {"GPUFLEET_STORE_PASSWORD": SECRET})
    assert clickhouse(settings.store).password == SECRET


def test_a_secret_given_twice_in_one_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("other")
    environ = {"GPUFLEET_STORE_PASSWORD": SECRET, "GPUFLEET_STORE_PASSWORD_FILE": str(tmp_path / "pw")}
    with pytest.raises(ConfigError, match="both set") as caught:
        load_in(tmp_path, environ)
    assert SECRET not in caught.value.message


def test_a_missing_secret_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"store.password_file \(environment .*nofile: No such file"):
        load_in(tmp_path, {"GPUFLEET_STORE_PASSWORD_FILE": "/nofile"})


@pytest.mark.parametrize(
    "text",
    [
        f'[store]\npassword = "{SECRET}"\n',
        f'[kafka.librdkafka]\n"sasl.password" = "{SECRET}"\n',
        f'[store]\nurl = "http://gpufleet:{SECRET}@host:8123"\n',
        f'[registry]\nurl = "https://u:{SECRET}@host"\n',
        f'[store]\nurl = "gpufleet:{SECRET}@host:8123"\n',
        f'[kafka]\nbootstrap = "u:{SECRET}@host"\n',
    ],
)
def test_a_settings_file_may_not_hold_a_secret_and_the_message_does_not_repeat_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "gpufleet.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_in(tmp_path, {})
    assert SECRET not in caught.value.message


def test_a_flag_may_not_hold_a_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="list of processes") as caught:
        load(environ={}, cwd=tmp_path, flags={"kafka.sasl_password": SECRET})
    assert SECRET not in caught.value.message
    with pytest.raises(ConfigError, match="list of processes"):
        load(environ={}, cwd=tmp_path, flags={"kafka.librdkafka": f"sasl.password={SECRET}"})


@pytest.mark.parametrize("arguments", [["show"], ["show", "--json"], ["show", "--changed"]])
def test_show_hides_every_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, arguments, env=secret_environment())
    assert result.exit_code == 0
    assert SECRET not in result.output
    assert "********" in result.output


def test_settings_never_show_a_secret_in_their_own_words(tmp_path: Path) -> None:
    settings = load_in(tmp_path, {k: v for k, v in secret_environment().items() if "LIBRDKAFKA" not in k})
    assert SECRET not in repr(settings) + str(settings) + repr(settings.model_dump()) + settings.model_dump_json()
    assert SECRET not in repr(clickhouse(settings.store))


def test_an_error_about_other_values_does_not_repeat_secrets(tmp_path: Path) -> None:
    environ = {**secret_environment(), "GPUFLEET_KAFKA_PARTITIONS": "many", "GPUFLEET_KAFKA_BOOTSTRAP": "nowhere"}
    with pytest.raises(ConfigError) as caught:
        load_in(tmp_path, environ)
    assert "kafka.partitions" in caught.value.message
    assert SECRET not in caught.value.message


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("sasl.password", True),
        ("ssl.key.pem", True),
        ("sasl.oauthbearer.client.secret", True),
        ("ssl.keystore.password", True),
        ("sasl.oauthbearer.token.endpoint.url", False),
        ("ssl.key.location", False),
        ("socket.timeout.ms", False),
    ],
)
def test_secret_options_of_librdkafka_are_told_by_name(name: str, secret: bool) -> None:
    assert secret_option(name) is secret


def test_sasl_and_tls_reach_librdkafka(tmp_path: Path) -> None:
    (tmp_path / "gpufleet.toml").write_text(
        '[kafka]\nbootstrap = "a:9093,b:9093"\nsecurity_protocol = "sasl_ssl"\nsasl_mechanism = "SCRAM-SHA-512"\n'
        'sasl_username = "fleet"\nssl_ca = "ca.pem"\nssl_certificate = "me.pem"\nssl_key = "me.key"\n'
        '[kafka.librdkafka]\n"ssl.endpoint.identification.algorithm" = "none"\n"client.id" = "other"\n'
    )
    environ = {"GPUFLEET_KAFKA_SASL_PASSWORD": SECRET, "GPUFLEET_KAFKA_SSL_KEY_PASSWORD": "pass"}
    assert librdkafka(load_in(tmp_path, environ).kafka, "producer") == {
        "bootstrap.servers": "a:9093,b:9093",
        "client.id": "other",  # the free table comes last
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "fleet",
        "sasl.password": SECRET,
        "ssl.ca.location": str(tmp_path / "ca.pem"),
        "ssl.certificate.location": str(tmp_path / "me.pem"),
        "ssl.key.location": str(tmp_path / "me.key"),
        "ssl.key.password": "pass",
        "ssl.endpoint.identification.algorithm": "none",
    }


def test_tls_and_user_reach_the_store(tmp_path: Path) -> None:
    (tmp_path / "gpufleet.toml").write_text(
        '[store]\nurl = "https://ch.example:9440"\nuser = "reader"\nca = "ca.pem"\ncertificate = "c.pem"\n'
        'key = "c.key"\nverify = false\nrequest_timeout_s = 7\n'
    )
    where = clickhouse(load_in(tmp_path, {"GPUFLEET_STORE_PASSWORD": SECRET}).store)
    assert (where.host, where.port, where.secure, where.verify) == ("ch.example", 9440, True, False)
    assert (where.user, where.password, where.ca_cert) == ("reader", SECRET, str(tmp_path / "ca.pem"))
    assert (where.client_cert, where.client_key) == (str(tmp_path / "c.pem"), str(tmp_path / "c.key"))
    assert where.read_timeout_s == 7


def test_a_tenant_asks_with_its_own_password(tmp_path: Path) -> None:
    (tmp_path / "anthropic.password").write_text("theirs\n")
    store = load_in(tmp_path, {"GPUFLEET_STORE_TENANT_PASSWORD_DIR": str(tmp_path)}).store
    where = clickhouse(as_tenant(store, "anthropic"))
    assert (where.user, where.password) == ("anthropic", "theirs")
    with pytest.raises(UsageError, match="found those of anthropic"):
        as_tenant(store, "nimbus")


@pytest.mark.parametrize("name", ["../anthropic", "/etc/passwd", "a/b", "", ".", "Anthropic", "x" * 64, "a\nb"])
def test_a_name_that_no_tenant_can_have_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "tenants").mkdir()
    (tmp_path / "anthropic.password").write_text("not a tenant's\n")
    store = load_in(tmp_path, {"GPUFLEET_STORE_TENANT_PASSWORD_DIR": str(tmp_path / "tenants")}).store
    with pytest.raises(UsageError, match=r"1 to 63 of a-z, 0-9 and '-'"):
        as_tenant(store, name)
