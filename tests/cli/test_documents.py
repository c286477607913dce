"""What the documents and the helps tell people to type exists, and what they link to is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click
import pytest

from infra.cli.main import cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "docs/runbooks/*.md", "producers/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"  # tells what was
)
_INLINE = re.compile(r"`(gpufleet [^`\n]*(?:\n[^`\n]+)?)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def commands_in(text: str) -> list[str]:
    """Every `gpufleet ...` of a text: in blocks, fenced or indented, and between backticks."""
    found, fenced = [], False
    for line in text.replace("\\\n", " ").splitlines():
        fenced ^= line.startswith("```")
        if fenced or line.startswith("    "):
            found += parts(line.strip().removeprefix("$ "))
    return found + [" ".join(match.split()) for match in _INLINE.findall(text)]


def parts(line: str) -> list[str]:
    """The gpufleet commands of one line of shell."""
    pieces = [piece.strip() for piece in re.split(r"&&|\||;", line)]
    return [piece for piece in pieces if piece.startswith("gpufleet ")]


def wrong_with(text: str) -> str:
    """What of a command line does not exist; empty when all does."""
    try:
        words = shlex.split(text, comments=True)[1:]
    except ValueError:  # a sentence, or a query that goes on in the next line
        words = text.split()[1:]
    command: click.Command = cli
    path = "gpufleet"
    with click.Context(cli) as context:
        for word in words:
            if word in (">", "2>&1", "...") or (word.isupper() and isinstance(command, click.Group)):
                break
            known = {name for p in command.get_params(context) for name in (*p.opts, *p.secondary_opts)}
            name = word.split("=")[0].rstrip(",;:")
            if re.fullmatch(r"--?[a-z][a-z-]*", name):
                if name not in known and name != "--version":
                    return f"{path} has no {name}"
            elif isinstance(command, click.Group):
                below = command.get_command(context, word.rstrip(",;:"))
                if below is None:
                    return f"{path} has no command {word!r}"
                command, path = below, f"{path} {word}"
    return ""


def lacks(text: str) -> list[str]:
    """Required options and arguments that a command line leaves out."""
    words = shlex.split(text, comments=True)[1:]
    command: click.Command = cli
    with ExitStack() as stack:
        context = stack.enter_context(click.Context(cli))
        while isinstance(command, click.Group) and words:
            below = command.get_command(context, words.pop(0))
            assert below is not None
            command, context = below, stack.enter_context(click.Context(below, parent=context))
        given, _, _ = command.make_parser(context).parse_args(list(words))
    return [
        str(p.name) for p in command.params if p.required and not isinstance(given.get(str(p.name)), (str, list, tuple))
    ]


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield " ".join((*path, name)), command
            if isinstance(command, click.Group):
                yield from every_command(command, (*path, name))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_a_document_shows_exists_with_its_options(document: Path) -> None:
    shown = commands_in(document.read_text(encoding="utf-8"))
    assert {text: wrong for text in shown if (wrong := wrong_with(text))} == {}


def test_every_example_of_every_help_exists_with_its_options() -> None:
    examples = {
        name: [line.strip() for line in (command.epilog or "").splitlines() if "gpufleet" in line]
        for name, command in every_command(cli)
    }
    assert not [name for name, lines in examples.items() if not lines], "every command shows an example"
    wrong = {line: wrong_with(part) for lines in examples.values() for line in lines for part in parts(line)}
    assert {line: what for line, what in wrong.items() if what} == {}
    short = {line: lacks(part) for lines in examples.values() for line in lines for part in parts(line)}
    assert {line: what for line, what in short.items() if what} == {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = []
    for link in _LINK.findall(text):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, heading = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (heading and heading not in headings(target)):
            missing.append(link)
    assert missing == []


def headings(document: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    lines = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_check_itself_can_fail() -> None:
    assert wrong_with("gpufleet up --for 60s --json") == ""
    assert wrong_with("gpufleet lease correct FILE --reason '...'") == ""
    assert lacks("gpufleet usage replay requests.csv") == ["tenant"]
    assert lacks("gpufleet usage replay --tenant acme") == ["file"]
    assert lacks("gpufleet usage replay requests.csv --tenant acme") == []
    assert wrong_with("gpufleet up --forever") == "gpufleet up has no --forever"
    assert wrong_with("gpufleet grafana plot") == "gpufleet grafana has no command 'plot'"
    assert commands_in(
        "```console\n$ gpufleet audit | head\n```\nsee `gpufleet sql` and\n\n    gpufleet doctor  # all\n"
    ) == [
        "gpufleet audit",
        "gpufleet doctor  # all",
        "gpufleet sql",
    ]
