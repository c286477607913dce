"""The migrations that derive from Python and the schemas: ``python -m infra.clickhouse.generate`` writes the files.

A kind's first schema version is a CREATE TABLE, each later one an ALTER TABLE. To publish version 2 of a kind: add
``avsc/<topic>/v2.avsc``, register its id, choose the next free migration number, add it to ``FILES`` and run the
module; where a view unrolls the kind, give ``files`` one more file that makes the view anew from version 2. A test
keeps the committed files equal to what the schemas say; files of released versions never change.
"""

from __future__ import annotations

from pathlib import Path

from infra.clickhouse import unroll
from schemas import catalogue, ddl
from schemas.flaws import MEANING, Flaw

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


def flaw_bits() -> str:
    """The view that names the bits of ``flaws``."""
    rows = ",\n        ".join(f"({int(f)}, '{str(f.name).lower()}', {ddl.quoted(text)})" for f, text in MEANING.items())
    return f"""-- Made from schemas/flaws.py by python -m infra.clickhouse.generate. Grain: one bit of the column flaws.
CREATE OR REPLACE VIEW gpufleet.flaw_bits
(
    bit UInt32 COMMENT 'Value of the bit.',
    flaw String COMMENT 'Its name.',
    meaning String COMMENT 'What is absurd about such an event.'
)
COMMENT 'What the bits of the column flaws mean.'
AS SELECT
    tupleElement(row, 1) AS bit,
    tupleElement(row, 2) AS flaw,
    tupleElement(row, 3) AS meaning
FROM (SELECT arrayJoin([
        {rows}]) AS row);
"""


def flawed_events() -> str:
    """The view of all events that have a flaw."""
    parts = []
    for kind in catalogue.KINDS.values():
        tenant = "''" if kind.tenant is catalogue.TenantFrom.NOBODY else "toString(tenant)"
        parts.append(
            f"    SELECT '{kind.topic}' AS topic, site, producer_id, run_id, seq, ts, stored_at,\n"
            f"        {tenant} AS tenant, flaws\n"
            f"    FROM gpufleet.{kind.table} WHERE flaws != 0\n"
        )
    names = ", ".join(f"'{str(flaw.name).lower()}'" for flaw in Flaw)
    union = "    UNION ALL\n".join(parts)
    return f"""
-- Grain: one event that is stored but left out of every other view, since it is absurd.
CREATE OR REPLACE VIEW gpufleet.flawed_events
(
    topic String COMMENT 'Topic.',
    site String COMMENT 'Data centre.',
    producer_id String COMMENT 'Producer.',
    run_id Int64 COMMENT 'Its run.',
    seq Int64 COMMENT 'Number of the event.',
    ts DateTime64(6, 'UTC') COMMENT 'Event time.',
    stored_at DateTime64(6, 'UTC') COMMENT 'When it was stored.',
    tenant String COMMENT 'Customer; empty = nobody.',
    flaws UInt32 COMMENT 'Bits of gpufleet.flaw_bits.',
    flaw Array(String) COMMENT 'Their names.'
)
COMMENT 'Events that parse and are absurd: stored as they came, left out of views and projections.'
AS SELECT
    topic, site, producer_id, run_id, seq, ts, stored_at, tenant, flaws,
    arrayMap(bit -> [{names}][bit + 1], bitPositionsToArray(flaws)) AS flaw
FROM
(
{union});
"""


def unrolling_views(version: int = 1) -> str:
    """The views with a row per tick of a GPU, host or NIC, as of a version of both lanes' schemas."""
    head = (
        "-- Made from the Avro schemas by python -m infra.clickhouse.generate. Grain: a tick of a GPU, host or NIC.\n"
    )
    schemas = {(schema.kind.topic, schema.version): schema for schema in catalogue.published()}
    return head + "\n".join(unroll.view(which, schemas[which.topic, version]) for which in unroll.VIEWS)


def files() -> dict[str, str]:
    """Name -> text of every migration that is made here."""
    made = {file_name(topic, version): migration(topic, version) for topic, version in FILES}
    return made | {"0120_flaws.sql": flaw_bits() + flawed_events(), "0122_unrolled.sql": unrolling_views()}


def main() -> None:
    """Write the files."""
    for name, text in files().items():
        (MIGRATIONS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
