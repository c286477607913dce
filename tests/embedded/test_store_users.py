"""Tenants come, change and go while the store runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.embedded.store import users
from infra.embedded.store.errors import StoreError
from infra.embedded.store.passwords import hash_password
from infra.embedded.store.process import StoreProcess
from infra.embedded.store.user_book import UserBook
from infra.embedded.store.users import Kind, User
from tests.e2e.support import until
from tests.embedded.fleet import ask

pytestmark = pytest.mark.store
ENDLESS = "SELECT count() FROM numbers(100000000000) WHERE cityHash64(number) = 1"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    with StoreProcess(tmp_path_factory.mktemp("users")) as process:
        assert ask(process, process.username, "CREATE DATABASE gpufleet")[0] == 200
        yield process


def tenant(name: str, password: str = "pw", previous: str = "") -> User:
    return User(name, Kind.TENANT, hash_password(password), name, hash_password(previous) if previous else "")


def write(process: StoreProcess, *tenants: User) -> None:
    users.write(process.data / "tenants.toml", tenants)


def test_a_tenant_is_there_as_soon_as_it_is_written(running: StoreProcess) -> None:
    write(running)
    assert ask(running, "anna", "SELECT 1")[0] == 403
    write(running, tenant("anna"))
    assert ask(running, "anna", "SELECT getSetting('log_comment')") == (200, "anna\n")
    write(running)
    assert ask(running, "anna", "SELECT 1")[0] == 403


def test_while_a_password_is_rotated_both_are_good(running: StoreProcess) -> None:
    write(running, tenant("anna", "new", previous="pw"))
    assert ask(running, "anna", "SELECT 1") == (200, "1\n")
    write(running, tenant("anna", "new"))
    assert ask(running, "anna", "SELECT 1")[0] == 403
    write(running, tenant("anna"))
    assert ask(running, "anna", "SELECT 1") == (200, "1\n")


def test_who_is_taken_away_loses_what_runs(running: StoreProcess) -> None:
    write(running, tenant("anna"), tenant("betty"))
    answers: dict[str, tuple[int, str]] = {}

    def run(name: str) -> None:
        answers[name] = ask(running, name, ENDLESS)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("anna", "betty")]
    for thread in threads:
        thread.start()
    runs = "SELECT count() FROM system.processes WHERE query LIKE '%100000000000)%' AND query NOT LIKE '%processes%'"
    until(lambda: ask(running, running.username, runs)[1] == "2\n", 20)
    write(running, tenant("betty"))  # nobody asks anything: the store looks by itself
    until(lambda: "anna" in answers, 20)
    assert answers["anna"][0] != 200
    assert "Code: 394" in answers["anna"][1]
    assert "betty" not in answers, "others are left alone"
    write(running)
    until(lambda: "betty" in answers, 20)
    for thread in threads:
        thread.join()


def test_a_file_that_cannot_be_read_changes_nothing(running: StoreProcess) -> None:
    write(running, tenant("anna"))
    assert ask(running, "anna", "SELECT 1")[0] == 200
    for wrong in ("[users", '[users.betty]\nkind = "admin"\npassword = "x"', '[users.betty]\nkind = "king"'):
        users.write_secret(running.data / "tenants.toml", wrong)
        assert ask(running, "anna", "SELECT 1")[0] == 200
    assert "the users stay as they were" in running.log.read_text()
    write(running)
    assert ask(running, "anna", "SELECT 1")[0] == 403


def test_tenants_outlive_a_restart(running: StoreProcess) -> None:
    write(running, tenant("anna"))
    running.restart()
    assert ask(running, "anna", "SELECT 1")[0] == 200


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (User("root", Kind.ADMIN, hash_password("pw")), "expected a tenant, found kind admin"),
        (tenant("gpufleet"), "is in .*users.toml, too"),
    ],
)
def test_the_tenants_file_makes_nobody_mightier(tmp_path: Path, second: User, reason: str) -> None:
    users.write(tmp_path / "users.toml", [User("gpufleet", Kind.ADMIN, hash_password("pw"))])
    book = UserBook(tmp_path / "users.toml", tmp_path / "tenants.toml")
    users.write(tmp_path / "tenants.toml", [second])
    assert book.refresh() == frozenset()
    assert book.find(second.name) is None or book.find("gpufleet") is not None
    with pytest.raises(StoreError, match=reason):
        UserBook(tmp_path / "users.toml", tmp_path / "tenants.toml")
