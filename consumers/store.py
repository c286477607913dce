"""What the consumer asks of ClickHouse, and what its answers mean.

Every request is made once: clickhouse-connect would send an insert again after a reset connection if its body were
bytes, so bodies are generators or file objects, which it cannot rewind.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from consumers.errors import (
    ConsumerError,
    RefusedError,
    StoreCredentialsError,
    StoreMemoryError,
    StoreUnavailableError,
    TableBehindError,
)
from consumers.failpoints import failpoint
from consumers.watermark import Key
from schemas.catalogue import EventKind, Retention, Schema
from schemas.container import Container

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

INSERT_SETTINGS: Mapping[str, Any] = {
    "async_insert": 0,  # the default since 26.9 acknowledges before the data is stored
    "optimize_on_insert": 0,  # duplicates within a batch are gone already
    "insert_deduplicate": 0,  # identity, not tokens: a killed server can keep the token and lose the rows
    "input_format_avro_allow_missing_fields": 1,
    "input_format_parallel_parsing": 0,
    # The insert is one block, so one part per table partition touched, written whole or not at all.
    "max_insert_block_size": 1_048_449,
    "min_insert_block_size_rows": 1_048_449,
    "min_insert_block_size_bytes": 1 << 30,
    "max_insert_threads": 1,
    "max_partitions_per_insert_block": 100,
}
LOOKUP_BYTES = 200_000
"""Text of one look-up; the server parses queries of up to 262,144 bytes by default."""
RECENT_US = 3_600_000_000
"""How far before a batch the max(seq) of a telemetry run is looked for before the whole table is."""

# Codes of ClickHouse's src/Common/ErrorCodes.cpp.
_DECODE = {6, 26, 27, 32, 33, 38, 41, 53, 69, 72, 117, 128, 130, 131, 349, 407}
_STD_EXCEPTION = 1001
_TABLE_BEHIND = {8, 10, 16, 47, 60, 81, 218}
_NO_UUID = "00000000-0000-0000-0000-000000000000"
_CREDENTIALS = {192, 193, 194, 492, 497, 516}
_MEMORY = {173, 241}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A stored event asked for: its place in the sorting key, its time, its identity."""

    site: str
    key: str
    ts: int
    producer_id: str
    run_id: int
    seq: int


@dataclass(frozen=True, slots=True)
class Boot:
    """One look at which start of which server answers."""

    host: str
    identifier: str
    """The server's own name for this start; empty when it has none."""
    earliest_us: int
    """The start lies between these two times, by the server's clock."""
    latest_us: int


# A server gives its system tables new ids at every start; the embedded store names its starts in a macro.
BOOT_SQL = (
    "SELECT hostName(), toUnixTimestamp64Micro(now64(6)), uptime(),"
    " (SELECT any(uuid) FROM system.tables WHERE database = 'system' AND name = 'one'),"
    " (SELECT any(substitution) FROM system.macros WHERE macro = 'gpufleet_boot')"
)


def booted(row: Sequence[Any]) -> Boot:
    """The answer to ``BOOT_SQL``."""
    host, now, uptime, uuid, macro = row
    identifier = "" if uuid is None or str(uuid) == _NO_UUID else str(uuid)
    return Boot(host, identifier + (macro or ""), now - (uptime + 1) * 1_000_000, now - uptime * 1_000_000)


