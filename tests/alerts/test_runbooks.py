"""Every rule has a runbook that stands up at 3 a.m.: its parts are there, its links fit, its commands run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from infra.cli.main import COMMANDS, cli
from infra.clickhouse.client import connect
from infra.embedded.store.process import StoreProcess
from infra.grafana.alerts.rule import Severity
from infra.grafana.alerts.rules import BY_NAME, RULES
from tests.alerts.support import where
from tests.grafana.boards import BOARDS

FOLDER = Path(__file__).parents[2] / "docs" / "runbooks"
PARTS = ["## What it means", "## First two minutes", "## What to do", "## Fixed when", "## Silence it"]


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text()


def commands(text: str) -> list[list[str]]:
    """Every command of a runbook's code blocks, in words."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.strip().splitlines()]


def sql_of(words: list[str]) -> tuple[str, dict[str, str]]:
    """Query and parameters of a ``gpufleet sql``."""
    assert words[:2] == ["gpufleet", "sql"]
    parameters, rest = {}, words[2:]
    while rest[0] == "--param":
        name, _, value = rest[1].partition("=")
        parameters[name], rest = value, rest[2:]
    assert len(rest) == 1, rest
    return rest[0], parameters


def test_every_rule_has_a_runbook_and_every_runbook_a_rule() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == {*BY_NAME, "README"}
    listed = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (.*?) \| (\w+) \| (\w+) \|$", text_of("README"), re.MULTILINE)
    assert listed == [(r.name, r.name, r.title, r.severity.value, r.owner.value) for r in RULES]


@pytest.mark.parametrize("name", list(BY_NAME))
def test_a_runbook_says_what_a_woken_person_asks(name: str) -> None:
    rule, text = BY_NAME[name], text_of(name)
    assert text.startswith(f"# {rule.title}\n")
    headings = re.findall(r"^## .*$", text, re.MULTILINE)
    assert headings == PARTS
    assert f"/d/{rule.panel[0]}?viewPanel={rule.panel[1]}" in text
    [board] = [board for board in BOARDS if board.uid == rule.panel[0]]
    [panel] = [panel for panel in board.panels if panel.id == rule.panel[1]]
    assert f"Board **{board.title}**, panel **{panel.title}**: the alert's link opens it" in text
    labels = ", ".join(f"`{label} = ...`" for label in rule.labels)
    if rule.severity is not Severity.HEARTBEAT:
        assert f"`rule = {name}`, {labels} and an end" in text, "a silence is as narrow as the alert"
    assert commands(text), "at least one command to begin with"
    for other in re.findall(r"see (\w+_\w+)\b", text):
        assert other in BY_NAME, f"no rule {other}"


@pytest.mark.parametrize("name", list(BY_NAME))
def test_the_commands_of_a_runbook_run(name: str, migrated_store: StoreProcess) -> None:
    client = connect(where(migrated_store))
    client.database = "gpufleet"
    for words in commands(text_of(name)):
        if words[:2] != ["gpufleet", "sql"]:
            assert words[0] == "gpufleet"
            assert words[1] in COMMANDS, words
            continue
        query, parameters = sql_of(words)
        assert set(re.findall(r"\{(\w+):", query)) == set(parameters)
        client.query(query, parameters=parameters)
    client.close()


@pytest.mark.parametrize("name", [*BY_NAME, "README"])
def test_every_command_that_a_runbook_names_has_these_verbs_and_options(name: str) -> None:
    text = text_of(name)
    inline = [shlex.split(words) for words in re.findall(r"`(gpufleet [^`]+)`", text)]
    for words in [*commands(text), *inline]:
        command: click.Command = cli
        for word in words[1:]:
            if isinstance(command, click.Group):
                found = command.get_command(click.Context(command), word)
                assert found is not None, (words, word)
                command = found
            elif word.startswith("-"):
                options = {option for parameter in command.params for option in parameter.opts}
                assert word.partition("=")[0] in options, (words, word)
