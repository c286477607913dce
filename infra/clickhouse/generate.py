"""The event tables' migrations as text: ``python -m infra.clickhouse.generate`` writes the committed files.

A kind's first schema version is a CREATE TABLE, each later one an ALTER TABLE. To publish version 2 of a kind: add
``avsc/<topic>/v2.avsc``, register its id, choose the next free migration number, add it to ``FILES`` and run the
module. A test keeps the committed files equal to what the schemas say; files of released versions never change.
"""

from __future__ import annotations

from pathlib import Path

from schemas import catalogue, ddl

FILES: dict[tuple[str, int], int] = {
    ("leases", 1): 101,
    ("node-telemetry", 1): 110,
    ("node-counters", 1): 111,
    ("node-events", 1): 112,
    ("inventory", 1): 113,
    ("allocations", 1): 114,
    ("tenant-usage", 1): 115,
    ("tenant-limits", 1): 116,
    ("facility-telemetry", 1): 117,
    ("dead-letters", 1): 118,
}
"""(topic, schema version) -> number of the migration. Leases come first: the other tables ask them for the tenant."""

MIGRATIONS = Path(__file__).parent / "migrations"


def file_name(topic: str, version: int) -> str:
    """Name of the migration that brings a schema version to its table."""
    table = catalogue.KINDS[topic].table
    return f"{FILES[topic, version]:04d}_{table}{'' if version == 1 else f'_v{version}'}.sql"


def migration(topic: str, version: int) -> str:
    """The text of that migration."""
    versions = {schema.version: schema for schema in catalogue.versions(topic)}
    head = (
        f"-- Made from schemas/avsc/{topic}/v{version}.avsc by python -m infra.clickhouse.generate. Grain: one event.\n"
    )
    if version == 1:
        return f"{head}{ddl.create_table(versions[1])};\n"
    return head + ddl.alter_table(versions[version - 1], versions[version])


def main() -> None:
    """Write the files of every published schema version."""
    for topic, version in FILES:
        (MIGRATIONS / file_name(topic, version)).write_text(migration(topic, version), encoding="utf-8")


if __name__ == "__main__":
    main()
