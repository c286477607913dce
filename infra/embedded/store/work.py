"""Running one statement in a worker thread and handing its result over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from infra.embedded.store import native, statement
from infra.embedded.store.answer import FIRST_BYTES, WAIT_BYTES, Answer, Gone, Pipe
from infra.embedded.store.body import Body
from infra.embedded.store.engine import Connection, Result, Summary, literal
from infra.embedded.store.errors import SYNTAX_ERROR, TOO_MANY_ROWS_OR_BYTES, Refusal
from infra.embedded.store.writes import Writes

__all__ = ["MARK", "Gone", "Job", "execute"]

MARK: Final = "insert_deduplication_token"
"""The setting that names a running SELECT, which has no use for it, to KILL QUERY: chDB gives out its own query ids."""
STREAMED: Final = frozenset(
    {
        "Native", "RowBinary", "TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "CSV", "JSONEachRow", "NDJSON",
        "JSONLines", "JSONCompactEachRow",
    }
)  # fmt: skip
"""Formats whose blocks can follow one another: the engine formats each block of a stream by itself."""


@dataclass(frozen=True)
class Job:
    """One statement to run."""

    body: Body
    default_format: str
    database: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0
    """client_protocol_version."""
    wait: bool = False
    """wait_end_of_query: no answer before the query has ended."""
    mark: str = ""
    max_rows: int = 0
    """Most rows of a result, 0 = any number; the engine does not hold streams to max_result_rows."""
    max_bytes: int = 0
    counts: bool = True
    """Does the answer say how much the engine read?"""

    @property
    def selects(self) -> bool:
        """True for statements whose result may be long: streamed, and ended when their client leaves."""
        return self.body.head.keyword in ("SELECT", "WITH")


def execute(job: Job, connection: Connection, pipe: Pipe, writes: Writes, changed: Callable[[], None]) -> None:
    """Run the job's statement on `connection`. RuntimeError with ClickHouse's text; Gone when the client left; Refusal,
    also of a statement that was run and whose writes may be lost. ``changed`` is called before the answer when tables
    or databases may have come or gone."""
    head = job.body.head
    writes.before(head.keyword)
    if head.keyword == "INSERT":
        summary = _insert(job, connection)
        writes.after()
        pipe.begin(Answer(None, summary))
        return
    if statement.several(job.body.sql):
        raise Refusal(SYNTAX_ERROR, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
    form = head.format or job.default_format
    if job.selects and form in STREAMED:
        _stream(job, connection, form, pipe)
        return
    summary = Summary(job.counts)
    try:
        result = connection.run(job.body.sql, form, job.parameters)
    finally:
        if head.keyword not in statement.READING:
            changed()
    if head.keyword not in statement.READING:
        writes.after()
    data = result.bytes()
    summary.add(result, len(data))
    _bound(job, summary)
    if form == "Native":
        data = native.splice(data, result.rows_read(), job.revision)
    gives = head.keyword in statement.READING or bool(data)
    pipe.begin(Answer(form if gives else None, summary, [data] if data else []))


def _bound(job: Job, summary: Summary) -> None:
    for found, most, unit in (
        (summary.result_rows, job.max_rows, "rows"),
        (summary.result_bytes, job.max_bytes, "bytes"),
    ):
        if most and found > most:
            message = f"Limit for result exceeded, max {unit}: {most}, current {unit}: {found}"
            raise Refusal(TOO_MANY_ROWS_OR_BYTES, "TOO_MANY_ROWS_OR_BYTES", message, 500)


def _insert(job: Job, connection: Connection) -> Summary:
    head, data = job.body.head, job.body.data
    sql = job.body.sql
    summary = Summary(job.counts)
    if data is not None:
        if data.size == 0:
            return summary
        if head.format == "Native" and job.revision:
            data.replace(native.unsplice(data.path.read_bytes(), job.revision))
        infile = f" FROM INFILE {literal(str(data.path))} COMPRESSION 'none' ".encode()
        sql = sql[: head.infile_at] + infile + sql[head.infile_at :]
    result: Result = connection.run(sql, "TabSeparated", job.parameters)
    summary.add(result, 0)
    return summary


def _stream(job: Job, connection: Connection, form: str, pipe: Pipe) -> None:
    hold = WAIT_BYTES if job.wait else FIRST_BYTES
    summary = Summary(job.counts)
    held: list[bytes] = []
    size = 0
    begun = False
    chunks = connection.stream(job.body.sql, form, job.parameters)
    try:
        for piece, result in chunks:
            summary.add(result, len(piece))
            _bound(job, summary)
            data = native.splice(piece, result.rows_read(), job.revision) if form == "Native" else piece
            if begun:
                pipe.put(data)
                continue
            held.append(data)
            size += len(data)
            if size >= hold:
                pipe.begin(Answer(form, summary, held, complete=False))
                begun, held = True, []
    finally:
        chunks.close()
    if begun:
        pipe.put(None)
    else:
        pipe.begin(Answer(form, summary, held))
