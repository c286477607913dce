"""Forward migrations: numbered .sql files, each applied once, recorded with its checksum in gpufleet.migrations.

ClickHouse has no transactions over DDL and no locks, so safety comes from the statements: each must be one that does
no harm when it runs again (IF NOT EXISTS, OR REPLACE ...; refused otherwise). A run that died half-way through a file
runs the whole file again, and runners side by side do the same work twice with the same outcome.
"""

from __future__ import annotations

import hashlib
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Protocol

from infra.clickhouse import retention
from infra.clickhouse.render import Render
from infra.clickhouse.statements import bare, split
from infra.errors import GpufleetError

TABLE = "gpufleet.migrations"
_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_REPEATABLE = re.compile(
    r"""
      CREATE \s+ (?:TABLE|VIEW|DICTIONARY|DATABASE) \s+ IF \s+ NOT \s+ EXISTS \b
    | CREATE \s+ OR \s+ REPLACE \s+ (?:VIEW|DICTIONARY) \b
    | DROP \s+ (?:TABLE|VIEW|DICTIONARY) \s+ IF \s+ EXISTS \b
    | ALTER \s+ TABLE \s+ [\w.]+ \s+ (?: (?:ADD|DROP) \s+ (?:COLUMN|INDEX|PROJECTION) \s+ IF \s+ (?:NOT \s+)? EXISTS \b
        | (?:MODIFY|COMMENT) \s+ COLUMN \s+ IF \s+ EXISTS \b
        | MODIFY \s+ (?:TTL|SETTING|COMMENT) \b )
    | SYSTEM \s+ RELOAD \s+ DICTIONARY \b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BASE = (
    "CREATE DATABASE IF NOT EXISTS gpufleet COMMENT 'GPU fleet telemetry and tenant usage, event-sourced.'",
    f"""CREATE TABLE IF NOT EXISTS {TABLE}
(
    number UInt32 COMMENT 'Number of the migration; they are applied in this order.',
    name String COMMENT 'What it does, from its file name.',
    checksum String COMMENT 'SHA-256 (hex) of its file when it was applied.',
    statements UInt32 COMMENT 'Statements it ran.',
    duration_ms UInt32 COMMENT 'How long it took. [ms]',
    runner String COMMENT 'Host that applied it.',
    applied_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When it was applied.'
)
ENGINE = ReplacingMergeTree(applied_at)
ORDER BY number
COMMENT 'Migrations applied to this database, one row each.'""",
)


class MigrationError(GpufleetError):
    """The migrations and the database do not go together, or a statement failed; the message says what to do."""


class Client(Protocol):
    """What a migration needs of clickhouse-connect's client."""

    def command(self, cmd: str) -> Any: ...

    def query(self, query: str) -> Any:
        """The result's rows are its ``result_rows``."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    number: int
    name: str
    sql: str
    """As committed, with its placeholders: its checksum does not depend on the deployment."""

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def title(self) -> str:
        return f"{self.number:04d}_{self.name}"

    def statements(self, render: Render) -> list[str]:
        """What runs on this deployment. MigrationError for a statement that must not run twice."""
        found = split(render.text(self.sql))
        for statement in found:
            if _REPEATABLE.match(bare(statement)) is None:
                first = " ".join(bare(statement).split())[:80]
                raise MigrationError(
                    f"{self.title}: expected a statement that may run twice (CREATE ... IF NOT EXISTS, CREATE OR"
                    f" REPLACE VIEW, ALTER ... ADD COLUMN IF NOT EXISTS ...), found: {first}"
                )
        return [render.statement(statement) for statement in found]


def load(folder: Traversable | None = None) -> list[Migration]:
    """The migrations of a folder (default: the committed ones), in order. MigrationError for a wrong or double name."""
    root = folder or files("infra.clickhouse") / "migrations"
    found: dict[int, Migration] = {}
    for entry in root.iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _NAME.fullmatch(entry.name)
        if match is None:
            raise MigrationError(f"expected a name like 0310_gpu_views.sql, found {entry.name}")
        migration = Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8"))
        if migration.number in found:
            raise MigrationError(
                f"two migrations are numbered {match[1]}: {found[migration.number].name} and {match[2]}"
            )
        found[migration.number] = migration
    return [found[number] for number in sorted(found)]


def migrate(
    client: Client,
    render: Render | None = None,
    *,
    migrations: Sequence[Migration] | None = None,
    dry_run: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Migration]:
    """Bring the database up to date and return the migrations that were applied (or would be, with ``dry_run``).

    MigrationError when an applied migration was edited since, the database is newer than this program, a new
    migration is numbered below an applied one, or a statement fails (what was done so far stays; run it again).
    """
    render = render or Render()
    wanted = list(migrations) if migrations is not None else load()
    if not dry_run:
        for statement in _BASE:
            client.command(render.statement(statement))
    pending = _pending(wanted, applied(client))
    for place, migration in enumerate(pending, start=1):
        statements = migration.statements(render)
        progress(f"{migration.title} ({place} of {len(pending)}, {len(statements)} statements)")
        if dry_run:
            continue
        started = time.monotonic()
        _run(client, migration, statements)
        _record(client, migration, len(statements), time.monotonic() - started)
    _age(client, wanted, render, dry_run, progress)
    return pending


def _age(
    client: Client, wanted: Sequence[Migration], render: Render, dry_run: bool, progress: Callable[[str], None]
) -> None:
    """Bring the TTLs in line with the settings, which may have changed since the tables were made."""
    rows = client.query("SELECT name, create_table_query FROM system.tables WHERE database = 'gpufleet'").result_rows
    created = {str(name): str(query) for name, query in rows}
    for statement in retention.changes(retention.tiers(m.sql for m in wanted), created, render):
        progress(statement)
        if not dry_run:
            client.command(statement)


def applied(client: Client) -> dict[int, tuple[str, str]]:
    """Number -> (name, checksum) of what the database says was applied; empty before the first migration."""
    known = client.query("SELECT count() FROM system.tables WHERE database = 'gpufleet' AND name = 'migrations'")
    if not known.result_rows[0][0]:
        return {}
    rows = client.query(f"SELECT number, name, checksum FROM {TABLE} FINAL ORDER BY number").result_rows
    return {int(number): (str(name), str(checksum)) for number, name, checksum in rows}


def _pending(wanted: Sequence[Migration], done: dict[int, tuple[str, str]]) -> list[Migration]:
    by_number = {migration.number: migration for migration in wanted}
    unknown = [f"{number:04d}_{done[number][0]}" for number in sorted(done.keys() - by_number.keys())]
    if unknown:
        raise MigrationError(
            f"the database has migrations that this program does not know ({', '.join(unknown)}): it was migrated by a"
            " newer version; install that version"
        )
    edited = [by_number[number].title for number in sorted(done) if by_number[number].checksum != done[number][1]]
    if edited:
        raise MigrationError(
            f"edited after it was applied: {', '.join(edited)}; put the file back as it was and make the change in a"
            f" new migration (checksums are in {TABLE})"
        )
    pending = [migration for migration in wanted if migration.number not in done]
    late = [migration.title for migration in pending if done and migration.number < max(done)]
    if late:
        raise MigrationError(
            f"{', '.join(late)} is numbered below {max(done):04d}, which is applied already: give it a higher number"
        )
    return pending


def _run(client: Client, migration: Migration, statements: list[str]) -> None:
    for place, statement in enumerate(statements, start=1):
        for attempt in _attempts():
            try:
                client.command(statement)
                break
            except Exception as error:
                # Two runners that create the same object at once can trip over each other even with IF NOT EXISTS.
                if attempt and _is_race(str(error)):
                    time.sleep(0.05)
                    continue
                first = " ".join(bare(statement).split())[:100]
                raise MigrationError(
                    f"{migration.title}, statement {place} of {len(statements)} failed: {str(error).strip()}\n"
                    f"  in: {first}\n  Statements before it stay; run the migration again once the cause is gone."
                ) from error


def _attempts() -> Iterator[int]:
    """Attempts left after this one."""
    return iter((4, 3, 2, 1, 0))


def _is_race(message: str) -> bool:
    return any(f"Code: {code}." in message for code in (57, 82, 218, 341, 521, 722))


def _record(client: Client, migration: Migration, statements: int, seconds: float) -> None:
    values = (
        f"({migration.number}, '{migration.name}', '{migration.checksum}', {statements}, {round(seconds * 1000)},"
        f" '{re.sub(r'[^A-Za-z0-9._-]', '', socket.gethostname())}')"
    )
    client.command(f"INSERT INTO {TABLE} (number, name, checksum, statements, duration_ms, runner) VALUES {values}")