class EventStore:
    """The event tables of one database. Thread-safe (the client has no session); connects on first use.

    With a ``suffix``, tables of the same shape beside them: what a rebuild fills.
    """

    def __init__(self, connect: Callable[[], Client], database: str, suffix: str = "") -> None:
        self._connect, self._database, self._suffix = connect, database, suffix
        self._client: Client | None = None

    def insert(self, schema: Schema, body: Container) -> None:
        """A container file into the schema's event table; returns once it is stored.

        Raises RefusedError, TableBehindError (nothing is stored) or StoreUnavailableError (nobody knows).
        """
        with _explained(schema.kind.topic):
            self._open().raw_insert(
                self._table(schema.kind),
                column_names=[field["name"] for field in schema.fields],
                insert_block=_sent(body),
                settings=dict(INSERT_SETTINGS),
                fmt="Avro",
                transport_settings={"Content-Length": str(body.size)},
            )
        failpoint("insert answered")

    def append(self, table: str, columns: Sequence[str], lines: str) -> None:
        """Rows as JSONEachRow into another table of the database."""
        with _explained(table):
            self._open().raw_insert(
                f"{self._database}.{table}",
                column_names=columns,
                insert_block=io.BytesIO(lines.encode()),
                settings={"async_insert": 0},
                fmt="JSONEachRow",
            )

    def stored(self, kind: EventKind, wanted: Iterable[Wanted]) -> set[tuple[str, int, int]]:
        """Which of the wanted identities the table holds: (producer_id, run_id, seq)."""
        found: set[tuple[str, int, int]] = set()
        for part in _parts(wanted):
            text = (
                f"SELECT producer_id, run_id, seq FROM {self._table(kind)}"
                f" WHERE site IN ({_strings(w.site for w in part)})"
                f" AND {kind.key} IN ({_strings(w.key for w in part)}) AND ts IN ({_times(w.ts for w in part)})"
            )
            asked = {(w.producer_id, w.run_id, w.seq) for w in part}  # others stand at the same place and time
            found.update(
                asked.intersection((producer, run, seq) for producer, run, seq in self._rows(text, kind.topic))
            )
        return found

    def max_seq(self, kind: EventKind, keys: Sequence[Key], since_us: int, *, own_key: bool) -> dict[Key, int]:
        """The highest stored seq of each (producer, run); -1 when none is stored.

        ``own_key``: these producers speak for one key each, of their own name (a node's agent), so that the sorting
        key narrows the search.
        ``since_us`` is the earliest event time of the batch that asks. In telemetry, where seq grows with time and
        clocks more than ten minutes off are refused, a run found since an hour before it has its maximum there; only
        the others cost a look at the whole table, which the index on run_id cuts short for new runs.
        """
        found: dict[Key, int] = {}
        if kind.retention is Retention.TELEMETRY:
            found = self._max_seq(kind, keys, own_key, f" AND ts >= {_time(since_us - RECENT_US)}")
        rest = [key for key in keys if key not in found]
        if rest:
            found |= self._max_seq(kind, rest, own_key, "")
        return {key: found.get(key, -1) for key in keys}

    def boot(self) -> Boot:
        """Which start of the server answers now."""
        return booted(self._rows(BOOT_SQL, "the store")[0])

    def ledger_count(self, consumer: str, times: Sequence[int]) -> int:
        """How many ledger rows of this consumer bear one of these times."""
        text = (
            f"SELECT count() FROM {self._database}.ingest_ledger"
            f" WHERE consumer = {_string(consumer)} AND at IN ({_times(times)})"
        )
        return int(self._rows(text, "ingest_ledger")[0][0])

    def _max_seq(self, kind: EventKind, keys: Sequence[Key], own_key: bool, more: str) -> dict[Key, int]:
        found: dict[Key, int] = {}
        for at in range(0, len(keys), 2_000):
            part = keys[at : at + 2_000]
            producers = _strings(producer for producer, _ in part)
            runs = ", ".join(str(run) for run in dict.fromkeys(run for _, run in part))
            narrow = f" AND {kind.key} IN ({producers})" if own_key else ""
            text = (
                f"SELECT producer_id, run_id, max(seq) FROM {self._table(kind)}"
                f" WHERE run_id IN ({runs}) AND producer_id IN ({producers}){narrow}{more} GROUP BY producer_id, run_id"
            )
            found |= {(producer, run): seq for producer, run, seq in self._rows(text, kind.topic)}
        return found

    def _table(self, kind: EventKind) -> str:
        return f"{self._database}.{kind.table}{self._suffix}"

    def _rows(self, text: str, about: str) -> list[tuple[Any, ...]]:
        with _explained(about):
            return [tuple(row) for row in self._open().query(text).result_rows]

    def _open(self) -> Client:
        if self._client is None:
            self._client = self._connect()
        return self._client


def _sent(body: Container) -> Generator[bytes]:
    """An insert's body as it is sent, once."""
    yield from body
    failpoint("insert sent")  # the client asks for more only when what it had is on its way


@contextmanager
def _explained(about: str) -> Iterator[None]:
    """Errors of the driver as errors by what can be done about them."""
    try:
        yield
    except ConsumerError:
        raise
    except Exception as error:
        known = explain(error, about)
        if known is None:
            raise
        raise known from error


def explain(error: BaseException, about: str) -> ConsumerError | None:
    """What an exception of the driver, or one raised from it, means for ``about`` (a topic); None when it is a bug.

    Codes the consumer does not know count as "the store cannot take this now": waiting loses nothing.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, (ClickHouseError, HTTPError, OSError)):
        cause = cause.__cause__
    if cause is None:
        return None
    code, text = getattr(cause, "code", None), str(cause).strip()
    if code in _DECODE or (code == _STD_EXCEPTION and "avro" in text.lower()):
        return RefusedError(text)
    if code in _TABLE_BEHIND:
        return TableBehindError(about, text)
    if code in _CREDENTIALS:
        return StoreCredentialsError(f"the store refuses the user or password: {text}")
    if code in _MEMORY:
        return StoreMemoryError(text)
    return StoreUnavailableError(text)


def _parts(wanted: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Look-ups short enough to be parsed."""
    part: list[Wanted] = []
    size = 0
    for one in wanted:
        part.append(one)
        size += 40 + len(one.site) + 2 * len(one.key)
        if size > LOOKUP_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _string(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # surrogate escapes: bytes that were no UTF-8
        return "'" + "".join(f"\\x{byte:02x}" for byte in value.encode(errors="surrogateescape")) + "'"
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _strings(values: Iterable[str]) -> str:
    return ", ".join(_string(value) for value in dict.fromkeys(values))


def _time(us: int) -> str:
    """A literal of DateTime64(6, 'UTC')."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=max(us, 0))
    return f"'{moment:%Y-%m-%d %H:%M:%S.%f}'"


def _times(values: Iterable[int]) -> str:
    return ", ".join(_time(value) for value in dict.fromkeys(values))
