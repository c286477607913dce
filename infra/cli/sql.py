"""``gpufleet sql``: a question to the store, its answer as a table for people or in any of ClickHouse's formats."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from infra.cli.common import GpufleetError, UnreachableError, UsageError, settings_options
from infra.config import Settings

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client
    from rich.console import Console

FORMATS = {
    "csv": "CSVWithNames",
    "json": "JSON",
    "jsonl": "JSONEachRow",
    "tsv": "TSVWithNames",
    "parquet": "Parquet",
    "arrow": "Arrow",
    "markdown": "Markdown",
    "vertical": "Vertical",
}
"""Short names of ClickHouse's formats; its own names are taken as well."""
BINARY = frozenset({"Parquet", "Arrow", "ArrowStream", "ORC", "Native", "RowBinary", "Avro", "MsgPack"})
SHOWN_ROWS = 1000
"""Rows of a table on a terminal; a --format gives them all."""
_CODE = re.compile(r"Code: (\d+)\. ?DB::Exception: (.*)", re.DOTALL)
_FORMAT = re.compile(r"\s+FORMAT\s+(\w+)$", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_REFUSED = frozenset({192, 193, 194, 516})
"""ClickHouse's error codes for unknown users and wrong passwords."""


@click.command(
    epilog="""\b
Examples:
  gpufleet sql "SELECT * FROM sick_gpus"
  gpufleet sql --as anthropic "SELECT * FROM tenant_headroom"
  gpufleet sql --vertical "SELECT * FROM gpu_inventory LIMIT 1"
  echo "SELECT 1" | gpufleet sql - --format csv"""
)
@click.argument("query")
@click.option("--format", "format_", metavar="NAME", help=f"{', '.join(FORMATS)}, or any of ClickHouse's own names.")
@click.option("--vertical", is_flag=True, help="One line per column; on a terminal also when a row does not fit.")
@click.option("--as", "tenant", metavar="TENANT", help="Ask as that tenant, with its credentials.")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Value of {NAME:Type} in the query.")
@settings_options
def command(
    settings: Settings,
    query: str,
    format_: str | None,
    vertical: bool,
    tenant: str | None,
    params: tuple[str, ...],
) -> None:
    """Ask the store QUERY; '-' reads it from standard input. Tables need no `gpufleet.` in front."""
    from clickhouse_connect.driver.exceptions import Error
    from urllib3.exceptions import HTTPError

    from infra.connections import check_tenant, connect_store

    text = (sys.stdin.read() if query == "-" else query).strip().rstrip(";").strip()
    if not text:
        raise UsageError('expected a query such as "SELECT count() FROM node_telemetry", found nothing')
    if vertical and format_:
        raise UsageError("--vertical is a format of its own: leave --format out")
    if tenant is not None:
        check_tenant(tenant)  # an empty name would ask as the operator
    own = _FORMAT.search(text)
    if own:
        text, format_ = text[: own.start()], format_ or own[1]
    client = connect_store(settings, tenant=tenant or "")
    values = dict(_pairs(params))
    try:
        if tenant:
            client.database = settings.store.database  # a tenant may not ask whether it is there
        else:
            _database(client, settings.store.database)
        if format_ is None and sys.stdout.isatty():
            _show(client, text, values, vertical)
        else:
            chosen = format_ or ("vertical" if vertical else "tsv")
            _raw(client, text, FORMATS.get(chosen.lower(), chosen), values)
    except BrokenPipeError:
        raise
    except (Error, HTTPError, OSError) as error:
        raise explain(error) from None


def _pairs(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    if not all(equals for _, equals, _ in pairs):
        raise UsageError("--param expects NAME=VALUE")
    return [(name, value) for name, _, value in pairs]


def _database(client: Client, database: str) -> None:
    """Let unqualified names mean our tables, once there are any."""
    if client.command(f"EXISTS TABLE {database}.node_telemetry") in (1, "1"):
        client.database = database


def _raw(client: Client, text: str, name: str, values: dict[str, str]) -> None:
    """The server's own bytes, as they come."""
    out = sys.stdout.buffer
    if name in BINARY and sys.stdout.isatty():
        raise UsageError(f"{name} is binary: send it to a file, e.g. > answer.{name.lower()}")
    with client.raw_stream(text, fmt=name, parameters=values or None) as stream:
        for block in stream:
            out.write(block)
    out.flush()


def _show(client: Client, text: str, values: dict[str, str], vertical: bool) -> None:
    """For a terminal: a table, or one line per column when a row of several columns would have to be folded."""
    from rich.console import Console

    result = client.query(text, parameters=values or None)
    names = [str(name) for name in result.column_names]
    rows = result.result_rows
    cells = [[_cell(value) for value in row] for row in rows[:SHOWN_ROWS]]
    console = Console()
    if vertical or (len(names) > 1 and table_width(names, cells) > console.width):
        _vertical(console, names, cells)
    else:
        numeric = [column.name.startswith(("Int", "UInt", "Float", "Decimal")) for column in result.column_types]
        _table(console, names, numeric, cells)
    more = f", the first {SHOWN_ROWS} shown (--format csv gives all)" if len(rows) > SHOWN_ROWS else ""
    console.print(f"{len(rows)} row{'' if len(rows) == 1 else 's'}{more}", style="dim")


def table_width(names: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    """Columns of the terminal that a table takes when nothing is folded: cells, their padding and the lines between."""
    from rich.cells import cell_len

    def widest(text: str) -> int:
        return max(map(cell_len, text.splitlines()), default=0)

    widths = (max(map(widest, (name, *column))) for name, column in zip(names, _columns(names, cells), strict=True))
    return sum(width + 3 for width in widths) + 1


def _columns(names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    return list(zip(*cells, strict=True)) if cells else [()] * len(names)


def _table(console: Console, names: Sequence[str], numeric: Sequence[bool], cells: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for name, right in zip(names, numeric, strict=True):
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def _vertical(console: Console, names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    for number, row in enumerate(cells, start=1):
        console.rule(Text(f"row {number}"), align="left", characters="─")
        grid = Table.grid(padding=(0, 1))
        grid.add_column(justify="right", style="bold", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, cell in zip(names, row, strict=True):
            grid.add_row(Text(name), Text(cell))
        console.print(grid)


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple)) and any(isinstance(item, bytes) for item in value):
        return f"[{', '.join(map(_cell, value))}]"
    # What a tenant or a kernel wrote must not steer the terminal that reads it.
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))


def explain(error: Exception) -> GpufleetError:
    """A query's failure as one message: the server's words without its stack, or why there is no answer."""
    match = _CODE.search(str(error))
    if match is None:
        return UnreachableError(f"ClickHouse: {str(error).strip() or type(error).__name__}")
    words = re.sub(r"\(for url .*", "", match[2], flags=re.DOTALL).rpartition("DB::Exception: ")[2]
    words = re.sub(r"\s*\(version [^)]*\)\.?", "", words).strip()
    words = re.sub(r"( \([A-Z_]+\))\1+", r"\1", words)
    words = re.sub(r"(Expected one of: (?:[^,]*, ){6}).{60,}", r"\1...", words, flags=re.DOTALL)
    kind = UnreachableError if int(match[1]) in _REFUSED else GpufleetError
    return kind(f"{words.rstrip()} (code {match[1]})")
