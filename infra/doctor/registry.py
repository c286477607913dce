"""The schema registry, where one is configured: does it answer, does it know our newest schemas?"""

from __future__ import annotations

from collections.abc import Iterator

from infra.cli.schema import registry
from infra.config import Settings
from infra.doctor.report import Finding, fail, ok, skip
from schemas.registry import RegistryError

AREA = "registry"


def check(settings: Settings) -> Iterator[Finding]:
    """One finding: the registry is not used, does not answer, lacks schemas, or knows them all."""
    if not settings.registry.url:
        yield skip(AREA, "reach", "none configured: the committed catalogue's ids are used")
        return
    try:
        known = registry(settings.registry).known_ids()
    except RegistryError as error:
        yield fail(AREA, "reach", str(error), "check registry.url and its credentials")
        return
    missing = [topic for topic, identifier in known.items() if identifier is None]
    if missing:
        yield fail(AREA, "schemas", f"unknown there: {', '.join(missing)}", "run `gpufleet schema register`")
    else:
        yield ok(AREA, "schemas", f"all {len(known)} known at {settings.registry.url}")
