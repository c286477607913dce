"""New schema files: checked, given an id, and frozen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from infra.cli.schema import command
from schemas import catalogue, dictionary, publication
from schemas.publication import PublicationError, check_all, publish_new


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the published schemas to change at will."""
    shutil.copytree(publication.root() / "avsc", tmp_path / "avsc")
    shutil.copy(publication.root() / "ids.json", tmp_path)
    return tmp_path


def write(folder: Path, topic: str, version: int, definition: dict[str, Any]) -> None:
    (folder / "avsc" / topic / f"v{version}.avsc").write_text(json.dumps(definition))


def grown(topic: str) -> dict[str, Any]:
    definition: dict[str, Any] = json.loads(catalogue.versions(topic)[0].text)
    new = {"name": "added_w", "type": "double", "default": 0.0, "doc": "d", "unit": "W", "kind": "gauge"}
    definition["fields"].append(new)
    return definition


def test_everything_published_is_sound_and_has_its_id() -> None:
    assert {name: problems for name, problems in check_all().items() if problems} == {}
    assert sorted(check_all()) == sorted(f"{s.kind.topic} v{s.version}" for s in catalogue.published())


def test_a_new_version_gets_the_next_id_of_its_kind(folder: Path) -> None:
    write(folder, "leases", 2, grown("leases"))
    (entry,) = publish_new(folder)
    assert (entry.topic, entry.version, entry.id) == ("leases", 2, 602)
    ids = json.loads((folder / "ids.json").read_text())
    assert ids["602"] == {"topic": "leases", "version": 2, "fingerprint": entry.fingerprint}
    assert ids["601"]["version"] == 1
    assert publish_new(folder) == []


def test_a_version_that_breaks_a_rule_is_not_published(folder: Path) -> None:
    definition = grown("leases")
    del definition["fields"][-1]["default"]
    write(folder, "leases", 2, definition)
    with pytest.raises(PublicationError, match="leases v2: field 'added_w': expected a default"):
        publish_new(folder)
    assert "602" not in json.loads((folder / "ids.json").read_text())


def test_a_version_cannot_be_left_out(folder: Path) -> None:
    write(folder, "leases", 3, grown("leases"))
    with pytest.raises(PublicationError, match="expected version 2 to be the next, found 3"):
        publish_new(folder)


def test_a_published_file_cannot_be_edited(folder: Path) -> None:
    write(folder, "leases", 1, grown("leases"))
    (problem,) = check_all(folder)["leases v1"]
    assert "make a new version" in problem.expected


def test_a_published_file_cannot_go(folder: Path) -> None:
    (folder / "avsc" / "leases" / "v1.avsc").unlink()
    assert check_all(folder)["leases v1"][0].found == "no such file"


def test_the_command_checks_a_file_against_its_kind(tmp_path: Path) -> None:
    file = tmp_path / "next.avsc"
    file.write_text(json.dumps(grown("leases")))
    good = CliRunner().invoke(command, ["check", str(file), "--topic", "leases"])
    assert good.exit_code == 0
    bad = CliRunner().invoke(command, ["check", str(file), "--topic", "inventory"])
    assert bad.exit_code == 1
    assert "expected the name 'gpufleet.Inventory'" in bad.output
    assert CliRunner().invoke(command, ["check", str(file)]).exit_code == 2
    assert CliRunner().invoke(command, ["check", str(file), "--topic", "x"]).exit_code == 2
    file.write_text("{")
    assert "not JSON" in CliRunner().invoke(command, ["check", str(file), "--topic", "leases"]).output


def test_the_command_checks_everything() -> None:
    result = CliRunner().invoke(command, ["check", "--json"])
    assert result.exit_code == 0
    assert set(json.loads(result.output)) == set(check_all())


def test_the_data_dictionary_is_fresh() -> None:
    page = Path(__file__).parents[2] / "docs" / "data-dictionary.md"
    fresh = dictionary.markdown()
    assert page.read_text() == fresh, "run `gpufleet schema docs --output docs/data-dictionary.md`"


def test_the_data_dictionary_holds_every_field() -> None:
    lines = dictionary.markdown().splitlines()
    for schema in catalogue.published():
        for field in schema.fields:
            assert any(line.startswith(f"| `{field['name']}` |") for line in lines), field["name"]
