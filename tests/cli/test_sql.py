"""``gpufleet sql`` and ``migrate`` against the embedded store."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infra.cli.main import cli
from infra.cli.sql import _cell, explain
from infra.embedded.child import free_port
from infra.embedded.store.process import StoreProcess
from infra.errors import GpufleetError, UnreachableError

pytestmark = pytest.mark.store
Ask = Callable[..., Result]


def settings_file(folder: Path, store: StoreProcess, password: str | None = None) -> Path:
    (folder / "store.password").write_text(password or store.password)
    file = folder / "gpufleet.toml"
    file.write_text(f'[store]\nurl = "{store.url}"\nuser = "{store.username}"\npassword_file = "store.password"\n')
    return file


@pytest.fixture
def ask(tmp_path: Path, migrated_store: StoreProcess) -> Ask:
    file = settings_file(tmp_path, migrated_store)

    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli, [arguments[0], "--config", str(file), *arguments[1:]], input=stdin)

    return run


def test_a_question_gets_its_answer_and_tables_need_no_database(ask: Ask) -> None:
    result = ask("sql", "SELECT count() AS n FROM node_telemetry WHERE site = 'nowhere'")
    assert (result.exit_code, result.output) == (0, "n\n0\n")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("csv", '"a","b"\n1,"x"\n'),
        ("tsv", "a\tb\n1\tx\n"),
        ("jsonl", '{"a":1,"b":"x"}\n'),
        ("CSV", '"a","b"\n1,"x"\n'),
        ("JSONCompactEachRow", '[1, "x"]\n'),
    ],
)
def test_formats(ask: Ask, name: str, expected: str) -> None:
    assert ask("sql", "SELECT 1 AS a, 'x' AS b", "--format", name).output == expected


def test_json_is_one_document(ask: Ask) -> None:
    document = json.loads(ask("sql", "SELECT 1 AS a", "--format", "json").output)
    assert document["data"] == [{"a": 1}]


def test_parquet_comes_as_bytes(ask: Ask) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    result = ask("sql", "SELECT number FROM numbers(3)", "--format", "parquet")
    assert parquet.read_table(io.BytesIO(result.stdout_bytes)).to_pydict() == {"number": [0, 1, 2]}


def test_the_query_may_name_its_format_and_come_from_stdin(ask: Ask) -> None:
    result = ask("sql", "-", "--param", "who=world", stdin="SELECT {who:String} AS w FORMAT JSONEachRow;\n")
    assert result.output == '{"w":"world"}\n'


def on_a_terminal(folder: Path, store: StoreProcess, *arguments: str, columns: int = 80) -> list[str]:
    """The lines of an answer on a terminal of that width."""
    file = settings_file(folder, store)
    code = (
        "import sys; sys.stdout.isatty = lambda: True\n"
        f"from infra.cli.main import cli; cli(['sql', '-c', {str(file)!r}, *{arguments!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "TERM": "dumb", "COLUMNS": str(columns), "LINES": "40"},  # no colours
    )
    return done.stdout.splitlines()


def test_a_terminal_gets_a_table(tmp_path: Path, migrated_store: StoreProcess) -> None:
    lines = on_a_terminal(tmp_path, migrated_store, "SELECT NULL AS a, 2.5 AS b, '[x]' AS c")
    assert [cell.strip() for cell in lines[1].strip("┃").split("┃")] == ["a", "b", "c"]
    assert [cell.strip() for cell in lines[3].strip("│").split("│")] == ["NULL", "2.5", "[x]"]
    assert lines[-1] == "1 row"


WIDE = "SELECT number AS n, repeat('x', 20) AS first, repeat('[y]', 7) AS second FROM numbers(2)"


@pytest.mark.parametrize(
    ("query", "options", "columns", "vertical"),
    [
        (WIDE, (), 52, False),  # exactly as wide as the table: | n | 20 x | 21 y |
        (WIDE, (), 51, True),
        (WIDE, ("--vertical",), 200, True),
        ("SELECT 1 AS n, 'a\nb' AS lines", (), 20, False),
        ("SELECT repeat('z', 100) AS alone", (), 60, False),
    ],
    ids=["fits", "one too narrow", "asked for", "lines of a cell are not one line", "a single column is folded"],
)
def test_a_row_that_does_not_fit_the_terminal_goes_down_the_page(
    tmp_path: Path, migrated_store: StoreProcess, query: str, options: tuple[str, ...], columns: int, vertical: bool
) -> None:
    lines = on_a_terminal(tmp_path, migrated_store, *options, query, columns=columns)
    assert all(len(line) <= columns for line in lines)
    assert any("┃" in line for line in lines) != vertical
    if vertical:
        assert [line.split() for line in lines if "─" not in line] == [
            *(["n", "0"], ["first", "x" * 20], ["second", "[y]" * 7]),
            *(["n", "1"], ["first", "x" * 20], ["second", "[y]" * 7]),
            ["2", "rows"],
        ]
        assert [line.split("─")[0].strip() for line in lines if "─" in line] == ["row 1", "row 2"]


def test_vertical_away_from_a_terminal_is_the_stores_own(ask: Ask) -> None:
    output = ask("sql", "--vertical", "SELECT 1 AS a, 'x' AS b").output
    assert [line for line in output.splitlines() if line and "─" not in line] == ["Row 1:", "a: 1", "b: x"]
    both = ask("sql", "--vertical", "--format", "csv", "SELECT 1")
    assert both.exit_code == 2
    assert "--vertical" in both.output


@pytest.mark.parametrize("name", ["../x", "", "Anthropic"])
def test_a_tenants_name_has_a_rule(ask: Ask, name: str) -> None:
    result = ask("sql", "--as", name, "SELECT 1")
    assert result.exit_code == 2
    assert "1 to 63 of a-z, 0-9 and '-'" in result.output


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ("SELEC 1", 1, "Syntax error"),
        ("SELECT * FROM no_such_table", 1, "code 60"),
        ("SELECT 1 FORMAT Nonsense", 1, "Nonsense"),
        ("  ; ", 2, "expected a query"),
    ],
)
def test_a_wrong_query_is_one_message_without_a_traceback(ask: Ask, query: str, code: int, message: str) -> None:
    result = ask("sql", query)
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output
    assert "DB::Exception" not in result.output
    assert len(result.output) < 700


def test_a_wrong_password_is_told_and_not_shown(tmp_path: Path, migrated_store: StoreProcess) -> None:
    file = settings_file(tmp_path, migrated_store, password="wrong-horse")
    result = CliRunner().invoke(cli, ["sql", "-c", str(file), "SELECT 1"])
    assert result.exit_code == 3
    assert "store.password" in result.output
    assert "wrong-horse" not in result.output


def test_a_store_that_is_away_is_told() -> None:
    away = f"store.url=http://127.0.0.1:{free_port()}"
    result = CliRunner().invoke(cli, ["sql", "--set", away, "SELECT 1"])
    assert result.exit_code == 3
    assert "check that it runs" in result.output
    assert f"{away.removeprefix('store.url=')} as 'gpufleet': Connection refused;" in result.output


def test_a_tenant_needs_credentials_of_its_own(ask: Ask) -> None:
    result = ask("sql", "--as", "anthropic", "SELECT 1")
    assert result.exit_code == 2
    assert "store.tenant_password_dir" in result.output


def test_migrating_again_changes_nothing(ask: Ask) -> None:
    assert "nothing to do" in ask("migrate").output
    assert json.loads(ask("migrate", "--dry-run", "--json").stdout) == {"dry_run": True, "applied": []}


@pytest.fixture
def empty_store(tmp_path: Path, store: StoreProcess) -> Iterator[StoreProcess]:
    """A store to migrate; ``store`` is asked for so that a machine without one skips."""
    with StoreProcess(tmp_path / "empty-store") as process:
        yield process


def test_an_empty_store_is_migrated_after_a_dry_run(tmp_path: Path, empty_store: StoreProcess) -> None:
    file = settings_file(tmp_path, empty_store)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, [arguments[0], "-c", str(file), *arguments[1:]])

    planned = json.loads(run("migrate", "--dry-run", "--json").stdout)["applied"]
    assert planned[0] == {"number": 1, "name": "ingest_ledger"}
    assert "0" in run("sql", "SELECT count() FROM system.databases WHERE name = 'gpufleet'").output
    assert json.loads(run("migrate", "--json").stdout)["applied"] == planned
    assert run("sql", "SELECT count() FROM migrations FINAL").output == f"count()\n{len(planned)}\n"


def test_what_the_server_says_is_shortened_to_the_point() -> None:
    from clickhouse_connect.driver.exceptions import DatabaseError

    told = explain(DatabaseError("x Code: 60. DB::Exception: Unknown table t. (UNKNOWN_TABLE) (version 26.9.2.1)"))
    assert type(told) is GpufleetError
    assert told.message == "Unknown table t. (UNKNOWN_TABLE) (code 60)"
    assert type(explain(DatabaseError("Code: 516. DB::Exception: no"))) is UnreachableError


def test_what_is_stored_cannot_steer_a_terminal() -> None:
    assert _cell("a\x1b]0;owned\x07b\x9bc") == "a\\x1b]0;owned\\x07b\\x9bc"
    assert _cell("two\nlines\tof ünïcode") == "two\nlines\tof ünïcode"
    assert _cell([b"\x01\xff", b"ab"]) == "[01ff, 6162]"
