"""Our schemas in a registry that speaks the Confluent API."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from infra.cli.schema import command
from infra.embedded.child import free_port
from schemas import catalogue
from schemas.registry import Registry, RegistryError, RegistryParams, subject_of
from tests.schemas.fake_registry import FakeRegistry


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def client(fake: FakeRegistry, **extra: str) -> Registry:
    return Registry(RegistryParams(url=fake.url, timeout_s=5.0, **extra))


def test_registering_publishes_every_version_and_answers_with_the_registry_s_ids(fake: FakeRegistry) -> None:
    ids = client(fake).register()
    assert set(ids) == set(catalogue.KINDS)
    assert set(fake.subjects) == {f"{topic}-value" for topic in catalogue.KINDS}
    assert set(fake.compatibility.values()) == {"BACKWARD_TRANSITIVE"}
    for topic, identifier in ids.items():
        assert json.loads(fake.by_id[identifier]) == catalogue.latest(topic).definition


def test_registering_again_changes_nothing(fake: FakeRegistry) -> None:
    first = client(fake).register()
    assert client(fake).register() == first
    assert len(fake.by_id) == len(catalogue.published())


def test_ids_names_the_topics_that_the_registry_lacks(fake: FakeRegistry) -> None:
    for topic in catalogue.KINDS:
        if topic != "leases":
            fake.add(f"{topic}-value", catalogue.latest(topic).text)
    with pytest.raises(RegistryError, match="lacks the newest schema of leases; run `gpufleet schema register`"):
        client(fake).ids()
    expected = fake.add("leases-value", catalogue.latest("leases").text)
    assert client(fake).ids()["leases"] == expected


def test_an_unknown_id_resolves_by_the_form_of_its_schema(fake: FakeRegistry) -> None:
    definition = copy.deepcopy(catalogue.latest("leases").definition)
    for field in definition["fields"]:
        field["doc"] = "reworded"  # docs are no part of the canonical form
    identifier = fake.add("leases-value", json.dumps(definition, indent=4))
    assert client(fake).resolve(identifier) is catalogue.latest("leases")


def test_a_newer_version_of_a_known_kind_is_told_as_such(fake: FakeRegistry) -> None:
    definition = copy.deepcopy(catalogue.latest("leases").definition)
    definition["fields"].append(
        {"name": "colour", "type": "string", "default": "", "doc": "x", "unit": "", "kind": "id"}
    )
    identifier = fake.add("leases-value", json.dumps(definition))
    found = client(fake).resolve(identifier)
    assert found is not None
    assert (found.kind.topic, found.version, found.id) == ("leases", 0, identifier)
    assert found.fields[-1]["name"] == "colour"


@pytest.mark.parametrize("text", ['"string"', '{"type": "record", "name": "other.Lease", "fields": []}', "not json"])
def test_somebody_else_s_schema_is_none_of_ours(fake: FakeRegistry, text: str) -> None:
    assert client(fake).resolve(fake.add("x", text)) is None


def test_an_id_that_does_not_exist_is_none(fake: FakeRegistry) -> None:
    assert client(fake).resolve(1) is None


def test_nobody_listening_is_a_clear_error() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RegistryError, match=f"the schema registry at {url} does not answer"):
        Registry(RegistryParams(url=url, timeout_s=2.0)).ids()


def test_something_else_listening_is_a_clear_error(fake: FakeRegistry) -> None:
    fake.broken = True
    with pytest.raises(RegistryError, match="the schema registry at http"):
        client(fake).resolve(1)


def test_credentials_are_sent_and_a_refusal_does_not_repeat_them(fake: FakeRegistry) -> None:
    fake.credentials = "fleet:hunter2"
    assert client(fake, username="fleet", password="hunter2").resolve(1) is None
    with pytest.raises(RegistryError, match=r"refuses: User cannot be authenticated \(HTTP 401\)") as caught:
        client(fake, username="fleet", password="wrong-horse").resolve(1)
    assert "wrong-horse" not in str(caught.value)


def test_the_command_registers_and_lists(fake: FakeRegistry) -> None:
    settings = ["--set", f"registry.url={fake.url}", "--json"]
    registered = CliRunner().invoke(command, ["register", *settings])
    assert registered.exit_code == 0, registered.output
    ids = json.loads(registered.output)
    listed = json.loads(CliRunner().invoke(command, ["list", *settings]).output)
    assert {entry["topic"]: entry["registry_id"] for entry in listed} == ids


def test_the_command_says_that_the_registry_is_away() -> None:
    settings = ["--set", f"registry.url=http://127.0.0.1:{free_port()}", "--set", "registry.timeout_s=2"]
    result = CliRunner().invoke(command, ["register", *settings])
    assert result.exit_code == 3
    assert "does not answer" in result.output


def test_subjects_follow_the_topic() -> None:
    assert subject_of(catalogue.latest("node-telemetry")) == "node-telemetry-value"
