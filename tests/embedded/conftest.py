"""One store of fleet.py for all tests of who may do what."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.embedded.store.passwords import hash_password
from infra.embedded.store.process import StoreProcess
from infra.embedded.store.users import Kind, User
from tests.embedded.fleet import POLICIES, SETUP, connect


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    secret = hash_password("pw")
    users = [User("anna", Kind.TENANT, secret, "anna"), User("betty", Kind.TENANT, secret, "betty")]
    users += [User("quote", Kind.TENANT, secret, "o'ne\t\\x"), User("reader", Kind.READER, secret)]
    users += [User("writer", Kind.WRITER, secret), User("operator", Kind.OPERATOR, secret)]
    with StoreProcess(tmp_path_factory.mktemp("tenants"), users=users, policies=POLICIES) as process:
        client = connect(process, process.username, process.password)
        for statement in SETUP:
            client.command(statement)
        client.close()
        yield process
