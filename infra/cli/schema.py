"""``gpufleet schema``: list, check, register and document the event schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infra.cli.common import GpufleetError, UnreachableError, UsageError, json_option, print_json, settings_options
from infra.config import RegistrySettings, Settings
from schemas import catalogue, compatibility, dictionary, publication

if TYPE_CHECKING:
    from schemas.registry import Registry

DICTIONARY = Path("docs/data-dictionary.md")


@click.group(
    epilog="""\b
Examples:
  gpufleet schema list
  gpufleet schema check
  gpufleet schema docs --output docs/data-dictionary.md"""
)
def command() -> None:
    """List, check, register and document the event schemas."""


@command.command(
    "list",
    epilog="""\b
Examples:
  gpufleet schema list --json""",
)
@json_option
@settings_options
def list_schemas(settings: Settings, as_json: bool) -> None:
    """Every published version, with its catalogue id and, with a registry configured, the registry's id."""
    registered: dict[str, int | None] = {}
    if settings.registry.url:
        registered = _asking(lambda: registry(settings.registry).known_ids())
    shown: list[dict[str, Any]] = []
    for schema in catalogue.published():
        entry: dict[str, Any] = {
            "topic": schema.kind.topic,
            "version": schema.version,
            "id": schema.id,
            "fields": len(schema.fields),
            "fingerprint": schema.fingerprint,
        }
        if settings.registry.url:
            newest = schema is catalogue.latest(schema.kind.topic)
            entry["registry_id"] = registered.get(schema.kind.topic) if newest else None
        shown.append(entry)
    if as_json:
        print_json(shown)
        return
    for entry in shown:
        here = f"{entry['topic']:<20} v{entry['version']:<3} id {entry['id']:<6} {entry['fields']:>3} fields"
        there = f"  registry id {entry['registry_id'] or '-'}" if "registry_id" in entry else ""
        click.echo(f"{here}  {entry['fingerprint'][:12]}{there}")


@command.command(
    epilog="""\b
Examples:
  gpufleet schema check
  gpufleet schema check node-events.avsc --topic node-events"""
)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--topic", help="The kind of event that FILE is a version of.")
@json_option
def check(file: Path | None, topic: str | None, as_json: bool) -> None:
    """Check every schema against every published version before it (BACKWARD_TRANSITIVE, and our own rules).

    With FILE and --topic: check that file as the next version. Exit code 1 if anything is wrong.
    """
    if (file is None) != (topic is None):
        raise UsageError("FILE and --topic go together: which kind of event is the file a version of?")
    if file is not None and topic is not None:
        found = {f"{topic} {file}": _check_file(file, topic)}
    else:
        found = publication.check_all()
    problems = sum(len(entries) for entries in found.values())
    if as_json:
        print_json({name: [str(problem) for problem in entries] for name, entries in found.items()})
    else:
        for name, entries in found.items():
            click.echo(f"{name}: " + ("ok" if not entries else f"{len(entries)} problems"))
            for problem in entries:
                click.echo(f"  {problem}")
    if problems:
        raise GpufleetError(f"{problems} problems; a published schema only ever gains fields with defaults")


def _check_file(file: Path, topic: str) -> list[compatibility.Problem]:
    if topic not in catalogue.KINDS:
        raise UsageError(f"unknown topic {topic!r}: expected one of {', '.join(catalogue.KINDS)}")
    try:
        definition = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GpufleetError(f"{file}: not JSON: {error}") from None
    return compatibility.check(definition, [schema.definition for schema in catalogue.versions(topic)])


@command.command(
    epilog="""\b
Examples:
  gpufleet schema register"""
)
@click.option("--catalogue", "in_catalogue", is_flag=True, help="Give new .avsc files their ids in schemas/ids.json.")
@json_option
@settings_options
def register(settings: Settings, in_catalogue: bool, as_json: bool) -> None:
    """Publish every schema to the configured registry; its ids per topic."""
    if in_catalogue:
        try:
            ids = {f"{entry.topic} v{entry.version}": entry.id for entry in publication.publish_new()}
        except publication.PublicationError as error:
            raise GpufleetError(str(error)) from None
        none = "every .avsc file has its id already"
    else:
        if not settings.registry.url:
            raise UsageError("no registry is configured: set registry.url, or use --catalogue for schemas/ids.json")
        ids = _asking(lambda: registry(settings.registry).register())
        none = "nothing to register"
    if as_json:
        print_json(ids)
        return
    for name, identifier in ids.items():
        click.echo(f"{name}: id {identifier}")
    if not ids:
        click.echo(none)


@command.command(
    epilog="""\b
Examples:
  gpufleet schema docs --output docs/data-dictionary.md
  gpufleet schema docs --check"""
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write instead of stdout.")
@click.option("--check", "only_check", is_flag=True, help=f"Only say whether {DICTIONARY} is fresh.")
def docs(output: Path | None, only_check: bool) -> None:
    """The data dictionary as Markdown."""
    text = dictionary.markdown()
    if only_check:
        target = output or DICTIONARY
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            raise GpufleetError(f"{target} is stale; `gpufleet schema docs --output {target}` writes it anew")
        click.echo(f"{target} is fresh")
    elif output:
        output.write_text(text, encoding="utf-8")
        click.echo(f"wrote {output}")
    else:
        click.echo(text, nl=False)


def registry(settings: RegistrySettings) -> Registry:
    """The configured registry. UsageError when none is configured."""
    from schemas.registry import Registry, RegistryParams

    if not settings.url:
        raise UsageError("no registry is configured: set registry.url")
    return Registry(
        RegistryParams(
            url=settings.url,
            username=settings.username,
            password=settings.password.get_secret_value() if settings.password else "",
            ca=str(settings.ca or ""),
            certificate=str(settings.certificate or ""),
            key=str(settings.key or ""),
            timeout_s=settings.timeout_s,
        )
    )


def _asking(question: Any) -> Any:
    from schemas.registry import RegistryError

    try:
        return question()
    except RegistryError as error:
        raise UnreachableError(str(error)) from None
