"""TLS to ClickHouse's HTTP port: the right CA lets in, everything else is one line that says why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infra.cli.main import cli
from infra.embedded.store.process import StoreProcess
from tests.security.certificates import Authority
from tests.security.tls_proxy import TlsProxy

pytestmark = pytest.mark.store


@dataclass
class Behind:
    """The store behind TLS, and the folder of certificates."""

    folder: Path
    store: StoreProcess
    good: TlsProxy
    expired: TlsProxy
    mutual: TlsProxy

    def ask(self, proxy: TlsProxy, *lines: str) -> Result:
        (self.folder / "store.password").write_text(self.store.password)
        file = self.folder / "gpufleet.toml"
        mine = (f'url = "{proxy.url}"', f'user = "{self.store.username}"', 'password_file = "store.password"')
        file.write_text("".join(f"{line}\n" for line in ("[store]", *mine, *lines)))
        return CliRunner().invoke(cli, ["sql", "SELECT 6 * 7 AS answer", "--config", str(file)])


@pytest.fixture(scope="module")
def behind(migrated_store: StoreProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    folder = tmp_path_factory.mktemp("tls-store")
    authority, other = Authority(), Authority("another CA")
    ca = folder / "ca.pem"
    ca.write_text(authority.certificate)
    (folder / "other-ca.pem").write_text(other.certificate)
    authority.signed("me").write(folder, "me")
    other.signed("forger").write(folder, "forger")
    good, late = (
        authority.signed("store").write(folder, "good"),
        authority.signed("store", expired=True).write(folder, "late"),
    )
    port = migrated_store.port
    with TlsProxy(port, *good) as plain, TlsProxy(port, *late) as expired, TlsProxy(port, *good, ca) as mutual:
        yield Behind(folder, migrated_store, plain, expired, mutual)


def told(result: Result) -> str:
    assert result.exit_code == 3, result.output
    assert len(result.output.strip().splitlines()) == 1, result.output
    return result.output


def test_the_right_ca_lets_in(behind: Behind) -> None:
    result = behind.ask(behind.good, 'ca = "ca.pem"')
    assert result.exit_code == 0, result.output
    assert "42" in result.output


def test_a_store_that_our_ca_did_not_sign_is_refused(behind: Behind) -> None:
    assert "certificate verify failed" in told(behind.ask(behind.good, 'ca = "other-ca.pem"'))
    assert "certificate verify failed" in told(behind.ask(behind.good))  # the system's CAs know it even less


def test_an_expired_certificate_is_refused_and_named(behind: Behind) -> None:
    assert "certificate has expired" in told(behind.ask(behind.expired, 'ca = "ca.pem"'))


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_whoever_switches_the_check_off_is_let_in_by_his_own_word(behind: Behind) -> None:
    result = behind.ask(behind.expired, "verify = false")
    assert result.exit_code == 0, result.output


def test_a_store_that_wants_our_certificate_gets_it(behind: Behind) -> None:
    result = behind.ask(behind.mutual, 'ca = "ca.pem"', 'certificate = "me.pem"', 'key = "me.key"')
    assert result.exit_code == 0, result.output
    told(behind.ask(behind.mutual, 'ca = "ca.pem"'))
    told(behind.ask(behind.mutual, 'ca = "ca.pem"', 'certificate = "forger.pem"', 'key = "forger.key"'))
