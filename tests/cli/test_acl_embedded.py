"""ACLs asked of a broker that has none."""

from __future__ import annotations

import pytest

from infra.embedded.broker import EmbeddedBroker
from tests.cli.test_main import gpufleet


@pytest.mark.parametrize("more", [(), ("--prune",)])
def test_the_embedded_broker_has_no_acls_and_says_so(embedded_broker: EmbeddedBroker, more: tuple[str, ...]) -> None:
    where = f"kafka.bootstrap={embedded_broker.bootstrap}"
    done = gpufleet("topics", "acl", "--agent", "agents", "--apply", *more, "--set", where)
    assert done.returncode == 2
    assert "keeps no ACLs" in done.stderr


@pytest.mark.parametrize("name", ["", " ", "*"])
def test_nobody_and_everybody_are_no_user(name: str) -> None:
    done = gpufleet("topics", "acl", "--agent", name)
    assert done.returncode == 2
    assert "--agent expects the name of one user" in done.stderr
    assert not done.stdout
