"""The settings file that `config init` writes, and the reference page."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from infra.cli.config import command
from infra.config import load
from infra.config.leaves import by_variable, leaves
from infra.config.render import reference, rows
from infra.config.toml import literal, render


def test_the_written_file_holds_every_setting_at_its_default(tmp_path: Path) -> None:
    file = tmp_path / "gpufleet.toml"
    assert CliRunner().invoke(command, ["init", str(file)]).exit_code == 0
    assert rows(load(file, environ={}, cwd=tmp_path)) == rows(load(environ={}, cwd=tmp_path / "elsewhere"))
    uncommented = re.sub(r"^#(\w+ = )", r"\1", file.read_text(), flags=re.MULTILINE)
    document = tomllib.loads(uncommented)
    for key, leaf in leaves().items():
        if leaf.secret:
            continue
        value = document
        for part in key.split("."):
            value = value[part]
        expected = "" if leaf.default is None else str(leaf.default) if isinstance(leaf.default, Path) else leaf.default
        assert value == expected, key


def test_an_existing_file_is_left_alone_without_force(tmp_path: Path) -> None:
    file = tmp_path / "gpufleet.toml"
    file.write_text("mine")
    refused = CliRunner().invoke(command, ["init", str(file)])
    assert refused.exit_code == 2
    assert "--force" in refused.output
    assert file.read_text() == "mine"
    assert CliRunner().invoke(command, ["init", str(file), "--force"]).exit_code == 0
    assert file.read_text() != "mine"


def test_the_reference_page_is_fresh() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text() == reference(), "run `gpufleet config reference > docs/configuration.md`"


def test_every_setting_has_a_meaning_and_a_variable_of_its_own() -> None:
    assert len(by_variable()) == len(leaves())
    assert all(leaf.field.description for leaf in leaves().values())


@pytest.mark.parametrize("value", ["plain", 'quo"te', "back\\slash", "tab\tnew\nline", "ünï", "\x7f", 3, 2.5, True, {}])
def test_toml_literals_read_back_as_they_were(value: object) -> None:
    assert tomllib.loads(f"x = {literal(value)}")["x"] == value


def test_dotted_keys_become_tables() -> None:
    text = render({"a.b": 1, "a.c": Path("/x"), "a.d.e": {"k.l": "v"}})
    assert tomllib.loads(text) == {"a": {"b": 1, "c": "/x", "d": {"e": {"k.l": "v"}}}}
