"""ClickHouse's engine in this process: one data folder, a fresh connection for every request.

A connection to an engine that is already open costs a quarter of a millisecond, so that nothing a request sets
(settings, database, parameters, temporary tables) has to be undone: it goes with its connection.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from infra.embedded.store.config import GUARD, Carriers
from infra.embedded.store.errors import StoreError

CARRIER: Final = "log_comment"
"""The setting that row filters read (config.row_filters)."""
UNTOLD: Final = {"output_format_write_statistics": "0"}
"""For those who do not see every row: FORMAT JSON and XML would count the rows of others that were read."""
_REFUSED: Final = """SELECT value FROM system.events WHERE event = 'WriteBufferFromFileDescriptorWriteFailed'
SETTINGS max_threads = 1"""


class Result(Protocol):
    """What chDB hands back for a query or a chunk of one."""

    def bytes(self) -> bytes: ...
    def rows_read(self) -> int: ...
    def storage_rows_read(self) -> int: ...
    def storage_bytes_read(self) -> int: ...
    def rows_written(self) -> int: ...
    def bytes_written(self) -> int: ...
    def elapsed(self) -> float: ...


@dataclass
class Summary:
    """What a statement read and wrote, as far as the engine tells."""

    counts: bool = True
    """Is what was read counted? Rows of others would be among it."""
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    result_bytes: int = 0
    elapsed_ns: int = 0

    def add(self, result: Result, size: int) -> None:
        """Count one result, or one chunk of a streamed one (its counters are totals so far)."""
        if self.counts:
            self.read_rows = max(self.read_rows, result.storage_rows_read())
            self.read_bytes = max(self.read_bytes, result.storage_bytes_read())
        self.written_rows = max(self.written_rows, result.rows_written())
        self.written_bytes = max(self.written_bytes, result.bytes_written())
        self.result_rows += result.rows_read()
        self.result_bytes += size
        self.elapsed_ns = max(self.elapsed_ns, int(result.elapsed() * 1e9))


def literal(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def identifier(text: str) -> str:
    """A quoted SQL identifier."""
    return "`" + text.replace("\\", "\\\\").replace("`", "\\`") + "`"


class Connection:
    """One request's (or session's) connection. Not for several threads at once. Every call may raise RuntimeError
    with ClickHouse's own exception text."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def set(self, settings: Mapping[str, str]) -> None:
        """SET every setting, as strings, in one statement."""
        if settings:
            self.run("SET " + ", ".join(f"{identifier(name)} = {literal(value)}" for name, value in settings.items()))

    def use(self, database: str) -> None:
        """Make `database` the one that bare table names are looked up in."""
        self.run(f"USE {identifier(database)}")

    def run(self, sql: str | bytes, form: str = "TabSeparated", parameters: Mapping[str, str] | None = None) -> Result:
        """Run a statement to its end; its whole result in memory."""
        result: Result = self._raw.query(_text(sql), form, params=dict(parameters or {}))
        return result

    def stream(
        self, sql: str | bytes, form: str, parameters: Mapping[str, str] | None = None
    ) -> Generator[tuple[bytes, Result]]:
        """A SELECT's result, block by block, each formatted by itself."""
        handle = self._raw.send_query(_text(sql), form, params=dict(parameters or {}))
        try:
            while True:
                chunk = self._raw.streaming_fetch_result(handle)
                if chunk is None or chunk.rows_read() == 0:
                    return
                yield chunk.bytes(), chunk
        except GeneratorExit:
            self._raw.streaming_cancel_query(handle)
            raise

    def close(self) -> None:
        """Give everything of this connection back."""
        self._raw.close()


def _text(sql: str | bytes) -> str:
    return sql if isinstance(sql, str) else sql.decode("utf-8", "surrogateescape")


class Engine:
    """The engine on one data folder. StoreError when it cannot open it."""

    def __init__(self, data: Path, config: Path, carriers: Carriers) -> None:
        try:
            from chdb import _chdb
        except ImportError as error:
            raise StoreError(
                f"the embedded store needs chDB ({error}): pip install 'gpufleet[embedded]', "
                "or point [clickhouse] at a ClickHouse server"
            ) from None
        self._chdb: Any = _chdb
        self._target = f"{data}?config-file={config}&log-level=information"
        self._carriers = carriers
        try:
            self._first = self._chdb.connect(self._target)
        except RuntimeError as error:
            raise StoreError(f"the engine cannot open the data folder {data}: {error}") from None
        row = self.admin().run("SELECT version(), timezone(), hostName()").bytes().decode()
        self.version, self.timezone, self.host = row.rstrip("\n").split("\t")

    def admin(self) -> Connection:
        """A fresh connection that sees and may do everything."""
        return Connection(self._chdb.connect(self._target))

    def operator(self, settings: Mapping[str, str], database: str, *, readonly: bool) -> Connection:
        """A fresh connection that sees what operators see; settings may be changed later, its carrier may not."""
        return self._filtered(self._carriers.operator, settings, database, "2" if readonly else "0")

    def tenant(self, tenant: str, settings: Mapping[str, str], database: str) -> Connection:
        """A fresh connection that sees one tenant's rows, with these settings, read-only from here on."""
        if tenant in (self._carriers.admin, self._carriers.operator, ""):
            raise ValueError("a tenant must have a name of its own")
        return self._filtered(tenant, settings, database, "1")

    def _filtered(self, carrier: str, settings: Mapping[str, str], database: str, readonly: str) -> Connection:
        connection = self.admin()
        try:
            if database:
                connection.use(database)
            connection.set({**settings, **UNTOLD, CARRIER: carrier, "readonly": readonly})
            connection.set({"profile": GUARD})
            # Not a format that shows extremes or totals, which a setting may ask for.
            found = connection.run(
                f"SELECT getSetting('{CARRIER}'), toString(getSetting('readonly'))", "JSONCompactEachRow"
            )
            if json.loads(found.bytes()) != [carrier, readonly]:
                raise RuntimeError(
                    "Code: 497. DB::Exception: The view of this user could not be set up (ACCESS_DENIED)"
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def refused_writes(self) -> int:
        """How many writes to files the system has refused since the engine was opened (see writes.py)."""
        connection = self.admin()
        try:
            return int(connection.run(_REFUSED).bytes() or b"0")  # no row as long as it never happened
        finally:
            connection.close()

    def close(self) -> None:
        """Close the engine: waits for nothing, loses nothing that was answered."""
        self._first.close()
