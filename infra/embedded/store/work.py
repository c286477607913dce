"""What a worker thread does with one request: open a connection as its user may, run, hand the result over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from infra.embedded.store import statement
from infra.embedded.store.answer import FIRST_BYTES, WAIT_BYTES, Answer, Gone, Pipe
from infra.embedded.store.body import Body
from infra.embedded.store.engine import Connection, Result, Summary, literal
from infra.embedded.store.errors import SYNTAX_ERROR, Refusal

STREAMED: Final = frozenset(
    {
        "Native", "RowBinary", "TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "CSV", "JSONEachRow", "NDJSON",
        "JSONCompactEachRow", "LineAsString", "RawBLOB",
    }
)  # fmt: skip
"""Formats whose blocks can follow one another: the engine formats each block of a stream by itself."""


@dataclass(frozen=True)
class Job:
    """One statement to run."""

    body: Body
    default_format: str
    database: str
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0
    """client_protocol_version."""
    wait: bool = False
    """wait_end_of_query."""
    mark: str = ""
    """Names the running query to KILL QUERY (setting insert_deduplication_token of a SELECT, which ignores it)."""


def run(job: Job, connect: Callable[[], Connection], pipe: Pipe) -> None:
    """Run the job on a connection of its own; whatever happens goes through the pipe."""
    try:
        connection = connect()
        try:
            if job.database and job.database != "default":
                connection.use(job.database)
            connection.set(job.settings)
            execute(job, connection, pipe)
        finally:
            connection.close()
    except Gone:
        pass
    except BaseException as error:  # noqa: BLE001 - handed to the request that waits for it
        pipe.fail(error)
    finally:
        job.body.discard()


def execute(job: Job, connection: Connection, pipe: Pipe) -> None:
    """Run the job's statement on `connection`."""
    head = job.body.head
    if head.keyword == "INSERT":
        pipe.begin(Answer(None, _insert(job, connection)))
        return
    if statement.several(job.body.sql):
        raise Refusal(SYNTAX_ERROR, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
    form = head.format or job.default_format
    summary = Summary()
    if head.keyword not in statement.READING:
        result = connection.run(job.body.sql, form, job.parameters)
        data = result.bytes()
        summary.add(result, len(data))
        pipe.begin(Answer(form if data else None, summary, [data] if data else []))
        return
    if head.keyword in ("SELECT", "WITH") and form in STREAMED:
        if job.mark:
            connection.set({"insert_deduplication_token": job.mark})
        _stream(job, connection, form, summary, pipe)
        return
    result = connection.run(job.body.sql, form, job.parameters)
    data = result.bytes()
    summary.add(result, len(data))
    pipe.begin(Answer(form, summary, [data]))


def _insert(job: Job, connection: Connection) -> Summary:
    head, data = job.body.head, job.body.data
    sql: bytes = job.body.sql
    if data is not None:
        infile = f" FROM INFILE {literal(str(data))} COMPRESSION 'none' ".encode()
        sql = sql[: head.infile_at] + infile + sql[head.infile_at :]
    summary = Summary()
    if data is not None and data.stat().st_size == 0:
        return summary
    result: Result = connection.run(sql, "TabSeparated", job.parameters)
    summary.add(result, 0)
    return summary


def _stream(job: Job, connection: Connection, form: str, summary: Summary, pipe: Pipe) -> None:
    hold = WAIT_BYTES if job.wait else FIRST_BYTES
    held: list[bytes] = []
    size = 0
    begun = False
    chunks: Iterator[tuple[bytes, Result]] = connection.stream(job.body.sql, form, job.parameters)
    for data, result in chunks:
        summary.add(result, len(data))
        if begun:
            pipe.put(data)
            continue
        held.append(data)
        size += len(data)
        if size >= hold:
            pipe.begin(Answer(form, summary, held, complete=False))
            begun, held = True, []
    if begun:
        pipe.put(None)
    else:
        pipe.begin(Answer(form, summary, held))
